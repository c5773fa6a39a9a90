"""The cells: one forward equation each and, beside it, its derivative.

    forward(a, u, h, c, own) -> h, c, saved
    backward(dh, dc, h, h_prev, c_prev, saved, own) -> da, du, dh_prev, dc_prev, dp

Notation, per step and row:

    a = W_ih x + b_ih   the input's share of the pre-activations, (…, gates·H)
    u = W_hh h + b_hh   the state's share, (…, gates·H); of a cell of two phases that of the first's gates
    dv                  the gradient of the loss by v
    own                 the layer's activations, own.gate and others, their derivatives by their results, own.d_gate,
                        and its vectors p, each (H,); own.left_share(v), the share of a second phase's gates, and
                        own.d_left, the gradient by v of what it gives

dh_prev holds only what reaches the previous h beside the recurrent product u; dp are the parts of the vectors'
gradients by step and row.

Sources: Elman, Finding structure in time (1990); Hochreiter & Schmidhuber, Long short-term memory (1997), with the
forget gate of Gers et al. (2000); Cho et al., Learning phrase representations (2014), in the variant of
torch.nn.GRU, which applies r after the product, and as it was published, before it; peepholes: Gers & Schmidhuber,
Recurrent nets that time and count (2000); coupled gates: Greff et al., LSTM: a search space odyssey (2017); leaks:
Jaeger et al., Optimization and applications of echo state networks with leaky-integrator neurons (2007).
"""

import numpy as np

from .functions import split


def looking(v, p, c):
    """v + p c, by a peephole p; v where there is none."""
    return v if p is None else v + p * c


def rnn_tanh_forward(a, u, h, c, own):
    return own.candidate(a + u), None, ()


def rnn_tanh_backward(dh, dc, h, h_prev, c_prev, saved, own):
    da = dh * own.d_candidate(h)
    return da, da, 0, None, ()


def rnn_relu_forward(a, u, h, c, own):
    return np.maximum(a + u, 0), None, ()


def rnn_relu_backward(dh, dc, h, h_prev, c_prev, saved, own):
    da = np.where(h <= 0, 0, dh)  # a NaN lets the gradient pass, as in torch
    return da, da, 0, None, ()


def lstm_forward(a, u, h, c, own):
    i, f, g, o = split(a + u, 4)
    p_i, p_f, p_o = own.p or (None, None, None)
    i, f, g = own.gate(looking(i, p_i, c)), own.gate(looking(f, p_f, c)), own.candidate(g)
    c = f * c + i * g
    o = own.gate(looking(o, p_o, c))
    h = o * own.output(c)
    return h, c, (i, f, g, o, c)


def lstm_backward(dh, dc, h, h_prev, c_prev, saved, own):
    i, f, g, o, c = saved
    p_i, p_f, p_o = own.p or (None, None, None)
    if own.zoneout:  # c is what zoneout left of it
        c = f * c_prev + i * g
    out_c = own.output(c)
    do = dh * out_c * own.d_gate(o)
    dc = looking(dc + dh * o * own.d_output(out_c), p_o, do)
    di = dc * g * own.d_gate(i)
    df = dc * c_prev * own.d_gate(f)
    dg = dc * i * own.d_candidate(g)
    da = np.concatenate([di, df, dg, do], axis=-1)
    return da, da, 0, looking(looking(dc * f, p_i, di), p_f, df), (di * c_prev, df * c_prev, do * c)


def lstm_coupled_forward(a, u, h, c, own):
    i, g, o = split(a + u, 3)
    p_i, p_o = own.p or (None, None)
    i, g = own.gate(looking(i, p_i, c)), own.candidate(g)
    c = c + i * (g - c)
    o = own.gate(looking(o, p_o, c))
    h = o * own.output(c)
    return h, c, (i, g, o, c)


