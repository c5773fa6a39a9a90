"""Long calls answer Ctrl-C: here an alarm whose handler raises KeyboardInterrupt, as that of Ctrl-C does."""

import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same_bits, bare, make_case, make_layer, run
from paths import environment

import fastrnn
from fastrnn.backends.base import Steps
from fastrnn.core.steps import CallSteps

DELAY = 0.05  # s from the start of a call to the alarm
ANSWER = 1.0  # s allowed from the alarm to the exception, of wall or CPU time; a quiet machine needs 0.2
LONG = 2 * (DELAY + ANSWER)  # s that a call takes at least when nobody interrupts it: else nothing is shown

I = H = 1024
FLOP_PER_SECOND = 4e11  # more than two threads do of a machine that runs these tests
SHAPES = {
    "batch": {"B": 16},
    "one row": {"B": 1, "share": 0.25},  # its weights come from the caches, which are slower
    "bidirectional": {"B": 16, "bidirectional": True},
    "lengths": {"B": 17, "lengths": True},
}
WAYS = ("call", "frozen", "forward", "backward")


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(request.param)
    yield request.param
    fastrnn.set_num_threads(before)


def set_alarm(handler, delay=DELAY, again=0.0):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, delay, again)


@pytest.fixture
def alarm():
    """Sets a handler for an alarm and the alarm off; restores what was there."""
    before = signal.getsignal(signal.SIGALRM)
    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def control_c(number, frame):
    raise KeyboardInterrupt


def seconds_to_answer(call, alarm, delay=DELAY):
    """From the alarm on: the wall time, or the CPU time, which a busy machine does not lengthen, if that is less.

    No garbage is collected meanwhile: in a callback of another package at that moment Python ignores the exception.
    """
    gc.disable()
    try:
        begin = time.perf_counter(), time.process_time()
        with pytest.raises(KeyboardInterrupt):
            alarm(control_c, delay)
            call()
    finally:
        gc.enable()
    wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    return min(wall, cpu) - delay


def long_call(kind, way, B, bidirectional=False, lengths=False, share=1.0):
    """A function that takes LONG or more, and the arrays it reads. The arrays are of zeros, which take no memory."""
    layer = make_layer(kind, I, H, bidirectional=bidirectional, rng=0)
    step_flop = 2 * 4 * H * (I + H) * B * (1 + bidirectional) * (2 if way == "backward" else 1)
    T = int(LONG * FLOP_PER_SECOND * share / step_flop)
    x = np.zeros((T, B, I), np.float32)
    rows = np.arange(B) + T - B + 1 if lengths else None
    if way in ("call", "frozen"):
        layer = layer if way == "call" else layer.freeze()
        return lambda: layer(x, lengths=rows)
    if way == "forward":
        return lambda: layer.forward(x, lengths=rows)
    tape = long_tape(layer, x, rows)
    dy = np.zeros((T, B, H * (1 + bidirectional)), np.float32)
    return lambda: layer.backward(tape, dy)


def long_tape(layer, x, lengths):
    """The tape of a forward pass over x that was not made: all it saved is zero."""
    (T, B, _), D = x.shape, 1 + layer.bidirectional
    *_, tape = layer.forward(x[:1], lengths=None if lengths is None else np.ones(B, int))
    (first,) = tape.runs
    y, saved = np.zeros((T, B, D * H), x.dtype), np.zeros((D, T, B, first.saved.shape[3], H), x.dtype)
    tape.call = tape.call._replace(x=x, steps=CallSteps(lengths))
    tape.runs = [first._replace(x=x, y=y, saved=saved, steps=Steps(lengths))]
    return tape


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_native(threads, alarm, shape, way):
    case = make_case("lstm", 20, 7, 40, 70, bidirectional=True, with_lengths=True)
    with fastrnn.use_backend("native"):
        expected = run(case)
        assert seconds_to_answer(long_call("lstm", way, **SHAPES[shape]), alarm) < ANSWER
        for name, array in run(case).items():
            assert_same_bits(array, expected[name], name)


