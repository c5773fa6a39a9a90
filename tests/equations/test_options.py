"""Options of the cells: peepholes, coupled gates, clip, activations, leaks. The reference against central differences,
the others against the reference, and all against ONNX Runtime and PyTorch where those have the option."""

import numpy as np
import pytest
from cases import assert_same_bits, bare, parts_of
from differences import differences

import fastrnn
from fastrnn.core.options import DEFAULTS

T, B, I = 9, 4, 5
OPTIONS = {
    "peephole": (fastrnn.LSTM, {"peephole": True}),
    "coupled": (fastrnn.LSTM, {"coupled": True}),
    "coupled peephole": (fastrnn.LSTM, {"coupled": True, "peephole": True}),
    "lstm clip": (fastrnn.LSTM, {"clip": 0.2, "peephole": True}),
    "lstm activations": (fastrnn.LSTM, {"activations": ("hard_sigmoid", "softsign", ("scaled_tanh", 1.7, 0.6))}),
    "coupled activations": (fastrnn.LSTM, {"activations": (("affine", 0.3, 0.5), "elu", "softplus"), "coupled": True}),
    "reset first": (fastrnn.GRU, {"reset": "before"}),
    "reset first activations": (
        fastrnn.GRU,
        {"reset": "before", "clip": 0.9, "activations": ("hard_sigmoid", "softsign")},
    ),
    "gru clip": (fastrnn.GRU, {"clip": 0.2}),
    "gru activations": (fastrnn.GRU, {"activations": (("hard_sigmoid", 1 / 6, 0.5), "leaky_relu")}),
    "rnn clip": (fastrnn.RNN, {"clip": 0.2}),
    "relu clip": (fastrnn.RNN, {"nonlinearity": "relu", "clip": 0.2}),
    "leaky": (fastrnn.LeakyRNN, {"alpha": 0.4, "train_alpha": True}),
    "leaky relu": (fastrnn.LeakyRNN, {"alpha": 0.4, "nonlinearity": "relu", "train_alpha": True}),
}
for NAME, NUMBERS in DEFAULTS.items():
    OPTIONS[f"rnn {NAME}"] = fastrnn.RNN, {"activations": [(NAME, *(0.5 * n + 0.1 for n in NUMBERS))]}


@pytest.fixture(params=OPTIONS)
def option(request):
    return OPTIONS[request.param]


def make(option, H, dtype=np.float64, seed=0, **more):
    """A layer, x and a state; a leak for each unit."""
    kind, options = option
    rng = np.random.default_rng(seed)
    if kind is fastrnn.LeakyRNN:
        options = options | {"alpha": rng.uniform(0.1, 1, H)}
    layer = kind(I, H, rng=rng, dtype=dtype, **options, **more)
    x, states = rng.standard_normal((T, B, I)).astype(dtype), 2 if kind is fastrnn.LSTM else 1
    rows = layer.num_layers * (1 + layer.bidirectional)
    return layer, x, [rng.standard_normal((rows, B, H)).astype(dtype) for _ in range(states)], rng


def everything(layer, x, state, **between):
    y, after, tape = layer.forward(x, bare(tuple(state)), **between)
    dy = np.cos(np.arange(y.size)).reshape(y.shape).astype(y.dtype)
    grads = layer.backward(tape, dy, bare(tuple(np.sin(1 + part) for part in state)))
    return {
        "y": y, "x": grads.x, **grads.params,
        **{f"after[{k}]": part for k, part in enumerate(parts_of(after))},
        **{f"state[{k}]": part for k, part in enumerate(parts_of(grads.state))},
    }  # fmt: skip


