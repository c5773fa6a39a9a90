"""The Numba backend: the reference's equations in compiled loops, for machines without the native kernels.

Each cell is one forward equation and, beside it, its derivative, over scalars; LLVM inlines them into the two loops
over time and vectorises across hidden units. Two rules make the results bit for bit independent of batch, padding and
chunking: every product is a chain of explicit fused multiply-adds in the order of its terms, whatever tile it falls
in, and everything else is one correctly rounded operation at a time (no fastmath, no libm).

Everything compiled is in this file, because Numba keys its on-disk cache by the text of one file.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable
from numba.np.arrayobj import make_array, populate_array

from ..spec import CELLS, Cell

name = "numba"

PITCH = 96  # columns from one row of a tile to the next: a constant, so that LLVM sees that rows do not overlap
COLUMNS = 64  # columns of a tile in the products of backward
ROWS = 64  # rows of a tile
HOISTED = 16  # (step, row) pairs whose input product is taken at once when the batch is smaller than that
DEPTH = 128  # terms of a product before the next rows take their turn, so that the weights stay in L1
TERMS = 256  # (step, row) terms of a parameter's gradient that are summed before joining the total
LANES = 8  # hidden units are computed in multiples of this, on zero weights beyond the last

unsigned = np.uintp  # a signed index would be checked for negative values, which keeps loops from vectorising


def jit(function):
    """Compile at first use, cached on disk where some directory for it is writable."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's directory nor the user's cache can be written
        return njit(**options)(function)


# --- what Numba lacks: fused multiply-add, powers of two, strided groups of scalars, contiguous rows of any array


@intrinsic
def fma(context, a, b, c):
    """a·b + c, rounded once, in the narrowest type of the three: Python constants take that of the variables."""
    t = min((v for v in (a, b, c) if isinstance(v, types.Float)), key=lambda v: v.bitwidth)
    return t(t, t, t), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def power_of_two(context, n):
    """2^n for a whole number n from -bias (which gives 0) to bias, by way of the exponent's bits."""
    mantissa, bias = (23, 127) if n.bitwidth == 32 else (52, 1023)

    def generate(context, builder, signature, args):
        integer, real = ir.IntType(n.bitwidth), args[0].type
        aligned = builder.fadd(args[0], ir.Constant(real, 1.5 * 2.0**mantissa + bias))  # n + bias in the low bits
        bits = builder.shl(builder.bitcast(aligned, integer), ir.Constant(integer, mantissa))
        return builder.bitcast(bits, real)

    return n(n), generate


@intrinsic
def copysign(context, magnitude, sign):
    def generate(context, builder, signature, args):
        real = args[0].type
        function = builder.module.declare_intrinsic("llvm.copysign", [real], ir.FunctionType(real, [real, real]))
        return builder.call(function, args)

    return magnitude(magnitude, magnitude), generate


@intrinsic(prefer_literal=True)
def load(context, array, at, stride, count):
    """The tuple array[at], array[at + stride], …, of `count` values; stride and count are constants."""

    def generate(context, builder, signature, args):
        data = make_array(array)(context, builder, args[0]).data
        steps = [ir.Constant(args[1].type, k * stride.literal_value) for k in range(count.literal_value)]
        values = [builder.load(builder.gep(data, [builder.add(args[1], step)])) for step in steps]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(array.dtype, count.literal_value)(array, types.intp, stride, count), generate


@intrinsic(prefer_literal=True)
def store(context, array, at, stride, values):
    """array[at], array[at + stride], … = values; stride is a constant."""

    def generate(context, builder, signature, args):
        data = make_array(array)(context, builder, args[0]).data
        for k, value in enumerate(cgutils.unpack_tuple(builder, args[3])):
            step = ir.Constant(args[1].type, k * stride.literal_value)
            builder.store(value, builder.gep(data, [builder.add(args[1], step)]))
        return context.get_dummy_value()

    return types.void(array, types.intp, stride, values), generate


