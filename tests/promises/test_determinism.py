"""The same bits from run to run, in every process, wherever the arrays lie, and however the work is divided."""

import json
import os
import subprocess
import sys

import golden
import numpy as np
import pytest
from cases import KINDS, assert_same_bits, make_case, run
from paths import SUPPORT

import fastrnn

if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)


SAMPLE = golden.NAMES[2::4]  # each cell in both dtypes, in both directions


@pytest.mark.parametrize("count", [1, 2, 3])
def test_another_process_gives_the_same_bits(level, count):
    """A fresh interpreter on some threads, at a level chosen by its environment."""
    code = f"import json, golden; print(json.dumps({{name: golden.hashes(name) for name in {SAMPLE!r}}}))"
    environment = {**os.environ, "FASTRNN_ISA": level, "FASTRNN_NUM_THREADS": str(count), "PYTHONHASHSEED": str(count)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=SUPPORT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    known = golden.recorded()[level]
    assert json.loads(done.stdout) == {name: known[name] for name in SAMPLE}


def test_run_after_run_gives_the_same_bits(level, threads):
    """Whatever the memory held before: the workspaces are warm with other cases' values."""
    threads(2)
    for _ in range(3):
        for name in SAMPLE:
            assert golden.hashes(name) == golden.recorded()[level][name]


def test_where_the_arrays_lie_does_not_matter(level):
    """The same bits from memory at any offset from a cache line."""
    name = SAMPLE[0]
    case = golden.golden_case(name)
    with fastrnn.use_backend("native"):
        expected = golden.run(case)
        for offset in (1, 3, 7):
            room = np.full(case.x.size + 16, np.nan, case.x.dtype)
            x = room[offset : offset + case.x.size].reshape(case.x.shape)
            x[...] = case.x
            for part, array in golden.run(case._replace(x=x)).items():
                assert array.tobytes() == expected[part].tobytes(), f"{part} at offset {offset}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_and_in_a_batch_that_is_divided_otherwise(level, threads, kind):
    """Alone on several threads the units are divided, in a batch the rows, on one thread nothing."""
    whole = make_case(kind, 40, 13, 60, 200, with_lengths=True, seed=9)
    with fastrnn.use_backend("native"):
        threads(2)
        together = run(whole)
        for row in (0, 6, 12):
            one = np.s_[:, row : row + 1]
            state, dstate = (tuple(part[one].copy() for part in parts) for parts in (whole.state, whole.dstate))
            alone = whole._replace(
                x=whole.x[one], dy=whole.dy[one], state=state, dstate=dstate, lengths=whole.lengths[row : row + 1]
            )
            for count in (1, 2, 3):
                threads(count)
                for name, array in run(alone).items():
                    if name not in whole.layer.params:  # whose gradients sum over rows
                        assert_same_bits(array, together[name][one], f"{name} of row {row} on {count} threads")
