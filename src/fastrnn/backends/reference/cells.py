"""The cells: one forward equation each and, beside it, its derivative.

    forward(a, u, h, c) -> h, c, saved
    backward(dh, dc, h, h_prev, c_prev, saved) -> da, du, dh_prev, dc_prev

Notation, per step and row:

    a = W_ih x + b_ih   the input's share of the pre-activations, (…, gates·H)
    u = W_hh h + b_hh   the state's share, (…, gates·H)
    dv                  the gradient of the loss by v

dh_prev holds only what reaches the previous h beside the recurrent product u.

Sources: Elman, Finding structure in time (1990); Hochreiter & Schmidhuber, Long short-term memory (1997), with the
forget gate of Gers et al. (2000); Cho et al., Learning phrase representations (2014), in the variant of
torch.nn.GRU, which applies r after the product.
"""

import numpy as np


def sigmoid(v):
    """1 / (1 + exp(-v)), without overflow on either side."""
    e = np.exp(-np.abs(v))
    return np.where(v < 0, e, 1) / (1 + e)


def split(v, parts):
    """The gates of v (…, parts·H), each (…, H)."""
    return np.split(v, parts, axis=-1)


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
