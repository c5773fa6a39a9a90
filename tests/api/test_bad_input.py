"""Bad input: a ValueError or TypeError that names the argument, what was expected and what came; then all goes on."""

import copy
import re
from contextlib import contextmanager

import numpy as np
import pytest

import fastrnn

T, B, I, H, L = 5, 3, 4, 6, 2
LAYERS = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}
CELLS = {"rnn": fastrnn.RNNCell, "lstm": fastrnn.LSTMCell, "gru": fastrnn.GRUCell}

WRONG_KIND = {
    "complex": lambda shape: np.zeros(shape, complex),
    "object": lambda shape: np.zeros(shape, object),
    "string": lambda shape: np.zeros(shape, "U3"),
    "datetime": lambda shape: np.zeros(shape, "M8[s]"),
    "structured": lambda shape: np.zeros(shape, "f4,f4"),
    "none": lambda shape: None,
    "an object": lambda shape: object(),
}


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pair(kind, part):
    return (part, part) if kind == "lstm" else part


class Unchanged:
    """A layer or cell that must be unchanged and usable at the end, whatever was tried on it."""

    def __init__(self, layer, x):
        self.layer, self.x = layer, x
        self.grads_of = layer.forward(x)[-1]
        self.before = self.results()

    def results(self):
        *outputs, tape = self.layer.forward(self.x)
        gradient = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        grads, earlier = (self.layer.backward(t, np.ones_like(gradient)) for t in (tape, self.grads_of))
        arrays = [outputs, grads.x, grads.state, grads.params, earlier.params, dict(self.layer.params)]
        return [copy.deepcopy(arrays), repr(self.layer)]

    def check(self):
        np.testing.assert_equal(self.results(), self.before)


@pytest.fixture
def layer(backend, kind):
    made = LAYERS[kind](I, H, L, rng=0)
    unchanged = Unchanged(made, normal(T, B, I))
    yield made
    unchanged.check()


@pytest.fixture
def cell(backend, kind):
    made = CELLS[kind](I, H, rng=0)
    unchanged = Unchanged(made, normal(B, I))
    yield made
    unchanged.check()


@contextmanager
def refuses(error, *words):
    """Exactly this error (no subclass such as UnicodeError), with these words in the message, in order."""
    with pytest.raises(error, match=".*".join(map(re.escape, words))) as caught:
        yield
    assert caught.type is error


def calls(layer):
    """Everything that takes (x, state, lengths)."""
    return layer, layer.forward, layer.freeze()


# --- x, state, lengths


@pytest.mark.parametrize("shape", [(), (I,), (T, B, I + 1), (T, B, 0), (T, B, I, 1), (1, T, B, I), (I, T)])
def test_shape_of_x(layer, shape):
    for call in calls(layer):
        with refuses(ValueError, f"x: expected shape (T, B, {I}) or (T, {I}), got {shape}"):
            call(np.zeros(shape))


def test_shape_of_x_batch_first(backend, kind):
    layer = LAYERS[kind](I, H, batch_first=True)
    with refuses(ValueError, f"x: expected shape (B, T, {I}) or (T, {I}), got (2, 3, 9)"):
        layer(np.zeros((2, 3, 9)))


@pytest.mark.parametrize("wrong", WRONG_KIND.values(), ids=WRONG_KIND)
def test_kind_of_x(layer, cell, wrong):
    for call in (*calls(layer), cell, cell.forward, cell.freeze()):
        with refuses(TypeError, "x: expected real numbers, got dtype"):
            call(wrong((T, B, I)))
    with refuses(TypeError, "x_t: expected real numbers, got dtype"):
        layer.freeze().step(wrong((B, I)))


def test_a_ragged_list(layer):
    with refuses(ValueError, "x: expected an array, got list"):
        layer([[1.0, 2.0], [3.0]])


