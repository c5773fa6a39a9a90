"""Bits do not change unintentionally, neither by an edit nor by a compiler."""

import golden
import pytest

import fastrnn

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)


@pytest.mark.parametrize("name", golden.NAMES)
def test_golden_hashes(level, name):
    known = golden.recorded()
    assert level in known, "no hashes of this level yet: python tests/support/golden.py"
    assert golden.hashes(name) == known[level][name], "bits changed; if they should: python tests/support/golden.py"


def test_hashes_are_of_different_things():
    """Every case and pass of a level has a hash, and its own."""
    for cases in golden.recorded().values():
        assert sorted(cases) == sorted(golden.NAMES)
        found = [value for case in cases.values() for value in case.values()]
        assert len(set(found)) == len(found)


def test_the_numbers_are_those_of_integers():
    """By hand: the first two states of the generator, their upper 24 bits, less 2^23."""
    first = 6364136223846793005 + 1442695040888963407
    second = (first * 6364136223846793005 + 1442695040888963407) % 2**64
    expected = [((state >> 40) - 2**23) / 2**23 for state in (first, second)]
    assert golden.Numbers()((2,), "float64").tolist() == expected
