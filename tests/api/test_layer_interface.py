"""What a newcomer meets first: assignment, sizes read back, state dicts, initialisation, what a tape shows."""

import json
import warnings

import numpy as np
import pytest
from cases import CELL_KINDS as KINDS
from cases import bare, make_case, make_layer, parts_of

import fastrnn

CELLS = {"rnn_tanh": "RNNCell", "rnn_relu": "RNNCell", "lstm": "LSTMCell", "gru": "GRUCell"}


def make_cell(kind, *args, **options):
    if kind.startswith("rnn"):
        options["nonlinearity"] = kind[4:]
    return getattr(fastrnn, CELLS[kind])(*args, **options)


# --- parameters


def test_assignment_by_operator():
    layer = fastrnn.GRU(2, 3, rng=0)
    before, array = layer.state_dict(), layer.params["weight_hh_l0"]
    layer.params["weight_hh_l0"] -= np.ones((9, 3))
    assert layer.params["weight_hh_l0"] is array
    np.testing.assert_array_equal(array, before["weight_hh_l0"] - np.float32(1))
    layer.params["bias_ih_l0"] = np.arange(9)
    np.testing.assert_array_equal(layer.state_dict()["bias_ih_l0"], np.arange(9))
    with pytest.raises(ValueError, match=r"params\['bias_ih_l0'\]: expected shape \(9,\), got \(8,\)"):
        layer.params["bias_ih_l0"] = np.arange(8)


@pytest.mark.parametrize("kind", KINDS)
def test_num_parameters(kind):
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    layer = make_layer(kind, 5, 7, num_layers=2, bidirectional=True)
    assert layer.num_parameters == 2 * gates * 7 * (5 + 7 + 2) + 2 * gates * 7 * (14 + 7 + 2)
    assert make_cell(kind, 5, 7, bias=False).num_parameters == gates * 7 * 12


@pytest.mark.parametrize("kind", KINDS)
def test_config_rebuilds(kind):
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True}
    for made in (make_layer(kind, 3, 4, dtype=np.float64, **options), make_cell(kind, 3, 4, dtype=np.float64)):
        config = json.loads(json.dumps(made.config))
        again = type(made)(**config)
        assert again.config == made.config and repr(again) == repr(made)
        assert {name: array.shape for name, array in again.params.items()} == {
            name: array.shape for name, array in made.params.items()
        }


@pytest.mark.parametrize("kind", KINDS)
def test_output_size_and_zero_state(kind):
    layer = make_layer(kind, 3, 4, num_layers=2, bidirectional=True, dtype=np.float64)
    assert layer.output_size == 8 and layer.freeze().output_size == 8
    x = np.ones((5, 2, 3))
    y, _ = layer(x)
    assert y.shape[-1] == layer.output_size
    for B, given in ((2, x), (None, x[:, 0])):
        state = layer.zero_state(B)
        assert all(part.dtype == np.float64 and not part.any() for part in parts_of(state))
        np.testing.assert_array_equal(layer(given, state)[0], layer(given)[0])
    cell = make_cell(kind, 3, 4)
    assert cell.output_size == 4
    for B, given in ((2, x[0]), (None, x[0, 0])):
        for new, expected in zip(parts_of(cell(given, cell.zero_state(B))), parts_of(cell(given))):
            np.testing.assert_array_equal(new, expected)
    with pytest.raises(ValueError, match="B: expected an integer of at least 1"):
        layer.zero_state(0)


def test_rng_is_the_masks():
    rng = np.random.default_rng(3)
    layer = fastrnn.LSTM(2, 3, num_layers=2, dropout=0.5, rng=rng)
    assert layer.rng is rng
    x = np.ones((4, 2, 2))
    before = rng.bit_generator.state
    y, _, _ = layer.forward(x)
    rng.bit_generator.state = before
    np.testing.assert_array_equal(layer.forward(x)[0], y)
    assert fastrnn.LSTM(2, 3, rng=rng).rng is None


# --- state dicts


