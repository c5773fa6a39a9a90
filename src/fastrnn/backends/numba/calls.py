"""The contract (base.py) over the compiled loops."""

from functools import cache
from itertools import product
from typing import NamedTuple

import numba
import numpy as np
from numba import from_dtype, types

from ...spec import CELLS, Cell
from ..base import Span
from . import activations
from .backward import TERMS, build_backward
from .cells import GENERAL, LAYOUTS
from .compiling import jit
from .forward import build_forward
from .functions import as_vector
from .packing import pack as pack_panels
from .products import COLUMNS

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("NUMBA_DISABLE_JIT is set, and these kernels have to be compiled")

name = "numba"


# --- Compiled loops, one signature each: an array of any strides, read-only or not, fits "A" and readonly


@cache
def packing(dtype):
    real = from_dtype(dtype)
    matrix, vector = types.Array(real, 2, "C", readonly=True), types.Array(real, 1, "C", readonly=True)
    packed = [types.Array(real, 1, "C")] * 3
    return jit(pack_panels, types.void(*packed, matrix, matrix, vector, vector, *[types.intp] * 6))


def build(how, name, general, projects):
    """A loop of a cell of the table, plain, or with vectors and options; with h projected or not."""
    cell = CELLS[name]
    equation, general = cell.equation, general or bool(cell.vectors)
    return how(cell, GENERAL[equation] if general and equation in GENERAL else LAYOUTS[equation], general, projects)


@cache
def forward_loop(name, general, projects, dtype):
    loop = build(build_forward, name, general, projects)
    real = from_dtype(dtype)
    x, y = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    start, end = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    index, vector = types.Array(types.int64, 1, "C", readonly=True), types.Array(real, 1, "C")
    entry = types.Array(types.uint8, 2, "C", readonly=True), x
    own = types.Array(real, 1, "C", readonly=True)
    arguments = [x, index, index, *entry, *[x] * 4, start, start, y, end, end, *[vector] * 4, own, own, own]
    arguments += [types.boolean]
    return jit(loop, types.void(*arguments))


@cache
def backward_loop(name, general, projects, dtype):
    loop = build(build_backward, name, general, projects)
    real = from_dtype(dtype)
    x, dx = types.Array(real, 3, "A", readonly=True), types.Array(real, 3, "A")
    start, dstart = types.Array(real, 2, "C", readonly=True), types.Array(real, 2, "C")
    vector, dvector = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    index = types.Array(types.int64, 1, "C", readonly=True)
    entry = types.Array(types.uint8, 2, "C", readonly=True), *[x] * 4
    given = [x, index, index, *entry, x, start, start, vector, x]
    terms = types.Tuple([*[dvector] * 6, types.Array(types.intp, 2, "C"), *[dvector] * 4])
    results = [dx, dstart, dstart, *[dvector] * 3, vector, vector, *[dvector] * 4, vector, vector, dvector]
    results += [vector, dvector]
    flags = types.boolean, types.intp, types.intp, types.intp, terms, types.intp, types.boolean
    return jit(loop, types.intp(*given, *results, *flags))


# --- Long calls: compiled loops answer no signal, so Python calls them for one part after another of the time, the rows
# or the panels


PART = 5e8  # operations, some tens of milliseconds of them
PACK_FLOP = 100  # what packing a weight takes, in the time of operations
LEAST_STEP = 5e3  # operations that fit into the time of the smallest step


def parts(n, flop):
    """The bounds of the parts of n steps, rows or panels, of so much work each."""
    size = max(1, int(PART / max(flop, LEAST_STEP)))
    return [(first, min(first + size, n)) for first in range(0, n, size)]


@cache
def activation_loop(activation, dtype):
    real = from_dtype(dtype)
    given, result = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    return jit(activations.build_map(getattr(activations, activation)), types.void(given, result))


def activate(activation, v, result):
    """result[i] = sigmoid or tanh of v[i], vectors of one dtype, as the loops compute it."""
    activation_loop(activation, v.dtype)(v, result)


# --- The contract


class Packed(NamedTuple):
    cell: Cell
    # Of (w_ih, w_hh, starts), as packing.pack fills them, the vectors, padded to whole panels, and W_hr', or nothing.
    directions: list


