"""`find_layers` and `from_weights`: layers found in others' files compute what their own package computes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastrnn

T, B, I, H = 6, 3, 4, 5
X = np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)
ROWS = {"RNN": 1, "GRU": 3, "LSTM": 4}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def only(mapping):
    found = fastrnn.find_layers(mapping)
    assert len(found) == 1
    return found[0]


# --- torch


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"proj_size": 2}])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("way", ["zip", "old", "script", "safetensors"])
def test_torch_files(kind, options, way, tmp_path):
    torch = pytest.importorskip("torch")
    if "proj_size" in options and kind != "LSTM":
        return
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"rnn": getattr(torch.nn, kind)(I, H, **options)})})
    model["head"] = torch.nn.Linear(3, 2)
    path = tmp_path / "file"
    rnn = model["encoder"]["rnn"]
    if way == "script":
        torch.jit.save(torch.jit.script(torch.nn.Sequential(rnn)), str(path))
    elif way == "safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:
        torch.save({"model": model.state_dict(), "epoch": 1}, path, _use_new_zipfile_serialization=way == "zip")
    found = only(fastrnn.read(path))
    name = {"script": "0", "safetensors": "encoder.rnn"}.get(way, "model.encoder.rnn")
    assert (found.kind, found.name, found.convention) == (kind, name, "torch")
    sizes = {"num_layers": 1, "bidirectional": False, "bias": True, "proj_size": 0} | options
    assert {key: getattr(found, key) for key in sizes} == sizes
    assert (found.input_size, found.hidden_size) == (I, H) and found.refused is None
    said = {"nonlinearity": "tanh"} if kind == "RNN" else {}
    layer = found.layer(**said)
    with torch.no_grad():
        expected = rnn(torch.from_numpy(X))[0].numpy()
    np.testing.assert_allclose(layer(X)[0], expected, **CLOSE)
    again = getattr(fastrnn, kind).from_weights(path, batch_first=True, **said)
    np.testing.assert_array_equal(again(X.swapaxes(0, 1))[0].swapaxes(0, 1), layer(X)[0])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_torch_cells(kind):
    torch = pytest.importorskip("torch")
    cell = getattr(torch.nn, kind + "Cell")(I, H, **({"nonlinearity": "relu"} if kind == "RNN" else {}))
    found = only({"decoder.cell." + name: t.numpy() for name, t in cell.state_dict().items()})
    assert (found.kind, found.name, found.bias) == (kind, "decoder.cell", True)
    layer = found.layer(**({"nonlinearity": "relu"} if kind == "RNN" else {}))
    state = None
    with torch.no_grad():
        for x in torch.from_numpy(X):
            state = cell(x, state)
    expected = (state[0] if kind == "LSTM" else state).numpy()
    np.testing.assert_allclose(layer(X)[0][-1], expected, **CLOSE)


def test_short_names_are_torchs_and_say_so():
    gru = fastrnn.GRU(I, H, rng=0)
    short = {"weight": "enc_w", "bias": "enc_b"}
    mapping = {name.removesuffix("_l0"): array for name, array in gru.params.items()}
    mapping = {short[name.partition("_")[0]] + "_" + name.partition("_")[2]: array for name, array in mapping.items()}
    found = only(mapping | {"raw_ih": np.zeros((3, 3)), "enc_emb": np.zeros((3, 3))})
    assert (found.kind, found.name, found.undecided) == ("GRU", "enc", ()) and "r, z, n" in found.ambiguous[0]
    np.testing.assert_array_equal(found.layer()(X)[0], gru(X)[0])


@pytest.mark.parametrize("options", [{"peephole": True}, {"coupled": True, "peephole": True}, {"proj_size": 2}])
def test_fastrnns_own_names(options):
    layer = fastrnn.LSTM(I, H, rng=0, **options)
    again = only({"a." + name: array for name, array in layer.params.items()}).layer()
    np.testing.assert_array_equal(again(X)[0], layer(X)[0])


def split_weights():
    """Layers of torch's with a weight in parts, with the weight and a piece of the call that joins them."""
    from torch import nn
    from torch.nn import utils
    from torch.nn.utils import parametrizations, prune

    layer, way = nn.LSTM(I, H, 2, bidirectional=True), "parametrize.remove_parametrizations"
    yield utils.weight_norm(layer, "weight_hh_l0"), "weight_hh_l0", "LSTM", "remove_weight_norm"
    yield utils.weight_norm(nn.LSTM(I, H, 2), "weight_ih_l1"), "weight_ih_l1", "LSTM", "remove_weight_norm"
    yield parametrizations.weight_norm(nn.GRU(I, H), "weight_hh_l0"), "weight_hh_l0", "GRU", way
    yield parametrizations.spectral_norm(nn.RNN(I, H), "weight_ih_l0"), "weight_ih_l0", "RNN", way
    yield utils.spectral_norm(nn.LSTM(I, H, proj_size=2), "weight_hr_l0"), "weight_hr_l0", "LSTM", "spectral_norm"
    pruned = nn.GRU(I, H)
    prune.l1_unstructured(pruned, "bias_hh_l0", 0.5)
    yield pruned, "bias_hh_l0", "GRU", "prune.remove"
    yield utils.weight_norm(nn.GRUCell(I, H), "weight_hh"), "weight_hh", "GRU", "remove_weight_norm"


