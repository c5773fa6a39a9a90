"""What the loops over time do for a row: its state and inputs brought in, out and past resets, scales, masks of units.

Rows are taken longest first, in `order`, so that those still running are the first ones; `ends` are their lengths.
"""

from .compiling import inlined, unsigned
from .functions import ZONEOUT
from .intrinsics import features, fma
from .products import COLUMNS, PITCH, copy, multiply

LANES = 8  # hidden units are computed in multiples of this; the weights beyond the last are zero


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
def enter(state, at, resets, scale, t, row, unit, count):
    """Change part of a row's state, `count` units from `unit` on, which begins at `at`, to what step t takes."""
    if scale.size:
        factors = features(scale, t, row)
        for j in range(count):
            state[unsigned(at + j)] *= factors[unit + j if factors.size > 1 else 0]
    if resets.size and resets[t, row]:
        for j in range(count):
            state[unsigned(at + j)] = 0


@inlined
def leave(gradient, at, before, before_at, resets, scale, dscale, dscale_at, t, row, unit, count):
    """Change the gradient by what step t took to that by the state before it; add what is the scale's to `dscale`."""
    if resets.size and resets[t, row]:
        for j in range(count):
            gradient[unsigned(at + j)] = 0
    if scale.size:
        factors = features(scale, t, row)
        for j in range(count):
            dscale[unsigned(dscale_at + j)] += gradient[unsigned(at + j)] * before[unsigned(before_at + j)]
            gradient[unsigned(at + j)] *= factors[unit + j if factors.size > 1 else 0]


@inlined
def drop_units(to, to_at, h, at, drop, t, row, count):
    """What the recurrent product of step t takes of a row's h."""
    factors = features(drop, t, row)
    for j in range(count):
        to[unsigned(to_at + j)] = h[unsigned(at + j)] * factors[j]


@inlined
def set_shares(shares, o, part, keep, t, row, unit, count):
    """How much of a part of the state, 0 for h and 1 for c, a row's units from `unit` on keep in step t."""
    if keep.size:
        copy(shares, 0, features(keep, t, row), unit, count)
    else:
        for j in range(count):
            shares[unsigned(j)] = o[ZONEOUT + part]


@inlined
def zone(made, at, before, before_at, shares, count):
    """Take a part of the state that the cell made through zoneout, given the one before."""
    for j in range(count):
        m = shares[unsigned(j)]
        made[unsigned(at + j)] = fma(m, before[unsigned(before_at + j)], (type(m)(1) - m) * made[unsigned(at + j)])


@inlined
def split_zoned(gradient, at, past, past_at, shares, count):
    """From the gradient by a part of the state to that by what the cell made; `past` takes what goes past it."""
    for j in range(count):
        m, g = shares[unsigned(j)], gradient[unsigned(at + j)]
        past[unsigned(past_at + j)] = m * g
        gradient[unsigned(at + j)] = (type(m)(1) - m) * g


@inlined
def lanes_of(left, units):
    """How many of a panel's units to compute when `left` are left."""
    return min(units, -(-left // LANES) * LANES)


@inlined
def project(h, pitch, tile, rows, outputs, w_hr, P, H):
    """h (rows, P) = outputs (rows, H) times W_hr', which is (H, P); rows of both are `pitch` apart."""
    for j in range(0, P, COLUMNS):
        width = min(COLUMNS, P - j)
        tile[:] = 0
        multiply(tile, 0, rows, width, outputs, 0, pitch, 1, w_hr, j, P, H)
        for b in range(rows):
            copy(h, b * pitch + j, tile, b * PITCH, width)