@pytest.mark.parametrize("prefix", ["", "rnn."])
@pytest.mark.parametrize("kind", KINDS)
def test_from_state_dict(kind, prefix):
    options = {"num_layers": 2, "bidirectional": True}
    torch = pytest.importorskip("torch")
    name = {"lstm": "LSTM", "gru": "GRU"}.get(kind, "RNN")
    nonlinearity = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    module = getattr(torch.nn, name)(3, 4, **options, **nonlinearity)
    arrays = {prefix + key: value.numpy() for key, value in module.state_dict().items()} | {"other.weight": np.ones(2)}
    if not prefix:
        del arrays["other.weight"]
    layer = getattr(fastrnn, name).from_state_dict(arrays, prefix, **nonlinearity)
    assert layer.config == make_layer(kind, 3, 4, **options).config
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(layer(x)[0], expected, atol=1e-6)
    other = make_layer(kind, 3, 4, **options)
    other.load_state_dict(arrays, prefix)
    np.testing.assert_array_equal(other(x)[0], layer(x)[0])


def test_cell_from_state_dict():
    cell = fastrnn.LSTMCell(3, 4, bias=False, dtype=np.float64, rng=0)
    again = fastrnn.LSTMCell.from_state_dict({"a.cell." + k: v for k, v in cell.state_dict().items()}, "a.cell.")
    assert again.config == cell.config
    np.testing.assert_array_equal(again(np.ones(3))[0], cell(np.ones(3))[0])


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({}, ValueError, "state_dict: expected parameters under 'rnn.', got none"),
        ({"rnn.weight": (4, 3)}, ValueError, "expected names such as 'rnn.weight_ih_l0', got 'rnn.weight'"),
        ({"rnn.weight_ih_l0": (12, 3)}, ValueError, "expected an entry 'rnn.weight_hh_l0'"),
        ({"rnn.weight_ih_l0": (12, 3), "rnn.weight_hh_l0": (16, 4)}, ValueError, "weights of 4 hidden_size rows each"),
        ({"rnn.weight_ih_l0": (12, 3), "rnn.weight_hh_l0": (12, 4)}, ValueError, "weights of 4 hidden_size rows each"),
        ({"rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16,)}, ValueError, "weight_hh_l0'.: expected shape"),
        (
            {"rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16, 4), "rnn.weight_hh_l1": (16, 4)},
            ValueError,
            "state_dict: expected exactly .*; weight_ih_l1 is missing",
        ),
        (
            {"rnn.weight_ih_l0": (16, 3), "rnn.weight_hh_l0": (16, 4), "rnn.weight_hr_l0": (2, 4)},
            ValueError,
            "weight_hr",
        ),
    ],
)
def test_from_bad_state_dict(entries, error, message):
    with pytest.raises(error, match=message):
        fastrnn.LSTM.from_state_dict({name: np.zeros(shape) for name, shape in entries.items()}, "rnn.")


def test_prefix_of_a_wrong_kind():
    layer = fastrnn.GRU(2, 3)
    with pytest.raises(TypeError, match="prefix: expected a string, got int"):
        layer.load_state_dict(layer.state_dict(), 3)
    with pytest.raises(TypeError, match="state_dict: expected a mapping"):
        fastrnn.GRU.from_state_dict([1])
    with pytest.raises(ValueError, match="under 'other.'.*weight_ih_l0 is missing"):
        layer.load_state_dict(layer.state_dict(), "other.")


# --- hints and warnings


@pytest.mark.parametrize("made", [fastrnn.LSTM(2, 3), fastrnn.GRUCell(2, 3)], ids=repr)
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("weight_ih_l0", "params"),
        ("parameters", "params"),
        ("named_parameters", "params"),
        ("eval", "no mode to set"),
        ("train", "no mode to set"),
        ("zero_grad", "accumulate"),
        ("to", "dtype="),
        ("flatten_parameters", "freeze"),
        ("nonsense", "has no attribute 'nonsense'$"),
    ],
)
def test_habits_of_torch(made, name, where):
    with pytest.raises(AttributeError, match=where):
        getattr(made, name)