def test_shape_of_state(layer, kind):
    x, name = np.zeros((T, B, I)), "state[0]" if kind == "lstm" else "state"
    for call in calls(layer):
        for shape in [(), (H,), (L, H), (L, B, H + 1), (L + 1, B, H), (L, B + 1, H), (B, L, H)]:
            with refuses(ValueError, f"{name}: expected shape ({L}, {B}, {H}), got {shape}"):
                call(x, pair(kind, np.zeros(shape)))
        with refuses(ValueError, f"{name}: expected shape ({L}, {H}), got ({L}, 1, {H})"):
            call(x[:, 0], pair(kind, np.zeros((L, 1, H))))
    if kind == "lstm":
        with refuses(ValueError, f"state[1]: expected shape ({L}, {B}, {H}), got (1, {B}, {H})"):
            layer(x, (np.zeros((L, B, H)), np.zeros((1, B, H))))


def test_kind_of_state(layer, kind):
    x, good = np.zeros((T, B, I)), np.zeros((L, B, H))
    name = "state[0]" if kind == "lstm" else "state"
    for call in calls(layer):
        for wrong in (good.astype(complex), good.astype(object)):
            with refuses(TypeError, f"{name}: expected real numbers, got dtype"):
                call(x, pair(kind, wrong))
        if kind == "lstm":
            for wrong, came in ((good, "ndarray"), (np.stack([good, good]), "ndarray"), ({}, "dict"), (1.0, "float")):
                with refuses(TypeError, f"state: expected a pair (h, c), got {came}"):
                    call(x, wrong)
            with refuses(ValueError, "state: expected a pair (h, c), got 3 items"):
                call(x, (good, good, good))
            with refuses(TypeError, "state[1]: expected real numbers, got dtype object"):
                call(x, (good, None))
        else:
            with refuses(ValueError, f"state: expected shape ({L}, {B}, {H}), got (2, {L}, {B}, {H})"):
                call(x, (good, good))


@pytest.mark.parametrize("wrong", [-1, T + 1, -(2**63), 2**63])
def test_values_of_lengths(layer, wrong):
    for call in calls(layer):
        with refuses(ValueError, f"lengths: expected integers from 0 to T = {T}, got {wrong}"):
            call(np.zeros((T, B, I)), lengths=np.array([T, wrong, T], "u8" if wrong > T else "i8"))


def test_lengths_of_an_empty_sequence(layer):
    with refuses(ValueError, "lengths: expected integers from 0 to T = 0, got 1"):
        layer(np.zeros((0, B, I)), lengths=[1] * B)
    assert layer(np.zeros((0, B, I)), lengths=[0] * B)[0].shape == (0, B, H)


@pytest.mark.parametrize("shape", [(), (B - 1,), (B + 1,), (B, 1), (0,)])
def test_shape_of_lengths(layer, shape):
    for call in calls(layer):
        with refuses(ValueError, f"lengths: expected shape ({B},), got {shape}"):
            call(np.zeros((T, B, I)), lengths=np.ones(shape, int))


@pytest.mark.parametrize("dtype", ["float64", "bool", "complex", "object", "U1", "m8[s]"])
def test_kind_of_lengths(layer, dtype):
    for call in calls(layer):
        with refuses(TypeError, "lengths: expected ", f"got dtype {np.dtype(dtype)}"):
            call(np.zeros((T, B, I)), lengths=np.ones(B, int).astype(dtype))


def test_lengths_of_unbatched_input(layer):
    for call in calls(layer):
        with refuses(ValueError, "lengths: expected None for an unbatched x"):
            call(np.zeros((T, I)), lengths=[T])


# --- backward


def test_dy_that_does_not_match(layer):
    y, _, tape = layer.forward(np.zeros((T, B, I)))
    for shape in [(), (H,), (T, B, H + 1), (T, B, 2 * H), (T, B + 1, H), (T + 1, B, H), (B, T, H), (T, H)]:
        with refuses(ValueError, f"dy: expected shape ({T}, {B}, {H}), got {shape}"):
            layer.backward(tape, np.zeros(shape))
    for wrong in (y.astype(complex), y.astype(object), "dy"):
        with refuses(TypeError, "dy: expected real numbers, got dtype"):
            layer.backward(tape, wrong)