def test_torchs_weights_in_parts_are_refused_by_name():
    pytest.importorskip("torch")
    for module, weight, kind, call in split_weights():
        mapping = {f"enc.{name}": tensor.detach().numpy() for name, tensor in module.state_dict().items()}
        found = only(mapping)
        assert (found.kind, found.name, found.input_size, found.hidden_size) == (kind, "enc", I, H)
        assert set(found.names) == set(mapping)
        with pytest.raises(ValueError, match=f"its '{weight}' is in parts.*{call}.*'{weight}'"):
            getattr(fastrnn, kind).from_weights(mapping)
    assert only(torch_names() | {"other.weight_hh_l0_v": np.zeros(3)}).refused is None


@pytest.mark.parametrize("around", [True, False])  # fastai names the raw weights outside the module, AWD-LSTM in it
@pytest.mark.parametrize("stale", [True, False])
def test_raw_weights_of_dropped_ones(around, stale):
    layer = fastrnn.LSTM(I, H, bidirectional=True, rng=0)
    arrays = {f"0.rnns.0.module.{name}": array for name, array in layer.params.items()}
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        plain = f"0.rnns.0.module.{name}"
        arrays[(plain.replace("module.", "") if around else plain) + "_raw"] = arrays[plain]
        arrays[plain] = np.zeros_like(arrays[plain])  # all of them dropped
        if not stale:
            del arrays[plain]
    found = only(arrays)
    assert (found.name, found.bidirectional) == ("0.rnns.0.module", True)
    np.testing.assert_array_equal(found.layer()(X)[0], layer(X)[0])


# --- Keras