def test_dropout_between_no_layers():
    with pytest.warns(UserWarning, match="num_layers=1") as caught:
        fastrnn.LSTM(2, 3, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastrnn.LSTM(2, 3, num_layers=2, dropout=0.5)


def test_mask_as_lengths():
    layer, mask = fastrnn.GRU(2, 3), np.ones((5, 4), bool)
    for given in (mask, mask[0], mask[0].tolist()):
        with pytest.raises(TypeError, match="lengths: expected integers, got dtype bool; .* its sum over time"):
            layer(np.ones((5, 4, 2)), lengths=given)


def test_names_of_the_package():
    assert dir(fastrnn) == sorted(fastrnn.__all__)
    assert issubclass(fastrnn.LSTM, fastrnn.Layer)


@pytest.mark.parametrize("made", [fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU, fastrnn.LSTMCell])
def test_help(made):
    for doc in (made.__doc__, made.__call__.__doc__):
        assert "(T, B" in doc or "(B, " in doc
    assert ">>>" in made.__doc__
    if issubclass(made, fastrnn.Layer):
        for word in ("x ", "state ", "lengths", "y ", ">>>"):
            assert word in made.__call__.__doc__
        assert ">>>" in made.backward.__doc__


# --- initialisation


@pytest.mark.parametrize("kind", KINDS)
def test_keras_initialisation(kind):
    I, H, gates = 30, 20, {"lstm": 4, "gru": 3}.get(kind, 1)
    layer = make_layer(kind, I, H, num_layers=2, init="keras", dtype=np.float64, rng=0)
    for k, inputs in enumerate((I, H)):
        w_ih, w_hh = layer.params[f"weight_ih_l{k}"], layer.params[f"weight_hh_l{k}"]
        bound = np.sqrt(6 / (inputs + gates * H))
        assert 0.95 * bound < np.abs(w_ih).max() <= bound
        np.testing.assert_allclose(w_ih.std(), bound / np.sqrt(3), rtol=0.1)
        np.testing.assert_allclose(w_hh.T @ w_hh, np.eye(H), atol=1e-14)
        forget = np.zeros(gates * H)
        if kind == "lstm":
            forget[H : 2 * H] = 1
        np.testing.assert_array_equal(layer.params[f"bias_ih_l{k}"] + layer.params[f"bias_hh_l{k}"], forget)


def test_orthogonal_matrices_are_not_biased():
    """Without the sign of r's diagonal, the diagonal of q would be negative more often than not."""
    signs = [np.sign(fastrnn.RNN(1, 2, init="keras", rng=seed).params["weight_hh_l0"][0, 0]) for seed in range(400)]
    assert abs(np.mean(signs)) < 0.2  # four standard deviations


@pytest.mark.parametrize("made", [fastrnn.LSTM, fastrnn.LSTMCell])
def test_forget_bias(made):
    plain, layer = made(3, 4, rng=5), made(3, 4, rng=5, forget_bias=4)
    for name, array in layer.params.items():
        same = np.ones(16, bool)
        if name.startswith("bias"):
            same[4:8] = False
            np.testing.assert_array_equal(array[4:8], 4 if "ih" in name else 0)
        np.testing.assert_array_equal(array[same], plain.params[name][same])


def test_forget_bias_keeps_the_gradient():
    """As torch initialises it an LSTM's gradient vanishes over 200 steps; with a forget bias of 4 it does not."""
    x = np.random.default_rng(0).standard_normal((200, 1, 8))
    norms = {}
    for bias in (None, 4):
        layer = fastrnn.LSTM(8, 32, dtype=np.float64, rng=0, forget_bias=bias)
        _, (h, c), tape = layer.forward(x)
        grads = layer.backward(tape, dstate=(np.ones_like(h), None))
        norms[bias] = np.linalg.norm(grads.state[0])
    assert norms[None] < 1e-25 and norms[4] > 1e-4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init": "glorot"}, ValueError, "init: expected 'torch' or 'keras', got 'glorot'"),
        ({"init": None}, TypeError, "init: expected 'torch' or 'keras', got NoneType"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: expected a real number or None, got str"),
        ({"forget_bias": np.nan}, ValueError, "forget_bias: expected a finite number, got nan"),
        ({"forget_bias": 1, "bias": False}, ValueError, "forget_bias: expected None for a layer without biases"),
    ],
)
@pytest.mark.parametrize("made", [fastrnn.LSTM, fastrnn.LSTMCell])
def test_bad_initialisation(made, options, error, message):
    with pytest.raises(error, match=message):
        made(2, 3, **options)


