"""Parameters of layers: names, initialisation, state dicts, copies, repr."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from kinds import B, H, I, T, assert_close, make, make_cell, normal

import fastrnn


def test_names_shapes_and_initialisation(kind):
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    layer = make(kind, I, H, 2, bidirectional=True)
    expected = {}
    for k, suffix in itertools.product((0, 1), ("", "_reverse")):
        shapes = {"weight_ih": (gates * H, 2 * H if k else I), "weight_hh": (gates * H, H)}
        shapes |= {"bias_ih": (gates * H,), "bias_hh": (gates * H,)}
        expected |= {f"{name}_l{k}{suffix}": shape for name, shape in shapes.items()}
    assert [(name, array.shape) for name, array in layer.params.items()] == list(expected.items())
    values = np.concatenate([array.ravel() for array in layer.params.values()])
    assert np.abs(values).max() <= H**-0.5
    assert np.abs(values).max() > 0.99 * H**-0.5
    assert abs(values.mean()) < 4 * H**-0.5 / np.sqrt(3 * values.size)
    assert list(make(kind, bias=False).params) == ["weight_ih_l0", "weight_hh_l0"]
    assert list(make_cell(kind).params) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def test_rng(kind):
    first = make(kind, rng=7).state_dict()
    for rng in (7, np.random.SeedSequence(7), np.random.default_rng(7)):
        for name, array in make(kind, rng=rng).params.items():
            np.testing.assert_array_equal(array, first[name])
    for name, array in make(kind, rng=7, dtype=np.float32).params.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, first[name].astype(np.float32))
    shared = np.random.default_rng(7)
    make(kind, rng=shared)
    assert (make(kind, rng=shared).params["weight_hh_l0"] != first["weight_hh_l0"]).any()
    assert (make(kind, rng=None).params["weight_hh_l0"] != make(kind, rng=None).params["weight_hh_l0"]).any()


def test_params_are_changed_in_place(backend, kind):
    layer, x = make(kind), normal(T, B, I)
    before = layer(x)[0]
    for array in layer.params.values():
        assert array.flags.c_contiguous and array.flags.writeable
        array *= 0.5
    assert (layer(x)[0] != before).any()


def test_state_dict_copies(kind):
    layer, other = make(kind, rng=1), make(kind, rng=2)
    saved = layer.state_dict()
    arrays = dict(other.params)
    other.load_state_dict({name: array.tolist() for name, array in reversed(saved.items())})
    for name, array in other.params.items():
        assert array is arrays[name]
        np.testing.assert_array_equal(array, layer.params[name])
        saved[name][...] = 0
        assert layer.params[name].any()
    low = {name: array.astype(">f4") for name, array in layer.params.items()}
    other.load_state_dict(low)
    np.testing.assert_array_equal(other.params["bias_ih_l0"], low["bias_ih_l0"].astype("f8"))


def test_load_state_dict_from_its_own_arrays():
    layer = make("gru")
    before = layer.state_dict()
    exchanged = {"bias_ih_l0": "bias_hh_l0", "bias_hh_l0": "bias_ih_l0"}
    layer.load_state_dict({name: layer.params[exchanged.get(name, name)] for name in before})
    for name in before:
        np.testing.assert_array_equal(layer.params[name], before[exchanged.get(name, name)])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_are_independent(backend, kind, duplicate):
    x = normal(T, B, I)
    layer = make(kind, I, H, 2, dropout=0.5)
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    y, _, tape = layer.forward(x)
    y_other, _, tape_other = other.forward(x)  # the generator of dropout was copied too
    np.testing.assert_array_equal(y, y_other)
    assert_close(other.backward(tape_other, y).params["weight_hh_l0"], layer.backward(tape, y).params["weight_hh_l0"])
    with pytest.raises(ValueError, match="tape"):
        other.backward(tape, y)
    other.params["weight_hh_l0"][...] = 0
    assert layer.params["weight_hh_l0"].any()
    assert (other(x)[0] != layer(x)[0]).any()
    np.testing.assert_array_equal(other.freeze()(x)[0], other(x)[0])
    cell = make_cell(kind)
    assert_close(duplicate(cell)(x[0]), cell(x[0]))


def test_attributes_and_repr():
    layer = fastrnn.LSTM(3, 4, 2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, dtype="float64")
    described = layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first, layer.dropout
    assert described == (3, 4, 2, False, True, 0.25)
    assert layer.bidirectional is True and layer.dtype == np.float64
    options = "num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, dtype='float64'"
    assert repr(layer) == f"LSTM(3, 4, {options})"
    assert repr(fastrnn.GRU(3, 4)) == "GRU(3, 4)"
    assert repr(fastrnn.RNN(3, 4, nonlinearity="relu")) == "RNN(3, 4, nonlinearity='relu')"
    assert repr(fastrnn.RNNCell(3, 4)) == "RNNCell(3, 4)"
    assert fastrnn.RNNCell(3, 4, nonlinearity="relu").nonlinearity == "relu"
    with pytest.raises(AttributeError):
        layer.hidden_size = 5
