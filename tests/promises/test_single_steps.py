"""One step by weights that are read as they are has the bits of a step by packed weights, whoever calls it."""

import numpy as np
import pytest
from cases import CELL_KINDS as KINDS
from cases import assert_same_bits, bare, parts_of

import fastrnn

# (B, I, H): rows that are multiplied at once and more, lines of weights and what is left of one, units that do not fill
# a vector, and steps that several threads divide.
SIZES = [(1, 19, 37), (2, 64, 64), (3, 5, 16), (4, 33, 70), (5, 16, 33), (9, 17, 40), (1, 130, 3), (1, 1, 1)]
FEW = [(1, 1, 5), (1, 200, 150), (3, 70, 64), (8, 33, 130), (8, 9, 257), (48, 33, 70)]
DIVIDED = [(1, 700, 600), (3, 500, 430), (9, 400, 300), (40, 130, 260)]
CELLS = {
    "rnn_tanh": (fastrnn.RNNCell, fastrnn.RNN, fastrnn.rnn_tanh_cell, fastrnn.rnn_tanh_cell_forward),
    "rnn_relu": (fastrnn.RNNCell, fastrnn.RNN, fastrnn.rnn_relu_cell, fastrnn.rnn_relu_cell_forward),
    "lstm": (fastrnn.LSTMCell, fastrnn.LSTM, fastrnn.lstm_cell, fastrnn.lstm_cell_forward),
    "gru": (fastrnn.GRUCell, fastrnn.GRU, fastrnn.gru_cell, fastrnn.gru_cell_forward),
}


