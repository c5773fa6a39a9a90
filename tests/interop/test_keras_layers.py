"""fastrnn.keras' layers against Keras' own: results, gradients, training, files; and which way a call goes."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402
from keras_cases import MASKS, B, H, I, T, close, fill, sequences  # noqa: E402

import fastrnn.keras  # noqa: E402
from fastrnn.keras import explain, kernels  # noqa: E402

if keras.backend.backend() != "torch":
    pytest.fail("these tests need Keras on torch", pytrace=False)

RTOL, ATOL = 2e-5, 2e-6  # what Keras' own loop over time on torch keeps of float64 is float32's precision
KINDS = [
    ("SimpleRNN", {}),
    ("SimpleRNN", {"activation": "relu", "use_bias": False}),
    ("LSTM", {}),
    ("LSTM", {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "use_bias": False}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"use_bias": False, "activation": "elu"}),
]


@pytest.fixture
def computed(monkeypatch):
    """Whether each call was computed by fastrnn."""
    ways = []
    compute = kernels.compute

    def counted(*args):
        found = compute(*args)
        ways.append(found is not None)
        return found

    monkeypatch.setattr(kernels, "compute", counted)
    return ways


def pair(name, *args, **options):
    """Keras' layer, and fastrnn's with the same weights."""
    theirs = fill(getattr(layers, name)(*args, **options))
    ours = getattr(fastrnn.keras, name)(*args, **options)
    ours.build((None, None, I))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def everything(layer, x, **given):
    """Outputs, and the gradients of a loss by the input, the initial state and the weights."""
    x = torch.tensor(x, requires_grad=True)
    state = given.pop("initial_state", None)
    if state is not None:
        state = [torch.tensor(part, requires_grad=True) for part in state]
    found = keras.tree.flatten(layer(x, initial_state=state, **given))
    weights = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).reshape(t.shape) for t in found]
    layer.zero_grad()
    sum((t * w).sum() for t, w in zip(found, weights)).backward()
    inputs = [x, *(state or [])]
    return [*found, *(tensor.grad for tensor in inputs), *(v.value.grad for v in layer.trainable_variables)]


def same(theirs, ours, x, **given):
    found, expected = everything(ours, x, **given), everything(theirs, x, **given)
    assert all(t is not None for t in found)
    close([t.detach() for t in found], [t.detach() for t in expected], RTOL, ATOL)
    with torch.no_grad():
        close(ours(x, **given), theirs(x, **given), RTOL, ATOL)


@pytest.mark.parametrize("returned", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name, options", KINDS)
def test_results_and_gradients(name, options, backwards, returned, computed):
    theirs, ours = pair(
        name,
        H,
        dtype="float64",
        go_backwards=backwards,
        return_sequences=returned[0],
        return_state=returned[1],
        **options,
    )
    x = sequences(np.float64)
    initial = list(np.random.default_rng(1).normal(size=(2 if name == "LSTM" else 1, B, H)))
    same(theirs, ours, x)
    same(theirs, ours, x, initial_state=initial)
    assert len(computed) == 4 and all(computed)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards, sequence", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_masks(name, backwards, sequence, zero, computed):
    theirs, ours = pair(
        name,
        H,
        dtype="float64",
        go_backwards=backwards,
        return_sequences=sequence,
        return_state=True,
        zero_output_for_mask=zero,
    )
    x = sequences(np.float64)
    initial = list(np.random.default_rng(1).normal(size=(2 if name == "LSTM" else 1, B, H)))
    for mask in MASKS.values():
        given = None if mask is None else torch.tensor(mask)
        same(theirs, ours, x, mask=given, initial_state=initial)
    assert all(computed)
    nothing = torch.zeros(B, T, dtype=torch.bool)
    with torch.no_grad():
        close(ours(x, mask=nothing, initial_state=initial), theirs(x, mask=nothing, initial_state=initial))
    assert not computed[-1]


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_what_a_mask_leaves_out_is_not_read(name):
    _, ours = pair(name, H, return_sequences=True)
    x = sequences()
    expected = ours(x, mask=torch.tensor(MASKS["holes"]))
    x[~MASKS["holes"]] = np.nan
    close(ours(x, mask=torch.tensor(MASKS["holes"])), expected, 0, 0)


@pytest.mark.parametrize("merge", ["concat", "mul", None])
@pytest.mark.parametrize("mask", ["none", "right", "holes"])
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_bidirectional(name, mask, merge, computed):
    options = {"return_sequences": True, "return_state": True, "dtype": "float64"}
    theirs = fill(layers.Bidirectional(getattr(layers, name)(H, **options), merge_mode=merge, dtype="float64"))
    rnn = getattr(fastrnn.keras, name)(H, **options)
    ours = fill(layers.Bidirectional(rnn, merge_mode=merge, dtype="float64"))
    assert type(ours.backward_layer) is type(rnn)
    assert explain(ours) == "fastrnn: float64 on the CPU"
    given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    same(theirs, ours, sequences(np.float64), mask=given)
    assert len(computed) == 4 and all(computed)


def model_of(module, dropout=0.0):
    """A model whose first recurrent layer gets a mask."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((T,), dtype="int32"),
            layers.Embedding(11, I, mask_zero=True),
            module.GRU(H, return_sequences=True, dropout=dropout),
            layers.Bidirectional(module.LSTM(H)),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_keras_s_own(dropout, computed):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 11, (24, T)) * (np.arange(T) < rng.integers(1, T + 1, (24, 1)))
    y = rng.normal(size=(24, 1))
    runs = []
    for module in (layers, fastrnn.keras):
        model = model_of(module, dropout)
        keras.utils.set_random_seed(5)
        history = model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0)
        runs.append([history.history["loss"], model.predict(x, verbose=0), *model.get_weights()])
    assert sum(computed) == 3 * (12 + 1)  # three layers, in each step and in predict
    for ours, theirs in zip(runs[1], runs[0]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert runs[0][0][-1] < runs[0][0][0]


def test_files(tmp_path):
    model = model_of(fastrnn.keras)
    x = np.arange(T)[None] % 5
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[1]) is fastrnn.keras.GRU
    assert type(loaded.layers[2].forward_layer) is fastrnn.keras.LSTM
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    theirs = model_of(layers)
    theirs.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(theirs.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, options", KINDS)
def test_configurations_are_keras_s(name, options):
    theirs, ours = pair(name, H, return_sequences=True, recurrent_dropout=0.2, **options)
    assert ours.get_config() | {"name": 0} == theirs.get_config() | {"name": 0}
    again = type(ours).from_config(ours.get_config())
    assert again.get_config() == ours.get_config()
    assert keras.saving.get_registered_name(type(ours)) == f"fastrnn>{name}"


def test_stateful_layers_and_unrolled_ones(computed):
    theirs = layers.LSTM(H, stateful=True, return_sequences=True)
    ours = fastrnn.keras.LSTM(H, stateful=True, return_sequences=True)
    x = sequences()
    for layer in (theirs, ours):
        layer.build((B, T, I))
    theirs.set_weights([np.random.default_rng(2).normal(size=w.shape) * 0.4 for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    for _ in range(3):
        close(ours(x), theirs(x))
    ours.reset_state()
    theirs.reset_state()
    close(ours(x), theirs(x))
    theirs, ours = pair("GRU", H, unroll=True)
    close(ours(x), theirs(x))
    assert all(computed)


def test_integers_come_in_as_numbers(computed):
    theirs, ours = pair("LSTM", H)
    x = np.arange(B * T * I).reshape(B, T, I) % 3
    close(ours(x), theirs(x))
    assert computed == [True]


GATE_MASKS = [{"recurrent_dropout": 0.4}, {"dropout": 0.4, "implementation": 1, "use_cudnn": False}]


@pytest.mark.parametrize("options", GATE_MASKS)
def test_masks_for_each_gate_are_keras_s(options, computed):
    theirs, ours = pair("LSTM", H, seed=3, **options)
    close(ours(sequences(), training=True), theirs(sequences(), training=True))
    assert computed == []
    close(ours(sequences()), theirs(sequences()))
    assert computed == [True]


def test_what_is_left_to_keras(computed):
    cases = [
        ({"dtype": "float16"}, "keras: float16 is neither float32 nor float64"),
        ({"dtype": "mixed_bfloat16"}, "keras: bfloat16 is neither float32 nor float64"),
        ({"activation": "gelu"}, "activation: expected one of .*, which fastrnn has, got 'gelu of its own'"),
    ]
    import re

    for options, why in cases:
        theirs, ours = pair("GRU", H, recurrent_initializer="zeros", **options)
        close(ours(sequences()), theirs(sequences()), 1e-2, 1e-2)
        assert re.search(why, explain(ours))
    assert not any(computed)
    assert explain(layers.GRU(H)) == "keras: GRU is no layer of fastrnn.keras"
    found = explain(fastrnn.keras.GRU(H, recurrent_dropout=0.1))
    assert found == "fastrnn: float32 on the CPU; keras: in training recurrent_dropout=0.1 has a mask for each gate"


def test_symbolic_calls(computed):
    inputs = keras.Input((None, I))
    outputs = fastrnn.keras.GRU(H, return_sequences=True)(inputs)
    assert outputs.shape == (None, None, H)
    model = keras.Model(inputs, outputs)
    model.predict(sequences(), verbose=0)
    assert computed[-1]


def test_second_derivatives_are_an_error_that_says_so():
    _, ours = pair("LSTM", H)
    x = torch.tensor(sequences(), requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        gradient.sum().backward()
