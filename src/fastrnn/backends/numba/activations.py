"""exp, sigmoid and tanh of scalars, within 2 ULP.

Each polynomial is the one of its degree whose largest relative error, in the function it serves, is least (Lawson's
iteration): in e^r - 1 for |r| <= ln2/2, in tanh(v) for |v| <= 0.55.
"""

from numba import types
from numba.extending import overload

from .compiling import inlined
from .intrinsics import copysign, fma, horner, power_of_two


def by_type(single, double):
    """A function for compiled code that is `single` of float32 and `double` of float64."""

    def function(v):
        raise NotImplementedError

    @overload(function, jit_options={"forceinline": True})
    def choose(v):
        return single if v == types.float32 else double

    return function


EXP_SINGLE = (0.49999997, 0.16666543, 0.0416672, 0.0083665205, 0.0013882519)
EXP_DOUBLE = (
    0.5, 0.16666666666666677, 0.04166666666666651, 0.00833333333332169, 0.0013888888888962396, 0.00019841269885969,
    2.4801587172493487e-05, 2.7557244371355225e-06, 2.7557402679436816e-07, 2.510897980039893e-08,
    2.087531907869283e-09,
)  # fmt: skip
TANH_SINGLE = (-0.33333316, 0.13332585, -0.053852197, 0.021071175, -0.0062734815)
TANH_DOUBLE = (
    -0.333333333333333, 0.13333333333326597, -0.05396825396374646, 0.02186948838544121, -0.008863232594480653,
    0.003592091958380452, -0.0014555423703217875, 0.0005884424824398898, -0.00023337634474018414,
    8.330878926271205e-05, -1.9489851432319054e-05,
)  # fmt: skip


@inlined
def exp_single(v):
    v = min(v, type(v)(88.03))
    n = fma(v, 1.4426950408889634, 12582912.0) - type(v)(12582912.0)
    r = fma(n, -1.4286068e-06, fma(n, -0.693145751953125, v))
    return n, fma(r * r, horner(r, EXP_SINGLE), r)


@inlined
def exp_double(v):
    v = min(v, 709.1)
    n = fma(v, 1.4426950408889634, 6755399441055744.0) - 6755399441055744.0
    r = fma(n, -5.497923018708371e-14, fma(n, -0.6931471805598903, v))
    return n, fma(r * r, horner(r, EXP_DOUBLE), r)


# (n, p) with e^v = 2^n·(1 + p) for v >= 0: n is v/ln2, rounded by adding and subtracting 1.5·2^mantissa, of a v clipped
# so that n is at most the exponent's bias; r = v - n·ln2 in two steps (Cody & Waite); p = e^r - 1 = r + r²·q(r)
exp_parts = by_type(exp_single, exp_double)
tanh_series = by_type(inlined(lambda v: horner(v, TANH_SINGLE)), inlined(lambda v: horner(v, TANH_DOUBLE)))


@inlined
def logistic_tail(v):
    """1 / (1 + e^v) for v >= 0, as t / (t + 1 + p) with t = 2^-n; the sum keeps what t + 1 rounds off."""
    n, p = exp_parts(v)
    one, t = type(v)(1), power_of_two(-n)
    head = one + t
    return t / (head + (p + (t - (head - one))))


@inlined
def sigmoid(v):
    tail = logistic_tail(abs(v))
    return tail if v < type(v)(0) else type(v)(1) - tail


@inlined
def tanh(v):
    """v + v³·R(v²) near zero, else 1 - 2 / (1 + e^2|v|) with the sign of v."""
    near = fma(v * (v * v), tanh_series(v * v), v)
    far = fma(logistic_tail(abs(v + v)), -2, 1)
    return copysign(near if abs(v) < type(v)(0.55) else far, v)


def build_map(activation):
    """activation of each element, as the loops over time inline it."""

    def apply(v, result):
        for k in range(v.size):
            result[k] = activation(v[k])

    return apply


@inlined
def d_sigmoid(s):
    """The derivative of sigmoid where its value is s."""
    return fma(-s, s, s)


@inlined
def d_tanh(t):
    """The derivative of tanh where its value is t."""
    return fma(-t, t, 1)
