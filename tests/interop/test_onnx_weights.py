"""ONNX's tensors and attributes as layers: against ONNX Runtime, and there and back."""

import numpy as np
import pytest
from onnx_cases import GATES, close, random_case, runtime

from fastrnn.weights import onnx as weights

KINDS = list(GATES)


def call(case):
    """Y, Y_h and Y_c of a layer made of the case."""
    f = case.feed
    layer = weights.layer(case.kind, f["W"], f["R"], f.get("B"), f.get("P"), **case.attributes)
    state = None
    if "initial_h" in f or "initial_c" in f:
        zeros = np.zeros((len(f["W"]), f["X"].shape[1], layer.hidden_size), np.float32)
        state = f.get("initial_h", zeros)
        state = (state, f.get("initial_c", zeros)) if case.kind == "LSTM" else state
    y, after = layer(f["X"], state, lengths=f.get("sequence_lens"))
    T, B, _ = y.shape
    y = y.reshape(T, B, len(f["W"]), -1).swapaxes(1, 2)
    return layer, [y, *(after if case.kind == "LSTM" else [after])]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_tensors_is_onnx_runtime_s_node(kind, seed):
    pytest.importorskip("onnxruntime")
    case = random_case(kind, seed, same_functions=True)
    _, found = call(case)
    for array, expected, name in zip(found, runtime(case), case.outputs):
        close(array, expected, f"{name} of {case.attributes}")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_there_and_back(kind, seed):
    case = random_case(kind, seed, same_functions=True)
    layer, _ = call(case)
    coupled = bool(case.attributes.get("input_forget"))
    found = weights.from_params(kind, layer.params, coupled=coupled)
    H = layer.hidden_size
    for name, array in zip("WRBP", found):
        expected = case.feed.get(name)
        if coupled and expected is not None:
            expected = expected.copy()
            blocks = [(2 * H, 3 * H)] + ([(6 * H, 7 * H)] if name == "B" else [])
            for start, stop in blocks:
                expected[:, start:stop] = 0
        if expected is None:
            assert array is None
        else:
            np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", KINDS)
def test_attributes_there_and_back(kind, seed):
    attributes = random_case(kind, seed, same_functions=True).attributes
    layer, _ = call(random_case(kind, seed, same_functions=True))
    written = weights.from_options(layer.config, kind)
    ways = {name: attributes[name] for name in ("direction", "hidden_size")}
    assert weights.to_options(kind, written | ways) == weights.to_options(kind, attributes)


def test_linear_is_written_as_affine():
    import fastrnn

    written = weights.from_options(fastrnn.RNN(2, 3, activations=["linear"]).config, "RNN")
    assert written == {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}


def test_double_precision_stays():
    W, R = np.ones((1, 12, 2)), np.ones((1, 12, 3))
    assert weights.layer("LSTM", W, R).dtype == np.float64
    assert weights.layer("LSTM", W.astype(np.float16), R).dtype == np.float32


W, R = np.ones((1, 12, 2), np.float32), np.ones((1, 12, 3), np.float32)
LSTM = {"kind": "LSTM", "W": W, "R": R}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (LSTM | {"kind": "rnn"}, ValueError, "kind: expected .*'RNN'"),
        (LSTM | {"R": R[0]}, ValueError, "R: expected shape"),
        (LSTM | {"R": R[:, :9]}, ValueError, r"R: expected shape \(1 or 2, 4·H, H\) of LSTM, got \(1, 9, 3\)"),
        (LSTM | {"W": W[:, :9]}, ValueError, r"W: expected shape \(1, 12, I\)"),
        (LSTM | {"W": "no"}, TypeError, "W: expected real numbers"),
        (LSTM | {"B": R[:, 0]}, ValueError, r"B: expected shape \(1, 24\)"),
        (LSTM | {"P": R[:, 0]}, ValueError, r"P: expected shape \(1, 9\)"),
        ({"kind": "RNN", "W": W[:, :3], "R": R[:, :3], "P": R[:, 0]}, ValueError, "P: expected None of RNN"),
        (LSTM | {"hidden_size": 4}, ValueError, "hidden_size: expected 3, the last axis of R, got 4"),
        (LSTM | {"direction": "backward"}, ValueError, "direction: expected"),
        (LSTM | {"direction": "bidirectional"}, ValueError, "direction: expected one way, since R has 1"),
        (LSTM | {"linear_before_reset": 1}, ValueError, "linear_before_reset: expected an attribute of LSTM"),
        (LSTM | {"output_sequence": 1}, ValueError, "output_sequence: expected an attribute of LSTM from opset 7"),
        (LSTM | {"input_forget": 2}, ValueError, "input_forget: expected 0 or 1, got 2"),
        (LSTM | {"clip": -1.0}, ValueError, "clip: expected a finite number above 0"),
        (LSTM | {"activations": ["Tanh"]}, ValueError, "activations: expected 3 of LSTM, 3 a direction, got 1"),
        (LSTM | {"activations": ["Tanh", "Gelu", "Tanh"]}, ValueError, r"activations\[1\]: expected one of .*'Gelu'"),
        (LSTM | {"activation_alpha": [1.0]}, ValueError, "activation_alpha: expected none without activations"),
        (
            LSTM | {"activations": ["Tanh", "Elu", "Tanh"], "activation_alpha": [1.0, 2.0]},
            ValueError,
            "activation_alpha: expected one for each activation that takes it, got 1 more",
        ),
        (
            {
                "kind": "RNN",
                "W": np.ones((2, 3, 2)),
                "R": np.ones((2, 3, 3)),
                "direction": "bidirectional",
                "activations": ["Tanh", "Relu"],
            },
            NotImplementedError,
            "activations: those of the forward and the reverse direction differ",
        ),
    ],
)
def test_bad_tensors_and_attributes(arguments, error, message):
    with pytest.raises(error, match=message):
        weights.layer(**arguments)
