"""forward(…, checkpoint=k): the bits of a pass that keeps every step, at a small part of its memory."""

import math
import tracemalloc

import numpy as np
import pytest
from cases import BETWEEN, KINDS, assert_same_bits, bare, make_case, make_layer, parts_of

import fastrnn

OPTIONS = [
    {},
    {"bidirectional": True},
    {"direction": "reverse", "batch_first": True, "bias": False},
    {"num_layers": 2, "dropout": 0.4, "bidirectional": True, "dtype": np.float64},
    {"num_layers": 3, "dropout": 0.4, "direction": ("forward", "reverse", "reverse")},
]


def results(case, seed=None, **options):
    """All that a pass gives, by name; every gradient is added to something."""
    layer = case.layer
    if layer.rng is not None:
        layer.rng.bit_generator.state = seed
    y, state, tape = layer.forward(case.x, bare(case.state), lengths=case.lengths, **case.between, **options)
    sums = {name: np.full_like(array, 0.1) for name, array in layer.params.items()}
    grads = layer.backward(tape, case.dy, bare(case.dstate), accumulate=sums, states=True)
    found = {"y": y, "x": grads.x, **grads.params}
    for name, parts in (("state", state), ("dstate", grads.state), ("states", grads.states)):
        found |= {f"{name}[{i}]": part for i, part in enumerate(parts_of(parts))}
    return found if grads.state_scale is None else found | {"state_scale": grads.state_scale}


def assert_checkpoints_change_nothing(case, intervals):
    seed = None if case.layer.rng is None else case.layer.rng.bit_generator.state
    expected = results(case, seed)
    for every in intervals:
        found = results(case, seed, checkpoint=every)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert_same_bits(found[name], array, f"{name}, checkpoint={every}")


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits(everywhere, kind, options, with_lengths):
    """More terms than a block of the gradients' sums has, and parts that end within one."""
    case = make_case(kind, 75, 7, 6, 19, seed=1, with_lengths=with_lengths, **options)
    assert_checkpoints_change_nothing(case, (9,) if everywhere == "numpy" else (1, 9, 74, 1000))


