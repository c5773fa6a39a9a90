"""Layers as ONNX models: run by ONNX Runtime and OpenVINO to the layer's numbers, and by onnx's evaluator."""

import numpy as np
import pytest
from onnx_cases import close, session

import fastrnn

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

import fastrnn.onnx  # noqa: E402
from fastrnn.onnx import to_onnx  # noqa: E402

I, H = 5, 7
LAYERS = {
    "rnn": (fastrnn.RNN, {}),
    "relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, {}),
    "gru": (fastrnn.GRU, {}),
    "gru before": (fastrnn.GRU, {"reset": "before"}),
    "no bias": (fastrnn.LSTM, {"bias": False}),
    "stack": (fastrnn.LSTM, {"num_layers": 3, "dropout": 0.5}),
    "bidirectional": (fastrnn.GRU, {"bidirectional": True}),
    "bidirectional stack": (fastrnn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "reverse": (fastrnn.LSTM, {"direction": "reverse"}),
    "either way": (fastrnn.RNN, {"num_layers": 2, "direction": ("reverse", "forward")}),
    "batch first": (fastrnn.GRU, {"num_layers": 2, "batch_first": True, "bidirectional": True}),
    "recurrent dropout": (fastrnn.LSTM, {"recurrent_dropout": 0.3, "mask_per": "step"}),
    "clip": (fastrnn.LSTM, {"clip": 0.3}),
    "activations": (
        fastrnn.LSTM,
        {"activations": [("hard_sigmoid", 0.3, 0.5), "softsign", "tanh"], "bidirectional": True},
    ),
    "linear": (fastrnn.RNN, {"activations": ["linear"]}),
    "peephole": (fastrnn.LSTM, {"peephole": True, "bidirectional": True}),
    "coupled": (fastrnn.LSTM, {"coupled": True, "peephole": True}),
}  # fmt: skip
NOT_IN_OPENVINO = ("peephole", "coupled", "activations", "linear")


def call(name, dtype=np.float32, T=6, B=3, seed=0):
    """The layer, a feed of the model's inputs, and the answers of a call."""
    kind, options = LAYERS[name]
    layer, rng = kind(I, H, rng=seed, dtype=dtype, **options), np.random.default_rng(seed)
    rows = layer.num_layers * (1 + layer.bidirectional)
    x = rng.standard_normal((B, T, I) if layer.batch_first else (T, B, I)).astype(dtype)
    parts = [rng.standard_normal((rows, B, H)).astype(dtype) for _ in range(2 if kind is fastrnn.LSTM else 1)]
    feed = {"x": x, **dict(zip(("h0", "c0"), parts))}
    return layer, feed, answers(layer, x, tuple(parts) if len(parts) == 2 else parts[0])


def answers(layer, x, state, lengths=None):
    y, after = layer(x, state, lengths=lengths)
    return [y, *(after if isinstance(after, tuple) else (after,))]


def compare(found, expected):
    assert len(found) == len(expected)
    for array, wanted in zip(found, expected):
        assert array.shape == wanted.shape and array.dtype == wanted.dtype
        close(array, wanted)


@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("name", LAYERS)
def test_onnx_runtime_has_the_layer_s_numbers(name, opset):
    pytest.importorskip("onnxruntime")
    layer, feed, expected = call(name)
    model = to_onnx(layer, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    running = session(model)
    compare(running.run(None, feed), expected)
    _, other, wanted = call(name, T=2, B=1, seed=0)
    compare(running.run(None, other), wanted)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in NOT_IN_OPENVINO])
def test_openvino_has_the_layer_s_numbers(name, tmp_path):
    openvino = pytest.importorskip("openvino")
    layer, feed, expected = call(name)
    to_onnx(layer, tmp_path / "layer.onnx")
    run = openvino.Core().compile_model(str(tmp_path / "layer.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = run(feed)
    compare([found[name] for name in (["y", "h", "c"] if "c0" in feed else ["y", "h"])], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_onnx_s_evaluator_has_the_layer_s_numbers(name, dtype):
    layer, feed, expected = call(name, dtype)
    found = ReferenceEvaluator(to_onnx(layer), new_ops=fastrnn.onnx.OPS).run(None, feed)
    for array, wanted in zip(found, expected):
        assert array.dtype == dtype
        if name in ("clip", "activations"):  # whose numbers ONNX rounds to float32
            np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("name", ["lstm", "bidirectional stack", "batch first"])
def test_lengths_and_no_initial_state(name):
    pytest.importorskip("onnxruntime")
    layer, feed, _ = call(name)
    running = session(to_onnx(layer, lengths=True, initial_state=False))
    assert [value.name for value in running.get_inputs()] == ["x", "lengths"]
    lengths = np.array([6, 2, 4], np.int32)
    compare(running.run(None, {"x": feed["x"], "lengths": lengths}), answers(layer, feed["x"], None, lengths))


@pytest.mark.parametrize(
    ("layer", "arguments", "error", "message"),
    [
        (
            fastrnn.LSTM(I, H, proj_size=3),
            {},
            ValueError,
            "proj_size: expected 0, got 3: ONNX's LSTM has no such thing",
        ),
        (fastrnn.GRU(I, H, layer_norm=True), {}, ValueError, "layer_norm: expected False, got True"),
        (fastrnn.LSTM(I, H, zoneout=0.1), {}, ValueError, "zoneout: expected 0.0, got 0.1"),
        (fastrnn.LeakyRNN(I, H), {}, TypeError, "layer: expected an RNN, LSTM or GRU, got LeakyRNN"),
        (fastrnn.LSTM(I, H).freeze(), {}, TypeError, "layer: expected an RNN, LSTM or GRU, got FrozenLayer"),
        (fastrnn.RNN(I, H), {"opset": 6}, ValueError, "opset: expected 7 to 22, got 6"),
        (fastrnn.RNN(I, H), {"lengths": [3]}, TypeError, "lengths: expected True or False"),
    ],
)
def test_what_onnx_cannot_say(layer, arguments, error, message):
    with pytest.raises(error, match=message):
        to_onnx(layer, **arguments)