@pytest.fixture(scope="module")
def keras_model():
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    keras.utils.set_random_seed(0)
    layers, L = keras.layers, keras.layers
    model = keras.Sequential(
        [
            layers.Input((T, I)),
            L.Bidirectional(L.LSTM(H, return_sequences=True, bias_initializer="uniform"), name="both"),
            L.GRU(H, return_sequences=True, bias_initializer="uniform", name="after"),
            L.GRU(H, return_sequences=True, reset_after=False, bias_initializer="uniform", name="before"),
            L.Dense(3),
            L.SimpleRNN(H, return_sequences=True, bias_initializer="uniform", name="simple"),
            L.LSTM(H, return_sequences=True, use_bias=False, name="bare"),
        ]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)  # the optimiser's own arrays are in the file, too
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_keras_files(suffix, keras_model, tmp_path):
    path = tmp_path / f"file{suffix}"
    (keras_model.save_weights if "weights" in suffix else keras_model.save)(path)
    found = {layer.name: layer for layer in fastrnn.find_layers(fastrnn.read(path))}
    assert [layer.kind for layer in found.values()].count("LSTM") == 2 and len(found) == 5
    recurrent = [layer for layer in keras_model.layers if "dense" not in layer.name]
    types = {"after": "GRU", "before": "GRU", "simple": "RNN", "bare": "LSTM", "both": "LSTM"}
    pool = list(found.values())
    for theirs in recurrent:
        kernel = theirs.weights[0].numpy()
        ours = next(layer for layer in pool if any(np.array_equal(kernel, layer_array(path, n)) for n in layer.names))
        assert ours.kind == types[theirs.name] and ours.bidirectional == (theirs.name == "both")
        assert ours.bias == (theirs.name != "bare") and ours.convention == "keras"
        if theirs.name in ("after", "before"):
            assert ours.options == {"reset": theirs.name}
        x = np.random.default_rng(1).normal(size=(B, T, ours.input_size)).astype(np.float32)
        layer = ours.layer(batch_first=True, **({"nonlinearity": "tanh"} if ours.kind == "RNN" else {}))
        expected = np.asarray(theirs(x).detach().numpy())
        np.testing.assert_allclose(layer(x)[0], expected, **CLOSE)


def layer_array(path, name):
    return fastrnn.read(path)[name]


def test_keras_2_names():
    """The paths of Keras 2's files, as its saving module wrote them."""
    rng = np.random.default_rng(0)
    mapping = {}
    for way in ("forward", "backward"):
        base = f"bidirectional_1/bidirectional_1/{way}_gru_1/gru_cell_{2 + (way == 'backward')}/"
        mapping[base + "kernel:0"] = rng.normal(size=(I, 3 * H))
        mapping[base + "recurrent_kernel:0"] = rng.normal(size=(H, 3 * H))
        mapping[base + "bias:0"] = rng.normal(size=(2, 3 * H))
    mapping["dense/dense/kernel:0"] = rng.normal(size=(H, 3))
    mapping["dense/dense/bias:0"] = rng.normal(size=3)
    found = only(mapping)
    assert found.bidirectional and found.name == "bidirectional_1/bidirectional_1"
    assert any("merge_mode" in sentence for sentence in found.ambiguous)
    params = found.layer().params
    assert params["weight_ih_l0_reverse"].dtype == np.float64
    base = "bidirectional_1/bidirectional_1/backward_gru_1/gru_cell_3/"
    np.testing.assert_array_equal(params["weight_ih_l0_reverse"][H : 2 * H].T, mapping[base + "kernel:0"][:, :H])


def test_keras_stacks_of_cells_in_two_directions():
    """A stack's directions meet at its end: its cells are layers of one direction each."""
    mapping = {}
    for way in ("forward", "backward"):
        for cell in ("lstm_cell", "lstm_cell_1"):
            base = f"layers/bidirectional/{way}_layer/cell/cells/{cell}/vars/"
            mapping |= {base + "0": np.zeros((H, 4 * H)), base + "1": np.zeros((H, 4 * H)), base + "2": np.zeros(4 * H)}
    found = fastrnn.find_layers(mapping)
    assert [layer.options for layer in found] == [{}, {}, {"direction": "reverse"}, {"direction": "reverse"}]


def test_a_keras_gru_without_biases_must_be_told():
    found = only({"kernel": np.zeros((I, 3 * H)), "recurrent_kernel": np.zeros((H, 3 * H))})
    assert found.undecided == ("reset",) and "reset_after" in found.ambiguous[0]
    with pytest.raises(ValueError, match="^reset: expected to be given .*reset_after"):
        found.layer()
    assert found.layer(reset="before").config["reset"] == "before"


# --- Flax, Equinox


