"""Random layers and their inputs, for the tests that compare numbers."""

import math
from typing import NamedTuple

import numpy as np

import fastrnn
from fastrnn import layers
from fastrnn.spec import CELLS


class Case(NamedTuple):
    """A layer, what goes into it and the gradients that come back to it; state and dstate are tuples of their parts."""

    layer: object
    x: np.ndarray
    state: tuple
    lengths: object
    dy: np.ndarray
    dstate: tuple
    between: dict = {}  # resets, state_scale, mask


KINDS = tuple(name for name, cell in CELLS.items() if not cell.normal)  # those are in equations/test_layer_norm.py
CELL_KINDS = ("rnn_tanh", "rnn_relu", "lstm", "gru")  # that torch has, too, and that have a class of one step
VARIANTS = {  # the cells that a class has beside its own
    "rnn_relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "lstm_coupled": (fastrnn.LSTM, {"coupled": True}),
    "gru_reset_first": (fastrnn.GRU, {"reset": "before"}),
    "lstm_norm": (fastrnn.LSTM, {"layer_norm": True}),
    "gru_norm": (fastrnn.GRU, {"layer_norm": True}),
    "leaky_tanh": (fastrnn.LeakyRNN, {"alpha": 0.3, "train_alpha": True}),
    "leaky_relu": (fastrnn.LeakyRNN, {"alpha": 0.3, "train_alpha": True, "nonlinearity": "relu"}),
}
CLASSES = {value._cell.name: value for value in vars(layers).values() if hasattr(value, "_cell")}


def make_layer(kind, *args, **options):
    """A layer of this cell."""
    make = CLASSES.get(kind)
    if kind in VARIANTS:
        make, own = VARIANTS[kind]
        options = own | options
    return make(*args, **options)


BETWEEN = (("resets",), ("state_scale",), ("mask",), ("resets", "state_scale", "mask"))


def draw_between(names, rng, T, B, H, dtype):
    """Arguments of a call that change states between steps, (T, B): a quarter of the resets True, 70 % of the mask."""
    drawn = {
        "resets": rng.random((T, B)) < 0.25,
        "state_scale": rng.uniform(-1, 1, (T, B, H)).astype(dtype),
        "mask": rng.random((T, B)) < 0.7,
    }
    return {name: drawn[name] for name in names}


def make_case(kind, T, B, I, H, *, seed=0, with_lengths=False, between=(), **options):
    """Steps past a row's length hold NaN in x and dy: they must not be read. One of several rows has no step."""
    rng = np.random.default_rng(seed)
    layer = make_layer(kind, I, H, rng=rng, **options)
    rows, widths = layer.num_layers * (1 + layer.bidirectional), (layer.proj_size or H, H)[: len(CELLS[kind].states)]
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, layer.output_size))
    lengths = rng.integers(0, T + 1, B) if with_lengths else None
    if with_lengths:
        if B > 2:
            lengths[rng.integers(B)] = 0
        past = np.arange(T)[:, None] >= lengths
        x[past], dy[past] = np.nan, np.nan
    changes = draw_between(between, rng, T, B, H, layer.dtype)
    if "mask" in changes:
        x[~changes["mask"]], dy[~changes["mask"]] = np.nan, np.nan
    if layer.batch_first:
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
        changes = {name: array.swapaxes(0, 1) for name, array in changes.items()}
    state, dstate = ([rng.standard_normal((rows, B, n)).astype(layer.dtype) for n in widths] for _ in range(2))
    return Case(layer, x.astype(layer.dtype), tuple(state), lengths, dy.astype(layer.dtype), tuple(dstate), changes)


def bare(parts):
    """A state as the layers take it: a bare array, or a pair."""
    return parts if len(parts) == 2 else parts[0]


def parts_of(state):
    return state if isinstance(state, tuple) else (state,)


def run(case):
    """Outputs, final state and every gradient, by name."""
    y, state, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths, **case.between)
    grads = case.layer.backward(tape, case.dy, bare(case.dstate))
    by_scale = {} if grads.state_scale is None else {"grads.state_scale": grads.state_scale}
    return {
        "y": y,
        **{f"state[{i}]": part for i, part in enumerate(parts_of(state))},
        "grads.x": grads.x,
        **{f"grads.state[{i}]": part for i, part in enumerate(parts_of(grads.state))},
        **by_scale,
        **grads.params,
    }


