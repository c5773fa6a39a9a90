"""A layer over time: the contract of base.py, a step at a time."""

import numpy as np

from .cells import EQUATIONS, LEFT
from .functions import Own, affine, split
from .norms import Norm


def pack(cell, weights, threads, steps=None):
    return cell, tuple(weights)


def units_of(cell, w, state):
    """What a direction's units have of their own; and the normalisation of its products, None where there is none."""
    H = state[-1].shape[-1]
    return Own(cell, w, H), Norm(cell, w, H) if cell.normal else None


def visit(T, reverse):
    """The time steps in the order in which the direction visits them."""
    return range(T - 1, -1, -1) if reverse else range(T)


def live_rows(lengths, t):
    """The rows whose sequence has a step t."""
    return slice(None) if lengths is None else np.flatnonzero(lengths > t)


def entering(steps, d, t, rows, part):
    """A part of the state as the step takes it: h or c of some rows, after what `steps` does to it."""
    if steps.scale is not None:
        part = part * steps.scale[t, rows]
    return part if steps.resets is None else np.where(steps.resets[d, t, rows][:, None], 0, part)


def kept_shares(own, steps, t, rows, half):
    """Of each part of the state, how much of it the units of some rows keep in step t; none without zoneout."""
    return [p if mask is None else mask[t, rows, half] for p, mask in zip(own.zoneout, steps.keep)]


@np.errstate(all="ignore")
def forward(packed, run, after, threads):
    cell, weights = packed
    x, state, steps, y, saved = run.x, run.state, run.steps, run.y, run.saved
    step = EQUATIONS[cell.equation][0]
    T, P = len(x), state[0].shape[-1]
    for d, w in enumerate(weights):
        own, norm = units_of(cell, w, state)
        now = [part[d].copy() for part in state]
        half = np.s_[d * P : (d + 1) * P]
        y_d = y[:, :, half]
        y_d[...] = 0
        for t in visit(T, run.reverse[d]):
            rows = live_rows(steps.lengths, t)
            h, c = [entering(steps, d, t, rows, part[rows]) for part in now] + [None] * (2 - len(now))
            own.drop = 1 if steps.drop is None else steps.drop[t, rows, half]
            a, u = own.input_share(x[t, rows]), own.state_share(h)
            products = () if norm is None else (*split(a, norm.gates), *split(u, norm.gates))
            a, u = (a, u) if norm is None else norm.shares(a, u)
            if steps.noise is not None:
                a = a + steps.noise[t, rows, half]
            *new, keep = step(a, u, h, c, own)
            if norm is not None and c is not None:
                new[0] = norm.output(own, *(keep[cell.saved.index(name)] for name in "oc"))
            keep += products
            if w.w_hr is not None:
                new[0] = affine(new[0], w.w_hr, None)
            for p, (m, before) in enumerate(zip(kept_shares(own, steps, t, rows, half), (h, c))):
                new[p] = m * before + (1 - m) * new[p]
            for part, value in zip(now, new):
                part[rows] = value
            y_d[t, rows] = new[0]
            if saved is not None:
                for s, (name, value) in enumerate(zip(cell.saved, keep)):
                    saved[d, t, rows, s] = new[1] if name == "c" else value
        for part, new in zip(after, now):
            part[d] = new


