"""Trains a small model under mpiexec: `ranks_program.py CHECKPOINT STEPS OUT [RANK STEP]`, where RANK fails at STEP."""

import sys

import numpy as np
from mpi4py import MPI

import fastrnn
from fastrnn.train import Adam, Chain, Embedding, Linear, Sequences, cross_entropy, fit

checkpoint, steps, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fails = tuple(map(int, sys.argv[4:6]))
comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
x = [rng.integers(0, 7, rng.integers(3, 10)) for _ in range(60)]
data = Sequences(x, x, per_step=True)
gru = fastrnn.GRU(6, 12, num_layers=2, dropout=0.3, rng=0)
model = Chain(emb=Embedding(7, 6, rng=0), gru=gru, out=Linear(12, 7, rng=0))


def after_step(number, loss):
    if fails == (comm.Get_rank(), number):
        raise RuntimeError("a fault of this rank alone")


history = fit(
    model, data, cross_entropy, Adam(model.params, lr=0.01), steps=steps, rng=3, batch_size=20, clip=1.0,
    checkpoint=checkpoint, comm=comm, after_step=after_step,
)  # fmt: skip
if comm.Get_rank() == 0:
    fastrnn.save(out, model=model)
    np.save(out + ".losses.npy", np.array(history.losses))
