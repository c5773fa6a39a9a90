"""What two Python threads get done against one, each call on one thread of its own: python bench/python_threads.py.

With the GIL this shows how far calls release it; a free-threaded Python has none.
"""

import statistics
import threading
import time
from functools import partial

import numpy as np

import fastrnn

SIZES = [(100, 1, 64, 64), (100, 16, 64, 64), (100, 32, 128, 128), (50, 64, 512, 512)]  # T, B, I, H
SECONDS, ROUNDS = 0.3, 7


def serve(frozen, size):
    """Calls of one frozen layer, which the threads share."""
    x = np.zeros(size[:3], np.float32)
    return lambda: frozen(x)


def train(kind, size):
    """Forward and backward of a layer of the thread's own."""
    layer = kind(*size[2:], rng=0)
    x, dy = np.zeros(size[:3], np.float32), np.ones((*size[:2], size[3]), np.float32)
    return lambda: layer.backward(layer.forward(x)[2], dy)


def step(frozen, size):
    """Steps of one frozen layer, into arrays of the thread's own."""
    x = np.zeros((1, size[2]), np.float32)
    y, state = frozen.step(x)
    return lambda: frozen.step(x, state, out=(y, state))


def seconds(prepare, count, threads):
    """How long `threads` threads take for `count` calls each, begun together and warm."""
    ready = threading.Barrier(threads + 1)

    def work():
        call = prepare()
        call()
        ready.wait()
        for _ in range(count):
            call()
        ready.wait()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = time.perf_counter()
    ready.wait()
    return time.perf_counter() - begin


def compare(what, prepare):
    """Rounds of one and two threads in turn."""
    count = 1
    while (took := seconds(prepare, count, 1)) < SECONDS:
        count = int(count * min(10, 1.2 * SECONDS / took)) + 1
    one, two = zip(*((seconds(prepare, count, 1), seconds(prepare, count, 2)) for _ in range(ROUNDS)))
    one, two = statistics.median(one), statistics.median(two)
    print(f"{what:42} {1e6 * one / count:10.1f} µs   two threads {2 * one / two:.2f} × one", flush=True)


fastrnn.set_num_threads(1)
for kind in (fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU):
    for size in SIZES:
        frozen = kind(*size[2:], rng=0).freeze()
        compare(f"{kind.__name__} {size} inference", partial(serve, frozen, size))
        compare(f"{kind.__name__} {size} training", partial(train, kind, size))
    frozen = kind(64, 64, rng=0).freeze()
    compare(f"{kind.__name__} a step, H = 64", partial(step, frozen, (1, 1, 64, 64)))
