"""Tapes and gradients: what backward takes and gives, and accumulates."""

import numpy as np
from kinds import B, H, I, T, assert_close, make, misaligned, normal, pair

import fastrnn


def test_none_is_a_gradient_of_zero(backend, kind):
    layer, x, dy = make(kind, I, H, 2), normal(T, B, I), normal(T, B, H, seed=1)
    dstate = pair(kind, lambda seed: normal(2, B, H, seed=seed))
    _, _, tape = layer.forward(x)
    zeros = pair(kind, lambda seed: np.zeros((2, B, H)))
    cases = [((dy, None), (dy, zeros)), ((None, dstate), (np.zeros_like(dy), dstate))]
    if kind == "lstm":
        cases += [((None, (dstate[0], None)), (None, (dstate[0], zeros[1])))]
        cases += [((None, [None, dstate[1]]), (None, (zeros[0], dstate[1])))]
    for given, same in cases:
        grads, expected = layer.backward(tape, *given), layer.backward(tape, *same)
        assert_close(grads.x, expected.x)
        assert_close(grads.state, expected.state)
        for name in grads.params:
            assert_close(grads.params[name], expected.params[name])


def test_a_tape_is_not_used_up(backend, kind):
    layer, x = make(kind, I, H, 2, bidirectional=True, dropout=0.5), normal(T, B, I)
    y, _, tape = layer.forward(x)
    first, second = layer.backward(tape, y), layer.backward(tape, y)
    np.testing.assert_array_equal(first.x, second.x)
    for name in first.params:
        np.testing.assert_array_equal(first.params[name], second.params[name])
        assert not np.shares_memory(first.params[name], second.params[name])


def test_a_tape_remembers_its_backend(backend, kind):
    layer, x = make(kind, dtype="float32"), normal(T, B, I)
    y, _, tape = layer.forward(x)
    expected = layer.backward(tape, y)
    for other in fastrnn.available_backends():
        with fastrnn.use_backend(other):
            grads = layer.backward(tape, y)
        np.testing.assert_array_equal(grads.x, expected.x)
        np.testing.assert_array_equal(grads.params["weight_hh_l0"], expected.params["weight_hh_l0"])
    assert backend in repr(tape)


def test_accumulate(backend, kind):
    layer, x = make(kind, I, H, 2, bidirectional=True), normal(T, B, I)
    y, _, tape = layer.forward(x)
    once = layer.backward(tape, y)
    sums = layer.backward(tape, y)
    arrays = dict(sums.params)
    again = layer.backward(tape, y, accumulate=sums)
    third = layer.backward(tape, y, accumulate=dict(reversed(again.params.items())))
    assert third.x is not sums.x
    assert_close(third.x, once.x)
    for name, array in arrays.items():
        assert again.params[name] is array and third.params[name] is array
        assert_close(array, 3 * once.params[name])


def test_accumulate_into_any_layout(backend, kind):
    layer, x = make(kind), normal(T, B, I)
    y, _, tape = layer.forward(x)
    once = layer.backward(tape, y).params
    arrays = {name: np.asfortranarray(np.ones((2, *array.shape)))[1] for name, array in once.items()}
    arrays["bias_ih_l0"] = misaligned(np.ones_like(once["bias_ih_l0"]))
    returned = layer.backward(tape, y, accumulate=arrays).params
    for name, array in arrays.items():
        assert returned[name] is array
        assert_close(array, 1 + once[name])
