"""Programs bundled with their interpreter: PyInstaller and Nuitka find the backends, and the bundle runs natively."""

import importlib.util
import shutil
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

import fastrnn

PROGRAM = """
import numpy as np, fastrnn
print(*fastrnn.available_backends(), fastrnn.get_backend(), sep=",")
for name in fastrnn.available_backends():
    fastrnn.set_backend(name)
    print(fastrnn.GRU(2, 3, rng=0)(np.ones((1, 1, 2), np.float32))[0].tobytes().hex())
"""
# Large, and the program does without them.
LEAVE_OUT = (
    "numba", "torch", "pandas", "matplotlib", "jax", "onnx", "onnxruntime", "openvino", "scipy", "IPython", "h5py",
    "google", "keras", "tensorflow", "flax", "equinox", "safetensors", "sklearn", "mpi4py",
)  # fmt: skip


NATIVE = importlib.util.find_spec("fastrnn.backends._native")
needs_native = pytest.mark.skipif(NATIVE is None, reason="the native backend is not built")


@pytest.fixture
def program(tmp_path):
    """The program beside a copy of the package in one piece, which an editable installation is not."""
    package = tmp_path / "fastrnn"
    shutil.copytree(Path(fastrnn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(NATIVE.origin, package / "backends")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


def check(executable):
    """What the bundle prints: native and NumPy, the native bits as here."""
    done = subprocess.run([str(executable)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    backends, native, _ = done.stdout.split()
    assert backends == "native,numpy,native"
    with fastrnn.use_backend("native"):
        assert native == fastrnn.GRU(2, 3, rng=0)([[[1.0, 1.0]]])[0].tobytes().hex()


@needs_native
def test_every_backend_is_found_by_reading_the_source(program):
    """What a bundler does, without one: it follows import statements, and runs nothing."""
    finder = ModuleFinder([str(program.parent), *sys.path], excludes=["numpy", "llvmlite", *LEAVE_OUT])
    finder.run_script(str(program))
    found = {name.removeprefix("fastrnn.backends.") for name in finder.modules}
    assert found >= {"native", "_native", "numba.calls", "numba.backward", "reference"}


@needs_native
def test_pyinstaller(program, tmp_path):
    pytest.importorskip("PyInstaller")
    left_out = [word for name in LEAVE_OUT for word in ("--exclude-module", name)]
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", *left_out, program.name]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)
    check(tmp_path / "dist" / "program" / "program")


@pytest.mark.slow
@needs_native
def test_nuitka(program, tmp_path):
    if importlib.util.find_spec("nuitka") is None:
        pytest.skip("nuitka is not installed")
    left_out = [f"--nofollow-import-to={name}" for name in LEAVE_OUT]
    command = [sys.executable, "-m", "nuitka", "--standalone", "--quiet", *left_out, program.name]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=1800)
    check(tmp_path / "program.dist" / "program.bin")
