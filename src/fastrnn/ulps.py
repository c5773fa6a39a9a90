"""The errors of the kernels' exp, sigmoid and tanh, in units in the last place (ULP) of the exact result.

The exact result is NumPy's in the next wider type: float64 for float32, long double for float64.
"""

from __future__ import annotations

import numpy as np

WIDER: dict[str, type[np.floating]] = {"float32": np.float64, "float64": np.longdouble}
BOUND = 2  # of sigmoid and tanh, where input and result are normal numbers


def can_judge(dtype: str) -> bool:
    """Whether the next wider type has more digits: a long double is a double on ARM macOS and on Windows."""
    return bool(np.finfo(WIDER[dtype]).nmant > np.finfo(dtype).nmant)


def exact(name: str, v: np.ndarray) -> np.ndarray:
    """exp, sigmoid or tanh of v, in the next wider type; denormals count as zero."""
    v = np.where(np.abs(v) < np.finfo(v.dtype).tiny, 0, v).astype(WIDER[v.dtype.name])
    with np.errstate(over="ignore", under="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(-v))
        return np.exp(v) if name == "exp" else np.tanh(v)


def per_ulp(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """1 / ULP of each value in `dtype`: 2^23 per binade for float32; 0 where the value is no normal number in it."""
    info = np.finfo(dtype)
    exponent = np.frexp(value)[1]  # of a mantissa in 0.5..1
    size = np.abs(value)
    normal = (size >= info.tiny) & (size <= info.max)
    return np.where(normal, np.ldexp(value.dtype.type(1), np.where(normal, info.nmant + 1 - exponent, 0)), 0)


def errors(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The deviations in ULP; 0 where what is wanted is no normal number in the type of `got`."""
    scale = per_ulp(wanted, got.dtype)
    return np.abs(got - np.where(scale > 0, wanted, got)) * scale


def sample(dtype: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` inputs: near zero, over the range in which the results vary, of every magnitude, and the edges."""
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    limit, part = np.log(float(info.max)), count // 4
    edges = [0.0, info.smallest_subnormal, info.tiny, limit, info.max, np.inf]
    magnitudes = rng.choice([-1, 1], part) * 2.0 ** rng.uniform(info.minexp, 10, part)
    parts = rng.uniform(-1, 1, 2 * part), rng.uniform(-limit, limit, part), magnitudes, edges, np.negative(edges)
    return np.concatenate(parts).astype(dtype)
