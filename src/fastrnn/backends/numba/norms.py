"""Layer normalisation of a row's products, and of its c (Ba et al. 2016): n = (v - mean) / √(variance + eps).

A row's values are (gates, H), one after the other; each group of them, all or a gate's, has statistics of its own.
"""

import numpy as np

from .compiling import inlined, unsigned
from .functions import EACH_GATE, EPS, GATES, OUTPUT, apply, derivative
from .intrinsics import fma

SUMS = 16  # of a row, side by side, so that LLVM vectorises them


@inlined
def total(sums):
    found = sums[0]
    for lane in range(1, SUMS):
        found += sums[lane]
    return found


@inlined
def group_of(o, gates, H):
    """How many values have statistics in common."""
    return H if o[EACH_GATE] != 0 else gates * H


@inlined
def standardise(n, scales, sums, v, at, count, group, o):
    """n (count) and the scale of each group, of v from `at` on; `sums` are SUMS numbers of room."""
    eps = o[EPS]
    for g in range(count // group):
        begin = at + g * group
        sums[:] = 0
        for j in range(group):
            sums[unsigned(j % SUMS)] += v[unsigned(begin + j)]
        mean = total(sums) / type(eps)(group)
        sums[:] = 0
        for j in range(group):
            away = v[unsigned(begin + j)] - mean
            sums[unsigned(j % SUMS)] = fma(away, away, sums[unsigned(j % SUMS)])
        scale = type(eps)(1) / np.sqrt(total(sums) / type(eps)(group) + eps)
        scales[g] = scale
        for j in range(group):
            n[unsigned(g * group + j)] = (v[unsigned(begin + j)] - mean) * scale


@inlined
def standardise_back(dv, at, n, scales, sums, gain, dy, dy_at, count, group):
    """dv (count) from `at` on, from dy, the gradient by gain n + bias: scale (dn - mean of dn - n mean of dn n)."""
    for g in range(count // group):
        begin = g * group
        sums[:] = 0
        for j in range(group):
            sums[unsigned(j % SUMS)] += gain[unsigned(begin + j)] * dy[unsigned(dy_at + begin + j)]
        mean = total(sums) / type(scales[0])(group)
        sums[:] = 0
        for j in range(group):
            dn = gain[unsigned(begin + j)] * dy[unsigned(dy_at + begin + j)]
            sums[unsigned(j % SUMS)] = fma(dn, n[unsigned(begin + j)], sums[unsigned(j % SUMS)])
        along = total(sums) / type(scales[0])(group)
        for j in range(group):
            dn = gain[unsigned(begin + j)] * dy[unsigned(dy_at + begin + j)]
            dv[unsigned(at + begin + j)] = scales[g] * (dn - mean - n[unsigned(begin + j)] * along)


@inlined
def gather_products(row, tiles, at, step, units, turn, gates, H):
    """row (gates, H) = the products of a row in the tiles of panels `step` apart, gate g in slot (g + turn) % gates."""
    for p in range(-(-H // units)):
        for g in range(gates):
            slot = at + p * step + (g + turn) % gates * units
            for j in range(min(units, H - p * units)):
                row[unsigned(g * H + p * units + j)] = tiles[unsigned(slot + j)]


@inlined
def add_normal(tiles, at, step, units, turn, gates, H, n, gain, gain_at):
    """Add gain n, both (gates, H), to the same places."""
    padded = -(-H // units) * units
    for p in range(-(-H // units)):
        for g in range(gates):
            slot, unit = at + p * step + (g + turn) % gates * units, p * units
            for j in range(min(units, H - p * units)):
                to = unsigned(slot + j)
                tiles[to] = fma(
                    gain[unsigned(gain_at + g * padded + unit + j)], n[unsigned(g * H + unit + j)], tiles[to]
                )


@inlined
def output_of(h, h_at, n, gain, gain_at, padded, o):
    """h = the gate that it holds times the activation of gain n + bias: of a row's c, and its vectors."""
    for j in range(n.size):
        v = fma(gain[unsigned(gain_at + j)], n[unsigned(j)], gain[unsigned(gain_at + padded + j)])
        h[unsigned(h_at + j)] *= apply(o, OUTPUT, v)


@inlined
def output_back(d_normal, d_gate, dh, gate, gate_at, n, gain, bias, o):
    """From dh of a row to the gradients by gain n + bias, and by the last gate's pre-activation."""
    for j in range(n.size):
        k = unsigned(j)
        out, last = apply(o, OUTPUT, fma(gain[k], n[k], bias[k])), gate[unsigned(gate_at + j)]
        d_normal[k] = dh[k] * last * derivative(o, OUTPUT, out)
        d_gate[k] = dh[k] * out * derivative(o, GATES, last)


@inlined
def add_gains(dp, at, d, d_at, n, count):
    """The parts of the gains' gradients: dp = d n, `count` of them."""
    for j in range(count):
        dp[unsigned(at + j)] = d[unsigned(d_at + j)] * n[unsigned(j)]
