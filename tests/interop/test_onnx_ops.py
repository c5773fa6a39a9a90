"""RNN, LSTM and GRU of onnx's evaluator on fastrnn: onnx's node tests, and ONNX Runtime over random nodes."""

from importlib import import_module

import numpy as np
import pytest
from onnx_cases import GATES, close, model_of, random_case, runtime

import fastrnn

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402
from onnx.backend.test.case import node  # noqa: E402
from onnx.inliner import inline_local_functions  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import fastrnn.onnx  # noqa: E402

KINDS = list(GATES)


def evaluate(model, feed):
    return ReferenceEvaluator(model, new_ops=fastrnn.onnx.OPS).run(None, feed)


# --- onnx's own tests


for MODULE in ("gru", "lstm", "rnn"):  # alone: all of the operators' take seconds to make
    import_module(f"onnx.backend.test.case.node.{MODULE}")
NODE_TESTS = [case for case in node._NodeTestCases if {n.op_type for n in case.model.graph.node} & set(KINDS)]


@pytest.mark.parametrize("test", NODE_TESTS, ids=lambda test: test.name)
def test_onnx_s_node_tests(test):
    assert test.data_sets
    for inputs, outputs in test.data_sets:
        feed = dict(zip([value.name for value in test.model.graph.input], inputs))
        found = evaluate(test.model, feed)
        assert len(found) == len(outputs) > 0
        for array, wanted in zip(found, outputs):
            assert array.dtype == wanted.dtype
            np.testing.assert_allclose(array, wanted, rtol=test.rtol, atol=test.atol)


def test_the_node_tests_are_there():
    assert len(NODE_TESTS) >= 18
    assert {n.op_type for case in NODE_TESTS for n in case.model.graph.node} == set(KINDS)


# --- ONNX Runtime


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("kind", KINDS)
def test_random_nodes_are_onnx_runtime_s(kind, seed):
    pytest.importorskip("onnxruntime")
    case = random_case(kind, seed)
    opset = [7, 11, 14, 22][seed % 4]
    found = evaluate(model_of(case, opset), case.feed)
    for array, expected, name in zip(found, runtime(case, opset), case.outputs):
        assert array.dtype == np.float32
        close(array, expected, f"{name} of {case.attributes}")


def turned(case):
    """The case in layout 1, which ONNX Runtime refuses."""
    swapped = ("X", "initial_h", "initial_c")
    feed = {n: a.swapaxes(0, 1) if n in swapped else a for n, a in case.feed.items()}
    return case._replace(feed=feed, attributes=case.attributes | {"layout": 1})


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", KINDS)
def test_layout_1_is_layout_0_turned(kind, seed):
    case = random_case(kind, seed)
    Y, *states = evaluate(model_of(case), case.feed)
    found, *others = evaluate(model_of(turned(case), [14, 22][seed % 2]), turned(case).feed)
    np.testing.assert_array_equal(found, Y.transpose(2, 0, 1, 3))
    assert len(others) == len(states)
    for part, expected in zip(others, states):
        np.testing.assert_array_equal(part, expected.swapaxes(0, 1))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes(kind, seed):
    """float64 has float32's values to its precision; half precision those of what was rounded to it."""
    case = random_case(kind, seed)
    lengths = "sequence_lens"
    wide = case._replace(feed={n: a if n == lengths else a.astype(np.float64) for n, a in case.feed.items()})
    single = evaluate(model_of(case), case.feed)
    for array, expected in zip(evaluate(model_of(wide), wide.feed), single):
        assert array.dtype == np.float64
        close(array, expected)
    half = case._replace(feed={n: a if n == lengths else a.astype(np.float16) for n, a in case.feed.items()})
    back = case._replace(feed={n: a if n == lengths else a.astype(np.float32) for n, a in half.feed.items()})
    for array, expected in zip(evaluate(model_of(half), half.feed), evaluate(model_of(back), back.feed)):
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, expected.astype(np.float16))


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    case = random_case("LSTM", 3)
    half = {n: a if n == "sequence_lens" else a.astype(ml_dtypes.bfloat16) for n, a in case.feed.items()}
    back = {n: a if n == "sequence_lens" else a.astype(np.float32) for n, a in half.items()}
    found = evaluate(model_of(case._replace(feed=half), 22), half)
    for array, expected in zip(found, evaluate(model_of(case), back)):
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array, expected.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
def test_any_of_the_outputs(kind):
    case = random_case(kind, 1)
    whole = evaluate(model_of(case), case.feed)
    for wanted in range(1, 2 ** len(case.outputs)):
        names = [name if wanted >> k & 1 else "" for k, name in enumerate(case.outputs)]
        while not names[-1]:
            names.pop()
        found = evaluate(model_of(case, outputs=names), case.feed)
        expected = [array for k, array in enumerate(whole) if wanted >> k & 1]
        assert len(found) == len(expected)
        for array, other in zip(found, expected):
            np.testing.assert_array_equal(array, other)