def test_the_reference_s_gradients(option):
    layer, x, state, _ = make(option, 3)
    weights = [np.sin(1 + part) for part in state]

    def loss():
        y, after = layer(x, bare(tuple(state)))
        dy = np.cos(np.arange(y.size)).reshape(y.shape)
        return (y * dy).sum() + sum((part * w).sum() for part, w in zip(parts_of(after), weights))

    with fastrnn.use_backend("numpy"):
        # As `everything`, whose dstate follows from the state that the differences move.
        y, _, tape = layer.forward(x, bare(tuple(state)))
        dy = np.cos(np.arange(y.size)).reshape(y.shape)
        grads = layer.backward(tape, dy, bare(tuple(weights)))
        given = {"x": (x, grads.x), **{name: (layer.params[name], grads.params[name]) for name in layer.params}}
        given |= {f"state[{k}]": pair for k, pair in enumerate(zip(state, parts_of(grads.state)))}
        for name, (array, gradient) in given.items():
            expected = differences(loss, array)
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("H", [1, 21, 70])
def test_backends_agree(kernels, option, H, more):
    layer, x, state, _ = make(option, H, **more)
    lengths = np.array([T, 0, 4, 1])
    found = everything(layer, x, state, lengths=lengths)
    with fastrnn.use_backend("numpy"):
        expected = everything(layer, x, state, lengths=lengths)
    for name, array in expected.items():
        scale = max(1, np.abs(array).max())
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-13 * scale, err_msg=name)


def test_single_precision(kernels, option):
    layer, x, state, _ = make(option, 40, np.float32)
    wide = type(layer)(**(layer.config | {"dtype": "float64"}))
    wide.load_state_dict(layer.state_dict())
    expected = everything(wide, x.astype(np.float64), [part.astype(np.float64) for part in state])
    relu = "relu" in str(layer)
    for name, array in everything(layer, x, state).items():
        scale = max(1, np.abs(expected[name]).max())
        assert array.dtype == np.float32
        error = np.abs(array - expected[name])
        # The derivative of what is clipped, or has a corner, may fall on either side of it.
        few = np.mean(error > 2e-5 * scale)
        assert few <= (0.02 if relu or "clip" in str(layer) or "hard" in str(layer) or "elu" in str(layer) else 0), name


def test_same_bits_on_any_number_of_threads_and_in_any_batch(level, option):
    for sizes in ((96, 33), (130, 1)):
        layer, _, _, rng = make(option, sizes[0])
        x = rng.standard_normal((T, sizes[1], I))
        state = [rng.standard_normal((1, sizes[1], sizes[0])) for _ in range(2 if type(layer) is fastrnn.LSTM else 1)]
        before = fastrnn.get_num_threads()
        try:
            results = []
            for threads in (1, 2, 3):
                fastrnn.set_num_threads(threads)
                results.append(everything(layer, x, state))
        finally:
            fastrnn.set_num_threads(before)
        for other in results[1:]:
            for name, array in results[0].items():
                assert_same_bits(other[name], array, name)
        y, _ = layer(x[:, :1], bare(tuple(part[:, :1] for part in state)))
        assert_same_bits(y, np.ascontiguousarray(results[0]["y"][:, :1]), "y of the first row")


def test_frozen_steps_and_files(backend, option, tmp_path):
    layer, x, state, _ = make(option, 24, np.float32)
    y, after = layer(x, bare(tuple(state)))
    frozen, now = layer.freeze(), bare(tuple(state))
    for t in range(T):
        y_t, now = frozen.step(x[t], now)
        np.testing.assert_allclose(y_t, y[t], rtol=1e-5, atol=1e-6)
    pytest.importorskip("safetensors")
    fastrnn.save(tmp_path / "layer.safetensors", layer=layer)
    loaded = fastrnn.load(tmp_path / "layer.safetensors")["layer"]
    assert loaded.config == layer.config and repr(loaded) == repr(layer)
    assert_same_bits(loaded(x, bare(tuple(state)))[0], y, "y")


