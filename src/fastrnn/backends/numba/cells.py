"""The cells: one forward equation each and, beside it, its derivative, for one hidden unit of one row at one step.

    forward(v, h, c) -> h, *saved
    backward(dh, dc, h, h_prev, c_prev, *saved) -> dh_prev, dc_prev, da, du

v holds the pre-activations of the gates, GRU's n as two: its input's share first, its state's share last. da and du are
the gradients by the input's and by the state's share; dh_prev leaves out what flows back through du. In backward h is
what it was only for a cell that saves nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

from .activations import d_sigmoid, d_tanh, sigmoid, tanh
from .compiling import inlined
from .intrinsics import fma


@inlined
def rnn_tanh_forward(v, h, c):
    return (tanh(v[0]),)


@inlined
def rnn_tanh_backward(dh, dc, h, h_prev, c_prev):
    da = (dh * d_tanh(h),)
    return type(h)(0), dc, da, da


@inlined
def rnn_relu_forward(v, h, c):
    return (max(v[0], type(h)(0)),)


@inlined
def rnn_relu_backward(dh, dc, h, h_prev, c_prev):
    zero = type(h)(0)
    da = (zero if h <= zero else dh,)  # a NaN lets the gradient pass, as in torch
    return zero, dc, da, da


@inlined
def lstm_forward(v, h, c):
    i, f, g, o = sigmoid(v[0]), sigmoid(v[1]), tanh(v[2]), sigmoid(v[3])
    c = fma(f, c, i * g)
    return o * tanh(c), i, f, g, o, c


@inlined
def lstm_backward(dh, dc, h, h_prev, c_prev, i, f, g, o, c):
    tanh_c = tanh(c)
    dc = fma(dh * o, d_tanh(tanh_c), dc)
    da = dc * g * d_sigmoid(i), dc * c_prev * d_sigmoid(f), dc * i * d_tanh(g), dh * tanh_c * d_sigmoid(o)
    return type(h)(0), dc * f, da, da


@inlined
def gru_forward(v, h, c):
    a_n, v_r, v_z, u_n = v
    r, z = sigmoid(v_r), sigmoid(v_z)
    n = tanh(fma(r, u_n, a_n))
    return fma(z, h, fma(-z, n, n)), r, z, n, u_n


@inlined
def gru_backward(dh, dc, h, h_prev, c_prev, r, z, n, u_n):
    da_n = dh * (type(z)(1) - z) * d_tanh(n)
    da_r = da_n * u_n * d_sigmoid(r)
    da_z = dh * (h_prev - n) * d_sigmoid(z)
    return dh * z, dc, (da_r, da_z, da_n), (da_r, da_z, da_n * r)


class Layout(NamedTuple):
    """A cell's equations and where forward's tile keeps their values: in slots of `units` columns, one per value.

    Slot 0 ends as h and the slots after it as what the tape keeps; the pre-activations come in at `first`.
    """

    forward: Callable
    backward: Callable
    units: int  # hidden units of one panel of packed weights
    first: int  # slot of the first pre-activation; the input's share begins there
    count: int  # pre-activations
    hidden: int  # slot where the state's share begins


LAYOUTS = {
    "rnn_tanh": Layout(rnn_tanh_forward, rnn_tanh_backward, units=64, first=0, count=1, hidden=0),
    "rnn_relu": Layout(rnn_relu_forward, rnn_relu_backward, units=64, first=0, count=1, hidden=0),
    "lstm": Layout(lstm_forward, lstm_backward, units=16, first=1, count=4, hidden=1),
    "gru": Layout(gru_forward, gru_backward, units=16, first=0, count=4, hidden=1),  # a_n, r, z, u_n
}
