"""The loop over time of `backward`, of one direction, and what its terms add to the gradients of the parameters."""

import numpy as np
from numba.extending import register_jitable

from .compiling import unsigned
from .functions import zones
from .intrinsics import features, fma, load, store
from .norms import SUMS, add_gains, group_of, output_back, standardise, standardise_back
from .products import COLUMNS, PITCH, ROWS, add, add_product, add_sum, copy
from .rows import drop_units, enter, gather, lanes_of, leave, running, scatter, set_shares, split_zoned

TERMS = 256  # (step, row) terms of a parameter's gradient that are summed before joining the total


def build_backward(cell, layout, general, projects):
    """backward of a cell, plain, or with vectors and options; with h projected or not."""
    gates, states, kept_all, normed = len(cell.gates), len(cell.states), len(cell.saved), bool(cell.normal)
    kept = kept_all - 2 * gates * normed
    split, vectors_count = cell.splits, len(cell.vectors + cell.peepholes) if general else 0
    saved_c = cell.saved.index("c") if states == 2 else 0
    du_at = 2 + gates  # slot of a block
    C, values = COLUMNS, 5 + kept
    # A block holds C units: dh, dc, h, h_prev, c_prev, *saved, and then dh, dc, *da, *du; behind them the output.
    dp_at = 2 + 2 * gates
    p_count = 3 if normed else vectors_count
    i_at, f_at, g_at, o_gate = (cell.saved.index(name) if states == 2 and name in cell.saved else 0 for name in "ifgo")
    out_at = max(values, dp_at + max(p_count, vectors_count))
    slots = out_at + projects
    output, o_at, c_at = layout.output, cell.saved.index("o") if projects else 0, saved_c
    step, given_count = layout.backward, values - kept
    leave_backward, two_phases, first_gates = layout.leave_backward, len(cell.phases) > 1, cell.first_gates

    def backward(
        x, order, ends, resets, scale, drop, keep_h, keep_c, y, h0, c0, saved, dy, dx, dh0, dc0, dh_steps, dc_steps,
        dscale, w_ih, w_hh, dw_ih, dw_hh, db_ih, db_hh, vectors, o, dvectors, w_hr, dw_hr, reverse, first, last, start,
        terms, n, at_end,
    ):  # fmt: skip
        """The visited steps last-1 to first of the rows in `order`; `saved` begins at the step `start`.

        n terms were collected in `terms`, and so many are when it returns; `at_end` all of them join the gradients.
        """
        (T, B, I), H, P = x.shape, c0.shape[1], h0.shape[1]
        (xs, hs, by_x, by_h, dp, left, places, dhs, outs, da, du), G, size = terms, gates * H, len(terms[6])
        first_rows = first_gates * H  # of W_hh
        d_left = np.empty(size * H if two_phases else 0, x.dtype)
        padded = vectors.size // vectors_count if vectors_count else 0
        dh = np.empty(order.size * P, x.dtype)
        dc = np.empty(order.size * H if states == 2 else 0, x.dtype)
        by_output = np.empty(outs.size, x.dtype)  # the gradient by what is projected
        tile, block = np.zeros(ROWS * PITCH, x.dtype), np.zeros(slots * C, x.dtype)
        enters, past = resets.size + scale.size > 0, np.empty(max(H, C), x.dtype)
        by_fed = np.empty(dh.size if drop.size else 0, x.dtype)
        shares, beside = np.empty(C, x.dtype), np.empty(2 * C, x.dtype)  # beside: the cell, h and c
        no_peepholes, sums, group = (
            np.zeros(1, x.dtype),
            np.empty(SUMS, x.dtype),
            group_of(o, gates, H) if normed else 0,
        )
        scales_x, scales_h, scales_c = np.empty((3, gates), x.dtype)
        n_x, n_h = np.empty((2, G if normed else 0), x.dtype)
        units = H if normed and states == 2 else 0
        made, n_c, d_made, d_normal, d_gate, d_output, shares_h = np.empty((7, units), x.dtype)
        gains = np.empty(vectors_count * H if normed else 0, x.dtype)
        for v in range(vectors_count if normed else 0):
            copy(gains, v * H, vectors, v * padded, H)
        gain_h, gain_c, bias_c = gains[G:], gains[2 * G : 2 * G + units], gains[2 * G + units :]
        gather(dh, P, dh0, order)
        if states == 2:
            gather(dc, H, dc0, order)
        for k in range(last - 1, first - 1, -1):
            t, before = (T - 1 - k, T - k) if reverse else (k, k - 1)
            live = running(ends, t)
            b = 0
            while b < live:
                segment = min(live - b, size - n)
                for s in range(segment if projects else 0):
                    row, term = order[b + s], n + s
                    if dy.size:
                        add(dh, (b + s) * P, features(dy, t, row), 0, P)
                    if dh_steps.size:
                        copy(dh_steps, (t * B + row) * P, dh, (b + s) * P, P)
                    copy(dhs, term * P, dh, (b + s) * P, P)
                if projects:
                    dh[b * P : (b + segment) * P] = 0
                    by_output[: segment * H] = 0
                    add_product(by_output, segment, H, tile, dhs[n * P :], P, 1, w_hr, P)
                for s in range(segment):
                    row, term = order[b + s], n + s
                    initial = t == ends[b + s] - 1 if reverse else t == 0
                    places[term, 0], places[term, 1] = t, row
                    copy(xs, term * I, features(x, t, row), 0, I)
                    copy(hs, term * P, h0[row] if initial else features(y, before, row), 0, P)
                    if enters:
                        enter(hs, term * P, resets, scale, t, row, 0, P)
                    if normed:
                        at = ((t - start) * B + row) * kept_all * H
                        standardise(n_x, scales_x, sums, saved, at + kept * H, G, group, o)
                        standardise(n_h, scales_h, sums, saved, at + kept * H + G, G, group, o)
                    if normed and states == 2:
                        copy(made, 0, saved, at + saved_c * H, H)
                        copy(d_output, 0, dh, (b + s) * H, H)
                        if dy.size:
                            add(d_output, 0, features(dy, t, row), 0, H)
                        if zones(o):
                            set_shares(shares_h, o, 0, keep_h, t, row, 0, H)
                            split_zoned(d_output, 0, n_c, 0, shares_h, H)
                            if initial:
                                copy(past, 0, c0[row], 0, H)
                            else:
                                copy(past, 0, saved, (((before - start) * B + row) * kept_all + saved_c) * H, H)
                            if enters:
                                enter(past, 0, resets, scale, t, row, 0, H)
                            for j in range(H):  # what is saved is what zoneout left of c
                                i, f, g = saved[at + i_at * H + j], saved[at + f_at * H + j], saved[at + g_at * H + j]
                                made[j] = fma(f, past[j], i * g)
                        standardise(n_c, scales_c, sums, made, 0, H, H, o)
                        output_back(d_normal, d_gate, d_output, saved, at + o_gate * H, n_c, gain_c, bias_c, o)
                        standardise_back(d_made, 0, n_c, scales_c, sums, gain_c, d_normal, 0, H, H)
                    for j in range(0, H, C):
                        real = min(C, H - j)
                        here, kept_here = (b + s) * H + j, ((t - start) * B + row) * kept_all * H + j
                        if projects:
                            copy(block, 0, by_output, s * H + j, real)
                        else:
                            copy(block, 0, dh, here, real)
                        if dy.size and not projects:
                            add(block, 0, features(dy, t, row), j, real)
                        if states == 2:
                            copy(block, C, dc, here, real)
                            if initial:
                                copy(block, 4 * C, c0[row], j, real)
                            else:
                                c_before = (((before - start) * B + row) * kept_all + saved_c) * H + j
                                copy(block, 4 * C, saved, c_before, real)
                            if enters:
                                copy(past, 0, block, 4 * C, real)
                                enter(block, 4 * C, resets, scale, t, row, j, real)
                        if dh_steps.size and not projects:
                            copy(dh_steps, (t * B + row) * H + j, block, 0, real)
                        if dc_steps.size:
                            copy(dc_steps, (t * B + row) * H + j, block, C, real)
                        if kept == 0:
                            copy(block, 2 * C, features(y, t, row), j, real)
                        if not projects:
                            copy(block, 3 * C, hs, term * H + j, real)
                        for slot in range(kept):
                            copy(block, (5 + slot) * C, saved, kept_here + slot * H, real)
                        if general and zones(o):
                            set_shares(shares, o, 0, keep_h, t, row, j, real)
                            split_zoned(block, 0, beside, 0, shares, real)
                            for i in range(real if kept == 0 else 0):  # y is the cell's own h where it was not kept
                                if shares[i] == 1:
                                    block[2 * C + i] = 0
                            if states == 2:
                                set_shares(shares, o, 1, keep_c, t, row, j, real)
                                split_zoned(block, C, beside, C, shares, real)
                        if normed and states == 2:  # what reaches c by way of h is in d_made, the last gate's in d_gate
                            add(block, C, d_made, j, real)
                            block[:C] = 0
                        for i in range(lanes_of(real, C)):
                            if projects:
                                o_i, c_i = block[unsigned(i + (5 + o_at) * C)], block[unsigned(i + (5 + c_at) * C)]
                                store(block, i + out_at * C, C, (output(o_i, c_i, o) if general else output(o_i, c_i),))
                            if general:
                                given = load(block, i, C, given_count)
                                if normed:
                                    own = load(no_peepholes, 0, 0, p_count), o
                                else:
                                    own = load(vectors, j + i, padded, p_count), o
                                after = load(block, i + given_count * C, C, kept)
                                dh_prev, dc_prev, da_i, du_i, dp_i = step(*given, *own, *after)
                                store(block, i + dp_at * C, C, dp_i)
                            else:
                                dh_prev, dc_prev, da_i, du_i = step(*load(block, i, C, values))
                            store(block, i, C, (dh_prev, dc_prev) + da_i)
                            if split:
                                store(block, i + du_at * C, C, du_i)
                        if general and zones(o):
                            add(block, 0, beside, 0, real)
                            if states == 2:
                                add(block, C, beside, C, real)
                        if projects:
                            copy(outs, term * H + j, block, out_at * C, real)
                        else:
                            copy(dh, here, block, 0, real)
                        for v in range(vectors_count if dvectors.size and not normed else 0):
                            copy(dp, (term * vectors_count + v) * H + j, block, (dp_at + v) * C, real)
                        if states == 2:
                            if enters:
                                at = (t * B + row) * H + j
                                leave(block, C, past, 0, resets, scale, dscale, at, t, row, j, real)
                            copy(dc, here, block, C, real)
                        for g in range(gates):
                            copy(da, term * G + g * H + j, block, (2 + g) * C, real)
                            if split:
                                copy(du, term * G + g * H + j, block, (du_at + g) * C, real)
                    if normed:
                        if states == 2:
                            copy(da, term * G + o_gate * H, d_gate, 0, H)
                            copy(du, term * G + o_gate * H, d_gate, 0, H)
                        if dvectors.size:
                            at = term * vectors_count * H
                            add_gains(dp, at, da, term * G, n_x, G)
                            add_gains(dp, at + G, du, term * G, n_h, G)
                            add_gains(dp, at + 2 * G, d_normal, 0, n_c, units)
                            copy(dp, at + 2 * G + units, d_normal, 0, units)
                        standardise_back(by_x, term * G, n_x, scales_x, sums, gains, da, term * G, G, group)
                        standardise_back(by_h, term * G, n_h, scales_h, sums, gain_h, du, term * G, G, group)
                if two_phases:
                    d_left[:] = 0
                    da_second, w_second = da[n * G + first_rows :], w_hh[first_rows * H :]
                    add_product(d_left, segment, H, tile, da_second, G, 1, w_second, G - first_rows)
                    for s in range(segment):
                        row, term = order[b + s], n + s
                        kept_here = ((t - start) * B + row) * kept_all * H
                        if drop.size:
                            drop_units(d_left, s * H, d_left, s * H, drop, t, row, H)
                        for j in range(H):
                            after = load(saved, kept_here + j, H, kept)
                            given = leave_backward(d_left[s * H + j], hs[term * H + j], o, *after)
                            left[term * H + j] = given[0]
                            dh[(b + s) * H + j] += given[1]
                            da[term * G + j] = given[2]
                        if drop.size:
                            drop_units(left, term * H, left, term * H, drop, t, row, H)
                if drop.size:
                    by_fed[: segment * P] = 0
                    add_product(by_fed, segment, P, tile, by_h[n * G :], G, 1, w_hh, first_rows)
                    for s in range(segment):
                        row, term = order[b + s], n + s
                        drop_units(hs, term * P, hs, term * P, drop, t, row, P)
                        drop_units(by_fed, s * P, by_fed, s * P, drop, t, row, P)
                    add(dh, b * P, by_fed, 0, segment * P)
                else:
                    add_product(dh[b * P :], segment, P, tile, by_h[n * G :], G, 1, w_hh, first_rows)
                for s in range(segment if enters else 0):
                    row, at = order[b + s], (b + s) * P
                    initial = t == ends[b + s] - 1 if reverse else t == 0
                    copy(past, 0, h0[row] if initial else features(y, before, row), 0, P)
                    leave(dh, at, past, 0, resets, scale, dscale, (t * B + row) * H, t, row, 0, P)
                n += segment
                b += segment
                if n == size:
                    add_gradients(n, terms, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh, dvectors, first_rows)
                    if projects:
                        add_product(dw_hr, P, H, tile, dhs, 1, P, outs, n)
                    n = 0
        if at_end and n:
            add_gradients(n, terms, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh, dvectors, first_rows)
            if projects:
                add_product(dw_hr, P, H, tile, dhs, 1, P, outs, n)
        scatter(dh0, order, dh, P)
        if states == 2:
            scatter(dc0, order, dc, H)
        return n

    return backward


@register_jitable
def add_gradients(n, terms, tile, dx, w_ih, dw_ih, dw_hh, db_ih, db_hh, dvectors, first_rows):
    """Add what n collected terms give to the gradients of the parameters and, by way of xs, of the input.

    W_hh's `first_rows` multiply h, the others what a first phase left.
    """
    xs, hs, da, du, dp, left, places = terms[:7]
    by_bias_ih, by_bias_hh = terms[9:]
    P, I, G = hs.size // len(places), dx.shape[2], da.size // len(places)
    add_product(dw_ih, G, I, tile, da, 1, G, xs, n)
    add_product(dw_hh, first_rows, P, tile, du, 1, G, hs, n)
    if left.size:
        add_product(dw_hh[first_rows * P :], G - first_rows, P, tile, du[first_rows:], 1, G, left, n)
    add_sum(db_ih, tile, by_bias_ih, n)
    add_sum(db_hh, tile, by_bias_hh, n)
    add_sum(dvectors, tile, dp, n)
    xs[:] = 0
    add_product(xs, n, I, tile, da, G, 1, w_ih, G)
    for k in range(n):
        add(features(dx, places[k, 0], places[k, 1]), 0, xs, k * I, I)
