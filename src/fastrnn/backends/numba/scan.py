"""The scans of backends/scan.py: a row's units side by side, one step after the other."""

from functools import cache

import numpy as np
from numba import from_dtype, types

from . import activations
from .compiling import inlined, jit, unsigned
from .intrinsics import features, fma
from .products import COLUMNS, PITCH, ROWS, multiply

SUM_STEPS = 256  # whose sum joins a sum over time at once: a single chain would lose more
PART = 1 << 22  # units and steps of a call of a loop, some milliseconds of them: compiled loops answer no signal


@inlined
def times_plus(a, b, c):
    return fma(a, b, c)


@inlined
def complex_times_plus(a, b, c):
    return a * b + c


# forward(a, at, D, b, u, p) -> h; backward(g, a, da, at, D, u, p, h) -> the gradients by p, and for the sum over time


@inlined
def mingru_forward(a, at, D, b, u, p):
    z = activations.sigmoid(a[at])
    a[at] = z
    return fma(z, a[at + D] - p, p)


@inlined
def mingru_backward(g, a, da, at, D, u, p, h):
    z = a[at]
    da[at] = g * (a[at + D] - p) * activations.d_sigmoid(z)
    da[at + D] = g * z
    return fma(-z, g, g), g


@inlined
def minlstm_forward(a, at, D, b, u, p):
    f, i = activations.sigmoid(a[at]), activations.sigmoid(a[at + D])
    a[at], a[at + D] = f, i
    return fma(f / (f + i), p, i / (f + i) * a[at + D + D])


@inlined
def minlstm_backward(g, a, da, at, D, u, p, h):
    f, i = a[at], a[at + D]
    keep, take = f / (f + i), i / (f + i)
    d, one = g * (p - a[at + D + D]) * keep * take, type(g)(1)
    da[at], da[at + D], da[at + D + D] = d * (one - f), -d * (one - i), g * take
    return g * keep, g


@inlined
def indrnn_tanh_forward(a, at, D, b, u, p):
    return activations.tanh(fma(u[at], p, a[at]))


@inlined
def indrnn_tanh_backward(g, a, da, at, D, u, p, h):
    d = g * activations.d_tanh(h)
    da[at] = d
    return u[at] * d, d * p


@inlined
def indrnn_relu_forward(a, at, D, b, u, p):
    v = fma(u[at], p, a[at])
    return type(v)(0) if v < type(v)(0) else v


@inlined
def indrnn_relu_backward(g, a, da, at, D, u, p, h):
    d = type(g)(0) if h <= type(g)(0) else g  # a NaN lets the gradient pass, as in torch
    da[at] = d
    return u[at] * d, d * p


STEPS = {
    "mingru": (mingru_forward, mingru_backward),
    "minlstm": (minlstm_forward, minlstm_backward),
    "indrnn_tanh": (indrnn_tanh_forward, indrnn_tanh_backward),
    "indrnn_relu": (indrnn_relu_forward, indrnn_relu_backward),
}


def linear_steps(is_complex):
    """The equation of "linear" and its derivative; a complex number's parts are rounded as they come."""
    combine = complex_times_plus if is_complex else times_plus

    @inlined
    def forward(a, at, D, b, u, p):
        return combine(a[at], p, b[at])

    @inlined
    def backward(g, a, da, at, D, u, p, h):
        if is_complex:
            by_a = np.conj(p) * g
            if da.size:
                da[at] = by_a
            return np.conj(a[at]) * g, by_a
        by_a = p * g
        if da.size:
            da[at] = by_a
        return a[at] * g, by_a

    return forward, backward


# --- The loops, one signature each


def build_forward(step):
    def loop(a, b, u, state, h, ends, reverse, first, last):
        T, B, D = h.shape
        for k in range(first, last):
            t = T - 1 - k if reverse else k
            for row in range(B):
                a_t, b_t, h_t = features(a, t, row), features(b, t, row), features(h, t, row)
                if t >= ends[row]:
                    h_t[:] = 0
                    continue
                for j in range(D):
                    now = step(a_t, unsigned(j), unsigned(D), b_t, u, state[row, unsigned(j)])
                    state[row, unsigned(j)] = now
                    h_t[unsigned(j)] = now

    return loop


