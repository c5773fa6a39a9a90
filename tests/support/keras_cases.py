"""Keras layers with weights none of which is zero, and their masks, for the tests of fastrnn.keras."""

import numpy as np

B, T, I, H = 4, 6, 3, 5
MASKS = {
    "none": None,
    "right": np.arange(T) < np.array([6, 3, 1, 5])[:, None],
    "empty row": np.arange(T) < np.array([6, 0, 2, 5])[:, None],
    "left": np.arange(T) >= np.array([0, 3, 5, 1])[:, None],
    "holes": np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool),
}


def fill(layer, seed=0, inputs=I):
    """Build a layer and give it random weights."""
    rng = np.random.default_rng(seed)
    if not layer.built:
        layer.build((None, None, inputs))
    layer.set_weights([(rng.normal(size=w.shape) * 0.4).astype(w.dtype) for w in layer.get_weights()])
    return layer


def sequences(dtype=np.float32, batch=B):
    return np.random.default_rng(7).normal(size=(batch, T, I)).astype(dtype)


def arrays(values):
    """All arrays in what a layer returns."""
    import keras

    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(values)]


def close(ours, theirs, rtol=2e-5, atol=2e-6):
    ours, theirs = arrays(ours), arrays(theirs)
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)
