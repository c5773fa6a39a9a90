"""The mode of the floating-point unit (MXCSR, FPCR) is the caller's own: no call leaves a trace in it."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from cases import KINDS, assert_same_bits, bare, make_case, run
from paths import environment
from variants import compiled_variants

import fastrnn

# Where a fenv_t keeps the register, by system and machine.
PLACES = {
    ("Linux", "x86_64"): (28, ctypes.c_uint32),
    ("Linux", "aarch64"): (0, ctypes.c_uint32),
    ("Darwin", "x86_64"): (4, ctypes.c_uint32),
    ("Darwin", "arm64"): (8, ctypes.c_uint64),
}
# Status flags, which any inexact result sets (ARM keeps them apart); rounding up; denormal results to zero.
STATUS_FLAGS, UPWARD, FLUSH = (0x3F, 0x4000, 0x8000) if platform.machine() == "x86_64" else (0, 1 << 22, 1 << 24)
NATIVE = [name for name in compiled_variants() if name.startswith("native")]
libm = ctypes.CDLL(None)


class Environment:
    """The thread's fenv_t, which fegetenv fills and fesetenv puts back."""

    def __init__(self):
        self.memory = ctypes.create_string_buffer(64)
        libm.fegetenv(self.memory)
        offset, word = PLACES[platform.system(), platform.machine()]
        self.register = word.from_buffer(self.memory, offset)

    def restore(self):
        libm.fesetenv(self.memory)


def mode():
    """Rounding, traps and the treatment of denormals in this thread; NumPy's arithmetic has to agree on the last."""
    value = Environment().register.value & ~STATUS_FLAGS
    tiny = np.full(40, np.finfo(np.float32).smallest_normal)
    assert ((tiny / 4 * 4) == tiny).all(), "denormals count as zero outside the kernels"
    return value


@pytest.fixture
def changed():
    """A mode of the test's own, given as bits to set, until it ends."""
    before = Environment()

    def change(bits):
        mine = Environment()
        mine.register.value |= bits
        mine.restore()
        return mine.register.value & ~STATUS_FLAGS

    yield change
    before.restore()


@pytest.fixture(params=[1, 3])
def threads(request):
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(request.param)
    yield request.param
    fastrnn.set_num_threads(before)


def all_calls(case):
    """Every way into the kernels."""
    run(case)
    case.layer(case.x, bare(case.state), lengths=case.lengths)
    served = case.layer.freeze()
    served(case.x, bare(case.state), lengths=case.lengths)
    if not case.layer.bidirectional:
        served.step(case.x[0], bare(case.state))


def test_the_helper_sees_the_mode(changed):
    """And the two ways to look agree."""
    before = mode()
    assert changed(UPWARD) == before | UPWARD == mode()
    changed(FLUSH)
    with pytest.raises(AssertionError, match="denormals count as zero"):
        mode()


@pytest.mark.parametrize("options", [{}, {"with_lengths": True, "bidirectional": True, "dtype": np.float64}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_call_changes_it(kernels, threads, kind, options):
    before = mode()
    for size in ((2, 1, 3, 5), (40, 26, 60, 140)):  # on the caller's thread alone, and on as many as there are
        all_calls(make_case(kind, *size, **options))
        assert mode() == before


def test_in_other_threads(kernels, threads):
    """Each thread has a mode of its own: those of Python that call, side by side."""
    seen = []

    def work(kind):
        before = mode()
        for _ in range(3):
            all_calls(make_case(kind, 40, 26, 60, 140))
        seen.append((before, mode()))

    started = [threading.Thread(target=work, args=(kind,)) for kind in KINDS]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(seen) == len(KINDS) and all(before == after for before, after in seen)


@pytest.mark.parametrize("kernels", NATIVE, indirect=True)
def test_the_callers_rounding_does_not_matter(kernels, threads, changed):
    """The pool's threads have a rounding of their own: the bits would depend on how many there are."""
    cases = [make_case(kind, 30, 26, 60, 140) for kind in KINDS]
    expected = [run(case) for case in cases]
    upward = changed(UPWARD)
    for case, results in zip(cases, expected):
        for name, array in run(case).items():
            assert_same_bits(array, results[name], name)
    assert mode() == upward


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kernels", NATIVE, indirect=True)
def test_signals_and_interrupted_calls(kernels, threads):
    """A signal's handler, which runs amid the call, sees the caller's mode; so does who catches what it raises."""
    layer = fastrnn.LSTM(256, 256, rng=0)
    x = np.broadcast_to(np.float32(1), (8000, 16, 256))
    before, seen = mode(), []

    def handler(signum, frame):
        seen.append(mode())
        if len(seen) % 2 == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted

    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(2):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with pytest.raises(Interrupted):
                layer(x)
            assert mode() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(seen) >= 2 and set(seen) == {before}


WITHOUT_MEMORY = """
import resource, sys, time
import numpy as np
import fastrnn

sys.path.insert(0, sys.argv[1])
from test_fpmode import mode

fastrnn.set_backend("native")
fastrnn.set_num_threads(int(sys.argv[2]))
# So large that what the kernels take for these weights goes back to the system, within a second.
SMALL = 4 << 20  # left to the arrays of the call itself: whether the heap holds them already differs by machine
layer, cell = (fastrnn.LSTM(*sizes, rng=0) for sizes in ((1400, 1100), (1, 1)))
y, _, tape = layer.forward(np.ones((9, 1, 1400), np.float32))  # backward of fewer terms packs no weights
sums = {name: np.zeros_like(array) for name, array in layer.params.items()}
x, served = np.ones((2_000_000, 1), np.float32), cell.freeze()
state, after = (tuple(np.zeros((1, *x.shape), np.float32) for _ in range(2)) for _ in range(2))
out = np.empty_like(x), after
calls = (
    lambda: served.step(x, state, out=out),
    lambda: layer(np.ones((2, 1400), np.float32)),  # a single step packs no weights
    lambda: layer.backward(tape, y, accumulate=sums),
)
before = mode()
for call in calls:
    time.sleep(1)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + SMALL, -1))
    try:
        call()
    except MemoryError as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert mode() == before
    call()
    assert mode() == before
"""

SCRATCH = "kernels' scratch"


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("system", ["linux"] if sys.platform == "linux" and NATIVE else [])  # others set no such limit
def test_without_memory(system, threads):
    """Where the kernels find no memory, forward and backward, and in the same calls when they do."""
    command = [sys.executable, "-c", WITHOUT_MEMORY, os.path.dirname(__file__), threads]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"no memory for the {what}" for what in (SCRATCH, "packed weights", SCRATCH)]
