"""The scans of backends/scan.py in NumPy, a step at a time."""

import numpy as np

from .functions import sigmoid
from .loops import visit

# forward(a, b, u, p) -> h, and the gates to keep;  backward(g, a, u, p, h) -> the gradients by the gates, and by p
# p is h of the step before, g the gradient by h; of complex numbers gradients are conjugates, as in torch.


def linear_forward(a, b, u, p):
    return a[0] * p + b, ()


def linear_backward(g, a, u, p, h):
    return (p.conj() * g,), a[0].conj() * g


def mingru_forward(a, b, u, p):
    z = sigmoid(a[0])
    return (1 - z) * p + z * a[1], (z,)


def mingru_backward(g, a, u, p, h):
    z, candidate = a
    return (g * (candidate - p) * z * (1 - z), g * z), g * (1 - z)


def minlstm_forward(a, b, u, p):
    f, i = sigmoid(a[0]), sigmoid(a[1])
    return f / (f + i) * p + i / (f + i) * a[2], (f, i)


def minlstm_backward(g, a, u, p, h):
    f, i, candidate = a
    keep, take = f / (f + i), i / (f + i)
    d = g * (p - candidate) * keep * take
    return (d * (1 - f), -d * (1 - i), g * take), g * keep


def indrnn_tanh_forward(a, b, u, p):
    return np.tanh(a[0] + u * p), ()


def indrnn_tanh_backward(g, a, u, p, h):
    d = g * (1 - h * h)
    return (d,), u * d


def indrnn_relu_forward(a, b, u, p):
    return np.maximum(a[0] + u * p, 0), ()


def indrnn_relu_backward(g, a, u, p, h):
    d = np.where(h <= 0, 0, g)  # a NaN lets the gradient pass, as in torch
    return (d,), u * d


SCANS = {
    "linear": (linear_forward, linear_backward),
    "mingru": (mingru_forward, mingru_backward),
    "minlstm": (minlstm_forward, minlstm_backward),
    "indrnn_tanh": (indrnn_tanh_forward, indrnn_tanh_backward),
    "indrnn_relu": (indrnn_relu_forward, indrnn_relu_backward),
}


def gates_of(a, D):
    """Views of the gates of a (…, G·D)."""
    return [a[..., k : k + D] for k in range(0, a.shape[-1], D)]


def valid(lengths, t):
    """(B, 1): which rows have a step t; all of them, for the whole array at once, where lengths are None."""
    return True if lengths is None else (lengths > t)[:, None]


@np.errstate(all="ignore")
def scan_forward(kind, a, b, u, h0, h, last, lengths, reverse, threads):
    step, D = SCANS[kind][0], h.shape[2]
    now = np.zeros(h.shape[1:], h.dtype) if h0 is None else h0
    for t in visit(len(h), reverse):
        gates, there = gates_of(a[t], D), valid(lengths, t)
        after, kept = step(gates, None if b is None else b[t], u, now)
        for gate, value in zip(gates, kept):
            np.copyto(gate, value, where=there)
        now = np.where(there, after, now)
        h[t] = np.where(there, now, 0)
    if last is not None:
        last[...] = now


@np.errstate(all="ignore")
def scan_backward(kind, a, u, h, h0, lengths, reverse, dy, dlast, da, db, total, dh0, threads):
    step, D = SCANS[kind][1], h.shape[2]
    order = visit(len(h), reverse)
    start = np.zeros(h.shape[1:], h.dtype) if h0 is None else h0
    g = np.zeros_like(start) if dlast is None else dlast
    if total is not None:
        total[...] = 0
    for k in reversed(range(len(h))):
        t, there = order[k], valid(lengths, order[k])
        p = np.where(valid(lengths, order[k - 1]), h[order[k - 1]], start) if k else start
        by_h = g if dy is None else g + dy[t]
        by_gates, carry = step(by_h, gates_of(a[t], D), u, p, h[t])
        if da is not None:
            for target, value in zip(gates_of(da[t], D), by_gates):
                target[...] = np.where(there, value, 0)
        if db is not None:
            db[t] = np.where(there, by_h, 0)
        if total is not None:
            total += np.where(there, by_gates[0] if kind == "linear" else by_gates[0] * p, 0)
        g = np.where(there, carry, g)
    dh0[...] = g


def pack_linear(w, bias, transposed, threads):
    return w if transposed else w.T, bias


@np.errstate(all="ignore")
def linear(packed, x, y, threads):
    w, bias = packed
    np.matmul(x, w, out=y)
    if bias is not None:
        y += bias
