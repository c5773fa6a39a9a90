"""The reference against central differences, in float64: every input, state, weight and bias."""

import numpy as np
import pytest
from cases import BETWEEN, KINDS, bare, make_case, parts_of

import fastrnn

STEP = 1e-5


def loss(case):
    """A linear function of all outputs, whose gradients by them are dy and dstate."""
    y, state = case.layer(case.x, bare(case.state), lengths=case.lengths, **case.between)
    valid = ~np.isnan(case.dy)
    return sum((part * d).sum() for part, d in zip(parts_of(state), case.dstate)) + (y[valid] * case.dy[valid]).sum()


def central_difference(case, array):
    """The gradient of the loss by `array`, which the case refers to."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value, sides = array[index], []
        if np.isnan(value):
            continue  # past a row's end
        for side in (value + STEP, value - STEP):
            array[index] = side
            sides.append(loss(case))
        array[index] = value
        gradient[index] = (sides[0] - sides[1]) / (2 * STEP)
    return gradient


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"bidirectional": True},
        {"num_layers": 2, "batch_first": True},
        {"num_layers": 2, "bidirectional": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_reference_gradients(kind, options, with_lengths):
    compare(make_case(kind, 4, 3, 2, 3, seed=1, with_lengths=with_lengths, dtype=np.float64, **options))


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str
)
@pytest.mark.parametrize("between", BETWEEN, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_reference_gradients_between_steps(kind, between, options, with_lengths):
    sizes = {"T": 6, "B": 3, "I": 2, "H": 3}
    compare(make_case(kind, **sizes, seed=4, with_lengths=with_lengths, between=between, dtype=np.float64, **options))


def compare(case):
    """Every gradient of the reference with its central difference."""
    with fastrnn.use_backend("numpy"):
        _, _, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths, **case.between)
        grads = case.layer.backward(tape, case.dy, bare(case.dstate))
        pairs = {"x": (grads.x, case.x)}
        pairs |= {f"state[{i}]": pair for i, pair in enumerate(zip(parts_of(grads.state), case.state))}
        pairs |= {name: (grads.params[name], case.layer.params[name]) for name in case.layer.params}
        if grads.state_scale is not None:
            pairs["state_scale"] = grads.state_scale, case.between["state_scale"]
        for name, (gradient, array) in pairs.items():
            expected = central_difference(case, array)
            assert np.abs(expected).max() > 1e-3, f"{name}: nothing to compare"
            # A central difference is off by STEP^2 times a third derivative, here of order 1.
            np.testing.assert_allclose(
                gradient, expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max()), err_msg=name
            )
