"""Cells and functional cells against layers of one step."""

import numpy as np
import pytest
from kinds import KINDS, B, H, I, assert_close, make, make_cell, normal, pair, parts

import fastrnn

FUNCTIONS = {
    name: tuple(getattr(fastrnn, f"{name}_cell{suffix}") for suffix in ("", "_forward", "_backward")) for name in KINDS
}


@pytest.mark.parametrize("rows", [(), (B,)])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_are_layers_of_one_step(backend, kind, rows, bias):
    layer, cell = make(kind, bias=bias), make_cell(kind, bias=bias, rng=2)
    cell.load_state_dict({name: layer.params[f"{name}_l0"] for name in cell.params})
    x, state = normal(*rows, I), pair(kind, lambda seed: normal(*rows, H, seed=seed))
    lifted = pair(kind, lambda seed: parts(state)[seed - 10][None])
    _, after, tape = layer.forward(x[None], lifted)
    dstate = pair(kind, lambda seed: normal(*rows, H, seed=seed + 5))
    expected = layer.backward(tape, None, pair(kind, lambda seed: parts(dstate)[seed - 10][None]))

    def check(state_new, grads, params):
        assert_close(tuple(part[None] for part in parts(state_new)), tuple(parts(after)))
        assert_close(grads.x, expected.x[0])
        assert_close(tuple(part[None] for part in parts(grads.state)), tuple(parts(expected.state)))
        for name, array in params.items():
            assert_close(array, expected.params[f"{name}_l0"])

    new, tape = cell.forward(x, state)
    grads = cell.backward(tape, *parts(dstate))
    check(new, grads, grads.params)
    assert_close(cell(x, state), new)
    assert_close(cell.freeze()(x, state), new)
    again = cell.backward(tape, *parts(dstate), accumulate=grads)
    for name, array in again.params.items():
        assert array is grads.params[name]
        assert_close(array, 2 * expected.params[f"{name}_l0"])

    call, forward, backward = FUNCTIONS[kind]
    weights = list(cell.params.values())
    new, tape = forward(x, state, *weights)
    grads = backward(tape, *parts(dstate))
    check(new, grads, {"weight_ih": grads.w_ih, "weight_hh": grads.w_hh})
    if bias:
        check(new, grads, {"bias_ih": grads.b_ih, "bias_hh": grads.b_hh})
    else:
        assert grads.b_ih is None and grads.b_hh is None
    assert_close(call(x, state, *weights), new)
    again = backward(tape, *parts(dstate), accumulate=grads)
    third = backward(tape, *parts(dstate), accumulate={k: v for k, v in again._asdict().items() if k not in "x state"})
    assert again.w_ih is grads.w_ih and third.w_hh is grads.w_hh and third.b_ih is grads.b_ih
    assert_close(third.w_ih, 3 * expected.params["weight_ih_l0"])


def test_functional_cells_take_either_bias(backend, kind):
    cell, x = make_cell(kind), normal(B, I)
    w_ih, w_hh, b_ih, b_hh = cell.params.values()
    call, forward, backward = FUNCTIONS[kind]
    zero = np.zeros_like(b_ih)
    for given, same in (((b_ih, None), (b_ih, zero)), ((None, b_hh), (zero, b_hh)), ((None, None), (zero, zero))):
        new, tape = forward(x, None, w_ih, w_hh, *given)
        assert_close(new, call(x, None, w_ih, w_hh, *same))
        grads = backward(tape, parts(new)[0])
        assert [grads.b_ih is None, grads.b_hh is None] == [bias is None for bias in given]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functional_cells_compute_in_the_type_of_w_ih(backend, kind, dtype):
    w_ih, w_hh, b_ih, b_hh = make_cell(kind).params.values()
    call, forward, backward = FUNCTIONS[kind]
    new = call(normal(B, I), None, w_ih.astype(dtype), w_hh, b_ih, b_hh)
    assert all(part.dtype == dtype for part in parts(new))
    swapped = call(normal(B, I), None, w_ih.astype(dtype).astype(np.dtype(dtype).newbyteorder()), w_hh, b_ih, b_hh)
    for a, b in zip(parts(new), parts(swapped), strict=True):
        np.testing.assert_array_equal(a, b)
    _, tape = forward(normal(B, I), None, w_ih.astype(dtype), w_hh, b_ih, b_hh)
    assert backward(tape, np.ones((B, H))).w_hh.dtype == dtype


def test_a_zero_gradient_of_an_lstm_cell(backend):
    cell, x = make_cell("lstm"), normal(B, I)
    (h, _), tape = cell.forward(x)
    assert_close(cell.backward(tape, h).x, cell.backward(tape, h, np.zeros_like(h)).x)
    assert_close(cell.backward(tape, dc=h).x, cell.backward(tape, np.zeros_like(h), h).x)
