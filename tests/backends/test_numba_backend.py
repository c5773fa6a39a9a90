"""What is the Numba backend's own: its activations, the seams of its loops, and its compilation."""

import os
import subprocess
import sys
import threading
from decimal import Decimal, localcontext

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from cases import KINDS, assert_same_bits, make_case, run  # noqa: E402

import fastrnn  # noqa: E402
from fastrnn.backends import reference  # noqa: E402
from fastrnn.backends.base import Given, Run, Steps, Wanted  # noqa: E402
from fastrnn.backends.numba import activations, calls, compiling, rows  # noqa: E402
from fastrnn.spec import CELLS, GRU, LSTM, RNN_RELU, RNN_TANH, Weights  # noqa: E402

DTYPES = [np.float32, np.float64]


# --- activations


def vectorised(scalar):
    @numba.njit(error_model="numpy")
    def apply(v):
        result = np.empty_like(v)
        for k in range(v.size):
            result[k] = scalar(v[k])
        return result

    return apply


ACTIVATIONS = {name: vectorised(getattr(activations, name)) for name in ("sigmoid", "tanh")}


def exact(name, v):
    """sigmoid or tanh to some 50 digits."""
    with localcontext(prec=60):
        v = Decimal(float(v))
        if name == "sigmoid":
            e = (-abs(v)).exp()
            return (e if v < 0 else 1) / (1 + e)
        if abs(v) < Decimal("1e-9"):
            return v - v**3 / 3
        e = (-2 * abs(v)).exp()
        return ((1 - e) / (1 + e)).copy_sign(v)


def worst_ulp(name, v, expected):
    """The largest error in units in the last place where argument and result are normal."""
    tiny = np.finfo(v.dtype).tiny
    nearest = np.array([abs(float(e)) for e in expected]).astype(v.dtype)
    normal = (nearest >= tiny) & (np.abs(v) >= tiny)
    assert normal.mean() > 0.5
    actual = ACTIVATIONS[name](v)
    errors = [
        abs(type(e)(float(a)) - e) / type(e)(float(s))
        for a, e, s in zip(actual[normal], np.array(expected)[normal], np.spacing(nearest[normal]))
    ]
    return float(max(errors))


def arguments(dtype, count, seed):
    """Near zero, over the range where the results vary, and of every magnitude."""
    rng = np.random.default_rng(seed)
    limit = 87 if dtype == np.float32 else 708
    parts = rng.uniform(-2, 2, count), rng.uniform(-limit, limit, count), 10 ** rng.uniform(-30, 2, count)
    return np.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_error(name, dtype):
    v = arguments(dtype, 1500, seed=1)
    assert worst_ulp(name, v, [exact(name, a) for a in v]) <= 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_error_over_all_of_float32(name):
    v = np.arange(0, 2**32, 10007, dtype=np.uint64).astype(np.uint32).view(np.float32)
    v = v[np.abs(v) < 87]
    wide = v.astype(np.float64)
    assert worst_ulp(name, v, np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_bounds_and_limits(name, dtype):
    huge, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    low = 0 if name == "sigmoid" else -1
    edges = np.array([-np.inf, -huge, -1e4, 1e4, huge, np.inf], dtype)
    np.testing.assert_array_equal(ACTIVATIONS[name](edges), np.array([low] * 3 + [1] * 3, dtype))
    v = np.concatenate([arguments(dtype, 100_000, seed=2), edges, [dtype(0), tiny, -tiny]]).astype(dtype)
    result = ACTIVATIONS[name](v)
    assert result.min() >= low and result.max() <= 1
    assert np.isnan(ACTIVATIONS[name](np.array([np.nan], dtype))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd_and_exact_near_zero(dtype):
    v = arguments(dtype, 10_000, seed=3)
    assert ACTIVATIONS["tanh"](-v).tobytes() == (-ACTIVATIONS["tanh"](v)).tobytes()
    small = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny, 1e-30], dtype)
    assert ACTIVATIONS["tanh"](small).tobytes() == small.tobytes()


# --- the loops


class Case:
    """Random arrays for one layer; x, y, dy and dx have contiguous features and whatever else `view` makes of them."""

    def __init__(self, cell, T, B, I, H, D=2, dtype=np.float64, lengths=False, view=np.ascontiguousarray, seed=0):
        rng = np.random.default_rng(seed)
        G = len(cell.gates) * H

        def uniform(*shape):
            return rng.uniform(-1, 1, shape).astype(dtype)

        self.cell, self.view = cell, view
        shapes = [(G, I), (G, H), (G,), (G,), *[(len(cell.vectors) * H,)] * bool(cell.vectors)]
        self.weights = [Weights(*[uniform(*shape) / dtype(H) ** 0.5 for shape in shapes]) for _ in range(D)]
        self.x, self.dy = view(uniform(T, B, I)), view(uniform(T, B, D * H))
        self.state, self.dstate = ([uniform(D, B, H) for _ in cell.states] for _ in range(2))
        self.lengths = rng.integers(0, T + 1, B) if lengths else None

    def run(self, backend, train=True):
        """Everything the backend fills: y, final states, dx, gradients of the states and parameters."""
        cell, (T, B, _), dtype = self.cell, self.x.shape, self.x.dtype
        y, dx = (self.view(np.empty(v.shape, dtype)) for v in (self.dy, self.x))
        out, dstate0 = ([np.empty_like(s) for s in self.state] for _ in range(2))
        saved = np.empty((len(self.weights), T, B, len(cell.saved), self.state[0].shape[-1]), dtype) if train else None
        passed = Run(self.x, self.state, Steps(self.lengths), (False, True)[: len(self.weights)], y, saved)
        backend.forward(backend.pack(cell, self.weights, 1), passed, out, 1)
        if not train:
            return [y, *out]
        dweights = [Weights(*[None if v is None else np.zeros_like(v) for v in w]) for w in self.weights]
        wanted = Wanted(dx, dstate0, dweights)
        backend.backward(cell, self.weights, passed, Given(self.dy, self.dstate), wanted, 1)
        return [y, *out, dx, *dstate0, *(gradient for w in dweights for gradient in w if gradient is not None)]


