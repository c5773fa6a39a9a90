"""FASTRNN_ISA: the level that is in force, what the kernels give there, and the words that are no level."""

import hashlib
import os
import subprocess
import sys

import pytest

import fastrnn
from fastrnn import verify

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)

from fastrnn.backends import native

CASES = tuple(verify.Case(cell, 6, 5, 3, 19, 2, True) for cell in verify.CELLS)
HERE = tuple(native.levels())
OTHER = next(family for family in native.FAMILIES if HERE[0] not in family)[0]


def digest():
    """A hash of all results of the cases at the level in force, which lie within the tolerances."""
    bits = hashlib.sha256()
    for dtype in verify.DTYPES:
        for case in CASES:
            got, exact = verify.run(native, case, verify.inputs(case, dtype)), verify.expected(case, dtype)
            for factor, arrays, right in zip((1, 2), got, exact):
                for name, array in arrays.items():
                    error = verify.error_in_eps(array, right[name])
                    assert error <= factor * case.allowed, f"{name} of {case}, {dtype}: {error} eps"
                    bits.update(array.tobytes())
    return bits.hexdigest()


def under(word):
    """The level in force and the digest of a fresh interpreter, with FASTRNN_ISA set."""
    environment = {**os.environ, "FASTRNN_ISA": word, "FASTRNN_BACKEND": "native"}
    return subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=120)


def digest_at(level):
    with verify.at_level(native, level):
        return digest()


@pytest.mark.parametrize("level", HERE)
def test_the_variable_chooses_the_level_and_its_kernels(level):
    done = under(level)
    assert done.stdout.split() == [level, digest_at(level)], done.stderr


def test_levels_have_kernels_of_their_own():
    """Sums that round otherwise, or come in another order: equal digests would mean that one level serves twice."""
    assert len({digest_at(level) for level in HERE}) == len(HERE)


@pytest.mark.parametrize("word", [HERE[-1].upper(), HERE[-1].title()])
def test_case_does_not_matter(word):
    assert under(word).stdout.split()[0] == HERE[-1]


def test_an_empty_word_is_none():
    assert under("").stdout.split()[0] == HERE[0]


@pytest.mark.parametrize("word", ["avx2", "x86-64-v9", f" {HERE[0]}", f"{HERE[0]},{HERE[-1]}", "0", OTHER])
def test_any_other_word_is_an_error(word):
    done = under(word)
    assert done.returncode == 1 and not done.stdout
    family = next(family for family in native.FAMILIES if HERE[0] in family)
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ValueError: FASTRNN_ISA: expected one of {', '.join(family)}, got {word!r}"


@pytest.mark.parametrize(
    ("here", "word", "chosen"),
    [
        (["x86-64-v2"], "x86-64-v4", "x86-64-v2"),
        (["x86-64-v3", "x86-64-v2"], "x86-64-v4", "x86-64-v3"),
        (["x86-64-v4", "x86-64-v3", "x86-64-v2"], "x86-64-v3", "x86-64-v3"),
        (["neon"], "neon", "neon"),
    ],
)
def test_the_variable_is_a_cap(monkeypatch, here, word, chosen):
    """On machines with other levels than this one."""
    set_to = []
    monkeypatch.setattr(native, "levels", lambda: here)
    monkeypatch.setattr(native, "set_level", set_to.append)
    native.cap_level(word)
    assert set_to == [chosen]


def test_x86_words_on_another_machine(monkeypatch):
    monkeypatch.setattr(native, "levels", lambda: ["neon"])
    with pytest.raises(ValueError, match="FASTRNN_ISA: expected one of neon, got 'x86-64-v3'"):
        native.cap_level("x86-64-v3")


if __name__ == "__main__":
    print(native.level(), digest())