def options_of(kind):
    """What the constructor of a kind takes besides."""
    return {"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}


def steps(kind, B, I, H, dtype, bias=True, batched=True):
    """The next state by every way there is, the first by packed weights; and what went in."""
    make_cell, make_layer, function, function_forward = CELLS[kind]
    options = options_of(kind)
    cell = make_cell(I, H, bias=bias, dtype=dtype, rng=1, **options)
    layer = make_layer(I, H, bias=bias, dtype=dtype, **options)
    turned = make_layer(I, H, bias=bias, dtype=dtype, batch_first=True, **options)
    for one in (layer, turned):
        one.load_state_dict({f"{name}_l0": array for name, array in cell.params.items()})
    rng = np.random.default_rng(2)
    x, *state = (rng.standard_normal((B, n)).astype(dtype) for n in (I, *[H] * (2 if kind == "lstm" else 1)))
    if not batched:
        x, state = x[0], [part[0] for part in state]
    state = bare(tuple(state))
    weights = [cell.params.get(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    stacked = bare(tuple(part[None] for part in parts_of(state)))
    ways = {
        "frozen": layer.freeze()(x[None], stacked)[1],
        "function": function(x, state, *weights),
        "function, closer look": function(x.tolist(), state, *weights),
        "function forward": function_forward(x, state, *weights)[0],
        "cell": cell(x, state),
        "cell forward": cell.forward(x, state)[0],
        "frozen cell": cell.freeze()(x, state),
        "layer": layer(x[None], stacked)[1],
        "layer, closer look": layer(x[None].tolist(), stacked)[1],
        "layer, batch first": turned(x[:, None] if batched else x[None], stacked)[1],
        "layer forward": layer.forward(x[None], stacked)[1],
    }
    return {way: [part.reshape(x.shape[:-1] + (H,)) for part in parts_of(after)] for way, after in ways.items()}


def check(found):
    expected = found.pop("frozen")
    for way, parts in found.items():
        for part, right in zip(parts, expected, strict=True):
            assert_same_bits(part, right, way)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_give_the_same_bits(kernels, kind, size, dtype):
    check(steps(kind, *size, dtype))
    check(steps(kind, *size, dtype, bias=False))
    if size[0] == 1:
        check(steps(kind, *size, dtype, batched=False))


@pytest.mark.parametrize("size", DIVIDED, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_on_any_number_of_threads(kernels, kind, size):
    before = fastrnn.get_num_threads()
    try:
        fastrnn.set_num_threads(1)
        alone = steps(kind, *size, np.float32)
        check(dict(alone))
        for n in (2, 3, 7):
            fastrnn.set_num_threads(n)
            for way, parts in steps(kind, *size, np.float32).items():
                for part, right in zip(parts, alone[way], strict=True):
                    assert_same_bits(part, right, f"{way} on {n} threads")
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_one_step(kernels, kind):
    """Its outputs are h, memory of their own, and shaped as those of a longer one."""
    options = options_of(kind)
    for shape, first in (((1, 4, 6), False), ((4, 1, 6), True), ((1, 6), False), ((1, 1, 6), True)):
        layer = CELLS[kind][1](6, 20, rng=4, batch_first=first, **options)
        x = np.random.default_rng(3).standard_normal(shape, np.float32)
        y, state = layer(x)
        longer, _ = layer(np.repeat(x, 2, axis=1 if first and x.ndim == 3 else 0))
        assert_same_bits(y, longer[:, :1] if first and x.ndim == 3 else longer[:1], "the first of two steps")
        h = parts_of(state)[0]
        assert h.shape == ((1, x.size // 6, 20) if x.ndim == 3 else (1, 20)) and not np.shares_memory(h, y)
        assert_same_bits(y.reshape(h.shape), h, "h")
        zeros = bare(tuple(np.zeros_like(part) for part in parts_of(state)))
        for part, right in zip(parts_of(layer(x, zeros)[1]), parts_of(state), strict=True):
            assert_same_bits(part, right, "a state of zeros")
    with pytest.raises(ValueError, match="state"):
        layer(x[0], zeros)


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_is_a_state_of_zeros(kernels, kind):
    make_cell, _, function, _ = CELLS[kind]
    x = np.random.default_rng(3).standard_normal((4, 6), np.float32)
    cell = make_cell(6, 20, rng=4, **options_of(kind))
    zeros = bare(tuple(np.zeros((4, 20), np.float32) for _ in range(2 if kind == "lstm" else 1)))
    for part, right in zip(parts_of(function(x, None, *cell.params.values())), parts_of(cell(x, zeros)), strict=True):
        assert_same_bits(part, right, "no state")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_goes_in_is_written(kernels, kind):
    make_cell, _, function, _ = CELLS[kind]
    cell = make_cell(17, 33, rng=5, **options_of(kind))
    arrays = [np.random.default_rng(6).standard_normal((3, n)).astype(np.float32) for n in (17, 33, 33)]
    state = bare(tuple(arrays[1 : 3 if kind == "lstm" else 2]))
    given = [*arrays, *cell.params.values()]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    function(arrays[0], state, *cell.params.values())
    for array, right in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, right)


def gradients(kind, B, I, H, dtype, bias=True, batched=True, parts=(True, True)):
    """The gradients of one step by every way there is, the first a layer's."""
    make_cell, make_layer, _, function_forward = CELLS[kind]
    backward = getattr(fastrnn, f"{kind}_cell_backward")
    options = options_of(kind)
    cell = make_cell(I, H, bias=bias, dtype=dtype, rng=1, **options)
    layer = make_layer(I, H, bias=bias, dtype=dtype, **options)
    layer.load_state_dict({f"{name}_l0": array for name, array in cell.params.items()})
    states = 2 if kind == "lstm" else 1
    rng = np.random.default_rng(2)
    x, *rest = (rng.standard_normal((B, n)[0 if batched else 1 :]).astype(dtype) for n in (I, *[H] * (2 * states)))
    state, dstate = bare(tuple(rest[:states])), [d if given else None for d, given in zip(rest[states:], parts)]
    weights = [cell.params.get(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    closer = [d if d is None else d.tolist() for d in dstate]
    stacked, dstacked = (
        bare(tuple(None if p is None else p[None] for p in ps)) for ps in (parts_of(state), tuple(dstate))
    )
    _, _, tape = layer.forward(x[None], stacked)
    found = {"layer": layer.backward(tape, None, dstacked)}
    for way, x_given in (("short", x), ("closer look", x.tolist())):
        tape = function_forward(x_given, state, *weights)[1]
        found[f"function, {way}"] = backward(tape, *dstate)
        found[f"function, {way}, dh of a closer look"] = backward(tape, *closer)
        tape = cell.forward(x_given, state)[1]
        found[f"cell, {way}"] = cell.backward(tape, *dstate)
        found[f"cell, {way}, dh of a closer look"] = cell.backward(tape, *closer)
    return {way: arrays_of(grads) for way, grads in found.items()}


def arrays_of(grads):
    params = list(grads.params.values()) if hasattr(grads, "params") else [g for g in grads[2:] if g is not None]
    return [grads.x, *parts_of(grads.state), *params]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(1, 19, 37), (3, 5, 16), (9, 17, 40), (30, 21, 70), (600, 19, 37)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_give_the_same_gradients(kernels, kind, size, dtype):
    cases = [{}, {"bias": False}]
    cases += [{"parts": (True, False)}, {"parts": (False, True)}] if kind == "lstm" else []
    cases += [{"batched": False}] if size[0] == 1 else []
    for options in cases:
        expected, *others = gradients(kind, *size, dtype, **options).items()
        for way, arrays in others:
            for array, right in zip(arrays, expected[1], strict=True):
                assert_same_bits(array, right.reshape(array.shape), f"{way}, {options}")


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tape_shows_the_same_whichever_way_it_was_made(kernels, kind, batched):
    make_cell, _, _, function_forward = CELLS[kind]
    cell = make_cell(5, 16, rng=1, **options_of(kind))
    x, *state = np.random.default_rng(2).standard_normal((3, 3, 16) if batched else (3, 16)).astype(np.float32)
    x, state = x[..., :5].copy(), bare(tuple(state[: 2 if kind == "lstm" else 1]))
    made = {
        "function": function_forward(x, state, *cell.params.values())[1],
        "function, closer look": function_forward(x.tolist(), state, *cell.params.values())[1],
        "cell": cell.forward(x, state)[1],
        "cell, closer look": cell.forward(x.tolist(), state)[1],
    }
    expected = made.pop("cell, closer look")
    for way, tape in made.items():
        assert tape.spec == expected.spec and tape.masks == expected.masks == ({},)
        assert [list(gates) for gates in tape.gates] == [list(gates) for gates in expected.gates]
        shown, right = ([*t.outputs, *t.gates[0].values()] for t in (tape, expected))
        for array, of_right in zip(shown, right, strict=True):
            assert_same_bits(array, of_right, way)
            assert array.shape == of_right.shape and not array.flags.writeable


def test_a_tape_keeps_the_state_it_began_with(kernels):
    cell = fastrnn.LSTMCell(5, 16, rng=0)
    x, h, c, dh = np.random.default_rng(1).standard_normal((4, 3, 16)).astype(np.float32)
    x = x[:, :5].copy()
    (after, _), tape = cell.forward(x, (h, c))
    expected = cell.backward(tape, dh)
    for array in (h, c, after):
        array[...] = 7
    for array, right in zip(arrays_of(cell.backward(tape, dh)), arrays_of(expected), strict=True):
        assert_same_bits(array, right, "after the state has changed")


@pytest.mark.parametrize(
    ("dh", "error", "match"),
    [
        (None, ValueError, "dh"),
        (np.zeros((3, 15), np.float32), ValueError, r"dh: expected shape \(3, 16\), got \(3, 15\)"),
        (np.zeros((3, 16), complex), TypeError, "dh: expected real numbers"),
    ],
)
def test_a_wrong_gradient_is_refused_by_name(kernels, dh, error, match):
    x, h = np.zeros((3, 5), np.float32), np.zeros((3, 16), np.float32)
    weights = np.zeros((48, 5), np.float32), np.zeros((48, 16), np.float32)
    _, tape = fastrnn.gru_cell_forward(x, h, *weights)
    with pytest.raises(error, match=match):
        fastrnn.gru_cell_backward(tape, dh)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", FEW, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_few_terms_by_weights_as_they_are_have_the_bits_of_packed_ones(kernels, kind, size, dtype):
    """Beside rows of zeros, whose gradients are zero, too many for weights to be read as they are."""
    B, I, H = size
    _, make_layer, _, _ = CELLS[kind]
    options = options_of(kind)
    layer = make_layer(I, H, dtype=dtype, rng=1, **options)
    rng = np.random.default_rng(2)
    states = 2 if kind == "lstm" else 1
    x, *parts = (rng.standard_normal((1, B, n)).astype(dtype) for n in (I, *[H] * (1 + 2 * states)))
    found = []
    for rows in (B, 64):
        padded = [np.concatenate([p, np.zeros((1, rows - B, p.shape[2]), dtype)], axis=1) for p in (x, *parts)]
        _, _, tape = layer.forward(padded[0], bare(tuple(padded[1 : 1 + states])))
        grads = layer.backward(tape, padded[1 + states], bare(tuple(padded[2 + states :])))
        found.append([array[:, :B] for array in (grads.x, *parts_of(grads.state))] + list(grads.params.values()))
    for few, packed in zip(*found, strict=True):
        assert_same_bits(few + 0, packed + 0, "few terms")  # -0 + 0 is 0
