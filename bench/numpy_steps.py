"""One step of a cell called from NumPy code, against the same step written by hand in NumPy.

    python bench/numpy_steps.py [--level x86-64-v3] [--seconds 0.25]

One thread, float32, I = H. Each figure is the time of NumPy's step over that of the function, the cell, a layer of one
step and a frozen cell, the best of many rounds taken in turns; above 1 fastrnn is faster. NumPy's BLAS is held to one
thread where threadpoolctl is installed.
"""

import argparse
from contextlib import nullcontext
from importlib.util import find_spec
from math import prod
from time import perf_counter

import numpy as np

import fastrnn

BATCHES, SIZES = (1, 4, 16, 64), (16, 64, 128, 256, 512)
ROUND = 2e-4  # seconds


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def rnn(x, h, w_ih, w_hh, b_ih, b_hh):
    return np.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)


def lstm(x, state, w_ih, w_hh, b_ih, b_hh):
    h, c = state
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, h, w_ih, w_hh, b_ih, b_hh):
    a_r, a_z, a_n = np.split(x @ w_ih.T + b_ih, 3, axis=-1)
    u_r, u_z, u_n = np.split(h @ w_hh.T + b_hh, 3, axis=-1)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    return (1 - z) * np.tanh(a_n + r * u_n) + z * h


CELLS = {
    "RNN": (rnn, fastrnn.rnn_tanh_cell, fastrnn.RNNCell, fastrnn.RNN),
    "LSTM": (lstm, fastrnn.lstm_cell, fastrnn.LSTMCell, fastrnn.LSTM),
    "GRU": (gru, fastrnn.gru_cell, fastrnn.GRUCell, fastrnn.GRU),
}


def contenders(name, B, H):
    """Calls without arguments, NumPy's first."""
    by_hand, function, make_cell, make_layer = CELLS[name]
    x, h, c = np.random.default_rng(0).standard_normal((3, B, H)).astype(np.float32)
    cell, layer = make_cell(H, H, rng=0), make_layer(H, H, rng=0)
    weights, frozen, state = list(cell.params.values()), cell.freeze(), (h, c) if name == "LSTM" else h
    stacked = (h[None], c[None]) if name == "LSTM" else h[None]
    return (
        lambda: by_hand(x, state, *weights),
        lambda: function(x, state, *weights),
        lambda: cell(x, state),
        lambda: layer(x[None], stacked),
        lambda: frozen(x, state),
    )


def best_times(calls, seconds):
    """The least time of each, in seconds."""
    repeats = []
    for call in calls:
        call()
        start = perf_counter()
        call()
        repeats.append(max(1, int(ROUND / (perf_counter() - start))))
    best, end = [float("inf")] * len(calls), perf_counter() + seconds * len(calls)
    while perf_counter() < end:
        for k, call in enumerate(calls):
            start = perf_counter()
            for _ in range(repeats[k]):
                call()
            best[k] = min(best[k], (perf_counter() - start) / repeats[k])
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", help="an instruction-set level of the native backend")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each figure")
    options = parser.parse_args()
    fastrnn.set_backend("native")
    fastrnn.set_num_threads(1)
    if options.level:
        from fastrnn.backends import native

        native.set_level(options.level)
    limit = nullcontext()
    if find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        limit = threadpool_limits(1, user_api="blas")
    print(fastrnn.show_config())
    print("\nNumPy's time over that of: function, cell, layer, frozen cell (time of the function in µs)")
    with limit:
        for B in BATCHES:
            ratios = []
            for name in CELLS:
                print(f"{name:5} B={B:<3}", end="", flush=True)
                for H in SIZES:
                    by_hand, *ours = best_times(contenders(name, B, H), options.seconds)
                    ratios.append(by_hand / ours[0])
                    figures = " ".join(f"{by_hand / time:.1f}" for time in ours)
                    print(f"  H={H}: {figures} ({1e6 * ours[0]:.1f})", end="", flush=True)
                print()
            mean = prod(ratios) ** (1 / len(ratios))
            print(f"B={B}: geometric mean of the function {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