def test_what_is_missing_or_too_many():
    plain, peephole = fastrnn.LSTM(I, 4, rng=0), fastrnn.LSTM(I, 4, rng=0, peephole=True)
    with pytest.raises(ValueError, match="peephole_l0 is missing"):
        peephole.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="peephole_l0 is unexpected"):
        plain.load_state_dict(peephole.state_dict())
    again = fastrnn.LSTM.from_state_dict(peephole.state_dict())
    assert again.config["peephole"]
    x = np.ones((2, 1, I), np.float32)
    assert_same_bits(again(x)[0], peephole(x)[0], "y")
    coupled = fastrnn.LSTM(I, 4, coupled=True, rng=0)
    assert_same_bits(fastrnn.LSTM.from_state_dict(coupled.state_dict(), coupled=True)(x)[0], coupled(x)[0], "y")
    leaky = fastrnn.LeakyRNN(I, 4, alpha=[0.1, 0.2, 0.3, 0.4], train_alpha=True, rng=0)
    assert_same_bits(fastrnn.LeakyRNN.from_state_dict(leaky.state_dict())(x)[0], leaky(x)[0], "y")


def test_constant_leaks_are_no_parameters(backend):
    layer = fastrnn.LeakyRNN(I, 6, alpha=0.25, rng=0, dtype=np.float64)
    assert "alpha_l0" not in layer.params
    x = np.random.default_rng(0).standard_normal((T, B, I))
    y, state, tape = layer.forward(x)
    grads = layer.backward(tape, y)
    assert grads.params.keys() == layer.params.keys()
    trained = fastrnn.LeakyRNN(I, 6, alpha=0.25, train_alpha=True, dtype=np.float64)
    trained.load_state_dict(layer.state_dict() | {"alpha_l0": np.full(6, 0.25)})
    np.testing.assert_array_equal(trained(x)[0], y)


