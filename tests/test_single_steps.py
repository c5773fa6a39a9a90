"""One step by weights that are read as they are has the bits of a step by packed weights, whoever calls it."""

import numpy as np
import pytest
from cases import KINDS, assert_same_bits, bare, parts_of

import fastrnn

# (B, I, H): rows that are multiplied at once and more, lines of weights and what is left of one, units that do not fill
# a vector, and steps that several threads divide.
SIZES = [(1, 19, 37), (2, 64, 64), (3, 5, 16), (4, 33, 70), (5, 16, 33), (9, 17, 40), (1, 130, 3), (1, 1, 1)]
DIVIDED = [(1, 700, 600), (3, 500, 430), (9, 400, 300), (40, 130, 260)]
CELLS = {
    "rnn_tanh": (fastrnn.RNNCell, fastrnn.RNN, fastrnn.rnn_tanh_cell, fastrnn.rnn_tanh_cell_forward),
    "rnn_relu": (fastrnn.RNNCell, fastrnn.RNN, fastrnn.rnn_relu_cell, fastrnn.rnn_relu_cell_forward),
    "lstm": (fastrnn.LSTMCell, fastrnn.LSTM, fastrnn.lstm_cell, fastrnn.lstm_cell_forward),
    "gru": (fastrnn.GRUCell, fastrnn.GRU, fastrnn.gru_cell, fastrnn.gru_cell_forward),
}


def steps(kind, B, I, H, dtype, bias=True, batched=True):
    """The next state by every way there is, the first by packed weights; and what went in."""
    make_cell, make_layer, function, function_forward = CELLS[kind]
    options = {"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}
    cell = make_cell(I, H, bias=bias, dtype=dtype, rng=1, **options)
    layer = make_layer(I, H, bias=bias, dtype=dtype, **options)
    layer.load_state_dict({f"{name}_l0": array for name, array in cell.params.items()})
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
def test_no_state_is_a_state_of_zeros(kernels, kind):
    make_cell, _, function, _ = CELLS[kind]
    x = np.random.default_rng(3).standard_normal((4, 6), np.float32)
    cell = make_cell(6, 20, rng=4, **({"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}))
    zeros = bare(tuple(np.zeros((4, 20), np.float32) for _ in range(2 if kind == "lstm" else 1)))
    for part, right in zip(parts_of(function(x, None, *cell.params.values())), parts_of(cell(x, zeros)), strict=True):
        assert_same_bits(part, right, "no state")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_goes_in_is_written(kernels, kind):
    make_cell, _, function, _ = CELLS[kind]
    cell = make_cell(17, 33, rng=5, **({"nonlinearity": kind.removeprefix("rnn_")} if kind.startswith("rnn") else {}))
    arrays = [np.random.default_rng(6).standard_normal((3, n)).astype(np.float32) for n in (17, 33, 33)]
    state = bare(tuple(arrays[1 : 3 if kind == "lstm" else 2]))
    given = [*arrays, *cell.params.values()]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    function(arrays[0], state, *cell.params.values())
    for array, right in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, right)
