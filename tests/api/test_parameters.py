"""The mapping of parameters, which are changed in place, and what is said of torch's habits with attributes."""

import copy
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
from cases import assert_same_bits

import fastrnn

KINDS = [fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU, fastrnn.RNNCell, fastrnn.LSTMCell, fastrnn.GRUCell]
WHERE = "the parameters are in params, to be changed in place, or all at once with load_state_dict"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def made(kind, **options):
    return kind(3, 4, rng=0, **options)


def x_for(layer):
    return np.ones((2, 3) if "Cell" in type(layer).__name__ else (5, 2, 3), np.float32)


def first_output(layer):
    found = layer(x_for(layer))
    return found[0] if isinstance(found, tuple) else found


# --- attributes


def test_parameters_are_no_attributes(kind):
    layer = made(kind)
    before = first_output(layer)
    names = [*layer.params, "weight_hr_l0", "bias_ih_l1_reverse"]
    for name in names:
        with pytest.raises(AttributeError, match=f"cannot set '{name}' of '{kind.__name__}' object: {WHERE}"):
            setattr(layer, name, np.zeros((12, 3)))
        with pytest.raises(AttributeError, match=f"cannot delete '{name}' of '{kind.__name__}' object: {WHERE}"):
            delattr(layer, name)
        with pytest.raises(AttributeError, match=f"'{kind.__name__}' object has no attribute '{name}': {WHERE}"):
            getattr(layer, name)
        assert not hasattr(layer, name)
    assert_same_bits(first_output(layer), before, "y")


def test_biases_that_a_layer_lacks_are_no_attributes_either(kind):
    layer = made(kind, bias=False)
    with pytest.raises(AttributeError, match=WHERE):
        layer.bias_ih_l0 = np.zeros(12)


def test_other_attributes_are_the_callers(kind):
    layer = made(kind)
    layer.name, layer.weight_decay, layer.weight_ih_l0_grad = "encoder", 0.1, None
    assert (layer.name, layer.weight_decay, layer.weight_ih_l0_grad) == ("encoder", 0.1, None)
    del layer.name
    with pytest.raises(AttributeError, match=f"^'{kind.__name__}' object has no attribute 'name'$"):
        _ = layer.name
    with pytest.raises(AttributeError, match="name"):
        del layer.name
    with pytest.raises(AttributeError):
        layer.hidden_size = 5


def test_a_subclass_may_make_properties_of_parameters():
    class Attributes(fastrnn.GRU):
        @property
        def weight_ih_l0(self):
            return self.params["weight_ih_l0"]

        @weight_ih_l0.setter
        def weight_ih_l0(self, value):
            self.params["weight_ih_l0"] = value

    layer = Attributes(3, 4, rng=0)
    layer.weight_ih_l0 = np.full((12, 3), 0.5)
    assert (layer.weight_ih_l0 == 0.5).all() and (layer.state_dict()["weight_ih_l0"] == 0.5).all()


# --- the mapping


def test_an_item_assigned_is_copied_into_the_parameter(backend, kind):
    layer, other = made(kind), kind(3, 4, rng=1)
    for name, array in other.params.items():
        held, given = layer.params[name], array.astype(">f8")
        layer.params[name] = given
        given[...] = 7
        assert layer.params[name] is held
        assert_same_bits(held, array, name)
    assert_same_bits(first_output(layer), first_output(other), "y")
    assert_same_bits(first_output(layer.freeze()), first_output(other), "y")


def test_an_item_changed_in_place(backend, kind):
    layer = made(kind)
    expected = {name: array - np.float32(0.5) for name, array in layer.state_dict().items()}
    for name in layer.params:
        layer.params[name] -= np.float32(0.5)
    for name, array in layer.state_dict().items():
        assert_same_bits(array, expected[name], name)
    layer.params["weight_hh" if "weight_hh" in layer.params else "weight_hh_l0"] *= 0
    other = kind(3, 4, rng=1)
    other.load_state_dict(layer.params)
    assert_same_bits(first_output(layer), first_output(other), "y")


def test_an_item_assigned_from_what_overlaps_it(kind):
    layer = made(kind)
    name = list(layer.params)[1]
    held = layer.params[name]
    expected = held[::-1].copy()
    layer.params[name] = held[::-1]
    assert_same_bits(held, expected, name)


def test_an_item_whose_view_has_another_shape():
    layer = fastrnn.GRU(3, 4, rng=0)
    view = layer.params["weight_ih_l0"]
    if hasattr(view, "_set_shape"):
        view._set_shape((36,))
    else:
        view.shape = (36,)
    layer.params["weight_ih_l0"] = np.ones((12, 3))
    assert (layer.state_dict()["weight_ih_l0"] == 1).all()


def test_items_that_do_not_fit(kind):
    layer = made(kind)
    name, before = list(layer.params)[0], layer.state_dict()
    shape = layer.params[name].shape
    cases = [
        (name, np.zeros((1, 1)), ValueError, f"params['{name}']: expected shape {shape}, got (1, 1)"),
        (name, 0.0, ValueError, f"params['{name}']: expected shape {shape}, got ()"),
        (name, np.zeros(shape, complex), TypeError, f"params['{name}']: expected real numbers, got dtype complex128"),
        (name, None, TypeError, f"params['{name}']: expected real numbers, got dtype object"),
        ("weight", np.zeros(shape), ValueError, f"params: expected one of {', '.join(before)}, got 'weight'"),
        (0, np.zeros(shape), ValueError, "got 0"),
    ]
    for key, value, error, message in cases:
        with pytest.raises(error) as caught:
            layer.params[key] = value
        assert message in str(caught.value)
    with pytest.raises(TypeError, match="params: expected no deletion"):
        del layer.params[name]
    with pytest.raises(AttributeError):
        layer.params = before
    with pytest.raises(KeyError):
        layer.params["weight"]
    layer.params[name].flags.writeable = False
    with pytest.raises(ValueError, match="expected a writable array to load into, got a read-only one"):
        layer.params[name] = np.zeros(shape)
    for key, array in layer.params.items():
        assert_same_bits(array, before[key], key)


def test_it_is_a_mapping(kind):
    layer = made(kind)
    params, names = layer.params, list(layer.state_dict())
    assert isinstance(params, Mapping) and layer.params is params and len(params) == 4
    assert list(params) == list(params.keys()) == names and list(reversed(params)) == names[::-1]
    assert names[0] in params and "weight" not in params and params.get("weight") is None
    for name, array in params.items():
        assert params[name] is array
    for same in (dict(params), {**params}, params | {}, {} | params, params.copy(), copy.copy(params)):
        assert type(same) is dict and list(same) == names and all(same[name] is params[name] for name in names)
    assert repr(params).startswith(f"Params({{'{names[0]}': array(")
    assert not any(hasattr(params, word) for word in ("update", "pop", "popitem", "clear", "setdefault"))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda params: pickle.loads(pickle.dumps(params))])
def test_a_copy_of_it_is_a_dict_of_copies(kind, copied):
    layer = made(kind)
    found = copied(layer.params)
    assert type(found) is dict
    for name, array in layer.params.items():
        assert_same_bits(found[name], array, name)
        assert found[name].flags.writeable and not np.shares_memory(found[name], array)
