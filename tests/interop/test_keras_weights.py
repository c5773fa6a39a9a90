"""Keras' layers as fastrnn's and back, and their calls in NumPy, against what Keras computes."""

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("torch")
keras = pytest.importorskip("keras")

import keras_cases  # noqa: E402
from keras import layers  # noqa: E402
from keras_cases import MASKS, B, H, I, T, close, fill, sequences  # noqa: E402

import fastrnn  # noqa: E402
from fastrnn.keras import freeze, from_keras, to_keras  # noqa: E402

KINDS = [
    (layers.SimpleRNN, {}),
    (layers.LSTM, {}),
    (layers.GRU, {}),
    (layers.GRU, {"reset_after": False}),
]
FUNCTIONS = [
    {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    {"activation": "softsign", "recurrent_activation": "sigmoid"},
    {"activation": None, "recurrent_activation": "tanh"},
    {"activation": "elu", "recurrent_activation": "softplus"},
    {"activation": "leaky_relu", "recurrent_activation": "relu"},
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind, options", KINDS)
def test_layers_in_and_out(kind, options, bias, backwards):
    theirs = fill(kind(H, use_bias=bias, go_backwards=backwards, return_sequences=True, return_state=True, **options))
    ours, x = from_keras(theirs), sequences()
    y, state = ours(x)
    expected, *states = theirs(x)
    close(y[:, ::-1] if backwards else y, expected)
    close([part[0] for part in (state if isinstance(state, tuple) else (state,))], states)
    back = to_keras(ours, return_sequences=True, return_state=True)
    assert back.get_config() | {"name": 0} == theirs.get_config() | {"name": 0}
    close(back.get_weights(), theirs.get_weights(), 0, 0)
    close(back(x), theirs(x))
    other = kind(H, use_bias=bias, go_backwards=backwards, **options)
    assert to_keras(ours, other) is other
    close(other.get_weights(), theirs.get_weights(), 0, 0)


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_functions(kind, options, functions):
    if kind is layers.SimpleRNN:
        functions = {"activation": functions["activation"]}
    theirs = fill(kind(H, **functions, **options, return_sequences=True))
    ours, x = from_keras(theirs), sequences()
    close(ours(x)[0], theirs(x))
    close(to_keras(ours, return_sequences=True)(x), theirs(x))


def test_functions_that_are_layers_or_torch_s():
    import torch

    x = sequences()
    for function in (
        layers.LeakyReLU(negative_slope=0.3),
        layers.ELU(alpha=0.5),
        layers.Activation("tanh"),
        torch.tanh,
    ):
        theirs = fill(layers.SimpleRNN(H, activation=function, return_sequences=True))
        close(from_keras(theirs)(x)[0], theirs(x))


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("returned", [(False, True), (True, False)])
@pytest.mark.parametrize("kind, options", KINDS)
def test_bidirectional(kind, options, returned, merge):
    sequence, state = returned
    rnn = kind(H, return_sequences=sequence, return_state=state, **options)
    theirs = fill(layers.Bidirectional(rnn, merge_mode=merge))
    call, x = freeze(theirs), sequences()
    for mask in (MASKS["right"], MASKS["holes"]):
        close(call(x, mask), theirs(x, mask=mask))
    initial = list(np.random.default_rng(1).normal(size=(4 if kind is layers.LSTM else 2, B, H)).astype(np.float32))
    close(call(x, initial_state=initial), theirs(x, initial_state=initial))
    back = to_keras(from_keras(theirs), merge_mode=merge, return_sequences=sequence, return_state=state)
    close(back(x), theirs(x))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("kind, options", KINDS)
def test_masks_and_states(kind, options, sequence, backwards, zero):
    theirs = fill(
        kind(
            H,
            return_sequences=sequence,
            return_state=True,
            go_backwards=backwards,
            zero_output_for_mask=zero,
            **options,
        )
    )
    call, x = freeze(theirs), sequences()
    initial = list(np.random.default_rng(1).normal(size=(2 if kind is layers.LSTM else 1, B, H)).astype(np.float32))
    for mask in MASKS.values():
        close(call(x, mask, initial), theirs(x, mask=mask, initial_state=initial))


@pytest.mark.parametrize("kind", [layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell])
@pytest.mark.parametrize("sequence, backwards, count", [(True, False, 2), (False, True, 3), (True, True, 1)])
def test_stacked_cells(kind, sequence, backwards, count):
    cells = [kind(H) for _ in range(count)]
    theirs = layers.RNN(
        cells if count > 1 else cells[0], return_sequences=sequence, return_state=True, go_backwards=backwards
    )
    fill(theirs)
    call, x = freeze(theirs), sequences()
    close(call(x, MASKS["holes"]), theirs(x, mask=MASKS["holes"]))
    y, *states = theirs(x)
    close(
        call(x, initial_state=keras.tree.map_structure(keras.ops.convert_to_numpy, states)),
        theirs(x, initial_state=states),
    )
    back = to_keras(from_keras(theirs), return_sequences=sequence, return_state=True)
    close(back(x), theirs(x))


def test_a_stack_of_both_directions():
    ours = fastrnn.LSTM(I, H, 3, bidirectional=True, batch_first=True, rng=0)
    close(to_keras(ours, return_sequences=True)(sequences()), ours(sequences())[0])
    with pytest.raises(ValueError, match="merge_mode"):
        to_keras(ours, merge_mode="sum")


def test_float64_and_sixteen_bits():
    theirs = fill(layers.GRU(H, dtype="float64", return_sequences=True))
    ours, x = from_keras(theirs), sequences(np.float64)
    assert ours.dtype == np.float64
    close(ours(x)[0], theirs(x), 1e-12, 1e-12)
    assert to_keras(ours).dtype == "float64"
    for dtype in ("float16", "bfloat16"):
        half = fill(layers.LSTM(H, dtype=dtype, recurrent_initializer="zeros"))
        assert from_keras(half).dtype == np.float32
        kernel = keras.ops.convert_to_numpy(keras.ops.cast(half.cell.kernel, "float32"))
        np.testing.assert_array_equal(from_keras(half).params["weight_ih_l0"], kernel.T)


def test_dropout_is_not_ignored_in_silence():
    theirs = fill(layers.LSTM(H, recurrent_dropout=0.25))
    assert from_keras(theirs).config["recurrent_dropout"] == 0.25
    assert to_keras(from_keras(theirs)).recurrent_dropout == 0.25
    with pytest.warns(UserWarning, match="layer 'named': dropout=0.5 acts on the input in training"):
        from_keras(fill(layers.LSTM(H, dropout=0.5, name="named")))


@pytest.mark.parametrize("both", [False, True])
def test_dropout_between_layers_is_that_of_the_input_of_the_later_ones(both):
    ours = fastrnn.GRU(I, H, 3, dropout=0.5, bidirectional=both, batch_first=True, rng=0)
    theirs, x = to_keras(ours, return_sequences=True), sequences()
    rnns = [part.forward_layer for part in theirs.layers] if both else theirs.cell.cells
    assert [rnn.dropout for rnn in rnns] == [0, 0.5, 0.5]
    close(theirs(x, training=False), ours(x)[0])
    assert not np.allclose(*(keras.ops.convert_to_numpy(theirs(x, training=way)) for way in (True, False)))
    if not both:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert from_keras(theirs).config["dropout"] == 0.5


class Custom(layers.LSTM):
    pass


def test_what_cannot_be_is_named():
    cases = [
        (
            Custom(H, name="odd"),
            TypeError,
            "layer 'odd': expected a keras.*got Custom, a LSTM of its own",
        ),
        (layers.Dense(3, name="d"), TypeError, "layer 'd': expected.*got Dense"),
        (layers.LSTM(H, activation="gelu", name="g"), ValueError, "layer 'g': activation: expected one of.*got 'gelu"),
        (layers.GRU(H, recurrent_activation="silu"), ValueError, "recurrent_activation: expected one of.*'silu"),
        (
            layers.RNN([layers.GRUCell(3), layers.GRUCell(4)]),
            ValueError,
            "expected units that all cells share",
        ),
        (layers.RNN([layers.GRUCell(3), layers.LSTMCell(3)]), ValueError, "expected a kind that all cells share"),
        (
            layers.Bidirectional(layers.LSTM(H), backward_layer=layers.GRU(H, go_backwards=True)),
            ValueError,
            "expected a kind",
        ),
    ]
    for layer, error, message in cases:
        with pytest.raises(error, match=message):
            from_keras(layer)
    with pytest.raises(ValueError, match="expected a layer that has been built"):
        from_keras(layers.LSTM(H))
    with pytest.raises(TypeError, match="layer: expected"):
        from_keras(3)
    with pytest.raises(ValueError, match="stateful=False"):
        freeze(layers.LSTM(H, stateful=True))


@pytest.mark.parametrize(
    "layer, into, message",
    [
        (fastrnn.LSTM(I, H, peephole=True), None, "peephole: expected a layer without it for Keras"),
        (fastrnn.LSTM(I, H, activations=["sigmoid", "tanh", "relu"]), None, "candidate and of c"),
        (fastrnn.RNN(I, H, activations=[("elu", 0.5)]), None, r"activations\[0\]: expected a function that Keras"),
        (fastrnn.GRU(I, H, 2, direction=("forward", "reverse")), None, "direction: expected the same"),
        (fastrnn.LeakyRNN(I, H), None, "LeakyRNN"),
        (fastrnn.LSTM(I, H), layers.GRU(H), "into: expected a layer of the kind LSTM, got GRU"),
        (fastrnn.LSTM(I, H), layers.LSTM(H + 1), "hidden_size 5, got 6"),
        (fastrnn.LSTM(I, H), layers.LSTM(H, use_bias=False), "bias True, got False"),
        (fastrnn.LSTM(I, H), layers.LSTM(H, go_backwards=True), "direction 'forward', got 'reverse'"),
        (fastrnn.LSTM(I, H), layers.LSTM(H, activation="relu"), "activations"),
        (fastrnn.GRU(I, H), layers.GRU(H, reset_after=False), "reset"),
        (fastrnn.LSTM(I, H), layers.Bidirectional(layers.LSTM(H)), "bidirectional"),
    ],
)
def test_what_keras_has_not(layer, into, message):
    with pytest.raises(ValueError, match=message):
        to_keras(layer, into)


def test_bad_arguments_of_a_frozen_layer():
    call = freeze(fill(layers.LSTM(H)))
    for x, mask, state, message in (
        (np.zeros((B, T, I + 1)), None, None, r"x: expected shape \(B, T, 3\)"),
        (np.zeros((B, 0, I)), None, None, "at least one step"),
        (sequences(), np.ones((B, T + 1), bool), None, r"mask: expected shape \(4, 6\)"),
        (sequences(), None, [np.zeros((B, H))], "initial_state: expected 2 arrays, got 1"),
        (sequences(), None, [np.zeros((B, H)), np.zeros((B, H + 1))], r"initial_state\[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, mask, state)


PROGRAM = """
import numpy as np
import keras
import fastrnn.keras
assert keras.backend.backend() == {backend!r}
from keras_cases import close, fill, sequences
theirs = fill(keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True)))
ours = fastrnn.keras.from_keras(theirs)
close(ours(sequences())[0], theirs(sequences()))
close(fastrnn.keras.to_keras(ours, return_sequences=True).get_weights(), theirs.get_weights(), 0, 0)
layer = fill(fastrnn.keras.LSTM(5))
assert fastrnn.keras.explain(layer) == "keras: Keras runs on {backend}, not on torch"
same = keras.layers.LSTM(5)
same.build((None, None, 3))
same.set_weights(layer.get_weights())
close(layer(sequences()), same(sequences()))
"""


@pytest.mark.parametrize("backend", ["numpy", "jax", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_other_backends_of_keras(backend):
    """Each in a process of its own, since Keras has one backend; nothing of it is imported here."""
    if find_spec(backend) is None:
        pytest.skip(f"could not find {backend!r}")
    path = os.pathsep.join([os.path.dirname(keras_cases.__file__), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    program = [sys.executable, "-c", PROGRAM.format(backend=backend)]
    found = subprocess.run(program, env=env, stderr=subprocess.PIPE, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
