"""Layers out of ONNX models: against ONNX Runtime on the same model."""

import numpy as np
import pytest
from onnx_cases import GATES, close, model_of, random_case, runtime, session

import fastrnn

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

from fastrnn.onnx import from_onnx, to_onnx  # noqa: E402
from fastrnn.onnx.loops import Unrecognised, way_of  # noqa: E402

WEIGHTS = ("W", "R", "B", "P", "initial_h", "initial_c")


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", list(GATES))
def test_nodes_become_layers(kind, seed):
    pytest.importorskip("onnxruntime")
    case = random_case(kind, seed, same_functions=True)
    found = from_onnx(model_of(case, constant=WEIGHTS))
    assert list(found) == ["node"] and not found.skipped
    node = found.nodes["node"]
    y, _ = found["node"](case.feed["X"], node.initial_state, lengths=case.feed.get("sequence_lens"))
    assert node.lengths == ("sequence_lens" if "sequence_lens" in case.feed else None)
    T, B, _ = y.shape
    close(y.reshape(T, B, len(case.feed["W"]), -1).swapaxes(1, 2), runtime(case)[0])


def test_there_and_back(tmp_path):
    lstm = fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0)
    to_onnx(lstm, tmp_path / "m.onnx")
    found = from_onnx(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    y = x
    for name, layer in found.items():
        assert found.nodes[name].state_inputs
        y, _ = layer(y)
    np.testing.assert_array_equal(y, lstm(x)[0])


def test_weights_through_chains_and_in_subgraphs():
    case = random_case("RNN", 4, sizes=(3, 2, 4, 5))
    W, R = case.feed["W"][0], case.feed["R"][0]
    chain = [
        helper.make_node("Transpose", ["Wt"], ["W2"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["W2", "zero"], ["W"]),
        helper.make_node("Identity", ["Ro"], ["R"]),
    ]
    inner = helper.make_node("RNN", ["X", "W", "R"], ["Y"], hidden_size=5)
    value = helper.make_tensor_value_info
    body = helper.make_graph([*chain, inner], "body", [], [value("Y", 1, None)])
    branch = helper.make_node("If", ["yes"], ["Z"], "branch", then_branch=body, else_branch=body)
    arrays = {"Wt": W.T.copy(), "Ro": R[None], "zero": np.array([0]), "yes": np.array(True)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([branch], "g", [value("X", 1, [3, 2, 4])], [value("Z", 1, None)], constants)
    found = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert sorted(found) == ["branch/else_branch/RNN_3", "branch/then_branch/RNN_3"]
    np.testing.assert_array_equal(found["branch/then_branch/RNN_3"].params["weight_ih_l0"], W)


def test_dynamic_quantize_lstm(tmp_path):
    pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import quantize_dynamic

    lstm = fastrnn.LSTM(8, 16, rng=0)
    to_onnx(lstm, tmp_path / "m.onnx", initial_state=False)
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    found = from_onnx(tmp_path / "q.onnx")
    (name,) = found
    assert found.nodes[name].operator == "com.microsoft.DynamicQuantizeLSTM"
    for key, array in lstm.params.items():
        np.testing.assert_allclose(found[name].params[key], array, atol=0.25 / 100)  # half a step of 8 bits
    x = np.random.default_rng(0).standard_normal((5, 2, 8)).astype(np.float32)
    expected = session(onnx.load(tmp_path / "q.onnx")).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(found[name](x)[0], expected, atol=0.02)  # x and h are quantised there


def test_what_is_not_read_is_told():
    case = random_case("LSTM", 7)
    found = from_onnx(model_of(case))
    assert not found and "W: expected constants" in found.skipped["node"]
    with pytest.raises(KeyError, match="not read"):
        found["node"]
    steps = [helper.make_node("MatMul", [f"h{t}", "R"], [f"a{t}"]) for t in range(3)]
    steps = [
        node for t, step in enumerate(steps) for node in (step, helper.make_node("Tanh", [f"a{t}"], [f"h{t + 1}"]))
    ]
    value = helper.make_tensor_value_info
    R = numpy_helper.from_array(np.eye(4, dtype=np.float32), "R")
    graph = helper.make_graph(steps, "g", [value("h0", 1, [1, 4])], [value("h3", 1, None)], [R])
    found = from_onnx(helper.make_model(graph))
    assert not found and found.skipped["R"].startswith("unrolled: 3 products")


def test_a_state_of_another_width_is_no_layer():
    """As torch's exporter writes layers with proj_size."""
    case = random_case("LSTM", 7)
    case.feed["initial_c"] = np.zeros((len(case.feed["W"]), case.feed["X"].shape[1], 99), np.float32)
    found = from_onnx(model_of(case, constant=WEIGHTS))
    assert not found and "initial_c: expected" in found.skipped["node"]


def step_of(layer):
    """Nodes of a step as Keras writes it, from x, h (and c) to h2 (and c2), and their constants."""
    p, H, node = layer.params, layer.hidden_size, helper.make_node
    arrays = {
        "W": p["weight_ih_l0"].T.copy(),
        "R": p["weight_hh_l0"].T.copy(),
        "b": p["bias_ih_l0"],
        "bh": p["bias_hh_l0"],
    }
    nodes = [node("MatMul", ["x", "W"], ["xw"]), node("Add", ["xw", "b"], ["xb"])]
    nodes += [node("MatMul", ["h", "R"], ["hr"]), node("Add", ["hr", "bh"], ["hb"])]
    if type(layer) is fastrnn.RNN:
        return [*nodes, node("Add", ["xb", "hb"], ["a"]), node("Tanh", ["a"], ["h2"])], arrays
    if type(layer) is fastrnn.LSTM:
        nodes += [node("Add", ["xb", "hb"], ["a"]), node("Split", ["a", "sizes"], ["ai", "af", "ag", "ao"], axis=1)]
        nodes += [node("Sigmoid", [f"a{k}"], [k]) for k in "ifo"] + [node("Tanh", ["ag"], ["g"])]
        nodes += [node("Mul", ["f", "c"], ["fc"]), node("Mul", ["i", "g"], ["ig"]), node("Add", ["fc", "ig"], ["c2"])]
        nodes += [node("Tanh", ["c2"], ["tc"]), node("Mul", ["o", "tc"], ["h2"])]
        return nodes, arrays | {"sizes": np.full(4, H)}
    nodes += [node("Split", [f"{k}b", "sizes"], [f"{k}_{g}" for g in "rzn"], axis=1) for k in "xh"]
    for g in "rz":
        nodes += [node("Add", [f"x_{g}", f"h_{g}"], [f"a{g}"]), node("Sigmoid", [f"a{g}"], [g])]
    nodes += [node("Mul", ["r", "h_n"], ["rh"]), node("Add", ["x_n", "rh"], ["an"]), node("Tanh", ["an"], ["n"])]
    nodes += [node("Sub", ["one", "z"], ["1z"]), node("Mul", ["1z", "n"], ["left"]), node("Mul", ["z", "h"], ["right"])]
    return [*nodes, node("Add", ["left", "right"], ["h2"])], arrays | {"sizes": np.full(3, H), "one": np.float32([1])}


def run(layer, op, ways=None):
    """What from_onnx finds in a model of a layer written as a loop, and what ONNX Runtime computes of x."""
    kind = type(layer)
    nodes, arrays = step_of(layer)
    states, value = ["h", "c"][: 2 if kind is fastrnn.LSTM else 1], helper.make_tensor_value_info
    old, new = [value(s, 1, ["B", 4]) for s in states], [value(f"{s}2", 1, ["B", 4]) for s in states]
    nodes.append(helper.make_node("Identity", ["h2"], ["y"]))
    if op == "Scan":
        body = helper.make_graph(nodes, "body", [*old, value("x", 1, ["B", 3])], [*new, value("y", 1, ["B", 4])])
        loop = helper.make_node("Scan", [*[f"{s}0" for s in states], "X"], [*"hc"[: len(states)], "Y"], "loop",
                                body=body, num_scan_inputs=1, **(ways or {}))  # fmt: skip
    else:
        nodes.insert(0, helper.make_node("Gather", ["X", "t"], ["x"]))
        nodes.append(helper.make_node("Identity", ["go"], ["go2"]))
        given, result = [value("t", 7, []), value("go", 9, []), *old], [value("go2", 9, []), *new, value("y", 1, None)]
        body = helper.make_graph(nodes, "body", given, result)
        loop = helper.make_node("Loop", ["T", "yes", *[f"{s}0" for s in states]], [*"hc"[: len(states)], "Y"], "loop",
                                body=body)  # fmt: skip
        arrays |= {"T": np.array(5), "yes": np.array(True)}
    arrays |= {f"{s}0": np.zeros((2, 4), np.float32) for s in states}
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph([loop], "g", [value("X", 1, [5, 2, 3])], [value("Y", 1, None)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    return from_onnx(model), x, session(model).run(None, {"X": x})[0]


@pytest.mark.parametrize("op", ["Scan", "Loop"])
@pytest.mark.parametrize("kind", [fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU])
def test_recurrences_written_as_loops(kind, op):
    found, x, expected = run(kind(3, 4, rng=0), op)
    assert list(found) == ["loop"] and found.nodes["loop"].operator == op, found.skipped
    assert found.nodes["loop"].x == "X"
    close(found["loop"](x)[0], expected)


def test_a_scan_that_goes_back():
    ways = {"scan_input_directions": [1], "scan_output_directions": [1], "scan_input_axes": [0]}
    found, x, expected = run(fastrnn.LSTM(3, 4, rng=0), "Scan", ways)
    assert found["loop"].direction == "reverse"
    close(found["loop"](x)[0], expected)
    del ways["scan_output_directions"]
    found, _, _ = run(fastrnn.LSTM(3, 4, rng=0), "Scan", ways)
    assert not found and "reads one way" in found.skipped["loop"]


def test_what_a_scan_has_beside_axes_and_directions_is_not_ignored():
    with pytest.raises(Unrecognised, match="attributes of the scan: directions"):  # opset 8's
        way_of(helper.make_node("Scan", ["", "h", "X"], ["h2", "Y"], directions=[1], num_scan_inputs=1))