def test_an_output_left_out_is_no_input_of_the_next_node():
    """Both are called "": the next node's B is none, not the first one's Y."""
    W, R = np.ones((1, 3, 2), np.float32), np.ones((1, 3, 3), np.float32)
    first = helper.make_node("RNN", ["x", "W", "R"], ["", "h"], hidden_size=3)
    second = helper.make_node("RNN", ["x", "W", "R", "", "", "h"], ["y"], hidden_size=3)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [first, second], "g", [value("x", 1, [4, 1, 2])], [value("y", 1, None)],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(R, "R")],
    )  # fmt: skip
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 1, 2)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    layer = fastrnn.RNN(2, 3, bias=False)
    layer.load_state_dict({"weight_ih_l0": W[0], "weight_hh_l0": R[0]})
    expected, _ = layer(x, layer(x)[1])
    np.testing.assert_array_equal(evaluate(model, {"x": x})[0][:, 0], expected)


def test_a_row_of_no_steps_ends_where_it_began():
    case = random_case("LSTM", 0, sizes=(4, 2, 3, 5))
    D = len(case.feed["W"])
    state = {name: np.full((D, 2, 5), 0.5, np.float32) for name in ("initial_h", "initial_c")}
    feed = case.feed | state | {"sequence_lens": np.array([0, 4], np.int32)}
    Y, Y_h, Y_c = evaluate(model_of(case._replace(feed=feed)), feed)
    assert not Y[:, :, 0].any()
    np.testing.assert_array_equal(Y_h[:, 0], state["initial_h"][:, 0])
    np.testing.assert_array_equal(Y_c[:, 0], state["initial_c"][:, 0])


# --- what is kept between runs


@pytest.mark.parametrize("constant", [(), ("W", "R", "B", "P")], ids=["inputs", "initialisers"])
def test_weights_may_change_between_runs(constant):
    case = random_case("GRU", 5)
    model = model_of(case, constant=constant)
    if constant:  # initialisers whose values a run may replace
        model.graph.input.extend(i for i in model_of(case).graph.input if i.name in constant)
    evaluator = ReferenceEvaluator(model, new_ops=fastrnn.onnx.OPS)
    feed = {name: array.copy() for name, array in case.feed.items() if name not in constant}

    def check(feed):
        whole = case.feed | feed
        for array, expected in zip(evaluator.run(None, feed), evaluate(model_of(case), whole)):
            np.testing.assert_array_equal(array, expected)

    check(feed)
    check(feed)
    other = feed | {"W": 0.5 * case.feed["W"]}
    check(other)
    other["W"] *= 2  # in place: the same array, other numbers
    check(other)
    check(feed)


def test_layers_are_kept_where_weights_stay(monkeypatch):
    from fastrnn.onnx import ops

    case = random_case("LSTM", 2)
    made = []
    monkeypatch.setattr(ops, "layers_of", lambda *a, f=ops.layers_of: made.append(1) or f(*a))
    evaluator = ReferenceEvaluator(model_of(case, constant=("W", "R", "B", "P")), new_ops=fastrnn.onnx.OPS)
    feed = {name: array for name, array in case.feed.items() if name in [i for i in evaluator.input_names]}
    first = evaluator.run(None, feed)
    for _ in range(3):
        for array, expected in zip(evaluator.run(None, feed), first):
            np.testing.assert_array_equal(array, expected)
    assert len(made) == 1
    with fastrnn.use_backend("numpy"):
        for array, expected in zip(evaluator.run(None, feed), first):
            close(array, expected)
    assert len(made) == 2