def test_dstate_that_does_not_match(layer, kind):
    *_, tape = layer.forward(np.zeros((T, B, I)))
    name = "dstate[0]" if kind == "lstm" else "dstate"
    with refuses(ValueError, f"{name}: expected shape ({L}, {B}, {H}), got (1, {B}, {H})"):
        layer.backward(tape, None, pair(kind, np.zeros((1, B, H))))
    with refuses(TypeError, f"{name}: expected real numbers, got dtype complex128"):
        layer.backward(tape, None, pair(kind, np.zeros((L, B, H), complex)))
    if kind == "lstm":
        with refuses(TypeError, "dstate: expected a pair (h, c), got ndarray"):
            layer.backward(tape, None, np.zeros((2, L, B, H)))


def test_no_gradient_at_all(layer, kind):
    *_, tape = layer.forward(np.zeros((T, B, I)))
    with refuses(ValueError, "dy, dstate: expected at least one gradient, got None"):
        layer.backward(tape)
    if kind == "lstm":
        with refuses(ValueError, "dy, dstate: expected at least one gradient, got None"):
            layer.backward(tape, None, (None, None))


def test_a_tape_from_another(layer, cell, kind):
    x, dy = np.zeros((T, B, I)), np.zeros((T, B, H))
    for other in (copy.deepcopy(layer), LAYERS[kind](I, H, L), fastrnn.GRU(I, H)):
        with refuses(ValueError, f"tape: expected one from {layer!r}, got one from another, {other!r}"):
            layer.backward(other.forward(x)[2], dy)
    _, tape = cell.forward(x[0])
    with refuses(ValueError, "tape: expected one from", repr(cell)):
        layer.backward(tape, dy)
    with refuses(ValueError, "tape: expected one from", repr(layer)):
        cell.backward(layer.forward(x)[2], dy[0])
    with refuses(ValueError, "tape: expected one from lstm_cell_forward, got one from another, gru_cell_forward"):
        weights = fastrnn.GRUCell(I, H).params.values()
        fastrnn.lstm_cell_backward(fastrnn.gru_cell_forward(x[0], None, *weights)[1], dy[0])
    for thing in (None, layer.forward(x), "tape"):
        with refuses(TypeError, f"tape: expected a Tape, got {type(thing).__name__}"):
            layer.backward(thing, dy)
        with refuses(TypeError, f"tape: expected a Tape, got {type(thing).__name__}"):
            cell.backward(thing, dy[0])


def test_accumulate_that_does_not_match(layer):
    _, _, tape = layer.forward(normal(T, B, I))
    dy, zeros = normal(T, B, H), {name: np.zeros_like(array) for name, array in layer.params.items()}
    name, last = "weight_hh_l0", list(zeros)[-1]
    shape, frozen = zeros[name].shape, zeros[name].copy()
    frozen.flags.writeable = False
    cases = [
        ({**zeros, "more": zeros[name]}, ValueError, "accumulate: expected exactly", "more is unexpected"),
        ({k: v for k, v in zeros.items() if k != last}, ValueError, f"{last} is missing"),
        ({**zeros, last: np.zeros(3, "f4")}, ValueError, f"accumulate['{last}']: expected shape", "got (3,)"),
        (
            {**zeros, name: zeros[name].astype("f8")},
            TypeError,
            f"accumulate['{name}']: expected dtype float32, got float64",
        ),
        (
            {**zeros, name: zeros[name].astype(">f4")},
            TypeError,
            f"accumulate['{name}']: expected dtype float32, got >f4",
        ),
        ({**zeros, name: zeros[name].tolist()}, TypeError, f"accumulate['{name}']: expected an array, got list"),
        ({**zeros, name: None}, TypeError, f"accumulate['{name}']: expected an array, got NoneType"),
        ({**zeros, name: frozen}, ValueError, f"accumulate['{name}']: expected a writable array"),
        (
            {**zeros, name: np.broadcast_to(np.float32(0), shape)},
            ValueError,
            f"accumulate['{name}']: expected a writable",
        ),
        (layer.params, ValueError, "accumulate['weight_ih_l0']: expected an array of its own"),
        (list(zeros.values()), TypeError, "accumulate: expected a mapping of names to arrays, got list"),
        (1, TypeError, "accumulate: expected a mapping of names to arrays, got int"),
    ]
    for accumulate, error, *words in cases:
        with refuses(error, *words):
            layer.backward(tape, dy, accumulate=accumulate)
        assert not any(array.any() for array in zeros.values())


