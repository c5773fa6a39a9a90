"""Layers and cells by kind, as the tests of the Python surface make and call them."""

import numpy as np

import fastrnn

KINDS = {
    "rnn_tanh": (fastrnn.RNN, fastrnn.RNNCell, {}),
    "rnn_relu": (fastrnn.RNN, fastrnn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, fastrnn.LSTMCell, {}),
    "gru": (fastrnn.GRU, fastrnn.GRUCell, {}),
}
T, B, I, H = 5, 3, 4, 6


def make(kind, *args, **options):
    layer, _, own = KINDS[kind]
    return layer(*(args or (I, H)), **{"dtype": "float64", "rng": 1, **own, **options})


def make_cell(kind, **options):
    _, cell, own = KINDS[kind]
    return cell(I, H, **{"dtype": "float64", "rng": 1, **own, **options})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pair(kind, make_part):
    """A state for the cell: an array, or for LSTM a pair."""
    return (make_part(10), make_part(11)) if kind == "lstm" else make_part(10)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def assert_close(actual, expected):
    """Equal but for the order of sums in float64."""
    for a, e in zip(parts(actual), parts(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13)


def run(layer, x, state, dy, dstate, lengths=None):
    y, after, tape = layer.forward(x, state, lengths=lengths)
    return y, after, layer.backward(tape, dy, dstate)


def misaligned(array):
    """A copy that no element of begins where its type would have it."""
    room = np.empty(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view
