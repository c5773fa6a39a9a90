"""Programs of test_threads.py that need an interpreter of their own: python thread_programs.py NAME."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from cases import assert_same_bits, make_case, run

import fastrnn


def pool_case(kind="lstm"):
    """A case whose work the pool divides."""
    return make_case(kind, 30, 16, 64, 64, bidirectional=True, with_lengths=True, seed=11)


def assert_same_results(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert_same_bits(array, expected[name], name)


def in_child(function):
    """Forks, runs the function in the child, and expects it to return within 30 s."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks in programs with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    for _ in range(3000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
            return
        time.sleep(0.01)
    waits = [
        " ".join((task / what).read_text().strip() for what in ("wchan", "syscall", "stat"))
        for task in Path(f"/proc/{child}/task").glob("*")
    ]
    os.kill(child, signal.SIGABRT)  # on which faulthandler says where it is in Python
    os.waitpid(child, 0)
    os.write(2, "\n".join(["the child hangs:", *waits, ""]).encode())
    os._exit(1)  # the users of the kernels never end


def fork_before_use():
    case = pool_case()

    def first_use():
        run(case)

    in_child(first_use)
    expected = run(case)
    in_child(lambda: assert_same_results(run(case), expected))
    assert_same_results(run(case), expected)


def fork_during_use():
    """From the main thread, while two others run forward and backward all the time; children fork again."""
    case = pool_case()
    expected = run(case)
    done = threading.Event()
    failures = []

    def use():
        try:
            while not done.is_set():
                assert_same_results(run(case), expected)
        except BaseException as error:
            failures.append(error)

    def use_and_fork():
        for _ in range(3):
            assert_same_results(run(case), expected)
        in_child(lambda: assert_same_results(run(case), expected))

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    for _ in range(30):
        in_child(use_and_fork)
    done.set()
    for user in users:
        user.join(30)
        assert not user.is_alive(), "a user hangs"
    assert not failures, failures
    assert_same_results(run(case), expected)


def fork_from_another_thread():
    """While the main thread is in the kernels; the child's only thread is the one that forked."""
    case = pool_case("gru")
    expected = run(case)
    failures = []

    def fork():
        try:
            for _ in range(10):
                in_child(lambda: assert_same_results(run(case), expected))
        except BaseException as error:
            failures.append(error)

    forker = threading.Thread(target=fork)
    forker.start()
    while forker.is_alive():
        assert_same_results(run(case), expected)
    forker.join()
    assert not failures, failures


def run_all(layers, cells, x):
    """What a worker does with what was sent to it."""
    return [*flat(tuple(layer(x) for layer in layers)), *flat(tuple(cell(x[0]) for cell in cells))]


def flat(nested):
    return [array for part in nested for array in flat(part)] if isinstance(nested, tuple) else [nested]


def workers(method):
    """Layers and cells, and frozen ones, pickled to the workers of a pool of processes."""
    fastrnn.set_num_threads(2)
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with context.Pool(2) as pool:
            for kind, cell in (("lstm", fastrnn.LSTMCell), ("gru", fastrnn.GRUCell)):
                case, cell = make_case(kind, 20, 16, 64, 64, num_layers=2, seed=12), cell(64, 64, rng=1)
                arguments = (case.layer, case.layer.freeze()), (cell, cell.freeze()), case.x
                expected = run_all(*arguments)
                for result in pool.starmap(run_all, [arguments] * 4, chunksize=1):
                    assert len(result) == len(expected)
                    for array, other in zip(result, expected):
                        assert_same_bits(array, other, method)


if __name__ == "__main__":
    faulthandler.enable()
    fastrnn.set_num_threads(2)
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
