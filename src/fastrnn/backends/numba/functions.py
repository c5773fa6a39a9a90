"""The activations that a layer may choose, and their derivatives by their results: values at run time.

Options are a vector: kind, alpha and beta of each role, then the clip, zoneout of h and of c, 0 for none, whether each
gate is normalised by itself, and eps.
"""

import numba
import numpy as np

from ...spec import FUNCTIONS
from .activations import d_sigmoid, d_tanh, exp_parts, sigmoid, tanh
from .compiling import inlined
from .intrinsics import fma, power_of_two

GATES, CANDIDATE, OUTPUT = 0, 1, 2
CLIP, ZONEOUT, EACH_GATE, EPS = 9, 10, 12, 13  # places in the options
(
    SIGMOID, HARD_SIGMOID, TANH, RELU, LEAKY_RELU, THRESHOLDED_RELU, ELU, SOFTSIGN, SOFTPLUS, AFFINE, SCALED_TANH,
    LINEAR,
) = range(len(FUNCTIONS))  # fmt: skip


def as_vector(options, dtype):
    """The options of a cell, an empty vector for None."""
    if options is None:
        return np.empty(0, dtype)
    numbers = [[FUNCTIONS.index(name), alpha, beta] for name, alpha, beta in options.functions]
    return np.array(
        [*np.ravel(numbers), options.clip, *(*options.zoneout, 0, 0)[:2], options.each_gate, options.eps], dtype
    )


@inlined
def zones(o):
    """Whether units keep a share of their state."""
    return o.size > 0 and (o[ZONEOUT] > 0 or o[ZONEOUT + 1] > 0)


@inlined
def look(v, p, c):
    """v + p c, by a peephole p; v where there is none."""
    return fma(p, c, v) if p != type(p)(0) else v


@inlined
def exp_minus(v):
    """e^-v for v >= 0."""
    n, p = exp_parts(v)
    return power_of_two(-n) / (type(v)(1) + p)


def value(kind, alpha, beta, v):
    zero, one = type(v)(0), type(v)(1)
    if kind == SIGMOID:
        return sigmoid(v)
    if kind == TANH:
        return tanh(v)
    if kind == SCALED_TANH:
        return alpha * tanh(beta * v)
    if kind == HARD_SIGMOID:
        return min(one, max(zero, fma(alpha, v, beta)))
    if kind == RELU:
        return max(v, zero)
    if kind == LEAKY_RELU:
        return alpha * v if v <= zero else v
    if kind == THRESHOLDED_RELU:
        return zero if v <= alpha else v
    if kind == ELU:
        return alpha * type(v)(np.expm1(v)) if v <= zero else v
    if kind == SOFTSIGN:
        return v / (one + abs(v))
    if kind == SOFTPLUS:
        return max(v, zero) + type(v)(np.log1p(exp_minus(abs(v))))
    if kind == AFFINE:
        return fma(alpha, v, beta)
    return v


def slope(kind, alpha, beta, y):
    zero, one = type(y)(0), type(y)(1)
    if kind == SIGMOID:
        return d_sigmoid(y)
    if kind == TANH:
        return d_tanh(y)
    if kind == SCALED_TANH:
        return beta * (alpha - y * y / alpha)
    if kind == HARD_SIGMOID:
        return zero if y <= zero or y >= one else alpha
    if kind == RELU:
        return zero if y <= zero else one
    if kind == LEAKY_RELU:
        return alpha if y <= zero else one
    if kind == THRESHOLDED_RELU:
        return zero if y == zero else one
    if kind == ELU:
        return y + alpha if y <= zero else one
    if kind == SOFTSIGN:
        return (one - abs(y)) * (one - abs(y))
    if kind == SOFTPLUS:
        return type(y)(-np.expm1(-y))
    if kind == AFFINE:
        return alpha
    return one


# Calls, not inlined: a loop with all of them in it five times would take a minute to compile.
value = numba.njit(value, error_model="numpy", inline="never")
slope = numba.njit(slope, error_model="numpy", inline="never")


@inlined
def apply(o, role, v):
    """The role's activation of v."""
    if role != OUTPUT and o[CLIP] > 0:
        v = min(o[CLIP], max(-o[CLIP], v))
    return value(o[3 * role], o[3 * role + 1], o[3 * role + 2], v)


@inlined
def derivative(o, role, y):
    """Its derivative, by its result; zero where it was clipped."""
    kind, alpha, beta = o[3 * role], o[3 * role + 1], o[3 * role + 2]
    if role != OUTPUT and o[CLIP] > 0:
        if y == value(kind, alpha, beta, o[CLIP]) or y == value(kind, alpha, beta, -o[CLIP]):
            return type(y)(0)
    return slope(kind, alpha, beta, y)