# --- the constructors and load_state_dict


@pytest.mark.parametrize("make", [*LAYERS.values(), *CELLS.values()])
def test_sizes(make):
    for name, position in (("input_size", 0), ("hidden_size", 1)):
        for size, error in ((0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), ("4", TypeError)):
            sizes = [2, 3]
            sizes[position] = size
            came = size if error is ValueError else type(size).__name__
            with refuses(error, f"{name}: expected an integer", f"got {came}"):
                make(*sizes)
    with pytest.raises(MemoryError):
        make(2**40, 2**40)
    with pytest.raises(MemoryError):
        make(1, 10**30)


OPTIONS = [
    ("dtype", "int32", TypeError, "float32 or float64, got int32"),
    ("dtype", "float16", TypeError, "float32 or float64, got float16"),
    ("dtype", complex, TypeError, "float32 or float64, got complex128"),
    ("dtype", None, TypeError, "float32 or float64, got None"),
    ("dtype", "no type", TypeError, "float32 or float64, got no type"),
    ("bias", 1, TypeError, "True or False, got int"),
    ("rng", "seed", TypeError, "a seed, a SeedSequence or a Generator, got 'seed'"),
    ("rng", -1, ValueError, "a seed, a SeedSequence or a Generator, got -1"),
]
LAYER_OPTIONS = [
    ("num_layers", 0, ValueError, "an integer of at least 1, got 0"),
    ("num_layers", 1.0, TypeError, "an integer, got float"),
    ("batch_first", "no", TypeError, "True or False, got str"),
    ("bidirectional", 2, TypeError, "True or False, got int"),
    ("dropout", -0.1, ValueError, "between 0 and 1, got -0.1"),
    ("dropout", 1.5, ValueError, "between 0 and 1, got 1.5"),
    ("dropout", 10**400, ValueError, "between 0 and 1, got inf"),
    ("dropout", float("nan"), ValueError, "between 0 and 1, got nan"),
    ("dropout", "half", TypeError, "a real number, got str"),
    ("dropout", True, TypeError, "a real number, got bool"),
]


@pytest.mark.parametrize(("name", "value", "error", "expected"), OPTIONS)
def test_options(name, value, error, expected):
    for make in (*LAYERS.values(), *CELLS.values()):
        with refuses(error, f"{name}: expected", expected):
            make(2, 3, **{name: value})


@pytest.mark.parametrize(("name", "value", "error", "expected"), LAYER_OPTIONS)
def test_options_of_layers(name, value, error, expected):
    for make in LAYERS.values():
        with refuses(error, f"{name}: expected", expected):
            make(2, 3, **{name: value})


@pytest.mark.parametrize(("value", "error"), [("sigmoid", ValueError), (None, TypeError), (1, TypeError)])
def test_nonlinearity(value, error):
    for make in (fastrnn.RNN, fastrnn.RNNCell):
        with refuses(error, "nonlinearity: expected 'tanh' or 'relu', got", repr(value)):
            make(2, 3, nonlinearity=value)