def test_a_leak_of_one_is_an_rnn(backend):
    leaky, rnn = fastrnn.LeakyRNN(I, 20, alpha=1, rng=0), fastrnn.RNN(I, 20)
    rnn.load_state_dict(leaky.state_dict())
    x = np.random.default_rng(0).standard_normal((T, B, I))
    np.testing.assert_allclose(leaky(x)[0], rnn(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_leaky_is_torch_s_loop(backend, nonlinearity):
    torch = pytest.importorskip("torch")
    H, f = 20, getattr(torch, nonlinearity)
    layer, x, (h0,), rng = make((fastrnn.LeakyRNN, {"train_alpha": True, "nonlinearity": nonlinearity}), H)
    noise = 0.3 * rng.standard_normal((T, B, H))
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in layer.params.items()}
    given, h = torch.tensor(x, requires_grad=True), torch.tensor(h0[0])
    alpha, outputs = weights["alpha_l0"], []
    for t in range(T):
        a = given[t] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        h = (1 - alpha) * h + alpha * f(a + h @ weights["weight_hh_l0"].T + torch.tensor(noise[t]))
        outputs.append(h)
    y = torch.stack(outputs)
    (y**2).sum().backward()
    found, _, tape = layer.forward(x, h0, noise=noise)
    grads = layer.backward(tape, 2 * found)
    np.testing.assert_allclose(found, y.detach(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer.freeze()(x, h0, noise=noise)[0], found, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(grads.x, given.grad, rtol=1e-11, atol=1e-12)
    for name, array in weights.items():
        np.testing.assert_allclose(grads.params[name], array.grad, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"batch_first": True}], ids=str)
def test_noise_s_layout(backend, options):
    """Noise is a bias of each step: that of a layer whose x brings it, by an identity."""
    H, D = 6, 2 if "bidirectional" in options else 1
    layer = fastrnn.RNN(I, H, rng=0, dtype=np.float64, **options)
    wide = fastrnn.RNN(I + D * H, H, rng=0, dtype=np.float64, **options)
    rng = np.random.default_rng(1)
    x, noise, mask = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, D * H)), rng.random((T, B)) < 0.7
    state = layer.state_dict()
    for d, suffix in enumerate(("_l0", "_l0_reverse")[:D]):
        carry = np.zeros((H, D * H))
        carry[:, d * H : (d + 1) * H] = np.eye(H)
        state["weight_ih" + suffix] = np.concatenate([state["weight_ih" + suffix], carry], axis=1)
    wide.load_state_dict(state)
    if "batch_first" in options:
        x, noise, mask = x.swapaxes(0, 1), noise.swapaxes(0, 1), mask.T
    for between in ({}, {"mask": mask}):
        expected, _ = wide(np.concatenate([x, noise], axis=-1), **between)
        np.testing.assert_allclose(layer(x, noise=noise, **between)[0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fastrnn.LSTM(2, 3, clip=-1), ValueError, "clip: expected a finite number above 0, got -1"),
        (lambda: fastrnn.LSTM(2, 3, clip="1"), TypeError, "clip: expected a real number, got str"),
        (lambda: fastrnn.LSTM(2, 3, peephole=1), TypeError, "peephole: expected True or False, got int"),
        (lambda: fastrnn.LSTM(2, 3, coupled=None), TypeError, "coupled: expected True or False, got NoneType"),
        (lambda: fastrnn.GRU(2, 3, peephole=True), TypeError, "peephole"),
        (lambda: fastrnn.GRU(2, 3, reset="first"), ValueError, "reset: expected 'after' or 'before', got 'first'"),
        (lambda: fastrnn.GRU(2, 3, reset=True), TypeError, "reset: expected 'after' or 'before', got True"),
        (lambda: fastrnn.GRU(2, 3, activations="tanh"), TypeError, "activations: expected a sequence of 2"),
        (lambda: fastrnn.GRU(2, 3, activations=["tanh"]), ValueError, "activations: expected 2 of them, got 1"),
        (
            lambda: fastrnn.RNN(2, 3, activations=["swish"]),
            ValueError,
            r"activations\[0\]: expected one of sigmoid, .*",
        ),
        (lambda: fastrnn.RNN(2, 3, activations=[3]), TypeError, r"activations\[0\]: expected a name, or"),
        (lambda: fastrnn.RNN(2, 3, activations=[("tanh", 1)]), ValueError, "expected at most 0 numbers with 'tanh'"),
        (
            lambda: fastrnn.RNN(2, 3, activations=[("elu", -1)]),
            ValueError,
            "expected an alpha of at least 0 with 'elu'",
        ),
        (lambda: fastrnn.RNN(2, 3, activations=[("elu", np.inf)]), ValueError, "expected a finite number, got inf"),
        (lambda: fastrnn.LeakyRNN(2, 3, alpha=0), ValueError, "alpha: expected numbers above 0 and at most 1, got 0"),
        (lambda: fastrnn.LeakyRNN(2, 3, alpha=[0.5, 1.5, 1]), ValueError, "alpha: .* got 1.5"),
        (lambda: fastrnn.LeakyRNN(2, 3, alpha=[0.5]), ValueError, r"alpha: expected shape \(\) or \(3,\), got \(1,\)"),
        (lambda: fastrnn.LeakyRNN(2, 3, alpha="all"), TypeError, "alpha: expected real numbers"),
        (lambda: fastrnn.LeakyRNN(2, 3, train_alpha=2), TypeError, "train_alpha: expected True or False"),
        (
            lambda: fastrnn.LeakyRNN(2, 3)(np.zeros((1, 1, 2)), noise=np.zeros((1, 1, 2))),
            ValueError,
            r"noise: expected shape \(1, 1, 3\)",
        ),
        (lambda: fastrnn.GRU(2, 3)(np.zeros((1, 1, 2)), noise=np.zeros((1, 1, 3))), ValueError, "noise: expected None"),
    ],
)
def test_bad_options(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- ONNX Runtime

ORT_NAMES = {
    "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid", "tanh": "Tanh", "relu": "Relu", "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
    "affine": "Affine", "scaled_tanh": "ScaledTanh",
}  # fmt: skip
ONNX_GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}  # z, r, h and i, o, f, c among ours
FUNCTIONS = [("hard_sigmoid", 0.3, 0.4), ("leaky_relu", 0.2), ("softsign",), ("elu", 0.7), ("affine", 0.4, 0.1),
             ("scaled_tanh", 0.8, 1.3), ("thresholded_relu", 0.1), ("softplus",), ("relu",)]  # fmt: skip


