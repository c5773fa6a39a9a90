"""MinGRU, MinLSTM, IndRNN: against loops and differences, on every backend; the promises; their interface."""

import copy
import pickle

import numpy as np
import pytest
from cases import assert_same_bits
from differences import differences, past

import fastrnn
from fastrnn import IndRNN, MinGRU, MinLSTM

KINDS = {
    "mingru": (MinGRU, {}),
    "minlstm": (MinLSTM, {}),
    "indrnn_relu": (IndRNN, {}),
    "indrnn_tanh": (IndRNN, {"nonlinearity": "tanh"}),
}
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bidirectional": True}, {"bias": False}]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make(kind, I, H, **options):
    cls, own = KINDS[kind]
    return cls(I, H, **{"rng": 0, **own, **options})


def case(kind, T, B, I, H, with_lengths=False, seed=1, **options):
    """A layer, x, state, lengths, dy, dstate; past a row's length x and dy are NaN."""
    layer, rng = make(kind, I, H, **options), np.random.default_rng(seed)
    rows, D = layer.num_layers * (1 + layer.bidirectional), 1 + layer.bidirectional
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, D * H))
    lengths = None
    if with_lengths:
        lengths = rng.integers(1, T + 1, B)
        lengths[0] = 0
        x[past(T, lengths)] = dy[past(T, lengths)] = np.nan
    if layer.batch_first:
        x, dy = x.swapaxes(0, 1).copy(), dy.swapaxes(0, 1).copy()
    state, dstate = rng.standard_normal((2, rows, B, H))
    return layer, *[array.astype(layer.dtype) for array in (x, state)], lengths, dy.astype(layer.dtype), dstate


def run(layer, x, state, lengths, dy, dstate):
    """All results, by name."""
    y, after, tape = layer.forward(x, state, lengths=lengths)
    grads = layer.backward(tape, dy, dstate)
    return {"y": y, "after": after, "x": grads.x, "state": grads.state, **grads.params}


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def step(kind, v, u, h):
    """The papers' equations at one step of one row."""
    if kind == "mingru":
        z, n = np.split(v, 2)
        return (1 - sigmoid(z)) * h + sigmoid(z) * n
    if kind == "minlstm":
        f, i, n = np.split(v, 3)
        f, i = sigmoid(f), sigmoid(i)
        return f / (f + i) * h + i / (f + i) * n
    return np.tanh(v + u * h) if kind == "indrnn_tanh" else np.maximum(v + u * h, 0)


