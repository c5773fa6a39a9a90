"""Training on several ranks: the same bits on 1, 2, 4 and 8, checkpoints included; a rank that fails ends all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SUPPORT

pytest.importorskip("mpi4py")
pytest.importorskip("safetensors")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
if MPIEXEC is None:
    pytest.skip("mpiexec is not there", allow_module_level=True)


def run(ranks, *arguments, timeout=120):
    environment = os.environ | {"FASTRNN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    program = [MPIEXEC, "-n", str(ranks), sys.executable, str(SUPPORT / "ranks_program.py")]
    return subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Nine steps on one rank: the model's file and the checkpoint's, and the losses."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(1, folder / "run", 9, folder / "model")
    assert done.returncode == 0, done.stderr
    return files_of(folder)


def files_of(folder):
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(folder / "run")
    return (folder / "model").read_bytes(), arrays, np.load(folder / "model.losses.npy")


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in found[1].items():
        np.testing.assert_array_equal(array, expected[1][name])
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_same_bits_on_any_number(tmp_path, alone, ranks):
    done = run(ranks, tmp_path / "run", 9, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert_same(files_of(tmp_path), alone)


def test_resumed_on_another_number(tmp_path, alone):
    for ranks, steps in ((4, 2), (1, 5), (2, 9)):
        done = run(ranks, tmp_path / "run", steps, tmp_path / "model")
        assert done.returncode == 0, done.stderr
    assert_same(files_of(tmp_path), alone)


def test_a_rank_that_fails_ends_all(tmp_path):
    """With its number named, and no hang."""
    done = run(4, tmp_path / "run", 9, tmp_path / "model", 2, 3, timeout=60)
    assert done.returncode != 0
    assert "rank 2" in done.stderr and "a fault of this rank alone" in done.stderr


def test_three_ranks_are_refused(tmp_path):
    done = run(3, tmp_path / "run", 1, tmp_path / "model", timeout=60)
    assert done.returncode != 0
    assert "comm: expected a power of two of ranks" in done.stderr


def test_a_task_on_several_ranks(tmp_path):
    """As one alone would find it: the same bits on two ranks and on four."""
    import json

    found = []
    for ranks in (2, 4):
        figures = tmp_path / f"{ranks}.json"
        environment = os.environ | {"FASTRNN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "fastrnn", "learn", "memory", "--quick"]
        command += ["--cell", "gru", "--epochs", "1", "--json", str(figures)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote") == 1
        found.append(json.loads(figures.read_text())["figures"])
    assert found[0] == found[1]
