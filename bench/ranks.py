"""A training step on several ranks: its time here, and what a model of the cost says of a thousand machines.

    python bench/ranks.py              # needs mpi4py and an mpiexec

Each rank holds shards of the batch and computes their gradients; then, log2(R) times, it exchanges the sum of all
gradients with a partner (fastrnn/train/shards.py). So a step of R ranks takes

    t(R) = shards/R · t_shard + log2(R) · (latency + bytes/bandwidth + adding) + update

t_shard, adding and update are measured on one rank, latency and bandwidth between two here; for networks that are not
here they are those of their data sheets. The batch grows with the ranks where each keeps a shard of its own.
"""

import json
import shutil
import subprocess
import sys
from math import log2
from pathlib import Path
from time import perf_counter

import numpy as np

import fastrnn
from fastrnn.train import Adam, Chain, Linear, Sequences, mean_squared
from fastrnn.train.objective import supervised
from fastrnn.train.shards import Shards

T, ROWS, SHARDS = 50, 32, 8  # steps of a sequence, rows of a shard, shards of a batch
SIZES = (256, 1024)
NETWORKS = {
    "10 Gbit/s Ethernet": (30e-6, 1.1e9),
    "25 Gbit/s Ethernet": (15e-6, 2.8e9),
    "200 Gbit/s InfiniBand": (2e-6, 23e9),
}
RANKS = (1, 8, 64, 1024)


def make(H):
    rng = np.random.default_rng(0)
    model = Chain(rnn=fastrnn.LSTM(H, H, rng=0), out=Linear(H, 1, rng=0))
    x = rng.standard_normal((SHARDS * ROWS, T, H), np.float32)
    return model, Sequences(x, np.zeros((SHARDS * ROWS, T, 1), np.float32), per_step=True)


def median_seconds(function, least=3, seconds=3.0):
    """The median of at least three calls after a first."""
    function()
    found, end = [], perf_counter() + seconds
    while len(found) < least or perf_counter() < end:
        start = perf_counter()
        function()
        found.append(perf_counter() - start)
    return float(np.median(found))


def on_a_rank():
    """What each process of mpiexec measures; the first prints it."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    fastrnn.set_num_threads(1)
    steps = {}
    for H in SIZES:
        model, data = make(H)
        optimiser, shards = Adam(model.params), Shards(SHARDS, comm)
        key, objective = np.arange(SHARDS * ROWS), supervised(mean_squared)

        def step(model=model, data=data, shards=shards, optimiser=optimiser, key=key, objective=objective):
            _, grads, _ = shards.gradients(model, data, key, objective, [None] * len(shards.mine))
            optimiser.step(grads)

        step()
        times = []
        for _ in range(3):  # as many on every rank: they wait for each other
            comm.Barrier()
            start = perf_counter()
            step()
            times.append(perf_counter() - start)
        steps[H] = float(np.median(times))
    exchange = {}
    if comm.Get_size() == 2:
        for size in (1, 1 << 22):
            mine, theirs = np.zeros(size, np.float32), np.empty(size, np.float32)
            times = []
            for _ in range(50):
                comm.Barrier()
                start = perf_counter()
                comm.Sendrecv(mine, 1 - comm.Get_rank(), recvbuf=theirs, source=1 - comm.Get_rank())
                times.append(perf_counter() - start)
            exchange[size] = float(np.median(times))
    if comm.Get_rank() == 0:
        print(json.dumps({"steps": steps, "exchange": exchange}))


def measure(ranks):
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        sys.exit("mpiexec is not there: pip install mpi4py mpich")
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "rank"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    measured = {ranks: measure(ranks) for ranks in (1, 2)}
    exchange = measured[2]["exchange"]
    latency = exchange["1"]
    bandwidth = 4 * (1 << 22) / (exchange[str(1 << 22)] - latency)
    print(f"A step of LSTM (T={T}, {SHARDS} shards of {ROWS} rows, I=H), a thread a rank; between two ranks here "
          f"{1e6 * latency:.1f} µs and {bandwidth / 1e9:.1f} GB/s")  # fmt: skip
    for H in SIZES:
        model, _ = make(H)
        size = 4 * model.num_parameters
        grads = {name: np.zeros_like(array) for name, array in model.params.items()}
        optimiser, flat = Adam(model.params), np.zeros(model.num_parameters, np.float32)
        update, adding = median_seconds(lambda o=optimiser, g=grads: o.step(g)), median_seconds(lambda a=flat: a + a)
        one, two = (measured[ranks]["steps"][str(H)] for ranks in (1, 2))
        shard = (one - update) / SHARDS
        meeting = latency + size / bandwidth + adding
        predicted = SHARDS / 2 * shard + meeting + update
        print(
            f"\nH={H}: {size / 1e6:.1f} MB of gradients, {1e3 * shard:.0f} ms a shard, {1e3 * update:.1f} ms the update"
        )
        print(f"  one rank {one:.3f} s, two {two:.3f} s, {one / two:.2f} ×; the model says {one / predicted:.2f} ×")
        print("  a shard of its own on each of R ranks, and the share of R times one rank's rate:")
        print("  " + " " * 24 + "".join(f"{f'R={ranks}':>9}" for ranks in RANKS))
        for name, (alpha, beta) in {"this machine's memory": (latency, bandwidth), **NETWORKS}.items():
            shares = [
                (shard + update) / (shard + log2(ranks) * (alpha + size / beta + adding) + update) for ranks in RANKS
            ]
            print(f"  {name:24}" + "".join(f"{100 * share:8.0f}%" for share in shares))


if __name__ == "__main__":
    on_a_rank() if sys.argv[1:] == ["rank"] else main()