COMPILED = [name for name in ("native", "numba") if name in fastrnn.available_backends()]
OTHERS = [("numba", shape) for shape in SHAPES if "numba" in COMPILED] + [("numpy", "batch")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend_name, shape", OTHERS)
def test_other_backends(alarm, backend_name, shape, way):
    case = make_case("gru", 20, 7, 40, 70, bidirectional=True, with_lengths=True)
    with fastrnn.use_backend(backend_name):
        expected = run(case)  # and whatever has to be compiled is
        assert seconds_to_answer(long_call("gru", way, **SHAPES[shape]), alarm) < ANSWER
        for name, array in run(case).items():
            assert_same_bits(array, expected[name], name)


def test_steps_of_one_unit(alarm):
    """10⁸ operations are seconds of them."""
    x = np.zeros((60_000_000, 1, 1), np.float32)
    with fastrnn.use_backend("native"):
        layer = fastrnn.RNN(1, 1, rng=0).freeze()
        assert seconds_to_answer(lambda: layer(x), alarm) < ANSWER


def one_long_step(what):
    """A function that takes a second or more, all of it in one step."""
    if what == "packing":
        n = 8000
        weights = np.zeros((4 * n, n), np.float32), np.zeros((4 * n, n), np.float32)
        return lambda: fastrnn.lstm_cell(np.zeros(n, np.float32), None, *weights)
    B, H = (600_000, 16) if what == "many rows" else (16384, 1024)
    cell = fastrnn.LSTMCell(1000 if what == "many rows" else 8, H, rng=0)
    x = np.zeros((B, cell.input_size), np.float32)
    if what == "many rows":
        return lambda: cell(x)
    (h, _), tape = cell.forward(x)
    return lambda: cell.backward(tape, h)


SLOW = pytest.mark.slow  # they take gigabytes


@pytest.mark.parametrize(
    "what", ["backward", pytest.param("packing", marks=SLOW), pytest.param("many rows", marks=SLOW)]
)
@pytest.mark.parametrize("backend_name", COMPILED)
@pytest.mark.parametrize("threads", [1], indirect=True)
def test_one_step_that_takes_long(threads, alarm, backend_name, what):
    with fastrnn.use_backend(backend_name):
        run(make_case("lstm", 1, 1, 1, 1))  # both passes compiled, so that the alarm finds the loops at work
        assert seconds_to_answer(one_long_step(what), alarm) < ANSWER


def test_many_layers_each_too_short_to_ask(alarm):
    x = np.zeros((10_000, 1, 64), np.float32)
    with fastrnn.use_backend("native"):
        layer = fastrnn.LSTM(64, 64, 500, rng=0).freeze()
        assert seconds_to_answer(lambda: layer(x), alarm) < ANSWER


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_leaked(threads, alarm, way):
    """A leaked output, tape, packed weight or scratch would be megabytes a call."""
    with fastrnn.use_backend("native"):
        call = long_call("lstm", way, B=16)
        for k in range(5):
            seconds_to_answer(call, alarm)
            gc.collect()
            if k == 1:
                before = resident_bytes()
    assert resident_bytes() - before < 5 * 2**20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_handler_that_does_not_raise_lets_the_call_go_on(threads, alarm):
    """It may compute, in the floating-point mode of its program, and use the very layer that is busy."""
    case = make_case("gru", 1500, 16, 256, 256, seed=3)
    seen = []

    def handler(number, frame):
        tiny = np.full(64, 1e-40, np.float32)
        seen.append((np.all(tiny * np.float32(0.5) > 0), layer(case.x[:3], bare(case.state))[0]))

    with fastrnn.use_backend("native"):
        layer = case.layer.freeze()
        expected, expected_state = layer(case.x, bare(case.state))
        alarm(handler, DELAY, again=DELAY)
        while not seen:  # until one came while the kernels ran
            y, state = layer(case.x, bare(case.state))
        alarm(handler, 0)
    assert_same_bits(y, expected, "y")
    assert_same_bits(state, expected_state, "state")
    for denormals_count, first in seen:
        assert denormals_count, "the handler ran with denormals flushed"
        assert_same_bits(first, expected[:3], "y within the handler")


def test_a_call_of_another_thread_is_unharmed(alarm):
    case = make_case("gru", 1500, 16, 256, 256, seed=3)
    with fastrnn.use_backend("native"):
        layer = case.layer.freeze()
    expected = layer(case.x, bare(case.state))[0]
    found = []
    worker = threading.Thread(target=lambda: found.append(layer(case.x, bare(case.state))[0]))

    def both():
        worker.start()
        layer(np.zeros((20_000, 16, 256), np.float32))

    assert seconds_to_answer(both, alarm) < ANSWER
    worker.join()
    assert_same_bits(found[0], expected, "y")


def test_the_thread_that_forked_is_the_main_one_of_its_child():
    code = """
import os, signal, threading, numpy as np, fastrnn
from test_interrupt import control_c
layer = fastrnn.LSTM(1024, 1024, rng=0).freeze()
def child():
    signal.signal(signal.SIGALRM, control_c)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        layer(np.zeros((100_000, 1, 1024), np.float32))
    except KeyboardInterrupt:
        return 17
    return 1
def fork():
    global status
    process = os.fork()
    if process == 0:
        os._exit(child())
    status = os.waitpid(process, 0)[1]
thread = threading.Thread(target=fork)
thread.start(), thread.join()
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    here = environment(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, timeout=60)
    assert done.returncode == 17, done.stderr.decode()


def answers():
    """Whether the main thread answers."""
    return seconds_to_answer(long_call("lstm", "frozen", B=16), set_alarm) < ANSWER


BEFORE = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "another main_thread": "import threading, types; threading.main_thread = lambda: types.SimpleNamespace(ident=1)",
    "imported first in another thread": """
import threading
def use():
    import fastrnn
    fastrnn.get_backend()
thread = threading.Thread(target=use)
thread.start(), thread.join()""",
}


@pytest.mark.parametrize("before", BEFORE)
def test_the_main_thread_whatever_has_become_of_threading(before):
    if before == "gevent":
        pytest.importorskip("gevent")
    code = f"{BEFORE[before]}\nfrom test_interrupt import answers\nassert answers()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(Path(__file__).parent) | {"FASTRNN_BACKEND": "native"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
