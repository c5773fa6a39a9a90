"""Layers against the reference in higher precision, at the lengths and widths where rounding errors could pile up.

What is allowed is DESIGN.md's bound, 4·⌈log2((I+H)·T)⌉ eps of the largest magnitude forward and twice that backward.
"""

from functools import cache

import numpy as np
import pytest
from cases import KINDS, make_case, run, tolerance

from fastrnn import ulps, verify
from fastrnn.backends import reference
from fastrnn.spec import Weights

DTYPES = tuple(filter(ulps.can_judge, ulps.WIDER))
# Gradients of relu differ wherever two values close to 0 lie on either side: test_exact_chains has its own.
SMOOTH = tuple(kind for kind in KINDS if kind != "rnn_relu")
LONG, WIDE, DEEP_PRODUCT = (10_000, 1, 3, 8), (4, 2, 5, 512), (3, 2, 2048, 40)
SLOW = [(10_000, 3, 40, 64), (2_000, 4, 33, 256), (100, 3, 64, 1024), (30, 3, 100, 2048)]


@cache
def given_and_expected(kind, size, dtype):
    """A case, and what the reference says of it in the wider type."""
    case = make_case(kind, *size, seed=7, dtype=dtype, with_lengths=size[1] > 2)
    return case, reference_results(case, ulps.WIDER[dtype])


def reference_results(case, wider):
    """The layers know no long double: the bare functions of the reference."""
    layer = case.layer
    name, ((own,),) = layer._spec.cell.name, layer._weights
    weights = Weights(*[None if array is None else array.astype(wider) for array in own])
    state, dstate = (tuple(part.astype(wider) for part in parts) for parts in (case.state, case.dstate))
    inputs = verify.Inputs((weights,), case.x.astype(wider), state, case.lengths, case.dy.astype(wider), dstate)
    forward, backward = verify.run(reference, verify.Case(name, *case.x.shape, layer.hidden_size), inputs)
    names = {"h": "state[0]", "c": "state[1]", "dx": "grads.x", "dh": "grads.state[0]", "dc": "grads.state[1]"}
    names |= {
        "dw_ih[0]": "weight_ih_l0",
        "dw_hh[0]": "weight_hh_l0",
        "db_ih[0]": "bias_ih_l0",
        "db_hh[0]": "bias_hh_l0",
        "dvectors[0]": "alpha_l0",
    }
    return {names.get(key, key): array for key, array in (forward | backward).items()}


def check(kind, size, dtype):
    case, expected = given_and_expected(kind, size, dtype)
    eps = float(np.finfo(dtype).eps)
    actual = run(case)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        allowed = tolerance(name, case)
        largest = np.abs(expected[name]).max()
        assert largest > 0, f"{name}: nothing to compare"
        error = float(np.abs(array - expected[name]).max() / largest) / eps
        assert error <= allowed, f"{name} of {kind} {size}: {error:.1f} eps, allowed {allowed}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [WIDE, DEEP_PRODUCT], ids=str)
@pytest.mark.parametrize("kind", SMOOTH)
def test_wide(kernels, kind, size, dtype):
    check(kind, size, dtype)


@pytest.mark.parametrize("kind", SMOOTH)
def test_ten_thousand_steps(kernels, kind):
    check(kind, LONG, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("size", SLOW, ids=str)
@pytest.mark.parametrize("kind", SMOOTH)
def test_long_and_wide(kernels, kind, size):
    check(kind, size, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMOOTH)
def test_ten_thousand_steps_of_float64(kernels, kind):
    check(kind, LONG, "float64")
