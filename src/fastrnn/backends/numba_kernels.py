"""The compiled half of the Numba backend: activations, cells, products and the loops over time.

Each cell is one forward equation and, beside it, its derivative, over scalars; LLVM inlines them into the loops over
time and vectorises across hidden units. Two rules make the results bit for bit independent of batch, padding and
chunking: every product is a chain of explicit fused multiply-adds in the order of its terms, whatever tile it falls
in, and everything else is one correctly rounded operation at a time, without fastmath.

All of it is in one file because Numba renews what it has cached on disk when the text of that one file changes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable
from numba.np.arrayobj import make_array, populate_array

from .numba_cache import KernelCache

ROWS = 64  # rows of a tile
PITCH = 96  # columns from one row of a tile to the next: a constant, so that LLVM sees that rows do not overlap
COLUMNS = 64  # columns of a tile, where the panels of packed weights do not say otherwise
LANES = 8  # hidden units are computed in multiples of this; the weights beyond the last are zero
DEPTH = 128  # terms of a product before the next rows take their turn, so that their weights stay in L1
HOISTED = 16  # (step, row) pairs whose input product is taken at once, where the batch alone is smaller
TERMS = 256  # (step, row) terms of a parameter's gradient that are summed before joining the total

unsigned = np.uintp  # as an index it needs no check for negative values, which would keep loops from vectorising
inlined = register_jitable(forceinline=True)  # left to itself LLVM calls sigmoid, and cannot vectorise around calls


def jit(function, signature=None):
    """Compile for the signature, by default at first use; cached on disk where some directory for it is writable."""
    compiled = njit(nogil=True, error_model="numpy")(function)
    try:
        compiled._cache = KernelCache(function)
    except (RuntimeError, OSError):  # neither the package's directory nor the user's cache can be written
        pass
    if signature is not None:
        compiled.compile(signature)
        compiled.disable_compile()
    return compiled


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
        pointers = strided(context, builder, array, args, len(values))
        for value, pointer in zip(cgutils.unpack_tuple(builder, args[3]), pointers):
            builder.store(value, pointer)
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


# --- activations, within 2 ULP. Each polynomial is the one of its degree whose largest relative error, in the function
# it serves, is least (Lawson's iteration): in e^r - 1 for |r| <= ln2/2, in tanh(v) for |v| <= 0.55.


@intrinsic
def horner(context, v, coefficients):
    """Σ_k coefficients[k]·v^k by fused multiply-adds."""

    def generate(context, builder, signature, args):
        values = cgutils.unpack_tuple(builder, args[1])
        *rest, total = (context.cast(builder, value, coefficients.dtype, v) for value in values)
        for value in reversed(rest):
            total = builder.fma(total, args[0], value)
        return total

    return v(v, coefficients), generate


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


# --- the cells, for one hidden unit of one row at one step
#     forward(v, h, c) -> h, *saved
#     backward(dh, dc, h, h_prev, c_prev, *saved) -> dh_prev, dc_prev, da, du
# v holds the pre-activations of the gates, GRU's n as two: its input's share first, its state's share last. da and du
# are the gradients by the input's and by the state's share; dh_prev leaves out what flows back through du.


@inlined
def rnn_tanh_forward(v, h, c):
    return (tanh(v[0]),)


@inlined
def rnn_tanh_backward(dh, dc, h, h_prev, c_prev):
    da = (dh * d_tanh(h),)
    return type(h)(0), dc, da, da


@inlined
def rnn_relu_forward(v, h, c):
    return (max(v[0], type(h)(0)),)


@inlined
def rnn_relu_backward(dh, dc, h, h_prev, c_prev):
    zero = type(h)(0)
    da = (zero if h <= zero else dh,)  # a NaN lets the gradient pass, as in torch
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
    da_n = dh * (type(z)(1) - z) * d_tanh(n)
    da_r = da_n * u_n * d_sigmoid(r)
    da_z = dh * (h_prev - n) * d_sigmoid(z)
    return dh * z, dc, (da_r, da_z, da_n), (da_r, da_z, da_n * r)


class Layout(NamedTuple):
    """A cell's equations and where forward's tile keeps their values: in slots of `units` columns, one per value.

    Slot 0 ends as h and the slots after it as what the tape keeps; the pre-activations come in at `first`.
    """

    forward: Callable
    backward: Callable
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
    """tile[at + r·PITCH + j] += Σ_k a[a_at + r·a_row + k·a_term] · w[w_at + k·w_row + j], a chain of fmas over k.

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
                    a1, a2 = load(a, a_k + a_row, a_term, 4), load(a, a_k + 2 * a_row, a_term, 4)
                    a3 = load(a, a_k + 3 * a_row, a_term, 4)
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


