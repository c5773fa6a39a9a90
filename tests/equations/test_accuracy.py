"""exp, sigmoid and tanh of the kernels, at every instruction-set level: errors, order, range, limits."""

import mpmath
import numpy as np
import pytest

import fastrnn
from fastrnn import ulps

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)

from fastrnn.backends import native

LEVELS = native.levels()
FUNCTIONS = ("exp", "sigmoid", "tanh")
RANGES = {"exp": (0, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1)}
# Where the kernels' exp stops: beyond, e^v or 1 / e^v is no normal number.
EXP_RANGE = {"float32": (-87.3, 88.3), "float64": (-708.3, 709.4)}
CHUNK = 1 << 15  # stays in the caches
POSITIVE = 0x7F800000  # the bits of infinity: those below are the float32 from 0 up


@pytest.fixture(autouse=True)
def first_level():
    yield
    native.set_level(LEVELS[0])


def activate(name, level, v):
    native.set_level(level)
    result = np.full_like(v, np.nan)
    native.activate(name, v, result)
    return result


class Sweep:
    """What one function at one level did over inputs that rise from chunk to chunk."""

    def __init__(self):
        self.worst, self.at, self.fall, self.low, self.high, self.top = 0.0, 0.0, 0.0, np.inf, -np.inf, -np.inf

    def add(self, v, got, wanted, per_ulp):
        wrong = np.abs(got - wanted)
        wrong *= per_ulp
        worst = int(wrong.argmax())
        if not wrong[worst] <= self.worst:
            self.worst, self.at = float(wrong[worst]), float(v[worst])
        self.low, self.high = min(self.low, got.min()), max(self.high, got.max())
        # How far below the highest result so far; in ULP of the results, which are those of what is exact, nearly.
        so_far = np.maximum.accumulate(got)
        fall = (np.maximum(so_far, self.top) - got) * per_ulp
        self.fall, self.top = max(self.fall, float(fall.max())), max(self.top, so_far[-1])


def comparable(name, v, wanted):
    """What is wanted, and how many ULP are 1, with no ULP at all where input or result is not normal."""
    dtype = v.dtype
    scale = ulps.per_ulp(wanted, dtype)
    scale[np.abs(v) < np.finfo(dtype).tiny] = 0
    if name == "exp":
        low, high = EXP_RANGE[dtype.name]
        scale[(v < low) | (v > high)] = 0
    return np.where(scale > 0, wanted, 0), scale


def sweep_float32(stride):
    """Every stride-th float32 from -inf to inf, at every level; tanh of negative inputs bit for bit by its oddness."""
    sweeps = {(name, level): Sweep() for name in FUNCTIONS for level in LEVELS}
    starts = range(0, POSITIVE + 1, CHUNK * stride)

    def bits(start):
        return np.arange(start, min(start + CHUNK * stride, POSITIVE + 1), stride, dtype=np.uint32)

    chunks = [(start, -1) for start in reversed(starts)] + [(start, 1) for start in starts]
    for start, sign in chunks:
        v = bits(start).view(np.float32)
        v = v if sign > 0 else -v[::-1]
        for name in FUNCTIONS:
            if name == "tanh" and sign < 0:
                continue
            wanted, scale = comparable(name, v, ulps.exact(name, v))
            for level in LEVELS:
                got = activate(name, level, v)
                sweeps[name, level].add(v, got, wanted, scale)
                if name == "tanh":
                    assert activate(name, level, -v).tobytes() == (-got).tobytes(), f"tanh is not odd at {level}"
    return sweeps


def check(sweeps):
    for (name, level), sweep in sweeps.items():
        where = f"{name} at {level}: {sweep.worst:.3f} ULP at {sweep.at!r}"
        print(where, f"falls by {sweep.fall:.3f}")
        assert sweep.worst <= ulps.BOUND, where
        assert sweep.fall <= ulps.BOUND, f"{name} at {level} falls by {sweep.fall} ULP"
        low, high = RANGES[name]
        assert low <= sweep.low and sweep.high <= high, f"{name} at {level}: {sweep.low!r}, {sweep.high!r}"


def test_every_64th_float32():
    check(sweep_float32(64))


@pytest.mark.slow
def test_every_float32():
    check(sweep_float32(1))


def sweep_float64(count):
    """Random and edge inputs in rising order, against long double; returns the ten worst of each, too."""
    v = np.unique(ulps.sample("float64", count, seed=1))
    sweeps, hardest = {}, {}
    for name in FUNCTIONS:
        wanted, scale = comparable(name, v, ulps.exact(name, v))
        for level in LEVELS:
            got = activate(name, level, v)
            sweeps[name, level] = Sweep()
            sweeps[name, level].add(v, got, wanted, scale)
            wrong = np.abs(got - wanted) * scale
            worst = np.argsort(wrong)[-10:]
            hardest[name, level] = [(float(v[i]), float(got[i]), float(wrong[i])) for i in worst]
    return sweeps, hardest