def loop(kind, layer, x, state, lengths):
    """y and the final state, row by row and step by step, in float64."""
    params = {name: array.astype(np.float64) for name, array in layer.params.items()}
    x, after = x.astype(np.float64), state.astype(np.float64).copy()
    if layer.batch_first:
        x = x.swapaxes(0, 1)
    (T, B, _), H = x.shape, layer.hidden_size
    for k in range(layer.num_layers):
        y = np.zeros((T, B, layer.output_size))
        for d, suffix in enumerate(("", "_reverse")[: 1 + layer.bidirectional]):
            w, b = params[f"weight_ih_l{k}{suffix}"], params.get(f"bias_ih_l{k}{suffix}", 0)
            u, row = params.get(f"weight_hh_l{k}{suffix}"), k * (1 + layer.bidirectional) + d
            for r in range(B):
                steps = range(T if lengths is None else lengths[r])
                for t in reversed(steps) if d else steps:
                    after[row, r] = step(kind, w @ x[t, r] + b, u, after[row, r])
                    y[t, r, d * H : (d + 1) * H] = after[row, r]
        x = y
    return (y.swapaxes(0, 1) if layer.batch_first else y), after


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (6, 5, 3, 7), (5, 2, 20, 70), (30, 3, 4, 16)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_against_a_loop(backend, kind, options, size, with_lengths, dtype):
    layer, x, state, lengths, _, _ = case(kind, *size, with_lengths, dtype=dtype, **options)
    tolerance = 200 * np.finfo(dtype).eps
    for y, after in (layer(x, state, lengths=lengths), layer.forward(x, state, lengths=lengths)[:2]):
        assert y.dtype == after.dtype == dtype
        expected = loop(kind, layer, x, state, lengths)
        for found, other in zip((y, after), expected):
            assert np.abs(found - other).max(initial=0) <= tolerance * max(1, np.abs(other).max(initial=0))


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_against_differences(backend, kind, options, with_lengths):
    layer, x, state, lengths, dy, dstate = case(kind, 5, 3, 2, 3, with_lengths, dtype=np.float64, **options)

    def loss():
        y, after = layer(x, state, lengths=lengths)
        return np.sum(np.where(np.isnan(dy), 0, dy) * y) + np.sum(dstate * after)

    found = run(layer, x, state, lengths, dy, dstate)
    for name, array in {"x": x, "state": state, **layer.params}.items():
        np.testing.assert_allclose(found[name], differences(loss, array), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("size", [(7, 5, 6, 7), (300, 3, 33, 70), (9, 70, 16, 16)], ids=str)
def test_kernels_against_the_reference(kernels, kind, size, with_lengths, dtype):
    given = case(kind, *size, with_lengths, dtype=dtype, bidirectional=True)
    found = run(*given)
    with fastrnn.use_backend("numpy"):
        expected = run(*given)
    if kind == "indrnn_relu" and np.any((found["y"] > 0) != (expected["y"] > 0)):
        found, expected = {"y": found["y"]}, {"y": expected["y"]}  # gradients of two functions
    for name, array in expected.items():
        terms = np.sqrt(size[0] * size[1]) if name in given[0].params else 1
        error = np.abs(found[name] - array).max() / max(terms, np.abs(array).max())
        assert error <= 100 * np.finfo(dtype).eps, (name, error / np.finfo(dtype).eps)


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("size", [(60, 1, 100, 900), (60, 3, 60, 260), (40, 50, 30, 130)], ids=str)
def test_threads(kernels, threads, kind, size, with_lengths):
    given = case(kind, *size, with_lengths, bidirectional=True)
    threads(1)
    expected = run(*given)
    for n in (2, 3, 7):
        threads(n)
        for name, array in run(*given).items():
            assert_same_bits(array, expected[name], f"{name} on {n} threads")


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch(kernels, kind, dtype, with_lengths):
    """y, states, dx and dstate of rows alone, in another order, padded, and with batch_first."""
    layer, x, state, lengths, dy, dstate = case(kind, 17, 9, 20, 37, with_lengths, dtype=dtype, num_layers=2)
    expected = run(layer, x, state, lengths, dy, dstate)
    ends = np.full(9, 17) if lengths is None else lengths
    for rows in ([4], [8, 0, 3], list(range(9))):
        for padding in (0, 3):
            wide, dwide = (np.full((17 + padding, len(rows), n), np.nan, dtype) for n in (20, 37))
            wide[:17], dwide[:17] = x[:, rows], dy[:, rows]
            found = run(layer, wide, state[:, rows], ends[rows], dwide, dstate[:, rows])
            for name in ("y", "x", "after", "state"):
                array = found[name][:17] if name in "yx" else found[name]
                assert_same_bits(np.ascontiguousarray(array), expected[name][:, rows], f"{name} of {rows}, {padding}")
    turned = make(kind, 20, 37, dtype=dtype, num_layers=2, batch_first=True)
    found = run(turned, x.swapaxes(0, 1), state, lengths, dy.swapaxes(0, 1), dstate)
    for name in ("y", "x"):
        assert_same_bits(np.ascontiguousarray(found[name].swapaxes(0, 1)), expected[name], f"{name} of batch_first")
    if lengths is None:
        found = run(layer, x[:, 4], state[:, 4], None, dy[:, 4], dstate[:, 4])
        for name in ("y", "x", "after", "state"):
            assert_same_bits(found[name], np.ascontiguousarray(expected[name][:, 4]), f"{name} unbatched")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("B", [1, 2, 11])
def test_chunks(kernels, kind, dtype, B):
    """Whole, in chunks carried by the state, step by step through a frozen layer; inference and training."""
    layer, x, state, _, _, _ = case(kind, 23, B, 19, 37, num_layers=2, dtype=dtype)
    whole, last = layer(x, state)
    trained, trained_last, _ = layer.forward(x, state)
    assert_same_bits(trained, whole, "training")
    assert_same_bits(trained_last, last, "state after training")
    served = layer.freeze()
    for length in (1, 4, 23):
        ys, now = [], state
        for t in range(0, 23, length):
            y, now = served(x[t : t + length], now)
            ys.append(y)
        assert_same_bits(np.concatenate(ys), whole, f"chunks of {length}")
        assert_same_bits(now, last, f"state after chunks of {length}")
    ys, now = [], state
    out = np.empty((B, 37), dtype), np.empty_like(state)
    for x_t in x:
        y, now = served.step(x_t, now)
        ys.append(y)
    assert_same_bits(np.stack(ys), whole, "steps")
    assert_same_bits(now, last, "state after steps")
    out[1][...] = state
    for x_t, y in zip(x, whole):
        assert served.step(x_t, out[1], out=out) is out
        assert_same_bits(out[0], np.ascontiguousarray(y), "steps in place")
    assert_same_bits(out[1], last, "state after steps in place")


def test_saturated_gates(backend):
    """Pre-activations of either sign as large as they come: gates are 0 and 1, and z = 0 keeps the state as it was."""
    layer = MinGRU(1, 4, rng=0, bias=False)
    layer.params["weight_ih_l0"][:4, 0] = [1e4, -1e4, 1e30, -1e30]
    y, h, tape = layer.forward(np.ones((3, 1)), np.full((1, 4), 0.5))
    n = layer.params["weight_ih_l0"][4:, 0]
    np.testing.assert_array_equal(h[0], [n[0], 0.5, n[2], 0.5])
    grads = layer.backward(tape, dstate=np.ones((1, 4)))
    np.testing.assert_array_equal(grads.state[0], [0, 1, 0, 1])
    layer = MinLSTM(1, 2, rng=0, bias=False)
    layer.params["weight_ih_l0"][:4, 0] = [50, -50, -50, 50]
    h = layer(np.ones((3, 1)), np.full((1, 2), 0.5))[1]
    np.testing.assert_allclose(h[0], [0.5, layer.params["weight_ih_l0"][5, 0]], rtol=1e-6)


def test_tapes_show_the_gates(backend, kind):
    layer, x, state, _, _, _ = case(kind, 4, 3, 2, 5, dtype=np.float64, bidirectional=True, batch_first=True)
    y, _, tape = layer.forward(x, state)
    names = {"mingru": "zn", "minlstm": "fin"}.get(kind, "")
    assert [list(gates) for gates in tape.gates] == [list(names)] * 2
    assert_same_bits(tape.outputs[0], y, "y")
    for suffix, gates in zip(("", "_reverse"), tape.gates):
        parts = np.split(
            x @ layer.params[f"weight_ih_l0{suffix}"].T + layer.params[f"bias_ih_l0{suffix}"], max(1, len(names)), -1
        )
        for name, part in zip(names, parts):
            expected = part if name == "n" else sigmoid(part)
            np.testing.assert_allclose(gates[name], expected, rtol=1e-12, atol=1e-14)


def test_accumulate(backend, kind):
    layer, x, state, lengths, dy, dstate = case(kind, 6, 4, 3, 5, dtype=np.float64)
    tape = layer.forward(x, state)[2]
    once = layer.backward(tape, dy, dstate)
    again = layer.backward(tape, dy, dstate, accumulate=once)
    twice = layer.backward(tape, 2 * dy, 2 * dstate)
    for name, array in again.params.items():
        assert array is once.params[name]
        np.testing.assert_allclose(array, twice.params[name], rtol=1e-12, atol=1e-13)
    alone = layer.backward(tape, dstate=dstate), layer.backward(tape, dy)
    np.testing.assert_allclose(alone[0].x + alone[1].x, once.x, rtol=1e-10, atol=1e-13)


def test_parameters_and_configuration(kind):
    layer = make(kind, 3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=np.float64)
    gates = {"mingru": 2, "minlstm": 3}.get(kind, 1)
    assert layer.params["weight_ih_l1_reverse"].shape == (4 * gates, 8)
    assert layer.params["bias_ih_l0"].shape == (4 * gates,)
    assert ("weight_hh_l0" in layer.params) == kind.startswith("indrnn")
    if kind.startswith("indrnn"):
        assert layer.params["weight_hh_l0"].shape == (4,) and (layer.params["weight_hh_l0"] >= 0).all()
    assert all(np.abs(array).max() <= (1 if "hh" in name else 0.5) for name, array in layer.params.items())
    other = type(layer)(**layer.config)
    assert repr(other) == repr(layer) and eval(repr(layer), vars(fastrnn)).config == layer.config
    other.load_state_dict(layer.state_dict())
    read = type(layer).from_state_dict(layer.state_dict(), batch_first=True, **KINDS[kind][1])
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    for again in (other, read, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.freeze()):
        assert_same_bits(again(x)[0], layer(x)[0], repr(again))
    frozen = layer.freeze()
    assert frozen.config == layer.config and copy.copy(frozen) is frozen
    assert_same_bits(pickle.loads(pickle.dumps(frozen))(x)[0], layer(x)[0], "pickled")
    layer.params["bias_ih_l0"] += 1
    assert (frozen(x)[0] != layer(x)[0]).any()
    keras = make(kind, 3, 4, init="keras")
    biases = keras.params["bias_ih_l0"]
    assert (biases[:4] == (kind == "minlstm")).all() and not biases[4:].any()


def test_files_and_training(kind, tmp_path):
    pytest.importorskip("safetensors")
    from fastrnn.train import Adam, Chain, Linear, Sequences, cross_entropy, evaluate, fit

    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((n, 2)).astype(np.float32) for n in rng.integers(3, 9, 200)]
    targets = [(np.cumsum(x[:, 0]) > 0).astype(int) for x in inputs]  # which takes memory
    model = Chain(make(kind, 2, 16), make(kind, 16, 16), Linear(16, 2, rng=0))
    data = Sequences(inputs, targets, per_step=True)
    before = evaluate(model, data, cross_entropy)
    fit(model, data, cross_entropy, Adam(model.params, lr=0.02), epochs=12, rng=0)
    after = evaluate(model, data, cross_entropy)
    assert after < 0.5 * before
    fastrnn.save(tmp_path / "model", model=model)
    assert evaluate(fastrnn.load(tmp_path / "model")["model"], data, cross_entropy) == after


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (0, 3)], ids=str)
def test_empty(backend, kind, shape):
    layer = make(kind, 3, 5)
    state = np.ones((1, *shape[1:-1], 5), np.float32)
    y, after, tape = layer.forward(np.ones(shape), state)
    assert y.shape == (*shape[:-1], 5)
    np.testing.assert_array_equal(after, state)
    grads = layer.backward(tape, dstate=2 * state)
    np.testing.assert_array_equal(grads.state, 2 * state)
    assert grads.x.shape == shape and not any(array.any() for array in grads.params.values())