def test_load_state_dict(layer, cell):
    for target in (layer, cell):
        good = {name: array + 1 for name, array in target.params.items()}
        first, last = list(good)[0], list(good)[-1]
        cases = [
            (
                {k: v for k, v in good.items() if k != last},
                ValueError,
                f"state_dict: expected exactly {first}",
                f"{last} is missing",
            ),
            ({**good, "weight_hr_l0": 0}, ValueError, "state_dict: expected exactly", "weight_hr_l0 is unexpected"),
            ({}, ValueError, f"{first} is missing, "),
            (
                {**good, last: good[last][:-1]},
                ValueError,
                f"state_dict['{last}']: expected shape {good[last].shape}, got",
            ),
            ({**good, last: good[last].astype(complex)}, TypeError, f"state_dict['{last}']: expected real numbers"),
            ({**good, last: None}, TypeError, f"state_dict['{last}']: expected real numbers"),
            (list(good), TypeError, "state_dict: expected a mapping of names to arrays, got list"),
        ]
        for mapping, error, *words in cases:
            with refuses(error, *words):
                target.load_state_dict(mapping)


# --- frozen layers


def test_step(layer, kind):
    served = layer.freeze()
    for shape in [(), (I + 1,), (B, I + 1), (1, B, I), (0,)]:
        with refuses(ValueError, f"x_t: expected shape (B, {I}) or ({I},), got {shape}"):
            served.step(np.zeros(shape))
    name = "state[0]" if kind == "lstm" else "state"
    with refuses(ValueError, f"{name}: expected shape ({L}, {B}, {H}), got ({L}, {H})"):
        served.step(np.zeros((B, I)), pair(kind, np.zeros((L, H))))
    with refuses(ValueError, f"{name}: expected shape ({L}, {H}), got ({L}, 1, {H})"):
        served.step(np.zeros(I), pair(kind, np.zeros((L, 1, H))))
    both = LAYERS[kind](I, H, bidirectional=True).freeze()
    with refuses(ValueError, "step: expected a layer of the forward direction alone, got a bidirectional one"):
        both.step(np.zeros(I))


def test_step_out(layer, kind):
    served, x = layer.freeze(), np.ones((B, I), "f4")
    y, h = np.full((B, H), 7, "f4"), np.full((L, B, H), 7, "f4")
    after = (h, h.copy()) if kind == "lstm" else h
    name = "out[1][0]" if kind == "lstm" else "out[1]"
    frozen = h.copy()
    frozen.flags.writeable = False
    cases = [
        (y, TypeError, "out: expected a pair (y, state), got ndarray"),
        ((y, after, y), TypeError, "out: expected a pair (y, state), got tuple"),
        ((y[None], after), ValueError, f"out[0]: expected shape ({B}, {H}), got (1, {B}, {H})"),
        ((y.astype("f8"), after), TypeError, "out[0]: expected dtype float32, got float64"),
        ((np.asfortranarray(y), after), ValueError, "out[0]: expected a C-contiguous array"),
        ((y.tolist(), after), TypeError, "out[0]: expected an array, got list"),
        ((y, pair(kind, h[:1])), ValueError, f"{name}: expected shape ({L}, {B}, {H}), got (1, {B}, {H})"),
        ((y, pair(kind, h.astype(">f4"))), TypeError, f"{name}: expected dtype float32, got >f4"),
        ((y, pair(kind, frozen)), ValueError, f"{name}: expected a writable array"),
        ((y, pair(kind, None)), TypeError, f"{name}: expected an array, got NoneType"),
        ((h[0], after), ValueError, "out: expected arrays that overlap neither"),
        ((y, pair(kind, h)[::-1] if kind == "lstm" else h[::-1]), ValueError, "out"),
    ]
    for out, error, *words in cases:
        with refuses(error, *words):
            served.step(x, out=out)
        assert (y == 7).all() and (h == 7).all()