def test_in_subgraphs_and_functions():
    case = random_case("RNN", 4, sizes=(3, 2, 4, 5))
    case = case._replace(attributes=case.attributes | {"direction": "forward"}, feed={
        "X": case.feed["X"], "W": case.feed["W"][:1], "R": case.feed["R"][:1]})  # fmt: skip
    case.attributes.pop("activations", None), case.attributes.pop("activation_alpha", None)
    case.attributes.pop("activation_beta", None)
    expected = evaluate(model_of(case), case.feed)[0]
    value = helper.make_tensor_value_info
    inner = helper.make_node("RNN", ["X", "W", "R"], ["Y"], **case.attributes)
    body = helper.make_graph([inner], "body", [], [value("Y", 1, None)])
    branch = helper.make_node("If", ["yes"], ["Z"], then_branch=body, else_branch=body)
    yes = numpy_helper.from_array(np.array(True), "yes")
    inputs = [value(name, 1, array.shape) for name, array in case.feed.items()]
    graph = helper.make_graph([branch], "g", inputs, [value("Z", 1, None)], [yes])
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("own", 1)]
    found = evaluate(helper.make_model(graph, opset_imports=opsets), case.feed)[0]
    np.testing.assert_array_equal(found, expected)

    linked = helper.make_node(
        "RNN", ["X", "W", "R"], ["Y"], **{n: v for n, v in case.attributes.items() if n != "clip"}
    )
    attribute = linked.attribute.add(name="clip", ref_attr_name="bound", type=onnx.AttributeProto.FLOAT)
    assert attribute.name
    function = helper.make_function(
        "own", "Bounded", ["X", "W", "R"], ["Y"], [linked], opsets[:1], attributes=["bound"]
    )
    for bound in (0.1, 2.0):
        call = helper.make_node("Bounded", ["X", "W", "R"], ["Z"], domain="own", bound=bound)
        graph = helper.make_graph([call], "g", inputs, [value("Z", 1, None)])
        # The evaluator knows its new operators in graphs alone.
        model = inline_local_functions(helper.make_model(graph, opset_imports=opsets, functions=[function]))
        plain = case._replace(attributes=case.attributes | {"clip": bound})
        np.testing.assert_array_equal(evaluate(model, case.feed)[0], evaluate(model_of(plain), plain.feed)[0])


# --- what cannot be


def test_bad_nodes_say_which():
    case = random_case("LSTM", 7)
    D = len(case.feed["W"])

    def run(feed=None, opset=14, **attributes):
        other = case._replace(feed=case.feed | (feed or {}), attributes=case.attributes | attributes)
        return evaluate(model_of(other, opset), other.feed)

    H, T, rows = case.attributes["hidden_size"], *case.feed["X"].shape[:2]
    for feed, message in [
        ({"B": np.zeros((D, 3), np.float32)}, "B: expected shape"),
        ({"W": case.feed["W"].astype(np.float64)}, "W: expected dtype float32, X's, got float64"),
        ({"initial_h": np.zeros((D, rows + 1, H), np.float32)}, "initial_h: expected shape"),
        ({"sequence_lens": np.full(rows, T + 1, np.int32)}, "sequence_lens: expected"),
        ({"X": case.feed["X"].astype(np.int32)}, "X: expected float32, float64, float16 or bfloat16"),
    ]:
        with pytest.raises(ValueError, match=f"LSTM node 'node': {message}"):
            run(feed)
    with pytest.raises(ValueError, match="LSTM node 'node': hidden_size: expected"):
        run(hidden_size=H + 1)
    with pytest.raises(ValueError, match="LSTM node 'node': activations: expected"):
        run(activations=["Tanh"])
    functions = {"activations": ["Elu"] * 3 * D}
    with pytest.raises(ValueError, match="LSTM node 'node': .*an alpha of at least 0 with 'elu'"):
        run(**functions | {"activation_alpha": [-1.0]})
    with pytest.raises(ValueError, match="LSTM node 'node': expected opset 7 or later, got 6"):
        run(opset=6)