@register_jitable
def add_product(out, rows, columns, tile, a, a_row, a_term, w, terms):
    """out (rows, columns) += a·w, each element of the product a chain from zero; w is (terms, columns)."""
    for r in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            height, width = min(ROWS, rows - r), min(COLUMNS, columns - j)
            tile[:] = 0
            multiply(tile, 0, height, width, a, r * a_row, a_row, a_term, w, j, columns, terms)
            for s in range(height):
                add(out, (r + s) * columns + j, tile, s * PITCH, width)


@register_jitable
def add_sum(out, tile, a, terms):
    """out += Σ_k a[k], the sum from zero; a is (terms, out.size)."""
    for j in range(0, out.size, tile.size):
        width = min(tile.size, out.size - j)
        tile[:] = 0
        for k in range(terms):
            add(tile, 0, a, k * out.size + j, width)
        add(out, j, tile, 0, width)


# --- packing


@inlined
def pack_weights(panels, w, gates, units, turn, first, last):
    """w (gates·H, terms) in panels (terms, gates, units), first to last-1, gate g at (g + turn) % gates."""
    H, terms, pitch = w.shape[0] // gates, w.shape[1], gates * units
    for start in range(first * units, min(last * units, H), units):
        for g in range(gates):
            at = start // units * terms * pitch + (g + turn) % gates * units
            for k in range(terms):
                for j in range(min(units, H - start)):
                    panels[unsigned(at + k * pitch + j)] = w[unsigned(g * H + start + j), unsigned(k)]


@inlined
def pack(panels_ih, panels_hh, starts, w_ih, w_hh, b_ih, b_hh, gates, units, count, turn, first, last):
    """The weights in panels first to last-1, and the starts of the pre-activations' chains, (panel, count, units).

    All begin as zero. A start is the sum of both biases, but each alone for the gate that `turn` takes apart; an absent
    bias is empty.
    """
    H = w_hh.shape[1]
    for g in range(gates):
        for j in range(first * units, min(last * units, H)):
            panel = j // units * count * units + j % units
            if b_ih.size:
                starts[panel + (g + turn) % gates * units] += b_ih[g * H + j]
            if b_hh.size:
                starts[panel + (g + turn) * units] += b_hh[g * H + j]
    pack_weights(panels_ih, w_ih, gates, units, turn, first, last)
    pack_weights(panels_hh, w_hh, gates, units, 0, first, last)


# --- the loops over time, of one direction. Rows are taken longest first, in `order`, so that those still running are
# the first ones; `ends` are their lengths.


@inlined
def gather(to, pitch, source, rows):
    for b in range(rows.size):
        copy(to, b * pitch, source[rows[b]], 0, source.shape[1])


@inlined
def scatter(to, rows, source, pitch):
    for b in range(rows.size):
        copy(to[rows[b]], 0, source, b * pitch, to.shape[1])


@inlined
def running(ends, t):
    """How many rows have a step t."""
    live = 0
    while live < ends.size and ends[live] > t:
        live += 1
    return live


@inlined
def gather_steps(xs, begin, x, rows, ends, k, reverse):
    """The inputs of the k-th visited step and those after it, step after step; begin[s] is where step k + s begins."""
    T, I = x.shape[0], x.shape[2]
    for s in range(min(begin.size - 1, T - k)):
        t = T - 1 - (k + s) if reverse else k + s
        live = running(ends, t)
        for b in range(live):
            copy(xs, (begin[s] + b) * I, features(x, t, rows[b]), 0, I)
        begin[s + 1] = begin[s] + live


