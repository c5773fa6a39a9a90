"""Arrays as callers have them: layouts, other types, empty ones, NaN; and states and dropout of a call."""

import copy

import numpy as np
import pytest
from kinds import B, H, I, T, assert_close, make, make_cell, misaligned, normal, pair, parts, run

import fastrnn


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