def check_hardest(hardest):
    """The long double reference is itself right, where it matters most: 60 digits say the same."""
    with mpmath.workdps(60):
        exact = {"exp": mpmath.exp, "tanh": mpmath.tanh, "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v))}
        for (name, _), cases in hardest.items():
            for v, got, wrong in cases:
                wanted = exact[name](mpmath.mpf(v))
                ulp = mpmath.ldexp(1, mpmath.frexp(wanted)[1] - 53)
                assert abs(float(abs(got - wanted) / ulp) - wrong) < 0.01, f"{name}({v!r})"


needs_long_double = pytest.mark.skipif(not ulps.can_judge("float64"), reason="long double has no more digits here")


@needs_long_double
def test_a_million_float64():
    sweeps, hardest = sweep_float64(10**6)
    check(sweeps)
    check_hardest(hardest)


@needs_long_double
@pytest.mark.slow
def test_ten_million_float64():
    sweeps, hardest = sweep_float64(10**7)
    check(sweeps)
    check_hardest(hardest)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_limits_and_what_is_no_number(dtype, level):
    info = np.finfo(dtype)
    v = ulps.sample(dtype, 100_000, seed=2)
    assert activate("tanh", level, -v).tobytes() == (-activate("tanh", level, v)).tobytes()
    edges = np.array([np.inf, info.max, 1e4, -np.inf, -info.max, -1e4], dtype)
    assert activate("sigmoid", level, edges).tolist() == [1, 1, 1, 0, 0, 0]
    assert activate("tanh", level, edges).tolist() == [1, 1, 1, -1, -1, -1]
    small = np.array([0.0, -0.0, info.smallest_subnormal, -info.tiny / 2], dtype)  # denormals count as zero
    assert activate("tanh", level, small).tobytes() == np.array([0.0, -0.0, 0.0, -0.0], dtype).tobytes()
    assert activate("sigmoid", level, small).tolist() == [0.5] * 4
    assert activate("exp", level, small).tolist() == [1] * 4
    for name in ("sigmoid", "tanh"):
        nan = np.array([np.nan, -np.nan, 1.0], dtype)
        assert np.isnan(activate(name, level, nan)).tolist() == [True, True, False]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tail_is_as_the_body(name, dtype, level):
    """The same bits at every place of a vector, whole or cut, and nothing written past the end."""
    v = np.linspace(-3, 3, 67).astype(dtype)
    whole = activate(name, level, v)
    for n in range(1, 34):
        result = np.full(n + 1, 7, dtype)
        native.activate(name, v[67 - n :], result[:n])
        assert result[:n].tobytes() == whole[67 - n :].tobytes() and result[n] == 7


def test_the_kernels_compute_these_very_bits():
    """A layer whose pre-activations are its inputs: RNN is tanh, GRU's gates sigmoid, so also for one row and many."""
    v = np.linspace(-4, 4, 23 * 16, dtype=np.float32).reshape(1, 16, 23)
    for level in LEVELS:
        native.set_level(level)
        layer = fastrnn.RNN(23, 23, bias=False)
        layer.params["weight_ih_l0"][...] = np.eye(23)
        layer.params["weight_hh_l0"][...] = 0
        with fastrnn.use_backend("native"):
            y, _ = layer(v)
            alone, _ = layer(v[:, :1])
        assert y.tobytes() == activate("tanh", level, v).tobytes()
        assert alone.tobytes() == activate("tanh", level, v[:, :1].copy()).tobytes()


def test_activate_refuses_results_that_do_not_fit():
    v = np.zeros(4, np.float32)
    for result in (np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros(2, np.float64)):
        with pytest.raises(ValueError, match="result: expected 4 elements of float32, got"):
            native.activate("tanh", v, result)


# --- the measure itself


def test_errors_by_hand():
    eps = float(np.finfo(np.float32).eps)
    got = np.array([1 + eps, 1 - eps / 2, 2.0, 0.0, 3.0], np.float32)  # an ULP of 2..4 is 2 eps
    wanted = np.array([1.0, 1.0, 2 - eps, 1e-40, 3 + eps / 2])
    assert ulps.errors(got, wanted).tolist() == [1, 0.5, 1, 0, 0.25]
    assert np.isinf(ulps.errors(np.float32([np.inf]), np.array([2.0]))).all()
    assert np.isnan(ulps.errors(np.float32([np.nan]), np.array([2.0]))).all()


def test_a_fall_an_error_and_a_step_out_of_range_are_seen():
    """The sweep itself, on results made up: a fall within a chunk, one from chunk to chunk, an error of 3 ULP, NaN."""
    ulp = float(np.spacing(np.float32(0.5)))
    exact = np.full(3, 0.5)
    scale = ulps.per_ulp(exact, np.dtype(np.float32))

    def swept(*chunks):
        sweep = Sweep()
        for chunk in chunks:
            sweep.add(exact, (0.5 + ulp * np.array(chunk)).astype(np.float32), exact, scale)
        return sweep

    assert (swept([0, 1, -2]).fall, swept([0, 1, 2], [1, 0, 0]).fall, swept([0, 1, 1], [1, 2, 3]).fall) == (3, 2, 0)
    assert swept([0, 3, 0]).worst == 3 and not swept([0, np.nan, 0]).worst <= ulps.BOUND
    for wrong in (swept([0, 3, 0]), swept([1, 1, -2]), swept([0, np.nan, 0]), swept([0, 2**24, 0])):
        with pytest.raises(AssertionError):
            check({("sigmoid", "made up"): wrong})
