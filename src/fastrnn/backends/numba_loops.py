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
from numba import from_dtype, njit, types
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


def jit(function, signature=None):
    """Compile for the signature, by default at first use; cached on disk where some directory for it is writable."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(signature, cache=True, **options)(function)
    except RuntimeError:  # neither the package's directory nor the user's cache can be written
        return njit(signature, **options)(function)


inlined = register_jitable(forceinline=True)  # LLVM alone would call sigmoid, and not vectorise the loop around it


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
    """The tuple array[at], array[at + stride], … of `count` values, a constant."""

    def generate(context, builder, signature, args):
        values = [builder.load(p) for p in strided(context, builder, array, args, count.literal_value)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(array.dtype, count.literal_value)(array, types.intp, types.intp, count), generate


@intrinsic
def store(context, array, at, stride, values):
    """array[at], array[at + stride], … = values, a tuple."""

    def generate(context, builder, signature, args):
        for p, value in zip(strided(context, builder, array, args, len(values)), cgutils.unpack_tuple(builder, args[3])):
            builder.store(value, p)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, values), generate


def strided(context, builder, array, args, count):
    """Pointers to args[0][args[1] + k·args[2]] for k < count."""
    data, at, stride = make_array(array)(context, builder, args[0]).data, args[1], args[2]
    indices = (builder.add(at, builder.mul(stride, ir.Constant(stride.type, k))) for k in range(count))
    return [builder.gep(data, [index], inbounds=True) for index in indices]


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


@inlined
def clip(v, limit):
    limit = type(v)(limit)
    v = limit if v > limit else v
    return -limit if v < -limit else v


@inlined
def exp_single(v):
    v = clip(v, 88.03)  # n within ±127
    n = fma(v, 1.4426950408889634, 12582912.0) - type(v)(12582912.0)
    r = fma(n, -1.4286068e-06, fma(n, -0.693145751953125, v))
    q = fma(fma(0.0013882519, r, 0.0083665205), r, 0.0416672)
    q = fma(fma(q, r, 0.16666543), r, 0.49999997)
    return n, fma(r * r, q, r)


@inlined
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


@overload(exp_parts, jit_options={"forceinline": True})
def exp_parts_of_type(v):
    return exp_single if v == types.float32 else exp_double


@inlined
def sigmoid(v):
    """1 / (1 + e^-v), as y = 2^-n / (2^-n + 1 + p) of |v| or 1 - y; the sum keeps what 2^-n + 1 rounds off."""
    one = type(v)(1)
    n, p = exp_parts(abs(v))
    t = power_of_two(-n)
    head = one + t
    y = t / (head + (p + (t - (head - one))))
    return y if v < type(v)(0) else one - y


@inlined
def tanh(v):
    """With e = e^-2|v|: (1 - e) / (1 + e) for small |v|, else 1 - 2e / (1 + e), which rounds off less."""
    one = type(v)(1)
    n, p = exp_parts(type(v)(-2) * abs(v))
    s = power_of_two(n)
    small = abs(v) < type(v)(0.55)
    y = (fma(-s, p, one - s) if small else fma(s + s, p, s + s)) / fma(s, p, one + s)
    return copysign(y if small else one - y, v)


@inlined
def d_sigmoid(s):
    """The derivative of sigmoid where its value is s."""
    return fma(-s, s, s)


@inlined
def d_tanh(t):
    """The derivative of tanh where its value is t."""
    return fma(-t, t, 1)


# --- the cells: forward(v, h, c) -> (h, *saved);  backward(dh, dc, h, h_prev, c_prev, *saved) -> dh_prev, dc_prev, da, du
# v holds the pre-activations of a unit's gates, GRU's n as two: its input's share first, its state's share last.
# da and du are the gradients by the input's and by the state's share; dh_prev leaves out what flows back through du.


@inlined
def rnn_tanh_forward(v, h, c):
    return (tanh(v[0]),)


@inlined
def rnn_tanh_backward(dh, dc, h, h_prev, c_prev):
    da = (dh * d_tanh(h),)
    return type(h)(0), dc, da, da


@inlined
def rnn_relu_forward(v, h, c):
    zero = type(h)(0)
    return (zero if v[0] < zero else v[0],)


@inlined
def rnn_relu_backward(dh, dc, h, h_prev, c_prev):
    zero = type(h)(0)
    da = (dh if h > zero else zero,)
    return zero, dc, da, da


@inlined
def lstm_forward(v, h, c):
    i, f, g, o = sigmoid(v[0]), sigmoid(v[1]), tanh(v[2]), sigmoid(v[3])
    c = fma(f, c, i * g)
    return o * tanh(c), i, f, g, o, c


@inlined
def lstm_backward(dh, dc, h, h_prev, c_prev, i, f, g, o, c):
    tanh_c = tanh(c)
    dc = fma(dh * o, d_tanh(tanh_c), dc)
    da = dc * g * d_sigmoid(i), dc * c_prev * d_sigmoid(f), dc * i * d_tanh(g), dh * tanh_c * d_sigmoid(o)
    return type(h)(0), dc * f, da, da


@inlined
def gru_forward(v, h, c):
    a_n, v_r, v_z, u_n = v
    r, z = sigmoid(v_r), sigmoid(v_z)
    n = tanh(fma(r, u_n, a_n))
    return fma(z, h, fma(-z, n, n)), r, z, n, u_n


@inlined
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


@inlined
def copy(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] = source[unsigned(source_at + j)]


@inlined
def add(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] += source[unsigned(source_at + j)]


@inlined
def chain(total, a, w):
    return fma(a[3], w[3], fma(a[2], w[2], fma(a[1], w[1], fma(a[0], w[0], total))))


@jit
def multiply(tile, at, rows, width, a, a_at, a_row, a_term, w, w_at, w_row, terms):
    """tile[at + r·PITCH + j] += Σ_k a[a_at + r·a_row + k·a_term] · w[w_at + k·w_row + j], one chain of fmas over k.

    Four terms of four rows at a time share the loads of w and of the tile; the chain of an element stays the same.
    """
    for start in range(0, terms, DEPTH):
        end = min(start + DEPTH, terms)
        r = 0
        while r < rows:
            together = 4 if r + 4 <= rows else 1
            row, a_r, k = at + r * PITCH, a_at + r * a_row, start
            while k + 4 <= end:
                a_k, w_k = a_r + k * a_term, w_at + k * w_row
                a0 = load(a, a_k, a_term, 4)
                if together == 4:
                    a1, a2, a3 = (
                        load(a, a_k + a_row, a_term, 4),
                        load(a, a_k + 2 * a_row, a_term, 4),
                        load(a, a_k + 3 * a_row, a_term, 4),
                    )
                    for j in range(width):
                        w4, t = load(w, w_k + j, w_row, 4), load(tile, row + j, PITCH, 4)
                        t = chain(t[0], a0, w4), chain(t[1], a1, w4), chain(t[2], a2, w4), chain(t[3], a3, w4)
                        store(tile, row + j, PITCH, t)
                else:
                    for j in range(width):
                        tile[unsigned(row + j)] = chain(tile[unsigned(row + j)], a0, load(w, w_k + j, w_row, 4))
                k += 4
            while k < end:
                for s in range(together):
                    value, w_k, to = a[unsigned(a_r + s * a_row + k * a_term)], w_at + k * w_row, row + s * PITCH
                    for j in range(width):
                        tile[unsigned(to + j)] = fma(value, w[unsigned(w_k + j)], tile[unsigned(to + j)])
                k += 1
            r += together


@inlined
def add_product(out, rows, columns, tile, a, a_row, a_term, w, terms):
    """out (rows, columns) += a·w, each element of the product a chain from zero; w is (terms, columns)."""
    for r in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            height, width = min(ROWS, rows - r), min(COLUMNS, columns - j)
            tile[:] = 0
            multiply(tile, 0, height, width, a, r * a_row, a_row, a_term, w, j, columns, terms)
            for s in range(height):
                add(out, (r + s) * columns + j, tile, s * PITCH, width)


@inlined
def add_sum(out, tile, a, terms):
    """out += Σ_k a[k], a (terms, out.size)."""
    for j in range(0, out.size, tile.size):
        width = min(tile.size, out.size - j)
        tile[:] = 0
        for k in range(terms):
            add(tile, 0, a, k * out.size + j, width)
        add(out, j, tile, 0, width)


@inlined
def pack_panels(w, gates, units, turn):
    """w (gates·H, terms) in panels of `units` hidden units, each (terms, gates, units), gate g at (g + turn) % gates."""
    H, terms, pitch = w.shape[0] // gates, w.shape[1], gates * units
    panels = np.zeros(-(-H // units) * terms * pitch, w.dtype)
    for start in range(0, H, units):
        for g in range(gates):
            row, column = g * H + start, start // units * terms * pitch + (g + turn) % gates * units
            for k in range(terms):
                for j in range(min(units, H - start)):
                    panels[column + k * pitch + j] = w[row + j, k]
    return panels


# --- the loops over time, for one direction. Rows are taken longest first, in `order`, so that those still running are
# the first ones; `ends` are their lengths.


@inlined
def running(ends, first, rows, t):
    """How many of the rows from `first` on have a step t."""
    live = 0
    while live < rows and ends[first + live] > t:
        live += 1
    return live


@inlined
def padded_to(multiple, units, count):
    return min(units, -(-count // multiple) * multiple)


def build_forward(gates, states, kept, step, units, first, count, hidden):
    """forward(...) for a cell; `step` is its equation, the rest as in `Cell` and `Layout`."""

    def forward(x, order, ends, h0, c0, y, h_out, c_out, saved, w_ih, w_hh, bias, reverse):
        T, B, I = x.shape
        H = h0.shape[1]
        panels, pitch = -(-H // units), gates * units
        width = panels * units
        rows = min(B, ROWS)
        chunk = max(1, min(T, HOISTED // rows))
        xs = np.empty(chunk * rows * I, x.dtype)
        begin = np.zeros(chunk + 1, np.intp)
        tiles = np.zeros(panels * chunk * rows * PITCH, x.dtype)
        h, h_next, c = np.zeros(rows * width, x.dtype), np.zeros(rows * width, x.dtype), np.zeros(rows * width, x.dtype)
        for top in range(0, B, rows):
            group = min(rows, B - top)
            for b in range(group):
                copy(h, b * width, h0[order[top + b]], 0, H)
                if states == 2:
                    copy(c, b * width, c0[order[top + b]], 0, H)
            for k in range(0, T, chunk):
                steps = min(chunk, T - k)
                for s in range(steps):
                    t = T - 1 - (k + s) if reverse else k + s
                    live = running(ends, top, group, t)
                    for b in range(live):
                        copy(xs, (begin[s] + b) * I, features(x, t, order[top + b]), 0, I)
                    begin[s + 1] = begin[s] + live
                for p in range(panels):
                    lanes = min(units, -(-(H - p * units) // LANES) * LANES)
                    at, pairs = p * chunk * rows * PITCH + first * units, begin[steps]
                    for b in range(pairs):
                        copy(tiles, at + b * PITCH, bias, p * count * units, count * units)
                    multiply(tiles, at, pairs, pitch - units + lanes, xs, 0, I, 1, w_ih, p * I * pitch, pitch, I)
                for s in range(steps):
                    t = T - 1 - (k + s) if reverse else k + s
                    live = begin[s + 1] - begin[s]
                    for p in range(panels):
                        left = H - p * units
                        lanes, real = min(units, -(-left // LANES) * LANES), min(units, left)
                        at = (p * chunk * rows + begin[s]) * PITCH
                        multiply(
                            tiles, at + hidden * units, live, pitch - units + lanes,
                            h, 0, width, 1, w_hh, p * H * pitch, pitch, H,
                        )  # fmt: skip
                        for b in range(live):
                            tile, unit = at + b * PITCH, b * width + p * units
                            for j in range(lanes):
                                v = load(tiles, tile + first * units + j, units, count)
                                values = step(v, h[unsigned(unit + j)], c[unsigned(unit + j)])
                                store(tiles, tile + j, units, values)
                        for b in range(live):
                            row, tile, unit = order[top + b], at + b * PITCH, b * width + p * units
                            copy(features(y, t, row), p * units, tiles, tile, real)
                            copy(h_next, unit, tiles, tile, lanes)
                            if states == 2:
                                copy(c, unit, tiles, tile + kept * units, lanes)
                            if saved.size:
                                for v in range(kept):
                                    to = ((t * B + row) * kept + v) * H + p * units
                                    copy(saved, to, tiles, tile + (1 + v) * units, real)
                    copy(h, 0, h_next, 0, live * width)
            for b in range(group):
                row = order[top + b]
                copy(h_out[row], 0, h, b * width, H)
                if states == 2:
                    copy(c_out[row], 0, c, b * width, H)
                for t in range(ends[top + b], T):
                    features(y, t, row)[:] = 0

    return forward


def build_backward(gates, states, kept, step):
    """backward(...) for a cell; `step` is the derivative of its equation, the rest as in `Cell`."""
    inputs = 5 + kept
    split = gates == 3  # GRU alone has da and du apart
    C = COLUMNS

    def backward(
        x, order, ends, y, h0, c0, saved, dy, dx, dh0, dc0, w_ih, w_hh, dw_ih, dw_hh, db_ih, db_hh, reverse
    ):
        T, B, I = x.shape
        H = h0.shape[1]
        G = gates * H
        size = min(TERMS, T * B)
        xs, hs, dxs = np.empty(size * I, x.dtype), np.empty(size * H, x.dtype), np.empty(size * I, x.dtype)
        da = np.empty(size * G, x.dtype)
        du = np.empty(size * G, x.dtype) if split else da
        when, who = np.empty(size, np.intp), np.empty(size, np.intp)
        dh, dc = np.empty(B * H, x.dtype), np.empty(B * H, x.dtype)
        tile, block = np.zeros(ROWS * PITCH, x.dtype), np.zeros(10 * C, x.dtype)
        for b in range(B):
            copy(dh, b * H, dh0[order[b]], 0, H)
            if states == 2:
                copy(dc, b * H, dc0[order[b]], 0, H)
        n = 0
        for k in range(T - 1, -1, -1):
            t, before = (T - 1 - k, T - k) if reverse else (k, k - 1)
            live = running(ends, 0, B, t)
            b = 0
            while b < live:
                m = min(live - b, size - n)
                for s in range(m):
                    row = order[b + s]
                    when[n + s], who[n + s] = t, row
                    starts = t == ends[b + s] - 1 if reverse else t == 0
                    copy(xs, (n + s) * I, features(x, t, row), 0, I)
                    if starts:
                        copy(hs, (n + s) * H, h0[row], 0, H)
                    else:
                        copy(hs, (n + s) * H, features(y, before, row), 0, H)
                    for j in range(0, H, C):
                        real = min(C, H - j)
                        unit = (b + s) * H + j
                        copy(block, 0, dh, unit, real)
                        if dy.size:
                            add(block, 0, features(dy, t, row), j, real)
                        if kept == 0:
                            copy(block, 2 * C, features(y, t, row), j, real)
                        copy(block, 3 * C, hs, (n + s) * H + j, real)
                        if states == 2:
                            copy(block, C, dc, unit, real)
                            if starts:
                                copy(block, 4 * C, c0[row], j, real)
                            else:
                                copy(block, 4 * C, saved, ((before * B + row) * kept + kept - 1) * H + j, real)
                        for v in range(kept):
                            copy(block, (5 + v) * C, saved, ((t * B + row) * kept + v) * H + j, real)
                        for i in range(-(-real // LANES) * LANES):
                            dh_prev, dc_prev, da_i, du_i = step(*load(block, i, C, inputs))
                            store(block, i, C, (dh_prev, dc_prev) + da_i)
                            if split:
                                store(block, i + 5 * C, C, du_i)
                        copy(dh, unit, block, 0, real)
                        if states == 2:
                            copy(dc, unit, block, C, real)
                        for g in range(gates):
                            copy(da, (n + s) * G + g * H + j, block, (2 + g) * C, real)
                            if split:
                                copy(du, (n + s) * G + g * H + j, block, (5 + g) * C, real)
                add_product(dh[b * H :], m, H, tile, du[n * G :], G, 1, w_hh, G)
                n += m
                b += m
                if n == size:
                    flush(n, xs, hs, dxs, da, du, when, who, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh)
                    n = 0
        flush(n, xs, hs, dxs, da, du, when, who, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh)
        for b in range(B):
            copy(dh0[order[b]], 0, dh, b * H, H)
            if states == 2:
                copy(dc0[order[b]], 0, dc, b * H, H)

    return backward


@inlined
def flush(n, xs, hs, dxs, da, du, when, who, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh):
    I, H = dx.shape[2], hs.size // when.size
    G = da.size // when.size
    dxs[:] = 0
    add_product(dxs, n, I, tile, da, G, 1, w_ih, G)
    for k in range(n):
        add(features(dx, when[k], who[k]), 0, dxs, k * I, I)
    add_product(dw_ih, G, I, tile, da, 1, G, xs, n)
    add_product(dw_hh, G, H, tile, du, 1, G, hs, n)
    add_sum(db_ih, tile, da, n)
    add_sum(db_hh, tile, du, n)


# --- the contract


class Packed(NamedTuple):
    cell: Cell
    directions: list  # of (w_ih, w_hh, bias), in panels
    loop: object


@functools.cache
def forward_loop(cell_name, dtype):
    cell, f = CELLS[cell_name], LAYOUTS[cell_name]
    loop = build_forward(cell.gates, cell.states, cell.saved, f.forward, f.units, f.first, f.count, f.hidden)
    real = from_dtype(dtype)
    x, y = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    index, vector = types.Array(types.int64, 1, "C", readonly=True), types.Array(real, 1, "C")
    given, state = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    signature = types.void(
        x, index, index, given, given, y, state, state, vector, vector, vector, vector, types.boolean
    )
    return jit(loop, signature)


@functools.cache
def backward_loop(cell_name, dtype):
    cell = CELLS[cell_name]
    loop = build_backward(cell.gates, cell.states, cell.saved, LAYOUTS[cell_name].backward)
    real = from_dtype(dtype)
    x, dx = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    index = types.Array(types.int64, 1, "C", readonly=True)
    vector, dvector = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    given, state = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    signature = types.void(
        x, index, index, x, given, given, vector, x, dx, state, state,
        vector, vector, dvector, dvector, dvector, dvector, types.boolean,
    )  # fmt: skip
    return jit(loop, signature)


@functools.cache
def packing(dtype):
    w = types.Array(from_dtype(dtype), 2, "C", readonly=True)
    return jit(pack_panels, types.Array(from_dtype(dtype), 1, "C")(w, types.intp, types.intp, types.intp))


def pack(cell, weights):
    f, dtype = LAYOUTS[cell.name], weights[0].w_ih.dtype
    panels = packing(dtype)
    directions = []
    for w in weights:
        w_ih = panels(w.w_ih, cell.gates, f.units, f.hidden - f.first)
        directions.append((w_ih, panels(w.w_hh, cell.gates, f.units, 0), pack_bias(cell, f, w)))
    return Packed(cell, directions, forward_loop(cell.name, dtype))


def pack_bias(cell, layout, w):
    """The starts of the pre-activations' chains (panels, count, units): both biases, or each where the shares part."""
    H = w.w_hh.shape[1]
    padded = np.zeros((layout.count, -(-H // layout.units) * layout.units), w.w_hh.dtype)
    turn = layout.hidden - layout.first
    for b, at, turned in ((w.b_ih, 0, turn), (w.b_hh, turn, 0)):
        if b is not None:
            padded[at : at + cell.gates, :H] += np.roll(b.reshape(cell.gates, H), turned, axis=0)
    return padded.reshape(layout.count, -1, layout.units).transpose(1, 0, 2).reshape(-1)


def longest_first(lengths, T, B):
    if lengths is None:
        return np.arange(B), np.full(B, T)
    order = np.argsort(-lengths, kind="stable")
    return order, lengths[order]


def forward(packed, x, state, lengths, y, out_state, saved, threads):
    H = state[0].shape[-1]
    order, ends = longest_first(lengths, *x.shape[:2])
    for d, direction in enumerate(packed.directions):
        keep = np.empty(0, x.dtype) if saved is None else saved[d].reshape(-1)
        y_d = y[:, :, d * H : (d + 1) * H]
        states = state[0][d], state[-1][d]
        packed.loop(x, order, ends, *states, y_d, out_state[0][d], out_state[-1][d], keep, *direction, d == 1)


def backward(cell, weights, x, y, state, lengths, saved, dy, dstate, dx, dstate0, dweights, threads):
    H = state[0].shape[-1]
    order, ends = longest_first(lengths, *x.shape[:2])
    loop, nothing = backward_loop(cell.name, x.dtype), np.empty(0, x.dtype)
    dx[...] = 0
    for start, given in zip(dstate0, dstate):
        start[...] = 0 if given is None else given
    for d, (w, dw) in enumerate(zip(weights, dweights)):
        half = slice(d * H, (d + 1) * H)
        loop(
            x, order, ends, y[:, :, half], state[0][d], state[-1][d],
            nothing if saved is None else saved[d].reshape(-1),
            nothing.reshape(0, 0, 0) if dy is None else dy[:, :, half],
            dx, dstate0[0][d], dstate0[-1][d],
            w.w_ih.reshape(-1), w.w_hh.reshape(-1), dw.w_ih.reshape(-1), dw.w_hh.reshape(-1),
            nothing if dw.b_ih is None else dw.b_ih, nothing if dw.b_hh is None else dw.b_hh, d == 1,
        )  # fmt: skip