def test_step_out_over_its_input(backend, kind):
    """Overlaps that would change what is still to be read."""
    served = LAYERS[kind](H, H, rng=0).freeze()
    room = np.zeros((4, 1, B, H), "f4")
    x, h, c = room[0, 0], room[1], room[2]
    state = (h, c) if kind == "lstm" else h
    after = (room[3], room[3].copy()) if kind == "lstm" else room[3]
    outs = [
        (x, after),
        (h[0], after),
        (x.copy(), pair(kind, room[0])),
        (x.copy(), pair(kind, room.reshape(-1)[5 : 5 + B * H].reshape(1, B, H))),
    ]
    if kind == "lstm":
        outs += [(x.copy(), (c, h)), (x.copy(), (h, h))]
    for out in outs:
        with refuses(ValueError, "out: expected arrays that overlap neither each other nor x_t"):
            served.step(x, state, out=out)
    owned = np.zeros((B, H), "f4")
    with refuses(ValueError, "out: expected arrays that overlap"):
        served.step(owned, out=(owned, (h.copy(), c.copy()) if kind == "lstm" else h.copy()))
    assert not room.any() and not owned.any()


# --- cells


def test_shapes_of_cells(cell, kind):
    name = "state[0]" if kind == "lstm" else "state"
    for call in (cell, cell.forward, cell.freeze()):
        for shape in [(), (I + 1,), (B, I + 1), (1, B, I)]:
            with refuses(ValueError, f"x: expected shape (B, {I}) or ({I},), got {shape}"):
                call(np.zeros(shape))
        with refuses(ValueError, f"{name}: expected shape ({B}, {H}), got ({H},)"):
            call(np.zeros((B, I)), pair(kind, np.zeros(H)))
        with refuses(ValueError, f"{name}: expected shape ({H},), got (1, {H})"):
            call(np.zeros(I), pair(kind, np.zeros((1, H))))
    _, tape = cell.forward(np.zeros((B, I)))
    with refuses(ValueError, f"dh: expected shape ({B}, {H}), got ({H},)"):
        cell.backward(tape, np.zeros(H))
    with refuses(ValueError, "dh", "expected at least one gradient, got None"):
        cell.backward(tape, None)
    if kind == "lstm":
        with refuses(ValueError, f"dc: expected shape ({B}, {H}), got ({H},)"):
            cell.backward(tape, None, np.zeros(H))


FUNCTIONS = {
    "rnn": (fastrnn.rnn_relu_cell, fastrnn.rnn_relu_cell_forward),
    "lstm": (fastrnn.lstm_cell, fastrnn.lstm_cell_forward),
    "gru": (fastrnn.gru_cell, fastrnn.gru_cell_forward),
}


def test_functional_cells(backend, cell, kind):
    rows = {"rnn": 1, "lstm": 4, "gru": 3}[kind] * H
    x, good = np.zeros((B, I)), dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), cell.params.values(), strict=True))
    cases = [
        ("w_ih", np.zeros((rows + 1, I)), ValueError, f"w_ih: expected shape ({rows}, I), got ({rows + 1}, {I})"),
        ("w_ih", np.zeros(rows), ValueError, f"w_ih: expected shape ({rows}, I), got ({rows},)"),
        (
            "w_ih",
            np.zeros((rows, 0)),
            ValueError,
            f"w_ih: expected a matrix of at least one column, got shape ({rows}, 0)",
        ),
        ("w_ih", np.zeros((rows, I), int), TypeError, "w_ih: expected float32 or float64, got int64"),
        ("w_ih", np.zeros((rows, I), "f2"), TypeError, "w_ih: expected float32 or float64, got float16"),
        ("w_ih", np.zeros((rows, I), complex), TypeError, "w_ih: expected real numbers, got dtype complex128"),
        ("w_hh", np.zeros((rows + 1, H)), ValueError, f"w_hh: expected shape ({rows}, {H}), got ({rows + 1}, {H})"),
        ("w_hh", np.zeros(()), ValueError, "w_hh: expected a matrix of at least one column, got shape ()"),
        ("w_hh", np.zeros((0, 0)), ValueError, "w_hh: expected a matrix of at least one column, got shape (0, 0)"),
        ("w_hh", np.zeros(H), ValueError, f"w_hh: expected shape ({rows}, {H}), got ({H},)"),
        ("w_hh", None, TypeError, "w_hh: expected real numbers, got dtype object"),
        ("b_ih", np.zeros(rows - 1), ValueError, f"b_ih: expected shape ({rows},), got ({rows - 1},)"),
        ("b_hh", np.zeros((rows, 1)), ValueError, f"b_hh: expected shape ({rows},), got ({rows}, 1)"),
        ("b_hh", np.zeros(rows, object), TypeError, "b_hh: expected real numbers, got dtype object"),
    ]
    for call in FUNCTIONS[kind]:
        for name, wrong, error, *words in cases:
            with refuses(error, *words):
                call(x, None, **{**good, name: wrong})
        with refuses(ValueError, f"x: expected shape (B, {I}) or ({I},), got ({B}, {I + 1})"):
            call(np.zeros((B, I + 1)), None, **good)
        name = "state[0]" if kind == "lstm" else "state"
        with refuses(ValueError, f"{name}: expected shape ({B}, {H}), got ({B}, {H + 1})"):
            call(x, pair(kind, np.zeros((B, H + 1))), **good)


