"""Frozen layers, and their steps."""

import copy

import numpy as np
import pytest
from kinds import B, H, I, T, assert_close, make, make_cell, normal, pair, parts

import fastrnn


def test_a_frozen_layer_is_a_copy(backend, kind):
    layer, x = make(kind), normal(T, B, I)
    served, y = layer.freeze(), layer(x)[0]
    for array in layer.params.values():
        array[...] = 0
    np.testing.assert_array_equal(served(x)[0], y)
    with pytest.raises(AttributeError, match="immutable"):
        served._packed = ()
    with pytest.raises(AttributeError):
        served.anything = 1
    assert copy.copy(served) is copy.deepcopy(served) is served
    assert (served.input_size, served.hidden_size, served.num_layers, served.dtype) == (I, H, 1, np.float64)


def test_the_backend_of_a_frozen_layer_is_fixed(backend, kind):
    layer, cell, x = make(kind, dtype="float32"), make_cell(kind, dtype="float32"), normal(T, B, I)
    served, served_cell = layer.freeze(), cell.freeze()
    assert served.backend == served_cell.backend == backend
    y, h = served(x)[0], served_cell(x[0])
    for other in fastrnn.available_backends():
        with fastrnn.use_backend(other):
            np.testing.assert_array_equal(served(x)[0], y)
            np.testing.assert_array_equal(served_cell(x[0]), h)


@pytest.mark.parametrize("rows", [(), (1,), (B,)])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_steps_make_a_sequence(backend, kind, rows, num_layers, in_place):
    layer = make(kind, I, H, num_layers)
    served, x = layer.freeze(), normal(T, *rows, I)
    state = pair(kind, lambda seed: normal(num_layers, *rows, H, seed=seed))
    y, after = layer(x, state)
    first = tuple(part.copy() for part in parts(state))
    out = (np.empty((*rows, H)), state) if in_place else None
    for t in range(T):
        result = served.step(x[t], state, out)
        y_t, state = result
        assert_close(y_t, y[t])
        if in_place:
            assert result is out
        else:
            for old, new in zip(first, parts(state), strict=True):
                assert not np.shares_memory(old, new)
    assert_close(state, after)


def test_step_into_other_arrays(backend, kind):
    served, x = make(kind, I, H, 2).freeze(), normal(B, I)
    state = pair(kind, lambda seed: normal(2, B, H, seed=seed))
    before = tuple(part.copy() for part in parts(state))
    y, after = served.step(x, state)
    room = np.empty((3, 2, B, H))  # views of one array, side by side
    out = [room[2, 0], pair(kind, lambda seed: room[seed - 10])]
    y_out, after_out = served.step(x, state, out=out)
    assert y_out is out[0] and after_out is out[1]
    assert_close(y_out, y)
    assert_close(after_out, after)
    assert_close(tuple(parts(state)), before)
    views = pair(kind, lambda seed: parts(state)[seed - 10][:])  # other views of just the input state
    assert_close(served.step(x, state, out=(room[2, 0], views))[1], after)
    assert_close(state, after)
