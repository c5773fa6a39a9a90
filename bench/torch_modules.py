"""fastrnn.torch's modules against torch's own in one process: training, packed sequences, single steps, threads.

    python bench/torch_modules.py [grid] [packed] [step] [threads]        # default: all four

Ratios are torch's median over ours, in turns. `grid`: a step of training (forward, a loss, backward) at every size of
the benchmark's grid, one thread. `packed`: the same of sequences whose lengths are uniform in 1..T. `step`: one row,
one step, no gradients. `threads`: a step of training with a Linear, softmax and loss around the layer, whose OpenMP
threads spin when they are done; our own time on one thread over that on two.
"""

import sys

import numpy as np
import torch

import fastrnn.torch
from fastrnn.benchmark.machine import describe
from fastrnn.benchmark.measure import LocalCall, Timing, interleave
from fastrnn.benchmark.workloads import GRID

BUDGET = 1.0  # seconds of each competitor
KINDS = ("RNN", "LSTM", "GRU")
PACKED = (200, 32, 128, 128)
AROUND = (100, 32, 128, 128)


def pair(kind, *sizes):
    theirs, ours = getattr(torch.nn, kind)(*sizes), getattr(fastrnn.torch, kind)(*sizes)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def trained(module, x):
    """A step of training; x takes no gradient, as data do not."""

    def step():
        module.zero_grad()
        y, _ = module(x)
        y = y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y
        y.square().mean().backward()

    return LocalCall(step)


def ratio(*calls):
    theirs, ours = (t.median if isinstance(t, Timing) else float("nan") for t in interleave(calls, BUDGET))
    return theirs / ours, theirs, ours


def show(label, found):
    times, theirs, ours = found
    print(f"{label:34}{times:8.2f}{theirs * 1e3:12.3f} ms{ours * 1e3:12.3f} ms", flush=True)
    return times


def grid():
    for kind in KINDS:
        found = []
        for T, B, I, H in GRID:
            modules, x = pair(kind, I, H), torch.randn(T, B, I)
            found.append(show(f"{kind} training {T, B, I, H}", ratio(*[trained(m, x) for m in modules])))
        print(f"{kind} training, geometric mean {np.exp(np.mean(np.log(found))):.2f}, least {min(found):.2f}")


def packed():
    T, B, I, H = PACKED
    lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, I), lengths, enforce_sorted=False)
        show(f"{kind} training, packed {T, B, I, H}", ratio(*[trained(m, x) for m in pair(kind, I, H)]))


def step():
    x = torch.randn(1, 1, 64)
    for kind in KINDS:
        state = (torch.zeros(1, 1, 64),) * 2 if kind == "LSTM" else torch.zeros(1, 1, 64)
        with torch.no_grad():
            calls = [LocalCall(lambda module=module, state=state: module(x, state)) for module in pair(kind, 64, 64)]
            show(f"{kind} step, one row, H = 64", ratio(*calls))
            state = tuple(part[0] for part in state) if kind == "LSTM" else state[0]
            cells = pair(kind + "Cell", 64, 64)
            calls = [LocalCall(lambda module=module, state=state: module(x[0], state)) for module in cells]
            show(f"{kind}Cell step, one row, H = 64", ratio(*calls))


def threads():
    T, B, I, H = AROUND
    x, target = torch.randn(T, B, I), torch.randint(0, H, (T * B,))

    def around(rnn):
        out = torch.nn.Linear(H, H)

        def run(many):
            torch.set_num_threads(many)
            for module in rnn, out:
                module.zero_grad()
            logits = out(rnn(x)[0]).reshape(T * B, H)
            torch.nn.functional.nll_loss(torch.log_softmax(logits, -1), target).backward()

        return [LocalCall(lambda many=many: run(many)) for many in (1, 2)]

    for kind in KINDS:
        for whose, rnn in zip(("torch", "fastrnn"), pair(kind, I, H)):
            speedup, one, two = ratio(*around(rnn))
            print(f"{whose} {kind}, Linear and loss around it, two threads: {speedup:.2f} of one ({one * 1e3:.1f} ms)")
    torch.set_num_threads(1)


if __name__ == "__main__":
    machine = describe()
    print(f"{machine['cpu']}, {machine['instruction_set']}; torch {torch.__version__}")
    torch.set_num_threads(1)
    print(f"{'':34}{'times':>8}{'torch':>15}{'fastrnn':>15}")
    for part in sys.argv[1:] or ("grid", "packed", "step", "threads"):
        {"grid": grid, "packed": packed, "step": step, "threads": threads}[part]()
