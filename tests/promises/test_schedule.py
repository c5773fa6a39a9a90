"""Who computes what, and what is taken at once: choices for any batch and 1 to 64 threads, without needing 64 cores."""

from collections import Counter
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Core:
    """A core as these choices see it, in operations and bytes per cycle; and what its two caches hold."""

    peak: int
    l2: int
    l3: int
    memory: int
    l2_bytes: int
    l3_bytes: int
    near_bytes: int  # fr_near_bytes there


CORES = {
    "zen": Core(32, 32, 12, 5, 1 << 20, 12 << 20, 12 << 20),
    "intel-avx512": Core(64, 50, 10, 7, 2 << 20, 12 << 20, 3 << 19),
}
T, TILE_ROWS, ITEM = 20, 6, 4
CELLS = {"rnn": 1, "gru": 3, "lstm": 4}


def rate(core, gates, B, H, terms):
    """Operations per cycle of a step of B rows, I = H: what binds of its FMAs and of the weights that it reads."""
    half = gates * H * H * ITEM  # W_ih, or W_hh
    every_step = half if terms else 2 * half
    bandwidth = core.l2 if every_step <= core.l2_bytes else core.l3 if every_step <= core.l3_bytes else core.memory
    flop = 2 * 2 * gates * H * H * B
    read = every_step + (half / max(terms // B, 1) + 2 * B * gates * H * ITEM if terms else 0)
    return flop / max(flop / core.peak, read / bandwidth)


def hoisted(core, gates, B, H):
    return native.hoisted_terms(B, T, TILE_ROWS, 2 * gates * H * H * ITEM, core.near_bytes, gates * H * ITEM)


@pytest.mark.parametrize("H", [64, 128, 256, 512, 768, 1024, 1536, 2048, 2560])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_the_rate_never_falls_as_the_batch_grows(core, cell, H):
    gates = CELLS[cell]
    rates = [rate(core, gates, B, H, hoisted(core, gates, B, H)) for B in range(1, 257)]
    for B, (now, larger) in enumerate(zip(rates, rates[1:]), start=1):
        assert larger >= 0.999 * now, f"{B} rows reach {now:.2f}, {B + 1} {larger:.2f} operations a cycle"


@pytest.mark.parametrize(("core", "H"), [("zen", 1024), ("intel-avx512", 512)])
def test_it_would_fall_if_only_few_rows_were_hoisted(core, H):
    core = CORES[core]
    assert rate(core, 4, 6, H, 0) < 0.9 * rate(core, 4, 5, H, hoisted(core, 4, 5, H))


@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_what_is_hoisted_fills_tiles_and_is_bounded(core):
    for B in range(1, 300):
        for H in (16, 64, 256, 1024, 4096):
            terms = hoisted(core, 4, B, H)
            assert terms == 0 or terms >= min(2 * TILE_ROWS, 48 * B)
            assert terms * 4 * H * ITEM <= max(1 << 18, 2 * TILE_ROWS * 16 * H, 48 * 16 * H, 2 * 128 * 16 * H)
    assert native.hoisted_terms(64, 1, TILE_ROWS, 1 << 25, core.near_bytes, 1 << 14) == 0  # nothing to share