def tolerance(name, case):
    """DESIGN.md's bound, in eps of the array's largest magnitude; a layer of a stack adds its own."""
    T = case.x.shape[1 if case.layer.batch_first else 0]
    forward = 0
    for k in range(case.layer.num_layers):
        I = case.layer.input_size if k == 0 else (1 + case.layer.bidirectional) * case.layer.hidden_size
        forward += 4 * math.ceil(math.log2((I + case.layer.hidden_size) * T))
    if case.layer._spec.cell.normal:  # a small deviation divides the products' errors
        forward *= 4
    return forward if name == "y" or name.startswith("state") else 2 * forward


def is_relu(layer):
    return getattr(layer, "nonlinearity", "") == "relu"


def magnitude(array):
    return np.abs(array).max(initial=0)


def assert_close(actual, expected, eps_allowed, name, scale=None):
    """Within so many eps of the largest magnitude that is expected, or of `scale`."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, name
    scale = magnitude(expected) if scale is None else scale
    error = magnitude(actual - expected)
    eps = np.finfo(expected.dtype).eps
    assert error <= eps_allowed * eps * scale, f"{name}: {error / (eps * (scale or 1)):.1f} eps, allowed {eps_allowed}"


def assert_results_close(actual, expected, case, factor=1):
    """All that `run` returns, within `factor` times the tolerance.

    Where an array has few elements, or a layer few units, the terms of every sum may happen to cancel, or every unit
    to be saturated: then the largest magnitude says nothing of the terms, which are of order 1. The gradient of a
    parameter is a sum over T·B of them, as large as the root of so many where they do not cancel.

    The derivative of relu jumps at 0: where two values that agree within the tolerance lie on either side of it, the
    gradients are different functions and are not compared. Only one layer of relu shows all its values.
    """
    assert actual.keys() == expected.keys()
    assert case.layer.num_layers == 1 or not is_relu(case.layer)
    for name, array in expected.items():
        if name == "grads.x" and np.any((actual["y"] > 0) != (expected["y"] > 0)) and is_relu(case.layer):
            return
        few = array.size < 32 or case.layer.hidden_size < 8
        usual = math.sqrt(math.prod(case.x.shape[:-1])) if name in case.layer.params else 1
        scale = max(magnitude(array), usual if few else 0)
        assert_close(actual[name], array, factor * tolerance(name, case), name, scale)


def assert_near(found, expected, atol):
    """Results by name, within `atol` of their largest magnitude, or of 1."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_allclose(found[name], array, rtol=0, atol=atol * max(1, magnitude(array)), err_msg=name)


def assert_near_float64(case, atol):
    """What `run` gives of a float32 case against the same layer in float64."""
    wide = type(case.layer)(**(case.layer.config | {"dtype": "float64"}))
    wide.load_state_dict(case.layer.state_dict())
    found = run(case)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    wider = [tuple(part.astype(np.float64) for part in parts) for parts in (case.state, case.dstate)]
    x, dy = case.x.astype(np.float64), case.dy.astype(np.float64)
    assert_near(found, run(case._replace(layer=wide, x=x, dy=dy, state=wider[0], dstate=wider[1])), atol)


def assert_same_bits_on_threads(case, threads, counts=(2, 3)):
    """What `run` gives on several threads, as on one."""
    threads(1)
    expected = run(case)
    for n in counts:
        threads(n)
        for name, array in run(case).items():
            assert_same_bits(array, expected[name], f"{name} on {n} threads")


def assert_same_bits_in_batches(case):
    """What `run` gives of some rows alone, in any order, as of all; lengths and a time-major layout."""
    expected, last = run(case), case.x.shape[1] - 1
    for rows in ([7], [3, 1, 2], list(range(last, -1, -1))):
        part = case._replace(x=case.x[:, rows], dy=case.dy[:, rows], lengths=case.lengths[rows])
        part = part._replace(**{n: tuple(s[:, rows] for s in getattr(case, n)) for n in ("state", "dstate")})
        for name, array in run(part).items():
            if name not in case.layer.params:  # these sum over rows
                assert_same_bits(array, expected[name][:, rows], f"{name} of rows {rows}")


def assert_same_bits(actual, expected, name):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    assert actual.tobytes() == expected.tobytes(), f"{name}: {np.sum(actual != expected)} elements differ"