def test_accumulate_of_functional_cells(backend):
    cell = fastrnn.GRUCell(I, H)
    (w_ih, w_hh, b_ih, b_hh), x = cell.params.values(), np.zeros((B, I))
    h, tape = fastrnn.gru_cell_forward(x, None, w_ih, w_hh, b_ih, None)
    grads = fastrnn.gru_cell_backward(tape, h)
    cases = [
        (
            {"w_ih": grads.w_ih, "w_hh": grads.w_hh},
            ValueError,
            "accumulate: expected exactly w_ih, w_hh, b_ih; b_ih is missing",
        ),
        ({**grads._asdict(), "b_hh": b_hh.copy()}, ValueError, "x is unexpected", "b_hh is unexpected"),
        (grads._replace(w_hh=grads.w_hh[:1]), ValueError, "accumulate['w_hh']: expected shape"),
        (grads._replace(w_ih=w_ih), ValueError, "accumulate['w_ih']: expected an array of its own"),
        (
            cell.backward(cell.forward(x)[1], h),
            TypeError,
            "accumulate: expected a mapping of names to arrays, got Grads",
        ),
    ]
    for accumulate, error, *words in cases:
        with refuses(error, *words):
            fastrnn.gru_cell_backward(tape, h, accumulate=accumulate)
    with refuses(TypeError, "accumulate: expected a mapping of names to arrays, got CellGrads"):
        cell.backward(cell.forward(x)[1], h, accumulate=grads)


# --- memory


@pytest.mark.parametrize("T_huge", [2**42, 2**50])
def test_a_failed_allocation(backend, kind, T_huge):
    """A sequence that repeats one row without memory, whose output no memory, or not even an address, could hold."""
    layer, row = LAYERS[kind](1, 16), np.zeros((1, 1), np.float32)
    x = np.lib.stride_tricks.as_strided(row, (T_huge, 2**8, 1), (0, 0, row.itemsize), writeable=False)
    for call in calls(layer):
        with pytest.raises(MemoryError):
            call(x)


def test_accumulate_may_not_overlap_any_parameter(backend):
    layer = fastrnn.LSTM(8, 8, rng=0)
    y, _, tape = layer.forward(np.ones((2, 1, 8)))
    before = layer.state_dict()
    sums = {**layer.backward(tape, y).params, "weight_ih_l0": layer.params["weight_hh_l0"]}
    with pytest.raises(ValueError, match="accumulate.*weight_ih_l0.*overlaps a parameter"):
        layer.backward(tape, y, accumulate=sums)
    for name, array in layer.params.items():
        np.testing.assert_array_equal(array, before[name])


def test_inputs_too_large_to_convert_are_a_memory_error(backend):
    layer = fastrnn.LSTM(4, 8, rng=0)
    with pytest.raises(MemoryError, match="cannot convert"):
        layer(np.broadcast_to(np.int8(1), (2**60, 1, 4)))
    assert layer(np.ones((2, 1, 4)))[0].shape == (2, 1, 8)