def test_bad_input(backend, kind):
    layer, x = make(kind, 3, 5), np.ones((4, 2, 3))
    tape = layer.forward(x)[2]
    cls = type(layer)
    for call, error, message in (
        (lambda: cls(0, 5), ValueError, "input_size: expected an integer of at least 1"),
        (lambda: cls(3, 5.0), TypeError, "hidden_size: expected an integer"),
        (lambda: cls(3, 5, bias=1), TypeError, "bias: expected True or False"),
        (lambda: cls(3, 5, dtype=complex), TypeError, "dtype: expected float32 or float64"),
        (lambda: cls(3, 5, init="other"), ValueError, "init: expected 'torch' or 'keras'"),
        (lambda: layer(np.ones((4, 2, 2))), ValueError, r"x: expected shape \(T, B, 3\)"),
        (lambda: layer(x, np.ones((1, 3, 5))), ValueError, r"state: expected shape \(1, 2, 5\)"),
        (lambda: layer(x, lengths=[4, 5]), ValueError, "lengths: expected integers from 0 to T = 4"),
        (lambda: layer(x * 1j), TypeError, "x: expected real numbers"),
        (lambda: layer.backward(tape), ValueError, "dy, dstate: expected at least one gradient"),
        (lambda: layer.backward(tape, np.ones((4, 2, 3))), ValueError, r"dy: expected shape \(4, 2, 5\)"),
        (lambda: layer.backward(tape, dstate=np.ones(5)), ValueError, r"dstate: expected shape \(1, 2, 5\)"),
        (lambda: make(kind, 3, 5).backward(tape, np.ones((4, 2, 5))), ValueError, "tape: expected one from"),
        (lambda: layer.load_state_dict({}), ValueError, "state_dict: expected exactly"),
        (lambda: layer.from_state_dict({"w": np.ones(3)}), ValueError, "state_dict: expected names such as"),
        (lambda: layer.freeze().step(np.ones((2, 2))), ValueError, r"x_t: expected shape \(B, 3\)"),
        (lambda: layer.freeze().step(np.ones(3), out=3), TypeError, r"out: expected a pair \(y, state\)"),
        (lambda: make(kind, 3, 5, bidirectional=True).freeze().step(np.ones(3)), ValueError, "step: expected"),
        (lambda: setattr(layer.freeze(), "x", 1), AttributeError, "FrozenScan is immutable"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_nonlinearity_is_checked():
    for wrong, error in (("sigmoid", ValueError), (3, TypeError)):
        with pytest.raises(error, match="nonlinearity: expected 'tanh' or 'relu'"):
            IndRNN(3, 5, nonlinearity=wrong)
    assert IndRNN(3, 5, nonlinearity="tanh").nonlinearity == "tanh" and IndRNN(3, 5).nonlinearity == "relu"
