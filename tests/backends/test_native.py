"""What is particular to the native backend: levels, threads, fork, and the floating-point mode."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import assert_same_bits, make_case, run
from paths import environment

import fastrnn

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)

from fastrnn.backends import native


def level_under(word):
    """The result of asking a fresh interpreter for its level, with FASTRNN_ISA set."""
    code = "import fastrnn; print(fastrnn.show_config()['instruction_set'])"
    capped = {**os.environ, "FASTRNN_ISA": word}
    return subprocess.run([sys.executable, "-c", code], env=capped, capture_output=True, text=True)


@pytest.mark.parametrize("level", native.levels())
def test_isa_variable_caps_the_level(level):
    assert level_under(level).stdout.strip() == level
    assert level_under(level.upper()).stdout.strip() == level


def test_unknown_isa_is_an_error():
    result = level_under("avx1024")
    assert result.returncode != 0
    assert "FASTRNN_ISA" in result.stderr and "avx1024" in result.stderr and native.levels()[0] in result.stderr


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match="name: expected one of .*got 'mmx'"):
        native.set_level("mmx")


def pool_case():
    """A case whose work the pool divides."""
    return make_case("lstm", 30, 16, 64, 64, bidirectional=True, with_lengths=True, seed=11)


@pytest.fixture
def case():
    """The case, on two threads of the native backend."""
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(2)
    with fastrnn.use_backend("native"):
        yield pool_case()
    fastrnn.set_num_threads(before)


def test_many_python_threads_at_once(case):
    expected = run(case)

    def again(_):
        with fastrnn.use_backend("native"):  # a context variable: each thread has its own
            return run(case)

    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(again, range(32)):
            for name, array in result.items():
                assert_same_bits(array, expected[name], name)


def test_fork_before_and_after_use():
    """In an interpreter of its own, where no other library has threads that a fork would lose."""
    command = [sys.executable, __file__]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def send_run(case, connection):
    connection.send(run(case))


def fork_before_and_after_use():
    fastrnn.set_num_threads(2)
    case = pool_case()
    expected = run(case)  # the pool exists from here on
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=send_run, args=(case, sender))
        child.start()
        assert receiver.poll(30), "the child hangs"
        for name, array in receiver.recv().items():
            assert_same_bits(array, expected[name], name)
        child.join(30)
        assert child.exitcode == 0
        for name, array in run(case).items():
            assert_same_bits(array, expected[name], name)


def test_floating_point_mode_is_restored(case):
    run(case)
    tiny = np.full(64, 1e-40, np.float32)
    assert np.all(tiny * np.float32(0.5) > 0), "denormals are flushed after the call"


def test_denormal_states_count_as_zero(case):
    layer = fastrnn.LSTM(4, 5, bias=False, rng=0)
    layer.params["weight_ih_l0"][...] = 0
    c = np.full((1, 1, 5), 1e-39, np.float32)
    _, (h, c_after) = layer(np.ones((1, 1, 4)), (np.zeros_like(c), c))
    np.testing.assert_array_equal(c_after, 0)
    np.testing.assert_array_equal(h, 0)


def test_fma_peak_counts_all_threads():
    assert native.fma_peak(np.dtype(np.float32), 1, 0.01) > 1e8
    assert native.fma_peak(np.dtype(np.float64), 2, 0.01) > 1e8


@pytest.mark.usefixtures("level")
def test_read_bandwidth_of_any_size():
    for size, threads in [(1, 1), (100_000, 1), (100_000, 3), (1 << 20, 2)]:
        assert native.read_bandwidth(size, threads, 0.002) > 1e8


def test_read_bandwidth_of_impossible_sizes():
    with pytest.raises(ValueError, match="bytes: expected at least 1, got 0"):
        native.read_bandwidth(0, 1, 0.001)
    with pytest.raises(MemoryError, match="no memory to read 4611686018427387904 bytes from"):
        native.read_bandwidth(1 << 62, 1, 0.001)


def test_activate_reads_the_byte_order():
    """The machine's own, however the dtype says it; the other is refused."""
    v = np.linspace(-3, 3, 7, dtype=np.float32)
    own, other = ("<", ">") if sys.byteorder == "little" else (">", "<")
    expected, result = np.empty_like(v), np.empty(7, v.dtype.newbyteorder(own))
    native.activate("tanh", v, expected)
    native.activate("tanh", v.astype(result.dtype), result)
    assert result.tobytes() == expected.tobytes()
    with pytest.raises(TypeError, match=f"expected an array of float32 or float64, got the format '{other}f'"):
        native.activate("tanh", v.astype(v.dtype.newbyteorder(other)), result)


if __name__ == "__main__":
    fork_before_and_after_use()