def runtime(layer, op, x, functions=None, **attributes):
    """y of ONNX Runtime with the layer's parameters, T, B, 1, H."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    H, p = layer.hidden_size, layer.params

    def gates(array):
        blocks = np.split(array, len(ONNX_GATES[op]) if "peephole" not in attributes else 3)
        return np.concatenate([blocks[k] for k in ONNX_GATES[op]])[None]

    bias = np.concatenate([gates(p["bias_ih_l0"]), gates(p["bias_hh_l0"])], axis=1)
    feed = {"x": x, "W": gates(p["weight_ih_l0"]), "R": gates(p["weight_hh_l0"]), "B": bias}
    inputs = ["x", "W", "R", "B"]
    if "peephole_l0" in p:
        i, f, o = np.split(p["peephole_l0"], 3)
        feed["P"] = np.concatenate([i, o, f])[None]
        inputs += ["", "", "", "P"]
    if functions:
        attributes["activations"] = [ORT_NAMES[name] for name, *_ in functions]
        attributes["activation_alpha"] = [float(n[0]) for _, *n in functions if n]
        attributes["activation_beta"] = [float(n[1]) for _, *n in functions if len(n) > 1]
        attributes = {name: value for name, value in attributes.items() if value}
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(op, inputs, ["y"], hidden_size=H, **attributes)
    shapes = [helper.make_tensor_value_info(name, real, array.shape) for name, array in feed.items()]
    graph = helper.make_graph([node], "g", shapes, [helper.make_tensor_value_info("y", real, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.ascontiguousarray(array) for name, array in feed.items()})[0][:, 0]


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("peephole", [False, True])
def test_lstm_is_onnx_runtime_s(backend, peephole, clip):
    layer, x, _, _ = make((fastrnn.LSTM, {"peephole": peephole, "clip": clip}), 24, np.float32)
    expected = runtime(layer, "LSTM", x, **({"clip": clip} if clip else {}))
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("H", [5, 24, 130])
def test_reset_first_is_onnx_runtime_s_default(backend, H):
    layer, x, _, _ = make((fastrnn.GRU, {"reset": "before"}), H, np.float32)
    np.testing.assert_allclose(layer(x)[0], runtime(layer, "GRU", x), rtol=1e-5, atol=2e-6)


def test_coupled_is_onnx_runtime_s_input_forget(backend):
    """There f has rows of its own, which nothing reads."""
    layer, x, _, _ = make((fastrnn.LSTM, {"coupled": True}), 24, np.float32)
    whole = fastrnn.LSTM(I, 24, rng=1)
    for name, array in layer.params.items():
        i, g, o = np.split(array, 3)
        whole.params[name] = np.concatenate([i, whole.params[name][24:48], g, o])
    np.testing.assert_allclose(layer(x)[0], runtime(whole, "LSTM", x, input_forget=1), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_activations_are_onnx_runtime_s(backend, op, function):
    kind = getattr(fastrnn, op)
    functions = {"RNN": [function], "GRU": [("sigmoid",), function], "LSTM": [("sigmoid",), function, ("tanh",)]}[op]
    given = [f if len(f) > 1 else f[0] for f in functions]
    layer, x, _, _ = make((kind, {"activations": given}), 24, np.float32)
    attributes = {"linear_before_reset": 1} if op == "GRU" else {}
    expected = runtime(layer, op, x, functions, **attributes)
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-5, atol=5e-6 * scale)
