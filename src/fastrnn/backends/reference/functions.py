"""The activations, and their derivatives by their results; what a layer has of them and of vectors.

Alpha and beta are those of ONNX's operators of these names.
"""

import numpy as np

from ...spec import PLAIN


def sigmoid(v):
    """1 / (1 + exp(-v)), without overflow on either side."""
    e = np.exp(-np.abs(v))
    return np.where(v < 0, e, 1) / (1 + e)


FUNCTIONS = {  # (v, alpha, beta) -> y, and (y, alpha, beta) -> dy / dv
    "sigmoid": (lambda v, a, b: sigmoid(v), lambda y, a, b: y * (1 - y)),
    "hard_sigmoid": (lambda v, a, b: np.clip(a * v + b, 0, 1), lambda y, a, b: np.where((y <= 0) | (y >= 1), 0, a)),
    "tanh": (lambda v, a, b: np.tanh(v), lambda y, a, b: 1 - y**2),
    "relu": (lambda v, a, b: np.maximum(v, 0), lambda y, a, b: np.where(y <= 0, 0, 1)),
    "leaky_relu": (lambda v, a, b: np.where(v <= 0, a * v, v), lambda y, a, b: np.where(y <= 0, a, 1)),
    "thresholded_relu": (lambda v, a, b: np.where(v <= a, 0, v), lambda y, a, b: np.where(y == 0, 0, 1)),
    "elu": (
        lambda v, a, b: np.where(v <= 0, a * np.expm1(np.minimum(v, 0)), v),
        lambda y, a, b: np.where(y <= 0, y + a, 1),
    ),
    "softsign": (lambda v, a, b: v / (1 + np.abs(v)), lambda y, a, b: (1 - np.abs(y)) ** 2),
    "softplus": (lambda v, a, b: np.maximum(v, 0) + np.log1p(np.exp(-np.abs(v))), lambda y, a, b: -np.expm1(-y)),
    "affine": (lambda v, a, b: a * v + b, lambda y, a, b: a),
    "scaled_tanh": (lambda v, a, b: a * np.tanh(b * v), lambda y, a, b: b * (a - y**2 / a)),
    "linear": (lambda v, a, b: v, lambda y, a, b: 1),
}


def split(v, parts):
    """The gates of v (…, parts·H), each (…, H)."""
    return np.split(v, parts, axis=-1)


def affine(v, w, b):
    return v @ w.T if b is None else v @ w.T + b


class Own:
    """What a layer's cell has of its own: activations by role, with their clip, vectors, zoneout, and W_hh's products.

    `w` are the weights of a direction, H the size of a gate.
    """

    def __init__(self, cell, w, H):
        functions, clip = (PLAIN, 0) if cell.options is None else (cell.options.functions, cell.options.clip)
        self.p = () if w.vectors is None or cell.normal else tuple(w.vectors.reshape(-1, H))
        self.zoneout = () if cell.options is None else cell.options.zoneout
        first, last = slice(cell.first_gates * H), slice(cell.first_gates * H, None)
        self.w_ih, self.b_ih = w.w_ih, w.b_ih
        self.w_hh, self.b_hh = w.w_hh[first], None if w.b_hh is None else w.b_hh[first]
        self.w_left, self.b_left = w.w_hh[last], None if w.b_hh is None else w.b_hh[last]
        if cell.normal:  # biases join what is normalised
            self.b_ih = self.b_hh = None
        self.drop = 1  # what W_hh multiplies is multiplied by it: a step's mask
        self.gate, self.d_gate = activation(functions[0], clip)
        self.candidate, self.d_candidate = activation(functions[1], clip)
        self.output, self.d_output = activation(functions[2], 0)

    def input_share(self, x):
        """The input's share of the pre-activations."""
        return affine(x, self.w_ih, self.b_ih)

    def state_share(self, h):
        """The state's share of the pre-activations in the first phase."""
        return affine(h * self.drop, self.w_hh, self.b_hh)

    def left_share(self, left):
        """What the first phase has left gives to those in the second."""
        return affine(left * self.drop, self.w_left, self.b_left)

    def d_left(self, da):
        """The gradient by what the first phase has left."""
        return da @ self.w_left * self.drop


def activation(function, clip):
    """The function of v, which is clipped before it unless `clip` is 0, and the derivative by the result."""
    name, alpha, beta = function
    value, derivative = FUNCTIONS[name]

    def apply(v):
        return value(v if clip == 0 else np.clip(v, -clip, clip), alpha, beta)

    def derive(y):
        found = derivative(y, alpha, beta)
        if clip == 0:
            return found
        ends = [value(np.asarray(end, y.dtype), y.dtype.type(alpha), y.dtype.type(beta)) for end in (clip, -clip)]
        return np.where((y == ends[0]) | (y == ends[1]), 0, found)

    return apply, derive