@inlined
def lanes_of(left, units):
    """How many of a panel's units to compute when `left` are left."""
    return min(units, -(-left // LANES) * LANES)


def build_forward(gates, states, kept, step, units, first, count, hidden):
    """forward of a cell: `step` is its equation, `kept` is Cell.saved, the rest is as in Cell and Layout."""

    def forward(x, order, ends, h0, c0, y, h_out, c_out, saved, w_ih, w_hh, starts, reverse):
        (T, B, I), H = x.shape, h0.shape[1]
        panels, pitch = -(-H // units), gates * units
        padded = panels * units
        rows = min(order.size, ROWS)
        chunk = max(1, min(T, HOISTED // rows))
        xs, begin = np.empty(chunk * rows * I, x.dtype), np.zeros(chunk + 1, np.intp)
        tiles = np.zeros(panels * chunk * rows * PITCH, x.dtype)
        h, h_next = np.zeros(rows * padded, x.dtype), np.zeros(rows * padded, x.dtype)
        c = np.zeros(rows * padded, x.dtype)
        for top in range(0, order.size, rows):
            some, some_ends = order[top : top + rows], ends[top : top + rows]
            gather(h, padded, h0, some)
            if states == 2:
                gather(c, padded, c0, some)
            for k in range(T):
                s = k % chunk
                if s == 0:
                    gather_steps(xs, begin, x, some, some_ends, k, reverse)
                    pairs = begin[min(chunk, T - k)]
                    for p in range(panels):
                        at = p * chunk * rows * PITCH + first * units
                        for b in range(pairs):
                            copy(tiles, at + b * PITCH, starts, p * count * units, count * units)
                        width = pitch - units + lanes_of(H - p * units, units)
                        multiply(tiles, at, pairs, width, xs, 0, I, 1, w_ih, p * I * pitch, pitch, I)
                t = T - 1 - k if reverse else k
                live = begin[s + 1] - begin[s]
                for p in range(panels):
                    real, lanes = min(units, H - p * units), lanes_of(H - p * units, units)
                    tile, width = (p * chunk * rows + begin[s]) * PITCH, pitch - units + lanes
                    at = tile + hidden * units
                    multiply(tiles, at, live, width, h, 0, padded, 1, w_hh, p * H * pitch, pitch, H)
                    for b in range(live):
                        at, unit = tile + b * PITCH, b * padded + p * units
                        for j in range(lanes):
                            v = load(tiles, at + first * units + j, units, count)
                            values = step(v, h[unsigned(unit + j)], c[unsigned(unit + j)])
                            store(tiles, at + j, units, values)
                        copy(features(y, t, some[b]), p * units, tiles, at, real)
                        copy(h_next, unit, tiles, at, lanes)
                        if states == 2:
                            copy(c, unit, tiles, at + kept * units, lanes)
                        if saved.size:
                            to = (t * B + some[b]) * kept * H + p * units
                            for slot in range(kept):
                                copy(saved, to + slot * H, tiles, at + (1 + slot) * units, real)
                copy(h, 0, h_next, 0, live * padded)
            scatter(h_out, some, h, padded)
            if states == 2:
                scatter(c_out, some, c, padded)
            for b in range(some.size):
                for t in range(some_ends[b], T):
                    features(y, t, some[b])[:] = 0

    return forward


def build_backward(gates, states, kept, step):
    """backward of a cell: `step` is the derivative of its equation, `kept` is Cell.saved, the rest is as in Cell."""
    split = gates == 3  # GRU's da and du differ
    C, values = COLUMNS, 5 + kept  # a block holds C units: dh, dc, h, h_prev, c_prev, *saved, then dh, dc, *da, *du

    def backward(
        x, order, ends, y, h0, c0, saved, dy, dx, dh0, dc0, dh_steps, dc_steps, w_ih, w_hh, dw_ih, dw_hh, db_ih, db_hh,
        reverse, first, last, terms, n, at_end,
    ):  # fmt: skip
        """The visited steps last-1 to first of the rows in `order`.

        n terms were collected in `terms`, and so many are when it returns; `at_end` all of them join the gradients.
        """
        (T, B, I), H = x.shape, h0.shape[1]
        (xs, hs, da, du, places), G, size = terms, gates * H, len(terms[4])
        dh = np.empty(order.size * H, x.dtype)
        dc = np.empty(dh.size if states == 2 else 0, x.dtype)
        tile, block = np.zeros(ROWS * PITCH, x.dtype), np.zeros(10 * C, x.dtype)
        gather(dh, H, dh0, order)
        if states == 2:
            gather(dc, H, dc0, order)
        for k in range(last - 1, first - 1, -1):
            t, before = (T - 1 - k, T - k) if reverse else (k, k - 1)
            live = running(ends, t)
            b = 0
            while b < live:
                segment = min(live - b, size - n)
                for s in range(segment):
                    row, term = order[b + s], n + s
                    initial = t == ends[b + s] - 1 if reverse else t == 0
                    places[term, 0], places[term, 1] = t, row
                    copy(xs, term * I, features(x, t, row), 0, I)
                    copy(hs, term * H, h0[row] if initial else features(y, before, row), 0, H)
                    for j in range(0, H, C):
                        real = min(C, H - j)
                        here, kept_here = (b + s) * H + j, (t * B + row) * kept * H + j
                        copy(block, 0, dh, here, real)
                        if dy.size:
                            add(block, 0, features(dy, t, row), j, real)
                        if states == 2:
                            copy(block, C, dc, here, real)
                            if initial:
                                copy(block, 4 * C, c0[row], j, real)
                            else:
                                copy(block, 4 * C, saved, ((before * B + row) * kept + kept - 1) * H + j, real)
                        if dh_steps.size:
                            copy(dh_steps, (t * B + row) * H + j, block, 0, real)
                        if dc_steps.size:
                            copy(dc_steps, (t * B + row) * H + j, block, C, real)
                        if kept == 0:
                            copy(block, 2 * C, features(y, t, row), j, real)
                        copy(block, 3 * C, hs, term * H + j, real)
                        for slot in range(kept):
                            copy(block, (5 + slot) * C, saved, kept_here + slot * H, real)
                        for i in range(lanes_of(real, C)):
                            dh_prev, dc_prev, da_i, du_i = step(*load(block, i, C, values))
                            store(block, i, C, (dh_prev, dc_prev) + da_i)
                            if split:
                                store(block, i + 5 * C, C, du_i)
                        copy(dh, here, block, 0, real)
                        if states == 2:
                            copy(dc, here, block, C, real)
                        for g in range(gates):
                            copy(da, term * G + g * H + j, block, (2 + g) * C, real)
                            if split:
                                copy(du, term * G + g * H + j, block, (5 + g) * C, real)
                add_product(dh[b * H :], segment, H, tile, du[n * G :], G, 1, w_hh, G)
                n += segment
                b += segment
                if n == size:
                    add_gradients(n, places, xs, hs, da, du, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh)
                    n = 0
        if at_end and n:
            add_gradients(n, places, xs, hs, da, du, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh)
        scatter(dh0, order, dh, H)
        if states == 2:
            scatter(dc0, order, dc, H)
        return n

    return backward


@register_jitable
def add_gradients(terms, places, xs, hs, da, du, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh):
    """Add what the collected terms give to the gradients of the parameters and, by way of xs, of the input."""
    H, I = hs.size // len(places), dx.shape[2]
    G = da.size // len(places)
    add_product(dw_ih, G, I, tile, da, 1, G, xs, terms)
    add_product(dw_hh, G, H, tile, du, 1, G, hs, terms)
    add_sum(db_ih, tile, da, terms)
    add_sum(db_hh, tile, du, terms)
    xs[:] = 0
    add_product(xs, terms, I, tile, da, G, 1, w_ih, G)
    for k in range(terms):
        add(features(dx, places[k, 0], places[k, 1]), 0, xs, k * I, I)
