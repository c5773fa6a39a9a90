"""The table of the cells: what is written from it is up to date, and it says of each cell what its equations do."""

import runpy

import numpy as np
import pytest
from paths import ROOT

from fastrnn.backends import reference
from fastrnn.backends.reference.functions import Own
from fastrnn.spec import CELLS, NONE, Cell, Phase, Weights

CSRC = ROOT / "csrc"


WRITER = runpy.run_path(str(CSRC / "write_cells.py"))


def test_the_kernels_table_is_up_to_date():
    spec = runpy.run_path(str(CSRC.parent / "src" / "fastrnn" / "spec.py"))
    assert (CSRC / "cells.def").read_text() == WRITER["text"](spec), "python csrc/write_cells.py writes it anew"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Cell("x", "ab", "h", (), (Phase("ab", "a-"),)), "each gate of 'ab' once in h=\\['a-'\\]"),
        (Cell("x", "ab", "h", (), (Phase("-ab", "ab-"),)), "from the first column on, got '-ab'"),
        (Cell("x", "ab", "h", (), (Phase("ab-", "a-b"),)), "neighbours, got 'a-b'"),
        (Cell("x", "abcde", "h", (), (Phase("abcde", "abcde"),)), "at most 4 columns, got 5"),
        (Cell("x", "ab", "h", (), (Phase("ab", "a-"), Phase("--", "-b"), Phase("--", "--"))), "one phase, or a second"),
        (Cell("x", "ab", "h", (), (Phase("a-", "a-"), Phase("-b", "-b"))), "a second that x does not feed"),
        (Cell("x", "a", "hc", ("a",), (Phase("a", "a"),)), "c among the saved values"),
    ],
)
def test_what_the_kernels_cannot_compute_is_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^x: expected .*{message}"):
        WRITER["check"](wrong, NONE)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_gate_is_fed_by_x_and_by_h_once(cell):
    for columns in zip(*cell.phases):
        for fed in zip(*columns):
            assert {NONE, *fed} <= {NONE, *cell.gates}
    for letter in "x", "h":
        fed = "".join(getattr(phase, letter) for phase in cell.phases).replace(NONE, "")
        assert sorted(fed) == sorted(cell.gates)


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if not cell.normal], ids=lambda cell: cell.name)
def test_what_the_table_says_of_an_equation(cell):
    """By the reference: how much it saves, whether two gradients differ, and whether dh reaches h_prev beside u."""
    rng, G = np.random.default_rng(0), len(cell.gates)
    a = rng.standard_normal((3, G * 2))
    h, c = rng.standard_normal((2, 3, 2))
    forward, backward = reference.EQUATIONS[cell.name]
    vectors = rng.uniform(0.2, 0.8, 2 * len(cell.vectors)) if cell.vectors else None
    own = Own(cell, Weights(np.empty((G * 2, 1)), rng.standard_normal((G * 2, 2)), vectors=vectors), 2)
    new, new_c, saved = forward(a, own.state_share(h), h, c, own)
    assert len(saved) == len(cell.saved)
    assert (new_c is not None) == (cell.states == "hc") == ("c" in cell.saved)
    da, du, dh_prev, _, dp = backward(np.ones_like(h), np.zeros_like(c), new, h, c, saved, own)
    assert len(dp) == len(cell.vectors or cell.peepholes)
    assert (np.abs(da - du).max() > 0) == cell.splits
    assert (np.abs(dh_prev).max() > 0) == cell.carries
