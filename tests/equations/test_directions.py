"""Layers of the reverse direction alone and in stacks: against bidirectional and single layers, and flipped rows."""

import copy
import json
import pickle

import numpy as np
import pytest
from cases import BETWEEN, KINDS, Case, assert_same_bits, bare, make_case, make_layer, parts_of, run

import fastrnn
from fastrnn.core.stack import drop

T, B, I, H = 12, 5, 6, 19
MIXED = ("reverse", "forward", "reverse")


@pytest.mark.parametrize("between", [(), *BETWEEN], ids="+".join)
@pytest.mark.parametrize("options", [{}, {"batch_first": True, "bias": False}, {"dtype": np.float64}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reverse_layer_is_the_second_half_of_a_bidirectional_one(backend, kind, options, between):
    both = make_case(kind, T, B, I, H, seed=1, with_lengths=True, between=between, bidirectional=True, **options)
    both.dy[..., :H] = 0
    for part in both.dstate:
        part[0] = 0
    alone = make_layer(kind, I, H, direction="reverse", **options)
    alone.load_state_dict({name: both.layer.params[f"{name}_reverse"] for name in alone.params})
    halves = [tuple(part[1:] for part in parts) for parts in (both.state, both.dstate)]
    found = run(Case(alone, both.x, halves[0], both.lengths, both.dy[..., H:], halves[1], both.between))
    for name, array in run(both).items():
        if name.endswith("_reverse"):
            assert_same_bits(found[name.removesuffix("_reverse")], array, name)
        elif name not in both.layer.params:
            array = (
                array[..., H:] if name == "y" else array[1:] if name.startswith(("state", "grads.state[")) else array
            )
            np.testing.assert_array_equal(found[name], array, name)


def flipped(array, lengths):
    """Each row's valid steps in the other order, (T, B, n)."""
    found = array.copy()
    for b, n in enumerate(lengths):
        found[:n, b] = array[:n, b][::-1]
    return found


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reverse_layer_is_the_forward_one_of_flipped_rows(backend, kind, dtype, with_lengths):
    case = make_case(kind, T, B, I, H, seed=2, with_lengths=with_lengths, dtype=dtype, direction="reverse")
    lengths = np.full(B, T) if case.lengths is None else case.lengths
    forward = make_layer(kind, I, H, dtype=dtype)
    forward.load_state_dict(case.layer.params)
    x, dy = flipped(case.x, lengths), flipped(case.dy, lengths)
    expected = run(Case(forward, x, case.state, case.lengths, dy, case.dstate))
    for name, array in run(case).items():
        if name in ("y", "grads.x"):
            array = flipped(array, lengths)
        if name not in case.layer.params and backend != "numpy":
            assert_same_bits(array, expected[name], name)
        tolerance = 100 * np.finfo(dtype).eps * np.abs(expected[name]).max()
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=tolerance, err_msg=name)


def layers_alone(stack):
    """The layers of a stack, each a layer of its own."""
    config = {
        name: value for name, value in stack.config.items() if name not in ("input_size", "num_layers", "dropout")
    }
    for k in range(stack.num_layers):
        config |= {"input_size": stack.hidden_size if k else stack.input_size, "direction": stack.direction[k]}
        alone = type(stack)(**config)
        alone.load_state_dict({name: stack.params[name.replace("_l0", f"_l{k}")] for name in alone.params})
        yield alone


@pytest.mark.parametrize("between", [(), ("resets", "state_scale", "mask")], ids="+".join)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("options", [{}, {"batch_first": True, "dtype": np.float64}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_layers_one_after_the_other(backend, kind, options, dropout, between):
    case = make_case(
        kind, T, B, I, H, seed=3, with_lengths=True, between=between, num_layers=3, direction=MIXED, dropout=dropout,
        **options,
    )  # fmt: skip
    layer, call = case.layer, {"lengths": case.lengths, **case.between}
    y, after, tape = layer.forward(case.x, bare(case.state), **call)
    grads = layer.backward(tape, case.dy, bare(case.dstate))
    x, tapes = case.x, []
    kept = [None, *tape.kept[1:]]
    if dropout and layer.batch_first:
        kept = [None if mask is None else mask.swapaxes(0, 1) for mask in kept]
    if dropout and "mask" in between:
        kept = [None if mask is None else in_the_caller_s_order(tape, mask, layer.batch_first) for mask in kept]
    for k, alone in enumerate(layers_alone(layer)):
        x = x if kept[k] is None else drop(x, kept[k], dropout)
        x, then, tape = alone.forward(x, bare(tuple(part[k : k + 1] for part in case.state)), **call)
        tapes.append((alone, tape))
        for part, expected in zip(parts_of(then), parts_of(after)):
            np.testing.assert_array_equal(part, expected[k : k + 1])
    np.testing.assert_array_equal(x, y)
    dy, by_scale = case.dy, []
    for k, (alone, tape) in reversed(list(enumerate(tapes))):
        found = alone.backward(tape, dy, bare(tuple(part[k : k + 1] for part in case.dstate)))
        for name, array in found.params.items():
            np.testing.assert_array_equal(array, grads.params[name.replace("_l0", f"_l{k}")], f"{name}, layer {k}")
        for part, expected in zip(parts_of(found.state), parts_of(grads.state)):
            np.testing.assert_array_equal(part, expected[k : k + 1])
        dy = found.x if kept[k] is None else drop(found.x, kept[k], dropout)
        by_scale.append(found.state_scale)
    np.testing.assert_array_equal(dy, grads.x)
    if "state_scale" in between:
        np.testing.assert_allclose(sum(by_scale), grads.state_scale, rtol=1e-5, atol=1e-5)


def in_the_caller_s_order(tape, kept, batch_first):
    """A dropout mask, which is in the order of the steps that happen."""
    moved = kept.swapaxes(0, 1) if batch_first else kept
    found = np.zeros(moved.shape, bool)
    tape.call.steps.scatter(np.ascontiguousarray(moved), found)
    return found.swapaxes(0, 1) if batch_first else found


@pytest.mark.parametrize("direction", ["reverse", MIXED[:2], MIXED[1:]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_in_gives_the_same(backend, kind, direction):
    """Calls of plain arrays, of what needs conversion, of frozen layers, copies and pickles; unbatched input."""
    case = make_case(kind, T, B, I, H, seed=4, with_lengths=True, num_layers=2, direction=direction)
    layer, state = case.layer, bare(case.state)
    y, after, _ = layer.forward(case.x, state, lengths=case.lengths)
    others = [layer, layer.freeze(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    others += [pickle.loads(pickle.dumps(layer.freeze())), type(layer).from_state_dict(layer.params, **options(layer))]
    for other in others:
        assert other.direction == direction and not other.bidirectional and other.output_size == H
        for x in (case.x, case.x.astype(np.float64)):
            found, then = other(x, state, lengths=case.lengths)
            assert_same_bits(found, y, "y")
            for part, expected in zip(parts_of(then), parts_of(after)):
                assert_same_bits(part, expected, "state")
    x = np.nan_to_num(case.x)
    unbatched, _ = layer(x[:, 0])
    np.testing.assert_allclose(unbatched, layer(x)[0][:, 0], rtol=1e-6, atol=1e-6)


def options(layer):
    """What the names and shapes of parameters do not show."""
    names = ("direction", "nonlinearity", "coupled", "reset")
    return {name: value for name, value in layer.config.items() if name in names}


@pytest.mark.parametrize(
    ("given", "direction", "described"),
    [
        ("forward", "forward", ""),
        (["forward", "forward"], "forward", ""),
        ("reverse", "reverse", ", direction='reverse'"),
        (["reverse", "reverse"], "reverse", ", direction='reverse'"),
        (("forward", "reverse"), ("forward", "reverse"), ", direction=('forward', 'reverse')"),
    ],
)
def test_the_direction_is_read_back(given, direction, described):
    layer = fastrnn.GRU(3, 4, 2, direction=given)
    assert layer.direction == layer.freeze().direction == direction
    assert repr(layer) == f"GRU(3, 4, num_layers=2{described})"
    again = fastrnn.GRU(**json.loads(json.dumps(layer.config)))
    assert again.config == layer.config and again.direction == direction
    assert list(layer.params) == list(fastrnn.GRU(3, 4, 2).params)


@pytest.mark.parametrize("direction", ["reverse", MIXED[:2]], ids=str)
def test_a_step_of_a_reverse_layer_is_refused(backend, direction):
    frozen = fastrnn.LSTM(I, H, 2, direction=direction).freeze()
    with pytest.raises(ValueError, match="step: expected a layer of the forward direction alone, got direction="):
        frozen.step(np.zeros((B, I), np.float32))
    with pytest.raises(ValueError, match="step: expected a layer of the forward direction alone, got direction="):
        frozen.step(np.zeros((B, I), np.float32), frozen.zero_state(B))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"direction": "backward"}, ValueError, "direction: expected 'forward' or 'reverse', got 'backward'"),
        ({"direction": ("reverse",)}, ValueError, "direction: expected one for each layer, num_layers=2, got 1"),
        ({"direction": ("reverse", "up")}, ValueError, "direction: expected 'forward' or 'reverse', got 'up'"),
        ({"direction": True}, TypeError, "direction: expected 'forward', 'reverse' or a tuple of them, got True"),
        ({"direction": (True, False)}, TypeError, "direction: expected 'forward', 'reverse' or a tuple of them"),
        ({"direction": None}, TypeError, "direction: expected 'forward', 'reverse' or a tuple of them, got None"),
        (
            {"direction": "reverse", "bidirectional": True},
            ValueError,
            "direction: expected 'forward' with bidirectional=True, got 'reverse'",
        ),
    ],
)
def test_bad_directions(arguments, error, message):
    for kind in KINDS:
        with pytest.raises(error, match=message):
            make_layer(kind, 3, 4, 2, **arguments)
