"""Arrays of Keras' layers as fastrnn's parameters, and back, against what Keras computes."""

import numpy as np
import pytest

pytest.importorskip("torch")
keras = pytest.importorskip("keras")

import fastrnn  # noqa: E402
from fastrnn.weights import keras as arrays  # noqa: E402

B, T, I, H = 3, 6, 4, 5
KINDS = [("RNN", "SimpleRNN", {}), ("LSTM", "LSTM", {}), ("GRU", "GRU", {}), ("GRU", "GRU", {"reset_after": False})]


def random_weights(layer, seed=0):
    """Weights none of which is zero."""
    rng = np.random.default_rng(seed)
    layer.build((None, None, I))
    layer.set_weights([rng.normal(size=w.shape) * 0.4 for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind, name, options", KINDS)
def test_arrays_in_and_out(kind, name, options, bias):
    layer = random_weights(getattr(keras.layers, name)(H, use_bias=bias, return_sequences=True, **options))
    x = np.random.default_rng(1).normal(size=(B, T, I)).astype(np.float32)
    reset = {"reset": "before"} if options else {}
    params = arrays.to_params(kind, *layer.get_weights())
    ours = getattr(fastrnn, kind).from_state_dict(params, batch_first=True, **reset)
    expected = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(ours(x)[0], expected, rtol=2e-5, atol=2e-6)
    back = arrays.from_params(kind, params, reset_after=not options)
    for found, theirs in zip(back.values(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(found, theirs)


def test_activations_by_name():
    assert arrays.activation("hard_sigmoid") == ("hard_sigmoid", 1 / 6, 0.5)
    assert arrays.activation("hard_sigmoid", keras_2=True) == ("hard_sigmoid", 0.2, 0.5)
    for name in arrays.NAMES:
        function = fastrnn.core.options.read_function("f", arrays.activation(name))
        assert arrays.activation_name(function) == name
    with pytest.raises(ValueError, match="recurrent_activation: expected one of.*got 'gelu'"):
        arrays.activation("gelu", "recurrent_activation")
    with pytest.raises(ValueError, match="got 'elu'"):
        arrays.activation_name(("elu", 0.5, 0.0))


def test_bad_arrays():
    kernel, recurrent = np.zeros((I, 4 * H)), np.zeros((H, 4 * H))
    with pytest.raises(ValueError, match="kind"):
        arrays.to_params("MGU", kernel, recurrent)
    with pytest.raises(ValueError, match=r"recurrent_kernel: expected shape \(5, 15\), got \(5, 20\)"):
        arrays.to_params("GRU", kernel, recurrent)
    with pytest.raises(ValueError, match=r"bias: expected shape \(20,\), got \(2, 20\)"):
        arrays.to_params("LSTM", kernel, recurrent, np.zeros((2, 4 * H)))
    params = fastrnn.LSTM(I, H, proj_size=2).state_dict()
    with pytest.raises(ValueError, match="weight_hr_l0"):
        arrays.from_params("LSTM", params)
    params = fastrnn.LSTM(I, H).state_dict()
    del params["bias_hh_l0"]
    with pytest.raises(ValueError, match="bias_ih_l0.*or neither"):
        arrays.from_params("LSTM", params)