def assert_close(case):
    (T, _, I), H = case.x.shape, case.state[0].shape[-1]
    tolerance = 4 * np.ceil(np.log2((I + H) * T)) * np.finfo(case.x.dtype).eps
    for k, (actual, expected) in enumerate(zip(case.run(calls), case.run(reference), strict=True)):
        factor = 1 if k <= len(case.cell.states) else 2
        assert np.abs(actual - expected).max() <= factor * tolerance * np.abs(expected).max()


def assert_all_same_bits(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.tobytes() == e.tobytes()


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize(
    "T, B, I, H",
    [
        (37, 3, 5, 15),  # steps in chunks with a remainder, a panel cut short
        (17, 15, 4, 17),  # 255 terms of a gradient, a panel of one unit
        (16, 16, 130, 16),  # 256 terms, a product deeper than one block of terms
        (257, 1, 1, 64),  # 257 terms
        (2, 65, 3, 65),  # more rows than a tile, more units than a block
        (3, 128, 7, 8),  # blocks of terms that end within a step
    ],
)
def test_seams_of_the_loops(cell, T, B, I, H, lengths):
    assert_close(Case(cell, T, B, I, H, lengths=lengths))


def reversed_time(array):
    return np.array(array[::-1])[::-1]


def apart(array):
    """Rows first, in a larger array whose other elements are NaN."""
    T, B, features = array.shape
    room = np.full((2 * B, T, features + 3), np.nan, array.dtype)[::2, :, 1 : 1 + features]
    room[...] = array.transpose(1, 0, 2)
    return room.transpose(1, 0, 2)


@pytest.mark.parametrize("view", [reversed_time, apart])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_strides_change_no_bit(cell, view):
    expected = Case(cell, 9, 5, 6, 20, lengths=True).run(calls)
    assert_all_same_bits(Case(cell, 9, 5, 6, 20, lengths=True, view=view).run(calls), expected)


def test_repeated_and_read_only_input():
    case = Case(LSTM, 9, 5, 6, 20)
    case.x = np.broadcast_to(case.x[:1, :1], case.x.shape)
    for array in [*case.state, case.dy, *(array for w in case.weights for array in w if array is not None)]:
        array.flags.writeable = False
    actual = case.run(calls)
    case.x = case.x.copy()
    assert_all_same_bits(actual, case.run(calls))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_training_and_inference_agree(cell, dtype):
    case = Case(cell, 20, 6, 5, 33, dtype=dtype, lengths=True)
    assert_all_same_bits(case.run(calls, train=False), case.run(calls)[: 1 + len(cell.states)])


@pytest.mark.parametrize("cell", [RNN_TANH, RNN_RELU, GRU], ids=lambda cell: cell.name)
def test_nan_stays_in_its_row(cell):
    case = Case(cell, 5, 6, 4, 10)
    case.x[2, 3, 1] = np.nan
    y = case.run(calls)[0]
    assert np.isnan(y[2:, 3, :10]).all() and np.isnan(y[:3, 3, 10:]).all()
    assert np.isfinite(np.delete(y, 3, axis=1)).all()


def test_many_python_threads_at_once():
    case = Case(LSTM, 40, 20, 30, 40)
    expected, results = case.run(calls), [None] * 4

    def work(k):
        results[k] = case.run(calls)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert_all_same_bits(result, expected)


# --- compilation

COMPILE = """
import numpy as np
from fastrnn.backends.numba import calls
loop = calls.forward_loop("rnn_relu", False, False, np.dtype(np.float32))
print(sum(loop.stats.cache_hits.values()), sum(loop.stats.cache_misses.values()))
"""


def test_another_process_finds_the_compiled_loops(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    hits_and_misses = [
        subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert hits_and_misses == ["0 1\n", "1 0\n"]


def test_compiles_where_no_cache_can_be_written(monkeypatch):
    def unwritable(locator):
        raise PermissionError("read-only")

    monkeypatch.setattr(numba.core.caching._CacheLocator, "ensure_cache_path", unwritable)
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(rows.running)
    compiled = compiling.jit(rows.running)
    assert compiled(np.array([5, 3, 1]), 2) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [1.0, 2e4, 3e5])
def test_calls_in_parts(monkeypatch, kind, part):
    """Long calls are cut by time and by rows, so that signals are answered: the bits stay."""
    case = make_case(kind, 13, 21, 9, 20, bidirectional=True, with_lengths=True)
    with fastrnn.use_backend("numba"):
        whole = run(case)
        monkeypatch.setattr(calls, "PART", part)
        monkeypatch.setattr(calls, "LEAST_STEP", 1.0)
        for name, array in run(case).items():
            assert_same_bits(array, whole[name], name)
