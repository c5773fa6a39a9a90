"""A layer over time: the contract of base.py, a step at a time."""

import numpy as np

from .cells import EQUATIONS


def pack(cell, weights, threads, steps=None):
    return cell, tuple(weights)


def affine(v, w, b):
    return v @ w.T if b is None else v @ w.T + b


def steps(T, reverse):
    """The time steps in the order in which the direction visits them."""
    return range(T - 1, -1, -1) if reverse else range(T)


def live_rows(lengths, t):
    """The rows whose sequence has a step t."""
    return slice(None) if lengths is None else np.flatnonzero(lengths > t)


@np.errstate(all="ignore")
def forward(packed, x, state, lengths, y, out_state, saved, threads):
    cell, weights = packed
    step = EQUATIONS[cell.name][0]
    T, H = len(x), state[0].shape[-1]
    for d, w in enumerate(weights):
        h = state[0][d].copy()
        c = state[1][d].copy() if len(cell.states) == 2 else None
        y_d = y[:, :, d * H : (d + 1) * H]
        y_d[...] = 0
        for t in steps(T, reverse=d == 1):
            rows = live_rows(lengths, t)
            a, u = affine(x[t, rows], w.w_ih, w.b_ih), affine(h[rows], w.w_hh, w.b_hh)
            h[rows], c_new, keep = step(a, u, h[rows], None if c is None else c[rows])
            if c is not None:
                c[rows] = c_new
            y_d[t, rows] = h[rows]
            if saved is not None:
                for s, value in enumerate(keep):
                    saved[d, t, rows, s] = value
        out_state[0][d] = h
        if c is not None:
            out_state[1][d] = c


@np.errstate(all="ignore")
def backward(cell, weights, x, y, state, lengths, saved, dy, dstate, dx, dstate0, dweights, threads, dsteps=None):
    step = EQUATIONS[cell.name][1]
    T, B, H = len(x), x.shape[1], state[0].shape[-1]
    dx[...] = 0
    for d, (w, dw) in enumerate(zip(weights, dweights)):
        order = steps(T, reverse=d == 1)
        y_d = y[:, :, d * H : (d + 1) * H]
        dh, dc = (np.zeros((B, H), y.dtype) if g is None else g[d].copy() for g in (*dstate, None)[:2])
        for k in reversed(range(T)):
            t = order[k]
            rows = live_rows(lengths, t)
            h_prev, c_prev = previous_state(cell, order, k, d, rows, y_d, state, lengths, saved)
            keep = () if saved is None else [saved[d, t, rows, s] for s in range(len(cell.saved))]
            dh_t = dh[rows] if dy is None else dh[rows] + dy[t, rows, d * H : (d + 1) * H]
            if dsteps is not None:
                for part, now in zip(dsteps, (dh_t, dc[rows])):
                    part[d, t, rows] = now
            da, du, dh_prev, dc_prev = step(dh_t, dc[rows], y_d[t, rows], h_prev, c_prev, keep)

            dh[rows] = du @ w.w_hh + dh_prev
            if len(cell.states) == 2:
                dc[rows] = dc_prev
            dx[t, rows] += da @ w.w_ih
            dw.w_ih[...] += da.T @ x[t, rows]
            dw.w_hh[...] += du.T @ h_prev
            if dw.b_ih is not None:
                dw.b_ih[...] += da.sum(axis=0)
            if dw.b_hh is not None:
                dw.b_hh[...] += du.sum(axis=0)
        dstate0[0][d] = dh
        if len(cell.states) == 2:
            dstate0[1][d] = dc


def previous_state(cell, order, k, d, rows, y_d, state, lengths, saved):
    """h and c before the k-th visited step: the initial state where a row's sequence starts there."""
    h, c = state[0][d][rows], state[1][d][rows] if len(cell.states) == 2 else None
    if k == 0:
        return h, c
    t_prev = order[k - 1]
    h_prev = y_d[t_prev, rows]
    c_prev = saved[d, t_prev, rows, cell.saved.index("c")] if len(cell.states) == 2 else None
    if lengths is None:
        return h_prev, c_prev
    started = (lengths[rows] > t_prev)[:, None]
    return np.where(started, h_prev, h), None if c is None else np.where(started, c_prev, c)