# --- cells as layers


@pytest.mark.parametrize("kind", KINDS)
def test_cells_chain_as_layers_do(backend, kind):
    """A loop that does not know the cell: the gradient of the state goes back as it came."""
    T, B, I, H = 4, 2, 3, 5
    rng = np.random.default_rng(0)
    layer, cell = make_layer(kind, I, H, dtype=np.float64, rng=1), make_cell(kind, I, H, dtype=np.float64)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in layer.params.items()})
    x = rng.standard_normal((T, B, I))
    _, after, tape = layer.forward(x)
    dafter = bare(tuple(rng.standard_normal(part.shape) for part in parts_of(after)))
    expected = layer.backward(tape, dstate=dafter)
    state, tapes = cell.zero_state(B), []
    for t in range(T):
        state, tape = cell.forward(x[t], state)
        tapes.append(tape)
    dstate, sums = bare(tuple(part[0] for part in parts_of(dafter))), None
    for t in reversed(range(T)):
        grads = cell.backward(tapes[t], dstate, accumulate=sums)
        np.testing.assert_allclose(grads.x, expected.x[t], atol=1e-14)
        dstate, sums = grads.state, grads
    for actual, right in zip(parts_of(dstate), parts_of(expected.state)):
        np.testing.assert_allclose(actual, right[0], atol=1e-14)
    for name, array in sums.params.items():
        np.testing.assert_allclose(array, expected.params[name + "_l0"], atol=1e-13)