@pytest.mark.parametrize("between", BETWEEN, ids="+".join)
@pytest.mark.parametrize("options", OPTIONS[1:4], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_same_bits_between_steps(everywhere, kind, options, between):
    case = make_case(kind, 41, 9, 6, 19, seed=2, with_lengths=True, between=between, **options)
    assert_checkpoints_change_nothing(case, (6,) if everywhere == "numpy" else (1, 6))


# Few terms; one row; few rows of many units; more rows than a block has terms; as many units as two panels have.
SIZES = [
    (4, 2, 3, 20),
    (600, 1, 5, 9),
    (30, 3, 40, 200),
    (5, 300, 9, 17),
    (24, 2, 70, 300),
    (2, 40, 3, 16),
    (1, 3, 4, 5),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_same_bits_at_other_sizes(everywhere, kind, size, dtype):
    for with_lengths in (False, True):
        case = make_case(kind, *size, seed=3, with_lengths=with_lengths, bidirectional=True, dtype=dtype)
        assert_checkpoints_change_nothing(case, (1, max(1, size[0] // 3), size[0] // 2 + 1))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("size", [(60, 16, 64, 96), (60, 2, 96, 330)], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_same_bits_on_any_number_of_threads(level, kind, size, options):
    """By rows, by units, and both directions side by side."""
    case = make_case(kind, *size, seed=4, with_lengths=True, between=("state_scale",), **options)
    fastrnn.set_num_threads(1)
    expected = results(case)
    for threads in (1, 2, 3, 4):
        fastrnn.set_num_threads(threads)
        for every in (7, 30):
            for name, array in results(case, checkpoint=every).items():
                assert_same_bits(array, expected[name], f"{name}, {threads} threads, checkpoint={every}")


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"direction": "reverse"}], ids=str)
def test_same_bits_of_cells_with_options(everywhere, options):
    """The gradients of peepholes and of leaks, one number per unit, are sums of the same blocks; noise is per step."""
    rng, lengths = np.random.default_rng(7), [41, 20, 0, 33, 41, 7, 40, 39, 1]
    lstm = fastrnn.LSTM(6, 19, peephole=True, clip=0.5, rng=rng, **options)
    leaky = fastrnn.LeakyRNN(6, 19, alpha=0.3, train_alpha=True, rng=rng, **options)
    noise = rng.standard_normal((41, 9, leaky.output_size)).astype(np.float32)
    for layer, between in ((lstm, {}), (leaky, {"noise": noise})):
        case = make_case("lstm", 41, 9, 6, 19, seed=7, **options)
        parts = len(parts_of(layer.zero_state(9)))
        case = case._replace(layer=layer, lengths=lengths, between=between)
        case = case._replace(state=case.state[:parts], dstate=case.dstate[:parts])
        assert_checkpoints_change_nothing(case, (9,) if everywhere == "numpy" else (1, 9, 20))


def test_values_that_are_not_finite(everywhere):
    """NaN has a sign and a payload, which depend on which of two summands came first: they are not compared."""
    case = make_case("lstm", 30, 3, 6, 19, seed=5, bidirectional=True)
    case.x[3, 1, 2], case.x[20, 0, 1], case.dy[11, 2] = np.inf, np.nan, np.nan
    expected = results(case)
    assert 0 < np.isnan(expected["x"]).sum() < expected["x"].size
    for every in (4, 13):
        for name, array in results(case, checkpoint=every).items():
            np.testing.assert_array_equal(array, expected[name], name)


def test_gradients_of_the_output_or_of_the_state_alone(everywhere):
    case = make_case("lstm", 30, 3, 6, 19, seed=6, num_layers=2)
    _, _, whole = case.layer.forward(case.x)
    _, _, tape = case.layer.forward(case.x, checkpoint=4)
    for given in ({"dy": case.dy}, {"dstate": bare(case.dstate)}, {"dstate": (None, case.dstate[1])}):
        expected = case.layer.backward(whole, **given)
        for _ in range(2):  # a tape is not used up
            found = case.layer.backward(tape, **given)
            assert_same_bits(found.x, expected.x, "x")
            for name, array in expected.params.items():
                assert_same_bits(found.params[name], array, name)


def test_unbatched_and_empty_input(everywhere):
    layer = fastrnn.GRU(6, 19, rng=0)
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    y, _, tape = layer.forward(x, checkpoint=4)
    again, _, whole = layer.forward(x)
    assert_same_bits(y, again, "y")
    assert_same_bits(layer.backward(tape, y).x, layer.backward(whole, y).x, "x")
    for shape in ((0, 2, 6), (5, 0, 6)):
        y, state, tape = layer.forward(np.zeros(shape), checkpoint=4)
        assert layer.backward(tape, y, state).x.shape == shape


def test_what_the_tape_shows(backend):
    layer = fastrnn.LSTM(6, 19, 2, rng=0)
    y, _, tape = layer.forward(np.ones((30, 2, 6)), checkpoint=4)
    assert_same_bits(np.array(tape.outputs[1]), np.array(y), "y")
    with pytest.raises(ValueError, match=r"tape.gates: expected a tape that keeps every step, got one of forward\("):
        tape.gates  # noqa: B018


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "checkpoint: expected an integer of at least 1, got 0"),
        (-3, ValueError, "checkpoint: expected an integer of at least 1, got -3"),
        (2.0, TypeError, "checkpoint: expected an integer, got float"),
        (True, TypeError, "checkpoint: expected an integer, got bool"),
        ("4", TypeError, "checkpoint: expected an integer, got str"),
    ],
)
def test_bad_input(value, error, message):
    for kind in KINDS:
        with pytest.raises(error, match=message):
            make_layer(kind, 3, 4).forward(np.zeros((5, 2, 3)), checkpoint=value)


def most_memory(layer, x, dy, **options):
    """The most that a pass takes beside what it is given and what it returns, in bytes."""
    tracemalloc.start()
    y, state, tape = layer.forward(x, **options)
    grads = layer.backward(tape, dy)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parts = [part for value in (state, grads.state) for part in parts_of(value)]
    return most - sum(array.nbytes for array in (y, grads.x, *parts, *grads.params.values()))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_memory(backend, kind, bidirectional):
    T = 1024 if backend == "numpy" else 4096
    layer = make_layer(kind, 16, 16, rng=0, bidirectional=bidirectional)
    x, dy = np.ones((T, 4, 16), np.float32), np.ones((T, 4, layer.output_size), np.float32)
    whole, little = most_memory(layer, x, dy), most_memory(layer, x, dy, checkpoint=math.isqrt(T))
    saved = {"lstm": 5, "gru": 4}[kind]
    assert whole > saved * dy.nbytes
    assert little < 0.1 * whole