@pytest.mark.parametrize(
    "cell, separator", [("LSTMCell", "/"), ("OptimizedLSTMCell", "."), ("GRUCell", None), ("SimpleCell", "/")]
)
def test_flax(cell, separator):
    linen = pytest.importorskip("flax.linen")
    import jax

    module = linen.RNN(getattr(linen, cell)(H), time_major=True)
    variables = jax.tree.map(np.asarray, module.init(jax.random.key(0), X))
    variables = jax.tree.map(lambda a: np.random.default_rng(a.size).normal(size=a.shape).astype(np.float32), variables)
    mapping = variables
    if separator:
        mapping = {
            separator.join(str(key.key) for key in path): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
        }
    found = only(mapping)
    assert found.convention == "flax" and (found.input_size, found.hidden_size) == (I, H)
    layer = found.layer(**({"nonlinearity": "tanh"} if found.kind == "RNN" else {}))
    np.testing.assert_allclose(layer(X)[0], np.asarray(module.apply(variables, X)), **CLOSE)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_equinox(kind):
    equinox = pytest.importorskip("equinox")
    import jax

    cell = getattr(equinox.nn, kind + "Cell")(I, H, key=jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(cell)[0]
    found = only({"model.cell" + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
    assert (found.kind, found.convention, found.name) == (kind, "equinox", "model.cell")
    state = (np.zeros(H, np.float32),) * 2 if kind == "LSTM" else np.zeros(H, np.float32)
    for x in X[:, 0]:
        state = cell(x, state)
    expected = state[0] if kind == "LSTM" else state
    np.testing.assert_allclose(found.layer()(X[:, :1])[0][-1, 0], np.asarray(expected), **CLOSE)


# --- ONNX


def onnx_file(path, kind, D, seed=0, **attributes):
    """A model of one node, and what ONNX Runtime makes of X: (T, B, D·H)."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(seed)
    rows = ROWS[kind] * H
    tensors = {"a.W": (D, rows, I), "a.R": (D, rows, H), "a.B": (D, 2 * rows)}
    held = {name: (rng.normal(size=shape) / 2).astype(np.float32) for name, shape in tensors.items()}
    direction = attributes.pop("direction", "bidirectional" if D == 2 else "forward")
    node = helper.make_node(
        kind, ["x", "same", "a.R", "a.B"], ["y"], name="node", hidden_size=H, direction=direction, **attributes
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a.W"], ["same"]), node], "g",
        [helper.make_tensor_value_info("x", 1, (T, B, I))], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return held, session.run(None, {"x": X})[0].swapaxes(1, 2).reshape(T, B, D * H)


@pytest.mark.parametrize(
    "kind, D, attributes",
    [
        ("LSTM", 1, {}), ("LSTM", 2, {}), ("LSTM", 1, {"direction": "reverse"}), ("RNN", 2, {}),
        ("RNN", 1, {"activations": ["Relu"]}), ("GRU", 1, {}), ("GRU", 2, {"linear_before_reset": 1}),
        ("LSTM", 1, {"input_forget": 1}), ("GRU", 1, {"activations": ["HardSigmoid", "Tanh"], "clip": 0.5}),
    ],
)  # fmt: skip
def test_onnx_nodes(kind, D, attributes, tmp_path):
    pytest.importorskip("onnx")
    _, expected = onnx_file(tmp_path / "m.onnx", kind, D, **attributes)
    found = only(fastrnn.read(tmp_path / "m.onnx"))
    assert (found.kind, found.name, found.bidirectional, found.ambiguous) == (kind, "node", D == 2, ())
    np.testing.assert_allclose(found.layer()(X)[0], expected, **CLOSE)


def test_onnx_tensors_that_the_graph_computes_are_refused_by_name(tmp_path):
    onnx = pytest.importorskip("onnx")
    held, _ = onnx_file(tmp_path / "m.onnx", "GRU", 1)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.node[0].op_type = "Neg"
    onnx.save(model, tmp_path / "m.onnx")
    found = only(fastrnn.read(tmp_path / "m.onnx"))
    assert found.kind == "GRU" and "'same' is computed by the graph" in found.refused
    with pytest.raises(ValueError, match="'same' is computed"):
        found.layer()
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("output_sequence", 1))
    model.graph.node[0].op_type = "Identity"
    onnx.save(model, tmp_path / "m.onnx")
    assert only(fastrnn.read(tmp_path / "m.onnx")).refused.startswith("output_sequence: ")


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_onnx_tensors_alone_must_be_told(kind, tmp_path):
    pytest.importorskip("onnx")
    held, expected = onnx_file(tmp_path / "m.onnx", kind, 1)
    np.savez(tmp_path / "w.npz", **held)
    found = only(fastrnn.read(tmp_path / "w.npz"))
    said = {"RNN": {"nonlinearity": "tanh"}, "GRU": {"reset": "before"}, "LSTM": {}}[kind] | {"direction": "forward"}
    assert set(found.undecided) == set(said) and found.name == "a"
    for argument in said:
        with pytest.raises(ValueError, match=f"^{argument}: expected to be given"):
            found.layer(**{key: value for key, value in said.items() if key != argument})
    np.testing.assert_allclose(found.layer(**said)(X)[0], expected, **CLOSE)


# --- what cannot be told, or read


def torch_names(kind="LSTM", prefix="", dtype=np.float32):
    rows = ROWS[kind] * H
    shapes = {"weight_ih_l0": (rows, I), "weight_hh_l0": (rows, H), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    return {prefix + name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def test_an_rnns_function_must_be_said():
    found = only(torch_names("RNN"))
    assert found.undecided == ("nonlinearity",) and "nonlinearity" in found.ambiguous[0]
    with pytest.raises(ValueError, match="^nonlinearity: expected to be given for ''"):
        found.layer()
    assert found.layer(nonlinearity="relu").nonlinearity == "relu"
    assert found.layer(activations=["sigmoid"]).nonlinearity == "sigmoid"


def test_options_against_the_weights_are_errors():
    mapping = {"kernel": np.zeros((I, 3 * H)), "recurrent_kernel": np.zeros((H, 3 * H)), "bias": np.zeros(3 * H)}
    with pytest.raises(ValueError, match="^reset: expected 'before' as in"):
        only(mapping).layer(reset="after")


def test_quantised_and_odd_weights_are_refused_by_name():
    found = only(torch_names(dtype=np.int8))
    assert "'weight_ih_l0' holds int8" in found.refused
    with pytest.raises(ValueError, match="'weight_ih_l0' holds int8"):
        found.layer()
    packed = only({"rnn._all_weight_values.0.param": np.zeros(3)})
    assert packed.kind == "unknown" and packed.name == "rnn" and "quantised" in packed.refused
    odd = torch_names() | {"weight_hh_l0": np.zeros((4 * H, 2 * H))}
    assert only(odd).kind == "unknown"
    half = torch_names()
    del half["weight_hh_l0"]
    assert "no 'weight_hh_l0'" in only(half).refused
    with pytest.raises(ValueError, match="no 'weight_hh_l0'"):
        only(half).layer()
    leaky = {**fastrnn.LeakyRNN(I, H, train_alpha=True).params}
    assert "LeakyRNN" in only(leaky).refused
    missing = torch_names() | {"weight_ih_l2": np.zeros((4 * H, H))}
    with pytest.raises(ValueError, match="weight_hh_l1"):
        only(missing).layer()


def test_nothing_else_is_found():
    mapping = {"head.weight": np.zeros((3, 4)), "head.bias": np.zeros(3), "conv/kernel": np.zeros((3, 3, 4, 4))}
    mapping |= {"W": np.zeros((3, 4)), "R": np.zeros((4, 4)), "a/vars/0": np.zeros((3, 8)), "a/vars/1": np.zeros((8,))}
    mapping |= {"optimizer/lstm/kernel": np.zeros((I, 4 * H)), "optimizer/lstm/recurrent_kernel": np.zeros((H, 4 * H))}
    assert fastrnn.find_layers(mapping) == []


PARTS = """weight_ih_l0 weight_hh_l0 weight_hr_l0 bias_ih_l0 bias_hh_l0 weight_ih_l0_reverse weight_hh_l0_reverse
    peephole_l0 norm_l0 weight_ih weight_hh bias bias_n w_ih w_hh kernel recurrent_kernel bias:0 W R B P
    cell/vars/0 cell/vars/1 cell/vars/2 i/kernel h/kernel h/bias dense_i/kernel dense_h/kernel
    forward_lstm/kernel forward_lstm/recurrent_kernel backward_lstm/kernel backward_lstm/recurrent_kernel""".split()
FITTING = [(8, 3), (8, 2), (3, 8), (2, 8), (8,), (6, 3), (6, 2), (6,), (2, 6), (2, 2), (1, 8, 3), (1, 8, 2), (1, 16)]
SHAPES = st.sampled_from(FITTING) | st.lists(st.sampled_from((0, 1, 2, 3, 4, 6, 8)), max_size=4).map(tuple)
SAID = {"nonlinearity": "tanh", "reset": "before", "layer_norm": True, "direction": "forward"}


# Collecting garbage of the frameworks takes so long that the drawing of examples seems slow.
@settings(max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(PARTS), SHAPES, max_size=8), st.sampled_from(("", "a.", "b/")))
def test_any_names_and_shapes_are_layers_or_value_errors(shapes, prefix):
    mapping = {prefix + name: np.zeros(shape) for name, shape in shapes.items()}
    for found in fastrnn.find_layers(mapping):
        assert set(found.names) <= mapping.keys()
        said = {argument: SAID[argument] for argument in found.undecided}
        try:
            layer = found.layer(**said)
        except (ValueError, TypeError):
            continue
        sizes = layer.input_size, layer.hidden_size, layer.num_layers, layer.bidirectional
        assert sizes == (found.input_size, found.hidden_size, found.num_layers, found.bidirectional)
        assert layer.num_parameters > 0 and type(layer).__name__ == found.kind


def test_from_weights_says_what_is_there():
    mapping = torch_names("LSTM", "a.") | torch_names("LSTM", "b.") | torch_names("GRU", "c.")
    with pytest.raises(ValueError, match="^name: expected one of 'a', 'b', got None"):
        fastrnn.LSTM.from_weights(mapping)
    with pytest.raises(ValueError, match="^name: expected one of 'a', 'b', got 'd'"):
        fastrnn.LSTM.from_weights(mapping, "d")
    with pytest.raises(ValueError, match="^weights: expected an RNN, got LSTM 'a', LSTM 'b', GRU 'c'"):
        fastrnn.RNN.from_weights(mapping)
    with pytest.raises(ValueError, match="no recurrent layer"):
        fastrnn.LSTM.from_weights({})
    with pytest.raises(TypeError, match="^weights: expected a mapping"):
        fastrnn.LSTM.from_weights([1])
    with pytest.raises(TypeError, match="^mapping: expected a mapping"):
        fastrnn.find_layers("model.pt")
    with pytest.raises(TypeError, match="LeakyRNN"):
        fastrnn.LeakyRNN.from_weights(mapping)
    with pytest.raises(TypeError, match="^name: "):
        fastrnn.LSTM.from_weights(mapping, 3)
    assert fastrnn.GRU.from_weights(mapping).hidden_size == H
    assert fastrnn.LSTM.from_weights(mapping, "b.").input_size == I

    class Mine(fastrnn.GRU):
        pass

    assert type(Mine.from_weights(mapping)) is Mine


def test_layers_are_found_without_reading_them(tmp_path):
    """A found layer of a file has looked at shapes alone."""
    np.savez_compressed(tmp_path / "w.npz", **torch_names())
    arrays = fastrnn.read(tmp_path / "w.npz")
    made = []
    arrays._entries = {
        k: e._replace(make=lambda e=e, k=k: made.append(k) or e.make()) for k, e in arrays._entries.items()
    }
    found = only(arrays)
    assert not made
    found.layer()
    assert sorted(made) == sorted(torch_names())