@intrinsic
def features(context, array, t, row):
    """array[t, row] as a contiguous vector, which it is by the contract, though not by its type."""
    vector = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def generate(context, builder, signature, args):
        source = make_array(array)(context, builder, args[0])
        strides, shape = cgutils.unpack_tuple(builder, source.strides), cgutils.unpack_tuple(builder, source.shape)
        offset = builder.add(builder.mul(args[1], strides[0]), builder.mul(args[2], strides[1]))
        view = make_array(vector)(context, builder)
        populate_array(
            view,
            data=cgutils.pointer_add(builder, source.data, offset),
            shape=[shape[2]],
            strides=[source.itemsize],
            itemsize=source.itemsize,
            meminfo=None,
        )
        return view._getvalue()

    return vector(array, types.intp, types.intp), generate


# --- activations. e^v = 2^n·(1 + p) with p = e^r - 1, r = v - n·ln2 (Cody & Waite) in ±ln2/2, and n rounded by adding and
# subtracting 1.5·2^mantissa. p = r + r²·q(r), where q minimises the largest relative error of p (Lawson's iteration).


@register_jitable
def clip(v, limit):
    limit = type(v)(limit)
    v = limit if v > limit else v
    return -limit if v < -limit else v


@register_jitable
def exp_single(v):
    v = clip(v, 88.03)  # n within ±127
    n = fma(v, 1.4426950408889634, 12582912.0) - type(v)(12582912.0)
    r = fma(n, -1.4286068e-06, fma(n, -0.693145751953125, v))
    q = fma(fma(0.0013882519, r, 0.0083665205), r, 0.0416672)
    q = fma(fma(q, r, 0.16666543), r, 0.49999997)
    return n, fma(r * r, q, r)


@register_jitable
def exp_double(v):
    v = clip(v, 709.1)  # n within ±1023
    n = fma(v, 1.4426950408889634, 6755399441055744.0) - 6755399441055744.0
    r = fma(n, -5.497923018708371e-14, fma(n, -0.6931471805598903, v))
    q = fma(fma(2.087531907869283e-09, r, 2.510897980039893e-08), r, 2.7557402679436816e-07)
    q = fma(fma(q, r, 2.7557244371355225e-06), r, 2.4801587172493487e-05)
    q = fma(fma(q, r, 1.9841269885969e-04), r, 1.3888888888962396e-03)
    q = fma(fma(q, r, 8.33333333332169e-03), r, 4.166666666666651e-02)
    q = fma(fma(q, r, 0.16666666666666677), r, 0.5)
    return n, fma(r * r, q, r)


def exp_parts(v):
    """(n, p) with e^v = 2^n·(1 + p), for compiled code."""


@overload(exp_parts, inline="always")
def exp_parts_of_type(v):
    return exp_single if v == types.float32 else exp_double


@register_jitable
def sigmoid(v):
    """1 / (1 + e^-v), as y = 2^-n / (2^-n + 1 + p) of |v| or 1 - y; the sum keeps what 2^-n + 1 rounds off."""
    one = type(v)(1)
    n, p = exp_parts(abs(v))
    t = power_of_two(-n)
    head = one + t
    y = t / (head + (p + (t - (head - one))))
    return y if v < type(v)(0) else one - y


@register_jitable
def tanh(v):
    """With e = e^-2|v|: (1 - e) / (1 + e) for small |v|, else 1 - 2e / (1 + e), which rounds off less."""
    one = type(v)(1)
    n, p = exp_parts(type(v)(-2) * abs(v))
    s = power_of_two(n)
    small = abs(v) < type(v)(0.55)
    y = (fma(-s, p, one - s) if small else fma(s + s, p, s + s)) / fma(s, p, one + s)
    return copysign(y if small else one - y, v)


@register_jitable
def d_sigmoid(s):
    """The derivative of sigmoid where its value is s."""
    return fma(-s, s, s)


@register_jitable
def d_tanh(t):
    """The derivative of tanh where its value is t."""
    return fma(-t, t, 1)


# --- the cells: forward(v, h, c) -> (h, *saved);  backward(dh, dc, h, h_prev, c_prev, *saved) -> dh_prev, dc_prev, da, du
# v holds the pre-activations of a unit's gates, GRU's n as two: its input's share first, its state's share last.
# da and du are the gradients by the input's and by the state's share; dh_prev leaves out what flows back through du.


@register_jitable
def rnn_tanh_forward(v, h, c):
    return (tanh(v[0]),)


@register_jitable
def rnn_tanh_backward(dh, dc, h, h_prev, c_prev):
    da = (dh * d_tanh(h),)
    return type(h)(0), dc, da, da


