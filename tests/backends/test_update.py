"""The optimisers' native pass: at every level the bits of the same formulas in NumPy."""

import numpy as np
import pytest

import fastrnn
from fastrnn.train import SGD, Adam, AdamW, RMSprop

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not there", allow_module_level=True)

CHOICES = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.3}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, {"momentum": 0.5, "weight_decay": 0.1, "dampening": 0.1}),
    (SGD, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01}),
    *[
        (RMSprop, {"centered": centered, "momentum": momentum, "weight_decay": decay})
        for centered in (False, True)
        for momentum in (0.0, 0.9)
        for decay in (0.0, 0.1)
    ],
    (Adam, {}),
    (Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    (AdamW, {}),
]


def run(make, options, dtype, steps=7):
    """What is left of parameters and states after some steps, of all kinds of gradients."""
    rng = np.random.default_rng(0)
    params = {
        name: rng.standard_normal(shape).astype(dtype) for name, shape in (("a", (37, 5)), ("b", (1,)), ("c", 64))
    }
    params["a"][0, 0] = params["b"][0] = 0
    optimiser = make(params, lr=0.01, **options)
    for step in range(steps):
        grads = {name: (10.0**step * rng.standard_normal(a.shape)).astype(dtype) for name, a in params.items()}
        grads["c"][:4] = [0, -0.0, np.finfo(dtype).tiny / 8, 1e-20]
        if step > 3:
            grads["a"][1] = [np.nan, np.inf, -np.inf, np.finfo(dtype).max, 0]
        optimiser.step(grads)
    return {**params, **{name: value for name, value in optimiser.state_dict().items() if name not in ("lr", "steps")}}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("make", "options"), CHOICES, ids=str)
def test_the_bits_of_numpy(kernels, make, options, dtype):
    found = run(make, options, dtype)
    with fastrnn.use_backend("numpy"):
        expected = run(make, options, dtype)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)  # NaN is equal to NaN


def test_arrays_that_are_no_plain_ones():
    """Transposed parameters, gradients of another dtype or layout: the same as plain ones."""
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 6, 4)).astype(np.float32)
    expected = None
    for param, given in (
        (start.copy(), grad),
        (start.copy(order="F"), grad),
        (start.copy(), grad.astype(np.float64)),
        (start.copy(), np.asfortranarray(grad)),
        (start.copy(), grad.tolist()),
    ):
        optimiser = Adam({"p": param})
        for _ in range(3):
            optimiser.step({"p": given})
        expected = param if expected is None else expected
        np.testing.assert_array_equal(param, expected)


def test_sizes_that_do_not_fit_are_refused():
    from fastrnn.backends import native

    param = np.zeros(4, np.float32)
    for grad in (np.zeros(3, np.float32), np.zeros(4)):
        with pytest.raises(ValueError, match="expected 4 elements of float32"):
            native.update("sgd", [(param, grad, None)], {"lr": 1.0})
    with pytest.raises(KeyError):
        native.update("none", [], {"lr": 1.0})
