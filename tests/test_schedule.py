"""Who computes what: the choice of schedule for 1 to 64 threads, without needing 64 cores."""

from collections import Counter

import pytest

import fastrnn

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)

from fastrnn.backends import native

LSTM = 4
LANES = 16


def divided(threads, T, B, H):
    """The parts of a float32 LSTM with I = H, and the number of its slices."""
    slices = -(-H // LANES)
    return native.schedule(threads, T, B, slices, 2 * LSTM * H * 2 * H), slices


@pytest.mark.parametrize("H", [16, 64, 200, 512, 1024])
@pytest.mark.parametrize("B", [1, 2, 5, 8, 20, 64, 129])
def test_every_output_is_computed_once_and_evenly(B, H):
    for threads in range(1, 65):
        parts, slices = divided(threads, 100, B, H)
        assert 1 <= len(parts) <= threads
        outputs = Counter((row, part) for rows, units in parts for row in rows for part in units)
        assert outputs == Counter((row, part) for row in range(B) for part in range(slices))
        loads = [(len(rows), len(units)) for rows, units in parts]
        for load in zip(*loads):  # no thread has two more rows, or slices, than another, and none is idle
            assert min(load) >= 1 and max(load) - min(load) <= 1


def test_small_calls_stay_on_one_thread():
    assert len(divided(64, 500, 1, 16)[0]) == 1
    assert len(divided(64, 1, 1, 64)[0]) == 1


def test_large_batches_are_divided_by_rows():
    parts, slices = divided(8, 50, 64, 512)
    assert [len(rows) for rows, _ in parts] == [8] * 8
    assert all(len(units) == slices for _, units in parts)


def test_single_rows_are_divided_by_units():
    parts, slices = divided(2, 100, 1, 512)
    assert [(len(rows), len(units)) for rows, units in parts] == [(1, slices // 2)] * 2


def test_rows_of_falling_length_are_dealt_to_and_fro():
    parts, _ = divided(2, 100, 32, 128)
    assert [rows[:4] for rows, _ in parts] == [[0, 3, 4, 7], [1, 2, 5, 6]]
    parts, _ = divided(3, 100, 32, 128)
    assert [rows[:3] for rows, _ in parts] == [[0, 5, 6], [1, 4, 7], [2, 3, 8]]
