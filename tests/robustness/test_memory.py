"""Memory: many calls leave nothing behind, and a call for which there is no memory is a MemoryError and nothing more.

Each test runs an interpreter of its own: other tests' threads and caches would blur what is counted. This file is both.
"""

import ctypes
import gc
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from paths import ROOT, SUPPORT, environment

import fastrnn

resource = pytest.importorskip("resource")
libc = ctypes.CDLL(None)
if "native" not in fastrnn.available_backends() or not hasattr(libc, "mallinfo2"):
    pytest.skip("needs the native backend, and glibc to count what is allocated", allow_module_level=True)

WARM_UP, CALLS, ROUNDS = 2000, 10_000, 3
# A leak adds to every round, the interpreter's caches to some: the least of them counts, and may not reach these. One
# small object in fifty calls would.
STRAY_OBJECTS, STRAY_BYTES = 200, 16 * 1024
STRAY_RESIDENT = 96 * 1024


def run_here(*arguments):
    """Runs this file as a program; its standard error is the message of a failure."""
    settings = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, *arguments]
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    result = subprocess.run(command, env=environment() | settings, **options)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("activity", ["infer", "train", "divided", "step", "freeze", "cell", "fail"])
def test_ten_thousand_calls_leave_nothing_behind(activity):
    run_here("grow", activity)


def test_a_leak_of_one_small_object_a_call_would_be_seen():
    with pytest.raises(AssertionError, match="objects"):
        run_here("grow", "leak_objects")
    with pytest.raises(AssertionError, match="bytes"):
        run_here("grow", "leak_bytes")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_no_memory_is_a_memory_error_and_the_next_call_succeeds(kind):
    run_here("limit", kind)


def test_a_small_frozen_layer_keeps_no_large_block():
    run_here("pin")


@pytest.mark.parametrize("what", ["stack", "both directions", "training", "Python threads", "cells"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend_name", fastrnn.available_backends())
def test_large_layers_that_are_dropped_leave_little(backend_name, threads, what):
    run_here("dropped", backend_name, str(threads), what)


@pytest.mark.parametrize("what", ["one layer", "stack", "both directions", "training"])
def test_packing_again_finds_warm_memory(what):
    run_here("warm", what)


if shutil.which("cc"):  # wherever the kernels are built

    @pytest.mark.parametrize("option", [None, "FORKS_UNSEEN", "NO_THREADS"])
    def test_the_workspaces(option, tmp_path):
        options = ["-O1", "-std=gnu11", *([f"-D{option}"] if option else [])]
        source = SUPPORT / "workspace_program.c"
        command = ["cc", *options, "-I", ROOT / "csrc", source, "-lpthread"]
        subprocess.run([*command, "-o", tmp_path / "workspace"], check=True)
        done = subprocess.run([tmp_path / "workspace"], timeout=60, check=False)
        assert done.returncode == 0, f"line {done.returncode - 1}, or that and a multiple of 255"


# --- What the interpreters do.


def activities():
    """What is called again and again, by name: small, and at every third call with lengths."""
    layer, inputs = fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True, rng=0), np.ones((4, 2, 3), np.float32)
    one, served = fastrnn.GRU(3, 5, rng=0), fastrnn.GRU(3, 5, rng=0).freeze()
    cell, state = fastrnn.LSTMCell(3, 5, rng=0), (np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32))
    lengths, kept = np.array([4, 2]), []
    large, long_input = fastrnn.LSTM(64, 64, rng=0).freeze(), np.ones((8, 12, 64), np.float32)

    def choose(k):
        return lengths if k % 3 == 0 else None

    def train(k):
        y, _, tape = layer.forward(inputs, lengths=choose(k))
        layer.backward(tape, y)

    def fail(k):
        wrong = [(inputs[..., :2], None), ("x", None), (inputs, np.zeros((9, 9, 9))), (inputs.astype(complex), None)]
        try:
            one(*wrong[k % len(wrong)])
        except (TypeError, ValueError):
            return
        raise AssertionError("no error")

    return {
        "infer": lambda k: layer(inputs, lengths=choose(k)),
        "train": train,
        "divided": lambda k: large(long_input),
        "step": lambda k: served.step(inputs[0]),
        "freeze": lambda k: one.freeze()(inputs),
        "cell": lambda k: cell(inputs[0], state),
        "fail": fail,
        "leak_objects": lambda k: kept.append(object()),
        "leak_bytes": lambda k: leak_bytes(),
    }


def leak_bytes():
    """Loses what C allocates, in sight of no Python counter."""
    libc.malloc(16)


