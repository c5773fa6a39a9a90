"""Every compiled backend, and every instruction-set level of the native one, against the reference."""

import numpy as np
import pytest
from cases import BETWEEN, KINDS, assert_results_close, bare, make_case, parts_of, run
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn

sizes = st.tuples(st.integers(1, 24), st.integers(1, 20), st.integers(1, 70), st.integers(1, 70))
options = st.fixed_dictionaries(
    {
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "num_layers": st.sampled_from([1, 1, 2, 3]),
        "dtype": st.sampled_from([np.float32, np.float64]),
    }
)


def compare(case):
    actual = run(case)
    with fastrnn.use_backend("numpy"):
        expected = run(case)
    assert_results_close(actual, expected, case)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS), sizes, options, st.booleans(), st.sampled_from(((), *BETWEEN)), st.integers(0, 2**32 - 1)
)
def test_random_layers(kernels, kind, sizes, options, with_lengths, between, seed):
    if kind.endswith("relu"):
        options["num_layers"] = 1
    compare(make_case(kind, *sizes, seed=seed, with_lengths=with_lengths, between=between, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "size", [(700, 3, 5, 33), (40, 37, 130, 65), (3, 300, 17, 16), (300, 1, 70, 200), (1, 1, 1, 1)], ids=str
)
def test_long_wide_and_tall(kernels, kind, size, dtype):
    """Several chunks of time, several blocks of weight gradients, panels and tiles of every remainder."""
    compare(make_case(kind, *size, dtype=dtype, with_lengths=size[1] > 1, seed=2))


@pytest.mark.parametrize("between", BETWEEN, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(700, 3, 5, 33), (40, 37, 130, 65), (300, 1, 70, 200)], ids=str)
def test_changed_states_in_long_wide_and_tall(kernels, kind, size, between):
    compare(make_case(kind, *size, dtype=np.float64, with_lengths=size[1] > 1, between=between, seed=2))


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_and_mutable_agree_with_forward(kernels, kind):
    case = make_case(kind, 9, 5, 7, 21, num_layers=2, with_lengths=True, seed=3)
    y, state, _ = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
    for layer in (case.layer, case.layer.freeze()):
        y_again, state_again = layer(case.x, bare(case.state), lengths=case.lengths)
        np.testing.assert_array_equal(y_again, y)
        for part, expected in zip(parts_of(state_again), parts_of(state)):
            np.testing.assert_array_equal(part, expected)
