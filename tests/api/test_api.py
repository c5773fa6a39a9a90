"""The Python surface: layouts, states, parameters, tapes, dropout, freezing, cells. Values are tested elsewhere."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastrnn

KINDS = {
    "rnn_tanh": (fastrnn.RNN, fastrnn.RNNCell, {}),
    "rnn_relu": (fastrnn.RNN, fastrnn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, fastrnn.LSTMCell, {}),
    "gru": (fastrnn.GRU, fastrnn.GRUCell, {}),
}
T, B, I, H = 5, 3, 4, 6


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make(kind, *args, **options):
    layer, _, own = KINDS[kind]
    return layer(*(args or (I, H)), **{"dtype": "float64", "rng": 1, **own, **options})


def make_cell(kind, **options):
    _, cell, own = KINDS[kind]
    return cell(I, H, **{"dtype": "float64", "rng": 1, **own, **options})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pair(kind, make_part):
    """A state for the cell: an array, or for LSTM a pair."""
    return (make_part(10), make_part(11)) if kind == "lstm" else make_part(10)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def assert_close(actual, expected):
    """Equal but for the order of sums in float64."""
    for a, e in zip(parts(actual), parts(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13)


# --- parameters


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


# --- layouts and conversions


def test_inference_and_training_agree(backend, kind):
    layer, x = make(kind, I, H, 3, bidirectional=True), normal(T, B, I)
    y, state = layer(x)
    y_forward, state_forward, _ = layer.forward(x)
    y_frozen, state_frozen = layer.freeze()(x)
    assert y.shape == (T, B, 2 * H) and all(part.shape == (6, B, H) for part in parts(state))
    for other in (y_forward, state_forward), (y_frozen, state_frozen):
        assert_close(other[0], y)
        assert_close(other[1], state)


def test_none_is_a_state_of_zeros(backend, kind):
    layer, x = make(kind, I, H, 2), normal(T, B, I)
    zeros = pair(kind, lambda seed: np.zeros((2, B, H)))
    np.testing.assert_array_equal(layer(x)[0], layer(x, zeros)[0])
    if kind == "lstm":
        np.testing.assert_array_equal(layer(x)[0], layer(x, list(zeros))[0])


def run(layer, x, state, dy, dstate, lengths=None):
    y, after, tape = layer.forward(x, state, lengths=lengths)
    return y, after, layer.backward(tape, dy, dstate)


def test_batch_first_and_unbatched(backend, kind):
    layer, across = make(kind, I, H, 2, bidirectional=True), make(kind, I, H, 2, bidirectional=True, batch_first=True)
    x, dy = normal(T, B, I), normal(T, B, 2 * H, seed=1)
    state, dstate = pair(kind, lambda s: normal(4, B, H, seed=s)), pair(kind, lambda s: normal(4, B, H, seed=s + 9))
    y, after, grads = run(layer, x, state, dy, dstate)
    y_b, after_b, grads_b = run(across, x.swapaxes(0, 1), state, dy.swapaxes(0, 1), dstate)
    assert y_b.flags.c_contiguous and grads_b.x.flags.c_contiguous
    assert_close(y_b.swapaxes(0, 1), y)
    assert_close(grads_b.x.swapaxes(0, 1), grads.x)
    assert_close(after_b, after)
    assert_close(grads_b.state, grads.state)
    for name in grads.params:
        assert_close(grads_b.params[name], grads.params[name])

    def row(state):
        return pair(kind, lambda s: parts(state)[s - 10][:, 1])

    for one in layer, across:
        y_u, after_u, grads_u = run(one, x[:, 1], row(state), dy[:, 1], row(dstate))
        assert y_u.shape == (T, 2 * H)
        assert_close(y_u, y[:, 1])
        assert_close(after_u, row(after))
        assert_close(grads_u.x, grads.x[:, 1])
        assert_close(grads_u.state, row(grads.state))
        assert_close(one(x[:, 1], row(state))[1], row(after))


def misaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def packed_fields(array):
    """Rows whose stride is no multiple of the itemsize."""
    record = np.zeros(array.shape[:-1], np.dtype([("pad", "u1"), ("value", array.dtype, array.shape[-1:])]))
    record["value"] = array
    return record["value"]


DISGUISES = {
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=-1)[::2, ..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "features reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": misaligned,
    "packed fields": packed_fields,
    "list": lambda a: a.tolist(),
    "longdouble": lambda a: a.astype(np.longdouble),
    "subclass": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, bool)),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_arrays_of_any_layout(backend, kind, disguise):
    layer = make(kind, I, H, 2)
    x, dy = normal(T, B, I), normal(T, B, H, seed=1)
    state = pair(kind, lambda seed: normal(2, B, H, seed=seed))
    disguised = pair(kind, lambda seed: disguise(normal(2, B, H, seed=seed)))
    y, after, grads = run(layer, x, state, dy, state)
    y_d, after_d, grads_d = run(layer, disguise(x), disguised, disguise(dy), disguised, lengths=[T] * B)
    assert type(y_d) is np.ndarray and y_d.dtype == np.float64
    assert_close(y_d, y)
    assert_close(after_d, after)
    assert_close(grads_d.x, grads.x)
    assert_close(grads_d.params["weight_ih_l0"], grads.params["weight_ih_l0"])
    served = layer.freeze()
    assert_close(served(disguise(x), disguised)[0], y)
    assert_close(served.step(disguise(x[0]), disguised)[0], served.step(x[0], state)[0])
    cell, h = make_cell(kind), pair(kind, lambda seed: normal(B, H, seed=seed))
    h_d = pair(kind, lambda seed: disguise(normal(B, H, seed=seed)))
    assert_close(cell(disguise(x[0]), h_d), cell(x[0], h))
    assert_close(cell.freeze()(disguise(x[0]), h_d), cell(x[0], h))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", ">f4"])
@pytest.mark.parametrize("own", ["float32", "float64"])
def test_other_real_types_are_converted(backend, own, dtype):
    layer = make("gru", dtype=own)
    x = (10 * normal(T, B, I)).astype("int8" if dtype != "uint64" else "uint8").astype(dtype)
    y, _ = layer(x)
    assert y.dtype == own
    np.testing.assert_array_equal(y, layer(x.astype(own))[0])


def test_inputs_are_never_modified(backend, kind):
    layer = make(kind, I, H, 2, bidirectional=True)
    x, dy = normal(T, B, I), normal(T, B, 2 * H, seed=1)
    state = pair(kind, lambda seed: normal(4, B, H, seed=seed))
    lengths = np.array([T, 1, 3])
    given = [x, dy, lengths, *parts(state)]
    copies = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    run(layer, x, state, dy, state, lengths)
    layer.freeze()(x, state, lengths=lengths)
    state_1 = pair(kind, lambda seed: parts(state)[seed - 10][:1])
    make(kind).freeze().step(x[0], state_1)
    cell, state_cell = make_cell(kind), pair(kind, lambda seed: parts(state)[seed - 10][0])
    after, tape = cell.forward(x[0], state_cell)
    cell.backward(tape, parts(after)[0])
    for array, before in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, before)


def test_nan_and_infinity_propagate(backend, kind):
    layer, x = make(kind), normal(T, B, I)
    x[2, 1] = np.nan
    y, state = layer(x)
    assert np.isfinite(y[:, [0, 2]]).all() and np.isfinite(y[:2, 1]).all() and np.isnan(y[2:, 1]).all()
    for part in parts(state):
        assert np.isnan(part[0, 1]).all() and np.isfinite(part[0, [0, 2]]).all()
    x[2, 1] = np.inf, 0, 0, 0  # each pre-activation is infinite, each gate saturated
    y, _ = layer(x[:3])
    signs = np.sign(layer.params["weight_ih_l0"][-H:, 0])
    expected = {"rnn_tanh": signs, "rnn_relu": np.where(signs > 0, np.inf, 0)}
    if kind in expected:
        np.testing.assert_array_equal(y[2, 1], expected[kind])
    else:
        assert (np.abs(y[2, 1]) <= 1).all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("empty", ["T", "B", "both"])
def test_empty_sequences(backend, kind, empty, dropout):
    t, b = (0 if empty != "B" else T), (0 if empty != "T" else B)
    layer = make(kind, I, H, 2, bidirectional=True, dropout=dropout)
    x, state = np.zeros((t, b, I)), pair(kind, lambda seed: normal(4, b, H, seed=seed))
    y, after, tape = layer.forward(x, state)
    assert y.shape == (t, b, 2 * H)
    for old, new in zip(parts(state), parts(after), strict=True):
        assert new is not old and not np.shares_memory(new, old)
        np.testing.assert_array_equal(new, old)
    grads = layer.backward(tape, None, after)
    assert grads.x.shape == x.shape
    for given, back in zip(parts(after), parts(grads.state), strict=True):
        np.testing.assert_array_equal(back, given)
    assert not any(array.any() for array in grads.params.values())
    assert not any(part.any() for part in parts(layer.backward(tape, y).state))
    assert layer(x, lengths=[] if b == 0 else None)[0].shape == layer.freeze()(x)[0].shape == y.shape
    if empty == "T":
        assert layer(np.zeros((0, I)))[0].shape == (0, 2 * H)
    else:
        y_step, after_step = make(kind).freeze().step(np.zeros((0, I)))
        assert y_step.shape == (0, H) and parts(after_step)[0].shape == (1, 0, H)
        assert parts(make_cell(kind)(np.zeros((0, I))))[0].shape == (0, H)


# --- dropout


def test_dropout_is_for_forward_between_layers(backend, kind):
    x = normal(T, B, I)
    plain, dropping = make(kind, I, H, 3, rng=1), make(kind, I, H, 3, rng=1, dropout=0.5)
    np.testing.assert_array_equal(dropping(x)[0], plain(x)[0])
    np.testing.assert_array_equal(dropping.freeze()(x)[0], plain(x)[0])
    assert (dropping.forward(x)[0] != plain(x)[0]).any()
    one, dropping = make(kind, rng=1), make(kind, rng=1, dropout=0.5)
    np.testing.assert_array_equal(dropping.forward(x)[0], one(x)[0])


def test_dropout_is_reproducible(backend, kind):
    x = normal(T, B, I)
    first, second = (make(kind, I, H, 2, rng=3, dropout=0.3) for _ in range(2))
    once = first.forward(x)[0]
    np.testing.assert_array_equal(second.forward(x)[0], once)
    assert (second.forward(x)[0] != once).any()
    across = make(kind, I, H, 2, rng=3, dropout=0.3, batch_first=True)
    assert_close(across.forward(x.swapaxes(0, 1))[0].swapaxes(0, 1), once)


def test_dropout_of_everything(backend, kind):
    layer, x = make(kind, I, H, 2, dropout=1), normal(T, B, I)
    upper = make(kind, H, H)
    upper.load_state_dict({name: layer.params[name.replace("l0", "l1")] for name in upper.params})
    y, _, tape = layer.forward(x)
    assert_close(y, upper(np.zeros((T, B, H)))[0])
    grads = layer.backward(tape, y)
    assert not grads.x.any() and grads.params["bias_ih_l1"].any()


def test_dropout_keeps_the_expectation(backend):
    """An RNN of weights one and no recurrence passes on what dropout made of its inputs."""
    layer = fastrnn.RNN(1, 1, 2, nonlinearity="relu", bias=False, dropout=0.25, dtype="float64", rng=0)
    layer.load_state_dict({name: np.array([[float("ih" in name)]]) for name in layer.params})
    y, _, tape = layer.forward(np.ones((400, 100, 1)))
    kept = y != 0
    np.testing.assert_array_equal(y[kept], 1 / 0.75)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / kept.size)
    np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y)).x, y)


def test_dropout_gradients_against_differences(backend, kind):
    layer = make(kind, I, H, 3, dropout=0.4, bidirectional=True)
    x, dy = normal(T, B, I), normal(T, B, 2 * H, seed=1)

    def loss(x):
        return np.vdot(copy.deepcopy(layer).forward(x)[0], dy)  # the copy draws the same masks

    direction, step = normal(T, B, I, seed=2), 1e-6
    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    _, _, tape = layer.forward(x)
    np.testing.assert_allclose(np.vdot(layer.backward(tape, dy).x, direction), slope, rtol=1e-6)


# --- tapes and gradients


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


# --- frozen layers


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


# --- cells


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