def build_backward(step):
    def loop(a, u, h, start, ends, reverse, dy, has_dy, da, db, state, part, total, first, last):
        T, B, D = h.shape
        for k in range(last - 1, first - 1, -1):
            t, before = (T - 1 - k, T - k) if reverse else (k, k - 1)
            for row in range(B):
                da_t, db_t = features(da, t, row), features(db, t, row)
                if t >= ends[row]:
                    da_t[:] = 0
                    db_t[:] = 0
                    continue
                p_t = features(h, before, row) if k > 0 and before < ends[row] else features(start, 0, row)
                a_t, h_t, dy_t = features(a, t, row), features(h, t, row), features(dy, t, row)
                for j in range(D):
                    at = unsigned(j)
                    g = state[row, at]
                    if has_dy:
                        g += dy_t[at]
                    if db.size:
                        db_t[at] = g
                    carry, by_sum = step(g, a_t, da_t, at, unsigned(D), u, p_t[at], h_t[at])
                    state[row, at] = carry
                    if total.size:
                        part[row, at] += by_sum
            if total.size and ((T - k) % SUM_STEPS == 0 or k == 0):
                for row in range(B):
                    for j in range(D):
                        total[row, j] += part[row, j]
                        part[row, j] = 0

    return loop


def build_linear():
    def loop(x, w, bias, y, tile, K, M, first, last):
        for r in range(first, last, ROWS):
            for column in range(0, M, COLUMNS):
                height, width = min(ROWS, last - r), min(COLUMNS, M - column)
                for s in range(height):
                    for j in range(width):
                        tile[s * PITCH + j] = bias[column + j]
                multiply(tile, 0, height, width, x, r * K, K, 1, w, column, M, K)
                for s in range(height):
                    for j in range(width):
                        y[unsigned((r + s) * M + column + j)] = tile[unsigned(s * PITCH + j)]

    return loop


def steps_of(kind, dtype):
    return linear_steps(dtype.kind == "c") if kind == "linear" else STEPS[kind]


def arrays_of(dtype):
    """The types of sequences to read and to write, and of (B, D) arrays and vectors to read and to write."""
    number = from_dtype(dtype)
    return [types.Array(number, n, "A" if n == 3 else "C", readonly=readonly) for n in (3, 2, 1) for readonly in (1, 0)]


ENDS = types.Array(types.int64, 1, "C", readonly=True)


@cache
def forward_loop(kind, dtype):
    given, written, _, state, vector, _ = arrays_of(dtype)
    gates, bounds = given if kind == "linear" else written, (types.boolean, types.intp, types.intp)
    return jit(build_forward(steps_of(kind, dtype)[0]), types.void(gates, given, vector, state, written, ENDS, *bounds))


@cache
def backward_loop(kind, dtype):
    given, written, _, state, vector, _ = arrays_of(dtype)
    before = given, vector, given, given, ENDS, types.boolean, given, types.boolean
    after = written, written, state, state, state, types.intp, types.intp
    return jit(build_backward(steps_of(kind, dtype)[1]), types.void(*before, *after))


@cache
def linear_loop(dtype):
    *_, vector, written = arrays_of(dtype)
    return jit(build_linear(), types.void(vector, vector, vector, written, written, *[types.intp] * 4))


# --- The contract


def parts(n, size):
    """The bounds of parts of n steps of so many units each."""
    step = max(1, PART // max(1, size))
    return [(first, min(first + step, n)) for first in range(0, n, step)]


def scan_forward(kind, a, b, u, h0, h, last, lengths, reverse, threads):
    T, B, D = h.shape
    ends = np.full(B, T, np.int64) if lengths is None else lengths
    state = np.zeros((B, D), h.dtype) if last is None else last
    state[...] = 0 if h0 is None else h0
    given = a, h if b is None else b, np.empty(0, h.dtype) if u is None else u
    for first, end in parts(T, B * D):
        forward_loop(kind, h.dtype)(*given, state, h, ends, reverse, first, end)


def scan_backward(kind, a, u, h, h0, lengths, reverse, dy, dlast, da, db, total, dh0, threads):
    T, B, D = h.shape
    none, vector = np.empty((0, 0, 0), h.dtype), np.empty(0, h.dtype)
    ends = np.full(B, T, np.int64) if lengths is None else lengths
    start = np.zeros((1, B, D), h.dtype) if h0 is None else h0[None]
    dh0[...] = 0 if dlast is None else dlast
    sums = [np.zeros((B, D) if total is not None else (0, 0), h.dtype) for _ in range(2)]
    before = a, vector if u is None else u, h, start, ends, reverse, none if dy is None else dy, dy is not None
    after = none if da is None else da, none if db is None else db, dh0, *sums
    for first, end in reversed(parts(T, B * D)):
        backward_loop(kind, h.dtype)(*before, *after, first, end)
    if total is not None:
        total[...] = sums[1]


def pack_linear(w, bias, transposed, threads):
    w = np.ascontiguousarray(w if transposed else w.T)
    return w, np.zeros(w.shape[1], w.dtype) if bias is None else bias


def linear(packed, x, y, threads):
    (N, K), M = x.shape, y.shape[1]
    w, start = packed[0].reshape(-1), packed[1]
    tile = np.empty(ROWS * PITCH, x.dtype)
    for first, end in parts(N, K * M // 16):
        linear_loop(x.dtype)(x.reshape(-1), w, start, y.reshape(-1), tile, K, M, first, end)