def flat(array, dtype):
    """The array as a vector, an empty one for None."""
    return np.empty(0, dtype) if array is None else array.reshape(-1)


def pack(cell, weights, threads, steps=None):
    f, dtype = LAYOUTS[cell.equation], weights[0].w_ih.dtype
    packed = Packed(cell, [])
    for w in weights:
        (rows, I), P = w.w_ih.shape, w.w_hh.shape[1]
        H = rows // len(cell.gates)
        padded = -(-H // f.units) * f.units
        # Not made and returned by the compiled code: Numba cannot hand an array out while a signal's handler raises.
        arrays = [np.zeros(rows * padded, dtype) for rows in (I * len(cell.gates), P * len(cell.gates), f.count)]
        given = w.w_ih, w.w_hh, flat(w.b_ih, dtype), flat(w.b_hh, dtype)
        sizes = len(cell.gates), f.units, f.count, f.hidden - f.first
        for first, last in parts(padded // f.units, PACK_FLOP * len(cell.gates) * f.units * (I + P)):
            packing(dtype)(*arrays, *given, *sizes, first, last)
        projection = flat(None if w.w_hr is None else np.ascontiguousarray(w.w_hr.T), dtype)
        packed.directions.append((arrays, padded_vectors(cell, w, padded, dtype), projection))
    return packed


def padded_vectors(cell, weights, padded, dtype):
    """The vectors of a cell, (V, padded); zeros for peepholes that it does without, and behind the last unit."""
    H = len(weights.w_hh) // len(cell.gates)
    found = np.zeros((len(cell.vectors + cell.peepholes), padded), dtype)
    if weights.vectors is not None:
        found[:, :H] = weights.vectors.reshape(-1, H)
    return found.reshape(-1)


def longest_first(lengths, T, B):
    """The rows in order of falling length, and their lengths."""
    if lengths is None:
        return np.arange(B, dtype=np.int64), np.full(B, T, np.int64)
    order = np.argsort(-lengths, kind="stable")
    return order, lengths[order]


def of_direction(array, d, H, dtype):
    """The part of a (T, B, D·H) array that a direction has; empty for None."""
    return np.empty((0, 0, 0), dtype) if array is None else array[:, :, d * H : (d + 1) * H]


def entry_arrays(steps, d, dtype):
    """Resets and scales of a direction; empty if there are none."""
    resets = np.empty((0, 0), np.uint8) if steps.resets is None else steps.resets[d].view(np.uint8)
    return resets, np.empty((0, 0, 0), dtype) if steps.scale is None else steps.scale


def forward(packed, run, after, threads):
    x, state, saved = run.x, run.state, run.saved
    (T, B, I), H, P = x.shape, state[-1].shape[-1], state[0].shape[-1]
    order, ends = longest_first(run.steps.lengths, T, B)
    cell, options = packed.cell, as_vector(packed.cell.options, x.dtype)
    loop = forward_loop(cell.name, cell.options is not None, P != H, x.dtype)
    row_flop = 2 * len(cell.gates) * H * (I + P)
    for d, ((arrays, vectors, w_hr), reverse) in enumerate(zip(packed.directions, run.reverse)):
        by_unit = [of_direction(array, d, P, x.dtype) for array in (run.steps.noise, run.steps.drop, *run.steps.keep)]
        then = after[0][d], after[-1][d]
        resets, scale = entry_arrays(run.steps, d, x.dtype)
        for top, end in parts(B, row_flop):
            rows, row_ends, before = order[top:end], ends[top:end], (state[0][d], state[-1][d])
            bounds = parts(T, (end - top) * row_flop)
            for first, last in reversed(bounds) if reverse else bounds:
                part, ends_of_part = np.s_[first:last], np.clip(row_ends - first, 0, last - first)
                keep = flat(None if saved is None else saved[d, part], x.dtype)
                y_d = run.y[part, :, d * P : (d + 1) * P]
                entry = resets[part], scale[part], *[array[part] for array in by_unit]
                own = vectors, options, w_hr
                loop(x[part], rows, ends_of_part, *entry, *before, y_d, *then, keep, *arrays, *own, reverse)
                before = then


def backward(cell, weights, run, given, wanted, threads):
    x, y, state, saved, dscale = run.x, run.y, run.state, run.saved, wanted.dscale
    dx = np.empty(x.shape, x.dtype) if wanted.dx is None else wanted.dx  # the loops have no other kind
    (T, B, I), H, P = x.shape, state[-1].shape[-1], state[0].shape[-1]
    wanted.clear()
    order, ends = longest_first(run.steps.lengths, T, B)
    loop, options = (
        backward_loop(cell.name, cell.options is not None, P != H, x.dtype),
        as_vector(cell.options, x.dtype),
    )
    row_flop = 4 * len(cell.gates) * H * (I + P)
    span = Span(0, T, []) if run.span is None else run.span
    bounds = parts(T, B * row_flop)
    rows = parts(B, row_flop) if len(bounds) == T else [(0, B)]  # in parts of several steps, terms would change places
    bounds = [(max(first, span.first), min(last, span.last)) for first, last in bounds]
    if span.last == T:
        dx[...] = 0
        for running, start in zip(wanted.dstate, given.dstate):
            running[...] = 0 if start is None else start
    for d, (w, dw, reverse) in enumerate(zip(weights, wanted.dweights, run.reverse)):
        half = np.s_[:, :, d * P : (d + 1) * P]
        start, dstart = (state[0][d], state[-1][d]), (wanted.dstate[0][d], wanted.dstate[-1][d])
        kept = flat(None if saved is None else saved[d], x.dtype)
        dy = np.empty((0, 0, 0), x.dtype) if given.dy is None else given.dy[half]
        w_flat, dw_flat = (flat(w.w_ih, x.dtype), flat(w.w_hh, x.dtype)), [flat(v, x.dtype) for v in dw[:4]]
        own = padded_vectors(cell, w, -(-H // COLUMNS) * COLUMNS, x.dtype), options, flat(dw.vectors, x.dtype)
        own += flat(w.w_hr, x.dtype), flat(dw.w_hr, x.dtype)
        parts_of_steps = (*(wanted.dsteps or ()), None, None)[:2]
        after_steps = [flat(None if part is None else part[d], x.dtype) for part in (*parts_of_steps, dscale)]
        masks = [of_direction(array, d, P, x.dtype) for array in (run.steps.drop, *run.steps.keep)]
        entry = *entry_arrays(run.steps, d, x.dtype), *masks
        if len(span.held) <= d:
            span.held.append((room_for_terms(cell, min(TERMS, T * B), I, H, P, dw.vectors, x.dtype), 0))
        (terms, n), begin = span.held[d], 0 if run.span is None else span.start(T, reverse)
        for (first, last), (top, end) in product(reversed(bounds), rows):
            if first >= last:
                continue
            read = x, order[top:end], ends[top:end], *entry, y[half], *start, kept, dy
            at_end = first == 0 and end == B
            steps = first, last, begin
            n = loop(*read, dx, *dstart, *after_steps, *w_flat, *dw_flat, *own, reverse, *steps, terms, n, at_end)
        span.held[d] = terms, n


def room_for_terms(cell, size, I, H, P, dvectors, dtype):
    """For the x, h, da, du, dp, what a first phase left, and the (step, row) of the terms summed at once.

    Where h is projected, also for the gradient by it and the output it is made of; else these are empty. da and du
    are by the products; last come those by the pre-activations, the same arrays but where the products are normalised.
    """
    G, V = len(cell.gates) * H, 0 if dvectors is None else dvectors.size
    x, h, da = np.empty(size * I, dtype), np.empty(size * P, dtype), np.empty(size * G, dtype)
    du = np.empty(size * G, dtype) if cell.splits else da
    left = np.empty(size * H if len(cell.phases) > 1 else 0, dtype)
    dh, out = (np.empty(size * n if P != H else 0, dtype) for n in (P, H))
    by_bias = [np.empty(size * G, dtype) if cell.normal else array for array in (da, du)]
    return x, h, da, du, np.empty(size * V, dtype), left, np.empty((size, 2), np.intp), dh, out, *by_bias