class Mallinfo(ctypes.Structure):
    _fields_ = [
        (field, ctypes.c_size_t)
        for field in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


libc.mallinfo2.restype = Mallinfo


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def counts():
    """Python's objects, the bytes that C has allocated, and the resident ones."""
    gc.collect()
    info = libc.mallinfo2()
    return np.array([sys.getallocatedblocks(), info.uordblks + info.hblkhd, resident_bytes()])


def grow(name):
    fastrnn.set_num_threads(2)
    call = activities()[name]
    for k in range(WARM_UP):
        call(k)
    counts()
    rounds = []
    for _ in range(ROUNDS):
        before = counts()
        for k in range(CALLS):
            call(k)
        rounds.append(counts() - before)
        if (rounds[-1] <= 0).all():
            break
    objects, allocated, resident = np.min(rounds, axis=0)
    print(objects, allocated, resident)
    assert objects < STRAY_OBJECTS, f"{objects} objects more after {CALLS} calls"
    assert allocated < STRAY_BYTES, f"{allocated} bytes more allocated after {CALLS} calls"
    assert resident < STRAY_RESIDENT, f"{resident} bytes more resident after {CALLS} calls"


def limit(kind):
    """A call whose arrays fit while its scratch may not, under every limit from too little to enough."""
    fastrnn.set_num_threads(2)
    layer = getattr(fastrnn, kind)(400, 600, bidirectional=True, rng=0)
    x = np.random.default_rng(1).standard_normal((6, 24, 400)).astype(np.float32)
    rng_dy = np.random.default_rng(2).standard_normal((6, 24, 1200)).astype(np.float32)

    def everything():
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, rng_dy)
        return [y, grads.x, *grads.params.values()]

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    errors = []
    for extra in range(0, 200 << 20, 1 << 20):
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))
        try:
            results = everything()
            break
        except MemoryError as error:
            errors.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(errors) < 199, "never enough"
    for part in ("packed weights", "scratch"):
        assert any(part in message for message in errors), f"the {part} always had memory: {errors}"
    for again, first in zip(everything(), results):
        assert again.tobytes() == first.tobytes(), "other bits"


def pin():
    """The scratch of large calls waits for the next, while small weights are packed for as long as a layer lives."""
    large, small, kept = fastrnn.LSTM(900, 900, rng=0), fastrnn.LSTM(1, 1, 2, rng=0), []
    x = np.zeros((1, 1, 900), np.float32)
    for k in range(30):
        large(x)
        kept.append(small.freeze())
        if k == 9:
            before = resident_bytes()
    assert resident_bytes() - before < 26 << 20, "more than one block of the large layer's"


KEPT = 32 << 20  # bytes that may stay for ever; what is more, for a second


def dropped(backend_name, threads, what):
    """Of the memory of layers that are no more, little is resident a second after the last call."""
    fastrnn.set_backend(backend_name)
    fastrnn.set_num_threads(int(threads))
    large_calls(what, 24, 1)()  # what is compiled, and the pool
    before = counts()[2]
    large_calls(what, 1000, 8)()
    for _ in range(30):  # three seconds, for a busy machine
        libc.malloc_trim(0)
        kept = counts()[2] - before
        if kept <= KEPT:
            return
        time.sleep(0.1)
    raise AssertionError(f"{kept / 2**20:.1f} MiB more are resident")


def large_calls(what, H, num_layers):
    """A function that makes layers of about H units and calls them, and keeps nothing."""
    x = np.zeros((1, 1, H), np.float32)

    def train():
        layer = fastrnn.GRU(H, H, min(num_layers, 3), rng=0)
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)

    def in_threads():
        workers = [threading.Thread(target=lambda: fastrnn.LSTM(H, H, rng=0)(x)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def cells():
        for n in range(H // 2, H + 1, max(1, H // 8)):
            fastrnn.LSTMCell(H, n, rng=0)(x[0])

    return {
        "stack": lambda: fastrnn.LSTM(H, H, num_layers, rng=0)(x),
        "both directions": lambda: fastrnn.LSTM(H, H, min(num_layers, 2), bidirectional=True, rng=0)(x),
        "training": train,
        "Python threads": in_threads,
        "cells": cells,
    }[what]


def warm(what):
    """Page faults of one more call: a fresh block has one every 4 KB."""
    fastrnn.set_num_threads(1)
    directions = {"bidirectional": what == "both directions"}
    layer = fastrnn.LSTM(900, 900, 8 if what == "stack" else 1, rng=0, **directions)
    x = np.zeros((1, 1, 900), np.float32)
    call = layer.forward if what == "training" else layer
    packed = sum(w.nbytes for w in layer.params.values()) / layer.num_layers
    least = packed
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call(x)
        least = min(least, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert least < packed / resource.getpagesize() / 100, f"{least} page faults"


if __name__ == "__main__":
    {"grow": grow, "limit": limit, "pin": pin, "dropped": dropped, "warm": warm}[sys.argv[1]](*sys.argv[2:])
