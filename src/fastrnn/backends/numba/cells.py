"""The cells: one forward equation each and, beside it, its derivative, for one hidden unit of one row at one step.

    forward(v, h, c) -> h, *saved
    backward(dh, dc, h, h_prev, c_prev, *saved) -> dh_prev, dc_prev, da, du

and of cells with vectors p, or with options o (functions.py), which is a plain cell's empty vector,

    forward(v, h, c, p, o) -> h, *saved
    backward(dh, dc, h, h_prev, c_prev, p, o, *saved) -> dh_prev, dc_prev, da, du, dp

Of a cell of two phases there is, beside these,

    leave(v, h, o) -> left, *v                           what the first phase leaves, and v as forward takes it then
    leave_backward(d_left, h_prev, o, *saved) -> left, dh_prev, da_r    what d_left, the gradient by it, adds

v holds the pre-activations of the gates, GRU's n as two: its input's share first, its state's share last. da and du are
the gradients by the input's and by the state's share; dh_prev leaves out what flows back through du. In backward h is
what it was only for a cell that saves nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

from .activations import d_sigmoid, d_tanh, sigmoid, tanh
from .compiling import inlined
from .functions import CANDIDATE, GATES, OUTPUT, apply, derivative, look, zones
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


@inlined
def gru_reset_first_leave(v, h, o):
    r = sigmoid(v[1])
    return r * h, v[0], r, v[2]


@inlined
def gru_reset_first_forward(v, h, c):
    a_n, r, v_z = v
    z, n = sigmoid(v_z), tanh(a_n)
    return fma(z, h, fma(-z, n, n)), r, z, n


@inlined
def gru_reset_first_backward(dh, dc, h, h_prev, c_prev, r, z, n):
    da_n = dh * (type(z)(1) - z) * d_tanh(n)
    da = type(z)(0), dh * (h_prev - n) * d_sigmoid(z), da_n
    return dh * z, dc, da, da


@inlined
def gru_reset_first_leave_backward(d_left, h_prev, o, r, z, n):
    return r * h_prev, d_left * r, d_left * h_prev * d_sigmoid(r)


@inlined
def leaky_tanh_forward(v, h, c, p, o):
    f = tanh(v[0])
    return fma(p[0], f - h, h), f


@inlined
def leaky_tanh_backward(dh, dc, h, h_prev, c_prev, p, o, f):
    df = dh * p[0]
    da = (df * d_tanh(f),)
    return dh - df, dc, da, da, (dh * (f - h_prev),)


@inlined
def leaky_relu_forward(v, h, c, p, o):
    f = max(v[0], type(h)(0))
    return fma(p[0], f - h, h), f


@inlined
def leaky_relu_backward(dh, dc, h, h_prev, c_prev, p, o, f):
    df, zero = dh * p[0], type(dh)(0)
    da = (zero if f <= zero else df,)
    return dh - df, dc, da, da, (dh * (f - h_prev),)


@inlined
def lstm_coupled_forward(v, h, c):
    i, g, o = sigmoid(v[0]), tanh(v[1]), sigmoid(v[2])
    c = fma(i, g - c, c)
    return o * tanh(c), i, g, o, c


@inlined
def lstm_coupled_backward(dh, dc, h, h_prev, c_prev, i, g, o, c):
    tanh_c = tanh(c)
    dc = fma(dh * o, d_tanh(tanh_c), dc)
    da = dc * (g - c_prev) * d_sigmoid(i), dc * i * d_tanh(g), dh * tanh_c * d_sigmoid(o)
    return type(h)(0), dc * (type(i)(1) - i), da, da


# --- with options


@inlined
def rnn_tanh_general_forward(v, h, c, p, o):
    return (apply(o, CANDIDATE, v[0]),)


@inlined
def rnn_tanh_general_backward(dh, dc, h, h_prev, c_prev, p, o):
    da = (dh * derivative(o, CANDIDATE, h),)
    return type(h)(0), dc, da, da, ()


@inlined
def lstm_general_forward(v, h, c, p, opt):
    i, f = apply(opt, GATES, look(v[0], p[0], c)), apply(opt, GATES, look(v[1], p[1], c))
    g = apply(opt, CANDIDATE, v[2])
    c = fma(f, c, i * g)
    o = apply(opt, GATES, look(v[3], p[2], c))
    return o * apply(opt, OUTPUT, c), i, f, g, o, c


@inlined
def lstm_general_backward(dh, dc, h, h_prev, c_prev, p, opt, i, f, g, o, c):
    if zones(opt):  # what is saved is what zoneout left of it
        c = fma(f, c_prev, i * g)
    out_c = apply(opt, OUTPUT, c)
    do = dh * out_c * derivative(opt, GATES, o)
    dc = look(fma(dh * o, derivative(opt, OUTPUT, out_c), dc), p[2], do)
    di, df = dc * g * derivative(opt, GATES, i), dc * c_prev * derivative(opt, GATES, f)
    da = di, df, dc * i * derivative(opt, CANDIDATE, g), do
    dc_prev = look(look(dc * f, p[0], di), p[1], df)
    return type(h)(0), dc_prev, da, da, (di * c_prev, df * c_prev, do * c)


@inlined
def lstm_coupled_general_forward(v, h, c, p, opt):
    i, g = apply(opt, GATES, look(v[0], p[0], c)), apply(opt, CANDIDATE, v[1])
    c = fma(i, g - c, c)
    o = apply(opt, GATES, look(v[2], p[1], c))
    return o * apply(opt, OUTPUT, c), i, g, o, c


@inlined
def lstm_coupled_general_backward(dh, dc, h, h_prev, c_prev, p, opt, i, g, o, c):
    if zones(opt):
        c = fma(i, g - c_prev, c_prev)
    out_c = apply(opt, OUTPUT, c)
    do = dh * out_c * derivative(opt, GATES, o)
    dc = look(fma(dh * o, derivative(opt, OUTPUT, out_c), dc), p[1], do)
    di = dc * (g - c_prev) * derivative(opt, GATES, i)
    da = di, dc * i * derivative(opt, CANDIDATE, g), do
    return type(h)(0), look(dc * (type(i)(1) - i), p[0], di), da, da, (di * c_prev, do * c)


@inlined
def gru_general_forward(v, h, c, p, o):
    a_n, v_r, v_z, u_n = v
    r, z = apply(o, GATES, v_r), apply(o, GATES, v_z)
    n = apply(o, CANDIDATE, fma(r, u_n, a_n))
    return fma(z, h, fma(-z, n, n)), r, z, n, u_n


@inlined
def gru_general_backward(dh, dc, h, h_prev, c_prev, p, o, r, z, n, u_n):
    da_n = dh * (type(z)(1) - z) * derivative(o, CANDIDATE, n)
    da_r = da_n * u_n * derivative(o, GATES, r)
    da_z = dh * (h_prev - n) * derivative(o, GATES, z)
    return dh * z, dc, (da_r, da_z, da_n), (da_r, da_z, da_n * r), ()


@inlined
def gru_reset_first_general_leave(v, h, o):
    r = apply(o, GATES, v[1])
    return r * h, v[0], r, v[2]


@inlined
def gru_reset_first_general_forward(v, h, c, p, o):
    a_n, r, v_z = v
    z, n = apply(o, GATES, v_z), apply(o, CANDIDATE, a_n)
    return fma(z, h, fma(-z, n, n)), r, z, n


@inlined
def gru_reset_first_general_backward(dh, dc, h, h_prev, c_prev, p, o, r, z, n):
    da_n = dh * (type(z)(1) - z) * derivative(o, CANDIDATE, n)
    da = type(z)(0), dh * (h_prev - n) * derivative(o, GATES, z), da_n
    return dh * z, dc, da, da, ()


@inlined
def gru_reset_first_general_leave_backward(d_left, h_prev, o, r, z, n):
    return r * h_prev, d_left * r, d_left * h_prev * derivative(o, GATES, r)


@inlined
def lstm_output(o, c):
    return o * tanh(c)


@inlined
def lstm_general_output(o, c, opt):
    return o * apply(opt, OUTPUT, c)


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
    leave: Callable | None = None  # of a cell of two phases
    leave_backward: Callable | None = None
    output: Callable | None = None  # of a cell that may project: the h of the equation, by its gate o and c


LAYOUTS = {
    "rnn_tanh": Layout(rnn_tanh_forward, rnn_tanh_backward, units=64, first=0, count=1, hidden=0),
    "rnn_relu": Layout(rnn_relu_forward, rnn_relu_backward, units=64, first=0, count=1, hidden=0),
    "lstm": Layout(lstm_forward, lstm_backward, units=16, first=1, count=4, hidden=1, output=lstm_output),
    "gru": Layout(gru_forward, gru_backward, units=16, first=0, count=4, hidden=1),  # a_n, r, z, u_n
    "lstm_coupled": Layout(
        lstm_coupled_forward, lstm_coupled_backward, units=16, first=1, count=3, hidden=1, output=lstm_output
    ),
    "leaky_tanh": Layout(leaky_tanh_forward, leaky_tanh_backward, units=32, first=0, count=1, hidden=0),
    "leaky_relu": Layout(leaky_relu_forward, leaky_relu_backward, units=32, first=0, count=1, hidden=0),
    "gru_reset_first": Layout(  # a_n, r, z
        gru_reset_first_forward, gru_reset_first_backward, units=16, first=1, count=3, hidden=2,
        leave=gru_reset_first_leave, leave_backward=gru_reset_first_leave_backward,
    ),
}  # fmt: skip
GENERAL = {  # the same with options
    "rnn_tanh": LAYOUTS["rnn_tanh"]._replace(forward=rnn_tanh_general_forward, backward=rnn_tanh_general_backward),
    "lstm": LAYOUTS["lstm"]._replace(
        forward=lstm_general_forward, backward=lstm_general_backward, output=lstm_general_output
    ),
    "gru": LAYOUTS["gru"]._replace(forward=gru_general_forward, backward=gru_general_backward),
    "lstm_coupled": LAYOUTS["lstm_coupled"]._replace(
        forward=lstm_coupled_general_forward, backward=lstm_coupled_general_backward, output=lstm_general_output
    ),
    "gru_reset_first": LAYOUTS["gru_reset_first"]._replace(
        forward=gru_reset_first_general_forward,
        backward=gru_reset_first_general_backward,
        leave=gru_reset_first_general_leave,
        leave_backward=gru_reset_first_general_leave_backward,
    ),
}