def lstm_coupled_backward(dh, dc, h, h_prev, c_prev, saved, own):
    i, g, o, c = saved
    p_i, p_o = own.p or (None, None)
    if own.zoneout:
        c = c_prev + i * (g - c_prev)
    out_c = own.output(c)
    do = dh * out_c * own.d_gate(o)
    dc = looking(dc + dh * o * own.d_output(out_c), p_o, do)
    di = dc * (g - c_prev) * own.d_gate(i)
    dg = dc * i * own.d_candidate(g)
    da = np.concatenate([di, dg, do], axis=-1)
    return da, da, 0, looking(dc * (1 - i), p_i, di), (di * c_prev, do * c)


def gru_forward(a, u, h, c, own):
    (a_r, a_z, a_n), (u_r, u_z, u_n) = split(a, 3), split(u, 3)
    r, z = own.gate(a_r + u_r), own.gate(a_z + u_z)
    n = own.candidate(a_n + r * u_n)
    h = (1 - z) * n + z * h
    return h, None, (r, z, n, u_n)


def gru_backward(dh, dc, h, h_prev, c_prev, saved, own):
    r, z, n, u_n = saved
    da_n = dh * (1 - z) * own.d_candidate(n)
    da_r = da_n * u_n * own.d_gate(r)
    da_z = dh * (h_prev - n) * own.d_gate(z)
    da = np.concatenate([da_r, da_z, da_n], axis=-1)
    du = np.concatenate([da_r, da_z, da_n * r], axis=-1)
    return da, du, dh * z, None, ()


def gru_reset_first_forward(a, u, h, c, own):
    (a_r, a_z, a_n), (u_r, u_z) = split(a, 3), split(u, 2)
    r, z = own.gate(a_r + u_r), own.gate(a_z + u_z)
    n = own.candidate(a_n + own.left_share(r * h))
    h = (1 - z) * n + z * h
    return h, None, (r, z, n)


def gru_reset_first_left(h_prev, saved):
    return saved[0] * h_prev


def gru_reset_first_backward(dh, dc, h, h_prev, c_prev, saved, own):
    r, z, n = saved
    da_n = dh * (1 - z) * own.d_candidate(n)
    d_left = own.d_left(da_n)
    da_r = d_left * h_prev * own.d_gate(r)
    da_z = dh * (h_prev - n) * own.d_gate(z)
    da = np.concatenate([da_r, da_z, da_n], axis=-1)
    return da, da, dh * z + d_left * r, None, ()


def leaky_tanh_forward(a, u, h, c, own):
    (alpha,), f = own.p, np.tanh(a + u)
    return h + alpha * (f - h), None, (f,)


def leaky_tanh_backward(dh, dc, h, h_prev, c_prev, saved, own):
    (alpha,), (f,) = own.p, saved
    df = dh * alpha
    da = df * (1 - f**2)
    return da, da, dh - df, None, (dh * (f - h_prev),)


def leaky_relu_forward(a, u, h, c, own):
    (alpha,), f = own.p, np.maximum(a + u, 0)
    return h + alpha * (f - h), None, (f,)


def leaky_relu_backward(dh, dc, h, h_prev, c_prev, saved, own):
    (alpha,), (f,) = own.p, saved
    df = dh * alpha
    da = np.where(f <= 0, 0, df)
    return da, da, dh - df, None, (dh * (f - h_prev),)


EQUATIONS = {
    "rnn_tanh": (rnn_tanh_forward, rnn_tanh_backward),
    "rnn_relu": (rnn_relu_forward, rnn_relu_backward),
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
    "lstm_coupled": (lstm_coupled_forward, lstm_coupled_backward),
    "leaky_tanh": (leaky_tanh_forward, leaky_tanh_backward),
    "leaky_relu": (leaky_relu_forward, leaky_relu_backward),
    "gru_reset_first": (gru_reset_first_forward, gru_reset_first_backward),
}
LEFT = {"gru_reset_first": gru_reset_first_left}  # what the first of two phases leaves, by what backward has