@register_jitable
def rnn_relu_forward(v, h, c):
    zero = type(h)(0)
    return (zero if v[0] < zero else v[0],)


@register_jitable
def rnn_relu_backward(dh, dc, h, h_prev, c_prev):
    zero = type(h)(0)
    da = (dh if h > zero else zero,)
    return zero, dc, da, da


@register_jitable
def lstm_forward(v, h, c):
    i, f, g, o = sigmoid(v[0]), sigmoid(v[1]), tanh(v[2]), sigmoid(v[3])
    c = fma(f, c, i * g)
    return o * tanh(c), i, f, g, o, c


@register_jitable
def lstm_backward(dh, dc, h, h_prev, c_prev, i, f, g, o, c):
    tanh_c = tanh(c)
    dc = fma(dh * o, d_tanh(tanh_c), dc)
    da = dc * g * d_sigmoid(i), dc * c_prev * d_sigmoid(f), dc * i * d_tanh(g), dh * tanh_c * d_sigmoid(o)
    return type(h)(0), dc * f, da, da


@register_jitable
def gru_forward(v, h, c):
    a_n, v_r, v_z, u_n = v
    r, z = sigmoid(v_r), sigmoid(v_z)
    n = tanh(fma(r, u_n, a_n))
    return fma(z, h, fma(-z, n, n)), r, z, n, u_n


@register_jitable
def gru_backward(dh, dc, h, h_prev, c_prev, r, z, n, u_n):
    da_n = fma(-z, dh, dh) * d_tanh(n)
    da_r = da_n * u_n * d_sigmoid(r)
    da_z = dh * (h_prev - n) * d_sigmoid(z)
    return dh * z, dc, (da_r, da_z, da_n), (da_r, da_z, da_n * r)


class Layout(NamedTuple):
    """A cell's equations and where forward's tile keeps their values: in slots of `units` columns, one per value.

    Slot 0 ends as h and the slots after it as what the tape keeps; the pre-activations come in at `first`.
    """

    forward: object
    backward: object
    units: int  # hidden units of one panel of packed weights
    first: int  # slot of the first pre-activation; the input's share begins there
    count: int  # pre-activations
    hidden: int  # slot where the state's share begins


LAYOUTS = {
    "rnn_tanh": Layout(rnn_tanh_forward, rnn_tanh_backward, units=64, first=0, count=1, hidden=0),
    "rnn_relu": Layout(rnn_relu_forward, rnn_relu_backward, units=64, first=0, count=1, hidden=0),
    "lstm": Layout(lstm_forward, lstm_backward, units=16, first=1, count=4, hidden=1),
    "gru": Layout(gru_forward, gru_backward, units=16, first=0, count=4, hidden=1),  # a_n, r, z, u_n
}


# --- products


@register_jitable
def copy(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] = source[unsigned(source_at + j)]


@register_jitable
def add(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] += source[unsigned(source_at + j)]


@jit
def multiply(tile, at, rows, width, a, a_at, a_row, a_term, w, w_at, w_row, terms):
    """tile[at + r·PITCH + j] += Σ_k a[a_at + r·a_row + k·a_term] · w[w_at + k·w_row + j], a chain of fmas over k.

    Four terms of four rows at a time share the loads of w and of the tile; the chain of an element is the same.
    """
    for k0 in range(0, terms, DEPTH):
        k1 = min(k0 + DEPTH, terms)
        r = 0
        while r < rows:
            fours = (k1 - k0) // 4
            shared = 4 if rows - r >= 4 else 1
            for block in range(fours):
                k = k0 + 4 * block
                w_k = w_at + k * w_row
                a_k = a_at + r * a_row + k * a_term
                if shared == 4:
                    four_rows(tile, at + r * PITCH, width, a, a_k, a_row, a_term, w, w_k, w_row)
                else:
                    one_row(tile, at + r * PITCH, width, load_four(a, a_k, a_term), w, w_k, w_row)
            for k in range(k0 + 4 * fours, k1):
                for s in range(r, r + shared):
                    value = a[unsigned(a_at + s * a_row + k * a_term)]
                    for j in range(width):
                        column = unsigned(at + s * PITCH + j)
                        tile[column] = fma(value, w[unsigned(w_at + k * w_row + j)], tile[column])
            r += shared
