"""The loop over time of `forward`, of one direction.

LLVM inlines a cell's equation into it and vectorises across hidden units. Two rules make the results, here and in
`backward`, bit for bit independent of batch, padding and chunking: every product is a chain of explicit fused
multiply-adds in the order of its terms, whatever tile it falls in, and everything else is one correctly rounded
operation at a time, without fastmath.
"""

import numpy as np

from .compiling import inlined, unsigned
from .functions import zones
from .intrinsics import features, load, store
from .norms import SUMS, add_normal, gather_products, group_of, output_of, standardise
from .products import PITCH, ROWS, add, copy, multiply
from .rows import drop_units, enter, gather, gather_steps, lanes_of, project, scatter, set_shares, zone

HOISTED = 16  # (step, row) pairs whose input product is taken at once, where the batch alone is smaller


def build_normalise(gates, layout):
    """A function that replaces the products of a row by what is normalised of them, and by the biases."""
    units, first, count, hidden = layout.units, layout.first, layout.count, layout.hidden
    turn = hidden - first  # of the slots by x, before those by h

    @inlined
    def normalise(tiles, by_h, at, steps, starts, vectors, row_x, row_h, n, scales, sums, H, group, o):
        """Do it for a row that begins at at[0] of the tiles, its panels steps[0] apart; in by_h, at[1] and steps[1].

        row_x and row_h (gates, H) become the products as they were.
        """
        panels = -(-H // units)
        by_x, by_own = at[0] + first * units, at[0] + hidden * units
        gather_products(row_x, tiles, by_x, steps[0], units, turn, gates, H)
        gather_products(row_h, by_h, at[1], steps[1], units, 0, gates, H)
        for p in range(panels):
            copy(tiles, by_x + p * steps[0], starts, p * count * units, count * units)
        standardise(n, scales, sums, row_x, 0, gates * H, group, o)
        add_normal(tiles, by_x, steps[0], units, turn, gates, H, n, vectors, 0)
        standardise(n, scales, sums, row_h, 0, gates * H, group, o)
        add_normal(tiles, by_own, steps[0], units, 0, gates, H, n, vectors, gates * panels * units)

    return normalise


def build_forward(cell, layout, general, projects):
    """forward of a cell, plain, or with vectors and options; with h projected or not."""
    gates, states, kept_all, normed = len(cell.gates), len(cell.states), len(cell.saved), bool(cell.normal)
    kept = kept_all - 2 * gates * normed  # behind what the equation gives are the products that are normalised
    vectors_count, units = len(cell.vectors + cell.peepholes), layout.units
    p_count, o_slot = 3 if normed else vectors_count, 1 + cell.saved.index("o") if normed and states == 2 else 0
    step, leave, two_phases, first_gates = layout.forward, layout.leave, len(cell.phases) > 1, cell.first_gates
    first, count, hidden = layout.first, layout.count, layout.hidden
    normalise = build_normalise(gates, layout) if normed else None
    c_slot = 1 + cell.saved.index("c") if states == 2 else 0
    assert max(1 + kept, first + count) * units <= PITCH, "a row of the tile has no room for the values"

    def forward(
        x, order, ends, resets, scale, noise, drop, keep_h, keep_c, h0, c0, y, h_out, c_out, saved, w_ih, w_hh, starts,
        vectors, o, w_hr, reverse,
    ):  # fmt: skip
        (T, B, I), H, P = x.shape, c0.shape[1], h0.shape[1]
        panels, pitch = -(-H // units), gates * units
        padded = panels * units
        rows = min(order.size, ROWS)
        chunk = max(1, min(T, HOISTED // rows))
        xs, begin = np.empty(chunk * rows * I, x.dtype), np.zeros(chunk + 1, np.intp)
        tiles = np.zeros(panels * chunk * rows * PITCH, x.dtype)
        h, h_next = np.zeros(rows * padded, x.dtype), np.zeros(rows * padded, x.dtype)
        c, left = np.zeros(rows * padded, x.dtype), np.zeros(rows * padded if two_phases else 0, x.dtype)
        fed = np.zeros(h.size, x.dtype) if drop.size else h  # what the recurrent product takes
        shares, projected = np.empty(units, x.dtype), np.zeros(rows * PITCH if projects else 0, x.dtype)
        by_h = np.zeros(panels * rows * PITCH if normed else 0, x.dtype)  # the products by h, if they are normalised
        made = np.zeros(c.size if normed else 0, x.dtype)  # c before zoneout
        row_x, row_h, n = np.empty((3, gates * H if normed else 0), x.dtype)
        scales, sums, no_peepholes = np.empty(gates, x.dtype), np.empty(SUMS, x.dtype), np.zeros(1, x.dtype)
        group = group_of(o, gates, H) if normed else 0
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
                            if normed:
                                tiles[at + b * PITCH : at + b * PITCH + count * units] = 0
                            else:
                                copy(tiles, at + b * PITCH, starts, p * count * units, count * units)
                        width = pitch - units + lanes_of(H - p * units, units)
                        multiply(tiles, at, pairs, width, xs, 0, I, 1, w_ih, p * I * pitch, pitch, I)
                t = T - 1 - k if reverse else k
                live = begin[s + 1] - begin[s]
                for b in range(live):
                    enter(h, b * padded, resets, scale, t, some[b], 0, P)
                    if states == 2:
                        enter(c, b * padded, resets, scale, t, some[b], 0, H)
                    if drop.size:
                        drop_units(fed, b * padded, h, b * padded, drop, t, some[b], P)
                if two_phases:
                    for p in range(panels):
                        lanes, tile = lanes_of(H - p * units, units), (p * chunk * rows + begin[s]) * PITCH
                        at, width = tile + hidden * units, (first_gates - 1) * units + lanes
                        multiply(tiles, at, live, width, fed, 0, padded, 1, w_hh, p * H * pitch, pitch, H)
                        for b in range(live):
                            at, unit = tile + b * PITCH + first * units, b * padded + p * units
                            for j in range(lanes):
                                v = leave(load(tiles, at + j, units, count), h[unsigned(unit + j)], o)
                                left[unsigned(unit + j)] = v[0]
                                store(tiles, at + j, units, v[1:])
                    for b in range(live if drop.size else 0):
                        drop_units(left, b * padded, left, b * padded, drop, t, some[b], H)
                if normed:
                    by_h[:] = 0
                    for p in range(panels):
                        width = pitch - units + lanes_of(H - p * units, units)
                        at = p * rows * PITCH
                        multiply(by_h, at, live, width, fed, 0, padded, 1, w_hh, p * P * pitch, pitch, P)
                    for b in range(live):
                        at = (begin[s] + b) * PITCH, b * PITCH
                        steps = chunk * rows * PITCH, rows * PITCH
                        normalise(tiles, by_h, at, steps, starts, vectors, row_x, row_h, n, scales, sums, H, group, o)
                        if saved.size:
                            to = ((t * B + some[b]) * kept_all + kept) * H
                            copy(saved, to, row_x, 0, gates * H)
                            copy(saved, to + gates * H, row_h, 0, gates * H)
                for p in range(panels):
                    real, lanes = min(units, H - p * units), lanes_of(H - p * units, units)
                    tile, width = (p * chunk * rows + begin[s]) * PITCH, pitch - units + lanes
                    if two_phases:
                        at, w_at = tile + first * units, p * H * pitch + first_gates * units
                        multiply(tiles, at, live, lanes, left, 0, padded, 1, w_hh, w_at, pitch, H)
                    elif not normed:
                        at = tile + hidden * units
                        multiply(tiles, at, live, width, fed, 0, padded, 1, w_hh, p * P * pitch, pitch, P)
                    for b in range(live):
                        at, unit = tile + b * PITCH, b * padded + p * units
                        if noise.size:
                            add(tiles, at + first * units, features(noise, t, some[b]), p * units, real)
                        for j in range(lanes):
                            v = load(tiles, at + first * units + j, units, count)
                            own = p * units + j
                            h_prev, c_prev = h[unsigned(unit + j)], c[unsigned(unit + j)]
                            if normed:  # constants: Numba leaves the other branches out
                                values = step(v, h_prev, c_prev, load(no_peepholes, 0, 0, p_count), o)
                            elif general:
                                values = step(v, h_prev, c_prev, load(vectors, own, padded, vectors_count), o)
                            else:
                                values = step(v, h_prev, c_prev)
                            store(tiles, at + j, units, values)
                        if normed and states == 2:
                            copy(made, unit, tiles, at + c_slot * units, real)
                            copy(tiles, at, tiles, at + o_slot * units, lanes)  # h follows when c is whole
                        if general and zones(o):
                            if not normed or states == 1:
                                set_shares(shares, o, 0, keep_h, t, some[b], p * units, real)
                                zone(tiles, at, h, unit, shares, real)
                            if states == 2:
                                set_shares(shares, o, 1, keep_c, t, some[b], p * units, real)
                                zone(tiles, at + c_slot * units, c, unit, shares, real)
                        if not projects:
                            copy(features(y, t, some[b]), p * units, tiles, at, real)
                        copy(h_next, unit, tiles, at, lanes)
                        if states == 2:
                            copy(c, unit, tiles, at + c_slot * units, lanes)
                        if saved.size:
                            to = (t * B + some[b]) * kept_all * H + p * units
                            for slot in range(kept):
                                copy(saved, to + slot * H, tiles, at + (1 + slot) * units, real)
                for b in range(live if normed and states == 2 else 0):
                    at = b * padded
                    standardise(n[:H], scales, sums, made, at, H, H, o)
                    output_of(h_next, at, n[:H], vectors, 2 * gates * padded, padded, o)
                    for p in range(panels if zones(o) else 0):
                        real, unit = min(units, H - p * units), at + p * units
                        set_shares(shares, o, 0, keep_h, t, some[b], p * units, real)
                        zone(h_next, unit, h, unit, shares, real)
                    copy(features(y, t, some[b]), 0, h_next, at, H)
                if projects:
                    project(h, padded, projected, live, h_next, w_hr, P, H)
                    for b in range(live):
                        copy(features(y, t, some[b]), 0, h, b * padded, P)
                else:
                    copy(h, 0, h_next, 0, live * padded)
            scatter(h_out, some, h, padded)
            if states == 2:
                scatter(c_out, some, c, padded)
            for b in range(some.size):
                for t in range(some_ends[b], T):
                    features(y, t, some[b])[:] = 0

    return forward
