"""The reference: the equations in NumPy, written to be read. It defines what is right.

Each cell is one forward equation and, beside it, its derivative. Notation, per step and row:

    a = W_ih x + b_ih   the input's share of the pre-activations, (…, gates·H)
    u = W_hh h + b_hh   the state's share, (…, gates·H)
    dv                  the gradient of the loss by v

Sources: Elman, Finding structure in time (1990); Hochreiter & Schmidhuber, Long short-term memory (1997), with the
forget gate of Gers et al. (2000); Cho et al., Learning phrase representations (2014), in the variant of
torch.nn.GRU, which applies r after the product.
"""

import numpy as np

name = "numpy"


def sigmoid(v):
    """1 / (1 + exp(-v)), without overflow on either side."""
    e = np.exp(-np.abs(v))
    return np.where(v < 0, e, 1) / (1 + e)


def split(v, parts):
    """The gates of v (…, parts·H), each (…, H)."""
    return np.split(v, parts, axis=-1)


# --- the cells: forward(a, u, h, c) -> h, c, saved
#                backward(dh, dc, h, h_prev, c_prev, saved) -> da, du, dh_prev, dc_prev
# dh_prev holds only what reaches the previous h beside the recurrent product u.


def rnn_tanh_forward(a, u, h, c):
    return np.tanh(a + u), None, ()


def rnn_tanh_backward(dh, dc, h, h_prev, c_prev, saved):
    da = dh * (1 - h * h)
    return da, da, 0, None


def rnn_relu_forward(a, u, h, c):
    return np.maximum(a + u, 0), None, ()


def rnn_relu_backward(dh, dc, h, h_prev, c_prev, saved):
    da = np.where(h <= 0, 0, dh)  # a NaN lets the gradient pass, as in torch
    return da, da, 0, None


def lstm_forward(a, u, h, c):
    i, f, g, o = split(a + u, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * np.tanh(c)
    return h, c, (i, f, g, o, c)


def lstm_backward(dh, dc, h, h_prev, c_prev, saved):
    i, f, g, o, c = saved
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    di = dc * g * i * (1 - i)
    df = dc * c_prev * f * (1 - f)
    dg = dc * i * (1 - g**2)
    do = dh * tanh_c * o * (1 - o)
    da = np.concatenate([di, df, dg, do], axis=-1)
    return da, da, 0, dc * f


def gru_forward(a, u, h, c):
    (a_r, a_z, a_n), (u_r, u_z, u_n) = split(a, 3), split(u, 3)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    n = np.tanh(a_n + r * u_n)
    h = (1 - z) * n + z * h
    return h, None, (r, z, n, u_n)


def gru_backward(dh, dc, h, h_prev, c_prev, saved):
    r, z, n, u_n = saved
    da_n = dh * (1 - z) * (1 - n**2)
    da_r = da_n * u_n * r * (1 - r)
    da_z = dh * (h_prev - n) * z * (1 - z)
    da = np.concatenate([da_r, da_z, da_n], axis=-1)
    du = np.concatenate([da_r, da_z, da_n * r], axis=-1)
    return da, du, dh * z, None


EQUATIONS = {
    "rnn_tanh": (rnn_tanh_forward, rnn_tanh_backward),
    "rnn_relu": (rnn_relu_forward, rnn_relu_backward),
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
}


# --- a layer over time


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