@np.errstate(all="ignore")
def backward(cell, weights, run, given, wanted, threads):
    x, steps, y, saved, dx = run.x, run.steps, run.y, run.saved, wanted.dx
    step = EQUATIONS[cell.equation][1]
    T, P = len(x), run.state[0].shape[-1]
    wanted.clear()
    first, last = (0, T) if run.span is None else run.span[:2]
    starts = [0 if run.span is None else run.span.start(T, reverse) for reverse in run.reverse]  # of what is saved
    if last == T and dx is not None:
        dx[...] = 0
    for d, (w, dw) in enumerate(zip(weights, wanted.dweights)):
        order, (own, norm) = visit(T, run.reverse[d]), units_of(cell, w, run.state)
        first_rows = cell.first_gates * run.state[-1].shape[-1]
        half = np.s_[d * P : (d + 1) * P]
        after = given.dstate if last == T else wanted.dstate
        parts = zip(run.state * 2, (*after, None)[:2])
        dh, dc = (np.zeros_like(part[d]) if g is None else g[d].copy() for part, g in parts)
        for k in reversed(range(first, last)):
            t = order[k]
            rows = live_rows(steps.lengths, t)
            before = previous_state(cell, run, order, k, d, rows, starts[d])
            h_prev, c_prev = [entering(steps, d, t, rows, part) for part in before] + [None] * (2 - len(before))
            keep = () if saved is None else [saved[d, t - starts[d], rows, s] for s in range(len(cell.saved))]
            dh_t = dh[rows] if given.dy is None else dh[rows] + given.dy[t, rows, half]
            if wanted.dsteps is not None:
                for part, now in zip(wanted.dsteps, (dh_t, dc[rows])):
                    part[d, t, rows] = now
            h_new, by_new, by_kept = y[t, rows, half], [dh_t, dc[rows]], [0, 0]
            for p, m in enumerate(kept_shares(own, steps, t, rows, half)):
                by_new[p], by_kept[p] = (1 - m) * by_new[p], m * by_new[p]
                if not cell.saved:  # y is the cell's own h where it was not kept, and elsewhere counts for nothing
                    h_new = np.where(m == 1, 0, h_new)
            if w.w_hr is not None:
                dw.w_hr[...] += by_new[0].T @ cell_output(cell, keep, own)
                by_new[0] = by_new[0] @ w.w_hr
            own.drop = 1 if steps.drop is None else steps.drop[t, rows, half]
            given_here = (*by_new, h_new, h_prev, c_prev, keep, own)
            if norm is None:
                da, du, dh_prev, dc_prev, dp = step(*given_here)
                by_bias = da, du
            else:
                by_bias, (da, du, dh_prev, dc_prev, dp) = norm.backward(step, *given_here)
            by_h = du[:, :first_rows] @ own.w_hh * own.drop + dh_prev + by_kept[0]
            by_state = by_h, None if dc_prev is None else dc_prev + by_kept[1]
            for part, now in zip((dh, dc), leaving(run, wanted, d, t, rows, before, by_state)):
                part[rows] = now
            if dx is not None:
                dx[t, rows] += da @ w.w_ih
            dw.w_ih[...] += da.T @ x[t, rows]
            dw.w_hh[:first_rows] += du[:, :first_rows].T @ (h_prev * own.drop)
            if cell.name in LEFT:
                dw.w_hh[first_rows:] += du[:, first_rows:].T @ (LEFT[cell.name](h_prev, keep) * own.drop)
            if dw.b_ih is not None:
                dw.b_ih[...] += by_bias[0].sum(axis=0)
            if dw.b_hh is not None:
                dw.b_hh[...] += by_bias[1].sum(axis=0)
            if dw.vectors is not None:
                dw.vectors[...] += np.concatenate([part.sum(axis=0) for part in dp])
        for part, now in zip(wanted.dstate, (dh, dc)):
            part[d] = now


def cell_output(cell, keep, own):
    """o tanh c: what a layer projects to h."""
    o, c = (keep[cell.saved.index(name)] for name in "oc")
    return o * own.output(c)


def leaving(run, wanted, d, t, rows, before, gradients):
    """From the gradients by the state as the step took it to those by the state before, (dh,) or (dh, dc)."""
    steps, found = run.steps, list(zip(before, gradients))
    if steps.resets is not None:
        found = [(part, np.where(steps.resets[d, t, rows][:, None], 0, g)) for part, g in found]
    if steps.scale is None:
        return [g for _, g in found]
    for part, g in found:
        wanted.dscale[d, t, rows, : part.shape[-1]] += part * g
    return [g * steps.scale[t, rows] for _, g in found]


def previous_state(cell, run, order, k, d, rows, start):
    """h, or h and c, before the k-th visited step: the initial state where a row's sequence starts there.

    `start` is the first step that is saved.
    """
    P = run.state[0].shape[-1]
    first = [part[d][rows] for part in run.state]
    if k == 0:
        return first
    t_prev = order[k - 1]
    found = [run.y[t_prev, rows, d * P : (d + 1) * P]]
    if len(cell.states) == 2:
        found.append(run.saved[d, t_prev - start, rows, cell.saved.index("c")])
    if run.steps.lengths is None:
        return found
    started = (run.steps.lengths[rows] > t_prev)[:, None]
    return [np.where(started, part, initial) for part, initial in zip(found, first)]