def test_gradients_of_a_cell_by_name_and_as_a_pair(backend):
    rng = np.random.default_rng(0)
    cell = fastrnn.LSTMCell(3, 4, rng=0)
    dh, dc = rng.standard_normal((2, 2, 4)).astype(np.float32)
    _, tape = cell.forward(np.ones((2, 3), np.float32))
    for pair, named in (((dh, dc), {"dh": dh, "dc": dc}), ((None, dc), {"dc": dc}), ((dh, None), {"dh": dh})):
        expected = cell.backward(tape, **named).x
        np.testing.assert_array_equal(cell.backward(tape, pair).x, expected)
        np.testing.assert_array_equal(cell.backward(tape, *pair).x, expected)
    with pytest.raises(TypeError, match="got both"):
        cell.backward(tape, (dh, dc), dh=dh)
    with pytest.raises(ValueError, match=r"dstate: expected a pair \(h, c\), got 3 items"):
        cell.backward(tape, (dh, dc, dc))
    with pytest.raises(ValueError, match=r"dstate\[1\]: expected shape"):
        cell.backward(tape, (dh, dc[:, :3]))
    gru = fastrnn.GRUCell(3, 4, rng=0)
    _, tape = gru.forward(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(gru.backward(tape, dh).x, gru.backward(tape, dh=dh).x)
    with pytest.raises(TypeError, match="got both"):
        gru.backward(tape, dh, dh=dh)


# --- what a tape and gradients show


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gates_satisfy_the_equations(backend, kind, batch_first):
    """Values of a tape, put into the cell's equations, give the outputs; and they are views, read-only."""
    case = make_case(kind, 5, 3, 2, 4, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=np.float64)
    y, _, tape = case.layer.forward(case.x, bare(case.state))
    assert len(tape.gates) == 4 and len(tape.outputs) == 2
    np.testing.assert_array_equal(tape.outputs[1], y)
    assert not any(array.flags.writeable or array.flags.owndata for array in tape.outputs)
    for k, h in enumerate(tape.outputs):
        for d, gates in enumerate(tape.gates[2 * k : 2 * k + 2]):
            assert all(array.shape == (*case.x.shape[:2], 4) and not array.flags.writeable for array in gates.values())
            h_d = h[..., 4 * d : 4 * d + 4]
            if kind == "lstm":
                assert list(gates) == ["i", "f", "g", "o", "c"]
                np.testing.assert_allclose(gates["o"] * np.tanh(gates["c"]), h_d, atol=1e-15)
                c = gates["c"] if not batch_first else gates["c"].swapaxes(0, 1)
                i, f, g = (gates[name].swapaxes(0, 1) if batch_first else gates[name] for name in "ifg")
                order = slice(None, None, -1 if d else 1)
                now, before = c[order][1:], c[order][:-1]
                np.testing.assert_allclose(now, f[order][1:] * before + (i * g)[order][1:], atol=1e-15)
            elif kind == "gru":
                assert list(gates) == ["r", "z", "n", "hn"]
                h_t = h_d.swapaxes(0, 1) if batch_first else h_d
                z, n = (gates[name].swapaxes(0, 1) if batch_first else gates[name] for name in "zn")
                order = slice(None, None, -1 if d else 1)
                h_t, z, n = h_t[order], z[order], n[order]
                np.testing.assert_allclose(h_t[1:], (1 - z[1:]) * n[1:] + z[1:] * h_t[:-1], atol=1e-15)
            else:
                assert gates == {}


def test_gates_of_a_cell_and_unbatched(backend):
    layer = fastrnn.LSTM(2, 3, rng=0)
    y, (h, c), tape = layer.forward(np.ones((4, 2)))
    assert tape.gates[0]["c"].shape == (4, 3) and tape.outputs[0].shape == (4, 3)
    np.testing.assert_array_equal(tape.gates[0]["c"][-1], c[0])
    cell = fastrnn.LSTMCell(2, 3, rng=0)
    for x in (np.ones((4, 2), np.float32), np.ones(2, np.float32), np.ones(2)):
        (h, c), tape = cell.forward(x)
        np.testing.assert_array_equal(tape.gates[0]["c"], c)
        np.testing.assert_array_equal(tape.outputs[0], h)
        (h, c), tape = fastrnn.lstm_cell_forward(x, (h, c), *cell.params.values())
        np.testing.assert_array_equal(tape.gates[0]["c"], c)


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}],
    ids=["plain", "batch_first", "deep"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_every_state(backend, kind, options, with_lengths):
    """A sequence cut after step t: the gradient that the later part gives back by its initial state, and dy_t."""
    T, B, H = 6, 3, 4
    case = make_case(kind, T, B, 2, H, with_lengths=with_lengths, dtype=np.float64, **options)
    layer = case.layer
    _, _, tape = layer.forward(case.x, bare(case.state), lengths=case.lengths)
    plain = layer.backward(tape, case.dy, bare(case.dstate))
    grads = layer.backward(tape, case.dy, bare(case.dstate), states=True)
    assert plain.states is None
    np.testing.assert_array_equal(grads.x, plain.x)
    for name, array in plain.params.items():
        np.testing.assert_array_equal(grads.params[name], array)
    rows = case.state[0].shape[0]
    assert all(part.shape == (T, rows, B, H) for part in parts_of(grads.states))
    lengths = np.full(B, T) if case.lengths is None else case.lengths
    if len(case.state) == 2:
        for row, length in enumerate(lengths):
            assert not grads.states[1][length:, :, row].any() and not grads.states[0][length:, :, row].any()
    if rows > 1:
        return  # several layers or directions have no cut: theirs is in the next test
    x, dy = (array.swapaxes(0, 1) if layer.batch_first else array for array in (case.x, case.dy))
    layer = type(layer)(**layer.config | {"batch_first": False})
    layer.load_state_dict(case.layer.state_dict())
    for row, length in enumerate(lengths):
        state = tuple(part[:, row] for part in case.state)
        dlast = tuple(part[:, row] for part in case.dstate)
        for t in range(length):
            _, after = layer(x[: t + 1, row], bare(state))
            right = dlast
            if t + 1 < length:
                _, _, tape = layer.forward(x[t + 1 : length, row], after)
                right = parts_of(layer.backward(tape, dy[t + 1 : length, row], bare(dlast)).state)
            by_h = grads.states[0] if len(case.state) == 2 else grads.states
            np.testing.assert_allclose(by_h[t, :, row], right[0] + dy[t, row], atol=1e-13)
            if len(case.state) == 2:
                np.testing.assert_allclose(grads.states[1][t, :, row], right[1], atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_a_stack(backend, kind):
    """The lower layer's gradient of h counts what the upper one gives back by its input."""
    lower, upper = (make_layer(kind, 3, 3, dtype=np.float64, rng=seed) for seed in (0, 1))
    both = make_layer(kind, 3, 3, num_layers=2, dtype=np.float64)
    both.load_state_dict(lower.state_dict() | {n.replace("l0", "l1"): a for n, a in upper.state_dict().items()})
    x, dy = np.random.default_rng(2).standard_normal((2, 5, 2, 3))
    middle, _, tape_lower = lower.forward(x)
    _, _, tape_upper = upper.forward(middle)
    above = upper.backward(tape_upper, dy, states=True)
    below = lower.backward(tape_lower, above.x, states=True)
    _, _, tape = both.forward(x)
    found = both.backward(tape, dy, states=True)
    for part, one, two in zip(parts_of(found.states), parts_of(below.states), parts_of(above.states)):
        np.testing.assert_allclose(part, np.concatenate([one, two], axis=1), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_states_have_the_same_bits_on_any_threads(kernels, kind, threads):
    """Rows divided or units, few terms or many: as one thread has them."""
    before = fastrnn.get_num_threads()
    try:
        for T, B, H in ((50, 1, 256), (20, 32, 64), (2, 3, 40)):
            case = make_case(kind, T, B, 8, H, with_lengths=B > 1)
            found = []
            for n in (1, threads):
                fastrnn.set_num_threads(n)
                _, _, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
                found.append(parts_of(case.layer.backward(tape, case.dy, bare(case.dstate), states=True).states))
            for one, other in zip(*found):
                np.testing.assert_array_equal(one, other)
            with fastrnn.use_backend("numpy"):
                _, _, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
                right = parts_of(case.layer.backward(tape, case.dy, bare(case.dstate), states=True).states)
            for one, other in zip(found[0], right):
                np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())
    finally:
        fastrnn.set_num_threads(before)


def test_states_unbatched_and_empty(backend):
    layer = fastrnn.LSTM(2, 3, num_layers=2, rng=0)
    for shape, expected in (((4, 2), (4, 2, 3)), ((0, 5, 2), (0, 2, 5, 3)), ((4, 0, 2), (4, 2, 0, 3))):
        y, _, tape = layer.forward(np.ones(shape))
        grads = layer.backward(tape, np.ones_like(y), states=True)
        assert [part.shape for part in grads.states] == [expected, expected]
    with pytest.raises(TypeError, match="states: expected True or False"):
        layer.backward(tape, np.ones_like(y), states=1)


def test_repr_of_gradients():
    layer = fastrnn.LSTM(2, 3, bias=False, rng=0)
    y, _, tape = layer.forward(np.ones((4, 5, 2)))
    assert repr(layer.backward(tape, y)) == (
        "Grads(x=(4, 5, 2), state=((1, 5, 3), (1, 5, 3)), params={weight_ih_l0: (12, 2), weight_hh_l0: (12, 3)})"
    )
    assert "states=((4, 1, 5, 3), (4, 1, 5, 3))" in repr(layer.backward(tape, y, states=True))
    h, tape = fastrnn.gru_cell_forward(np.ones(2), np.ones(3), np.ones((9, 2)), np.ones((9, 3)))
    assert repr(fastrnn.gru_cell_backward(tape, h)) == "CellGrads(x=(2,), state=(3,), w_ih=(9, 2), w_hh=(9, 3))"
