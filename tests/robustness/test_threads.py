"""Many threads and processes at once: the same bits as alone, nobody waits or hangs, and the pool sleeps."""

import contextvars
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import KINDS, assert_same_bits, bare, make_case, parts_of, run
from paths import ROOT, SUPPORT

import fastrnn
from fastrnn.core import config


@pytest.fixture(autouse=True)
def restored():
    """Two threads; what is set is restored."""
    name, threads = config._backend, fastrnn.get_num_threads()
    fastrnn.set_num_threads(2)
    yield
    config._backend = name
    fastrnn.set_num_threads(threads)


def at_once(functions):
    """The results of the functions, each called in a thread of its own, all let go together."""
    together = threading.Barrier(len(functions))

    def call(function):
        together.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


def frozen_calls(kind):
    """16 calls of one frozen layer, each with an input of its own."""
    case = make_case(kind, 25, 12, 40, 96, num_layers=2, seed=21)
    layer = case.layer.freeze()
    rng = np.random.default_rng(22)
    calls = []
    for k in range(16):
        x = rng.standard_normal((25 - k, 1 + k, 40), np.float32)
        state = tuple(rng.standard_normal((2, 1 + k, 96), np.float32) for _ in case.state)
        step = k % 4 == 3
        calls.append(
            lambda x=x, state=state, step=step: (layer.step if step else layer)(x[0] if step else x, bare(state))
        )
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_one_frozen_layer_from_16_threads(kernels, kind):
    calls = frozen_calls(kind)
    alone = [call() for call in calls]

    def several(call):
        return [call() for _ in range(10)]

    for results, (y, state) in zip(at_once([lambda call=call: several(call) for call in calls]), alone):
        for y_again, state_again in results:
            assert_same_bits(y_again, y, "y")
            for part, expected in zip(parts_of(state_again), parts_of(state)):
                assert_same_bits(part, expected, "state")


def test_different_layers_forward_and_backward_while_the_threads_change(kernels):
    cases = [
        make_case(kind, 30, B, 40, 96, bidirectional=B == 16, with_lengths=B == 16, seed=k, dtype=dtype)
        for k, kind in enumerate(KINDS)
        for B, dtype in ((1, np.float32), (16, np.float64))
    ]
    alone = [run(case) for case in cases]
    name = kernels.partition(":")[0]
    done = threading.Event()

    def several(case):
        with fastrnn.use_backend(name):  # of a context: each thread has its own
            return [run(case) for _ in range(4)]

    def change():
        n = 0
        while not done.is_set():
            n = n % 4 + 1
            fastrnn.set_num_threads(n)
            time.sleep(0.0005)

    changer = threading.Thread(target=change)
    changer.start()
    found = at_once([lambda case=case: several(case) for case in cases])
    done.set()
    changer.join()
    for results, expected in zip(found, alone):
        for result in results:
            for name, array in result.items():
                assert_same_bits(array, expected[name], name)


def test_backends_set_in_threads():
    """`use_backend` holds in its thread, whatever others set for the process; a layer's values do not depend on it."""
    names = fastrnn.available_backends()
    case = make_case("gru", 5, 3, 4, 6)
    expected, _ = case.layer(case.x, bare(case.state))
    done = threading.Event()

    def change():
        while not done.is_set():
            for name in names:
                fastrnn.set_backend(name)

    def use(name):
        for _ in range(50):
            with fastrnn.use_backend(name):
                y, state, tape = case.layer.forward(case.x, bare(case.state))
                assert fastrnn.get_backend() == name == tape.backend.name == case.layer.freeze().backend
            np.testing.assert_allclose(y, expected, atol=1e-6)
            assert fastrnn.get_backend() in names

    changer = threading.Thread(target=change)
    changer.start()
    try:
        at_once([lambda name=name: use(name) for name in names * 2])
    finally:
        done.set()
        changer.join()


def test_what_is_set_while_another_thread_finds_the_default(monkeypatch):
    """The slow search for the best backend, or the CPUs, must not overwrite what was set meanwhile."""
    monkeypatch.setattr(config, "_backend", None)
    monkeypatch.setattr(config, "_best_backend", None)
    monkeypatch.setattr(config, "_threads", None)
    monkeypatch.setattr(config, "_usable_cpus", None)
    load, usable_cpus = config.backends.load, config.cpus.usable_cpus

    def slow_load(name):
        config._backend = load("numpy")  # as set_backend in another thread
        return load(name)

    def slow_count():
        fastrnn.set_num_threads(5)
        return usable_cpus()

    monkeypatch.setattr(config.backends, "load", slow_load)
    monkeypatch.setattr(config.cpus, "usable_cpus", slow_count)
    outside = contextvars.Context()  # of any use_backend
    outside.run(fastrnn.get_backend), fastrnn.get_num_threads()
    assert outside.run(fastrnn.get_backend) == "numpy"
    assert fastrnn.get_num_threads() == 5


def program(name, *arguments):
    """Runs a function of thread_programs in an interpreter of its own, where no other library has threads."""
    command = [sys.executable, "thread_programs.py", name, *arguments]
    done = subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["fork_before_use", "fork_during_use", "fork_from_another_thread"])
def test_fork(name):
    program(name)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_layers_in_worker_processes(method):
    program("workers", method)


def test_callers_do_not_wait_for_each_others_kernels():
    """A call that would take many seconds has the pool; others are done before it, which is then interrupted."""
    case = make_case("lstm", 30, 16, 256, 256, seed=23)
    with fastrnn.use_backend("native"):
        layer = case.layer.freeze()
    expected, _ = layer(case.x)
    begun = threading.Event()
    found = []

    def others():
        begun.wait()
        time.sleep(0.1)
        found.extend(at_once([lambda: layer(case.x)[0]] * 4))
        os.kill(os.getpid(), signal.SIGALRM)

    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    thread = threading.Thread(target=others)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            x = np.zeros((300_000, 16, 256), np.float32)
            begun.set()
            layer(x)
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, before)
    assert len(found) == 4
    for y in found:
        assert_same_bits(y, expected, "y")


def test_the_pool_sleeps():
    """Within a millisecond of the end of a call; 50 ms of spinning would be 50 ms of CPU time."""
    case = make_case("lstm", 30, 16, 64, 64, seed=11)
    with fastrnn.use_backend("native"):
        layer = case.layer.freeze()
    used = []
    for _ in range(5):
        layer(case.x)
        begin = time.process_time()
        time.sleep(0.05)
        used.append(time.process_time() - begin)
    assert min(used) < 0.001, used


if shutil.which("cc"):  # wherever the kernels are built

    @pytest.mark.parametrize("where", ["threads dawdle", "no handler of forks can be registered"])
    def test_the_pool_where(where, tmp_path):
        options = ["-O1", "-std=gnu11", *(["-DFORKS_UNSEEN"] if "forks" in where else [])]
        command = ["cc", *options, "-I", ROOT / "csrc", SUPPORT / "pool_program.c", "-lpthread"]
        subprocess.run([*command, "-o", tmp_path / "pool"], check=True)
        subprocess.run([tmp_path / "pool"], check=True, timeout=60)
