"""The Numba backend, for machines without the native kernels: the contract over the loops of numba_kernels."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import from_dtype, types

from ..spec import CELLS, Cell
from . import numba_kernels as kernels

name = "numba"


# --- Compiled loops, one signature each: an array of any strides, read-only or not, fits "A" and readonly


@cache
def packing(dtype):
    real = from_dtype(dtype)
    matrix, vector = types.Array(real, 2, "C", readonly=True), types.Array(real, 1, "C", readonly=True)
    packed = types.UniTuple(types.Array(real, 1, "C"), 3)
    return kernels.jit(kernels.pack, packed(matrix, matrix, vector, vector, *[types.intp] * 4))


@cache
def forward_loop(cell_name, dtype):
    cell, f = CELLS[cell_name], kernels.LAYOUTS[cell_name]
    loop = kernels.build_forward(cell.gates, cell.states, cell.saved, f.forward, f.units, f.first, f.count, f.hidden)
    real = from_dtype(dtype)
    x, y = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    start, end = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    index, vector = types.Array(types.int64, 1, "C", readonly=True), types.Array(real, 1, "C")
    arguments = [x, index, index, start, start, y, end, end, *[vector] * 4, types.boolean]
    return kernels.jit(loop, types.void(*arguments))


@cache
def backward_loop(cell_name, dtype):
    cell = CELLS[cell_name]
    loop = kernels.build_backward(cell.gates, cell.states, cell.saved, kernels.LAYOUTS[cell_name].backward)
    real = from_dtype(dtype)
    x, dx = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    start, dstart = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    vector, dvector = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    index = types.Array(types.int64, 1, "C", readonly=True)
    given = [x, index, index, x, start, start, vector, x]
    return kernels.jit(loop, types.void(*given, dx, dstart, dstart, vector, vector, *[dvector] * 4, types.boolean))


@cache
def activation_loop(activation, dtype):
    real = from_dtype(dtype)
    given, result = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    return kernels.jit(kernels.build_map(getattr(kernels, activation)), types.void(given, result))


def activate(activation, v, result):
    """result[i] = sigmoid or tanh of v[i], vectors of one dtype, as the loops compute it."""
    activation_loop(activation, v.dtype)(v, result)


# --- The contract


class Packed(NamedTuple):
    cell: Cell
    directions: list  # of (w_ih, w_hh, starts), as numba_kernels.pack returns them


def flat(array, dtype):
    """The array as a vector, an empty one for None."""
    return np.empty(0, dtype) if array is None else array.reshape(-1)


def pack(cell, weights, threads):
    f, dtype = kernels.LAYOUTS[cell.name], weights[0].w_ih.dtype
    sizes = cell.gates, f.units, f.count, f.hidden - f.first
    compiled = packing(dtype)
    return Packed(cell, [compiled(w.w_ih, w.w_hh, flat(w.b_ih, dtype), flat(w.b_hh, dtype), *sizes) for w in weights])


def longest_first(lengths, T, B):
    """The rows in order of falling length, and their lengths."""
    if lengths is None:
        return np.arange(B, dtype=np.int64), np.full(B, T, np.int64)
    order = np.argsort(-lengths, kind="stable")
    return order, lengths[order]


def forward(packed, x, state, lengths, y, out_state, saved, threads):
    H = state[0].shape[-1]
    order, ends = longest_first(lengths, *x.shape[:2])
    loop = forward_loop(packed.cell.name, x.dtype)
    for d, direction in enumerate(packed.directions):
        start, end = (state[0][d], state[-1][d]), (out_state[0][d], out_state[-1][d])
        keep = flat(None if saved is None else saved[d], x.dtype)
        loop(x, order, ends, *start, y[:, :, d * H : (d + 1) * H], *end, keep, *direction, d == 1)


def backward(cell, weights, x, y, state, lengths, saved, dy, dstate, dx, dstate0, dweights, threads):
    H = state[0].shape[-1]
    order, ends = longest_first(lengths, *x.shape[:2])
    loop = backward_loop(cell.name, x.dtype)
    dx[...] = 0
    for running, given in zip(dstate0, dstate):
        running[...] = 0 if given is None else given
    for d, (w, dw) in enumerate(zip(weights, dweights)):
        half = np.s_[:, :, d * H : (d + 1) * H]
        start, dstart = (state[0][d], state[-1][d]), (dstate0[0][d], dstate0[-1][d])
        kept = flat(None if saved is None else saved[d], x.dtype)
        dy_d = np.empty((0, 0, 0), x.dtype) if dy is None else dy[half]
        w_flat, dw_flat = (flat(w.w_ih, x.dtype), flat(w.w_hh, x.dtype)), (flat(v, x.dtype) for v in dw)
        loop(x, order, ends, y[half], *start, kept, dy_d, dx, *dstart, *w_flat, *dw_flat, d == 1)
