"""What the environment's compiler flags must not change: the loaded module's arithmetic and the process's.

The module is built with flags against IEEE arithmetic and for the machine's newest instructions, loaded, and looked at.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

SOURCE = Path(__file__).parents[1]
HOSTILE = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only -ffp-contract=fast -march=native"
NATIVE = importlib.util.find_spec("fastrnn.backends._native")
needs_native = pytest.mark.skipif(NATIVE is None, reason="the native backend is not built")

# In an interpreter of its own: loads the package in {folder}, with the module {module}, and prints what it finds.
LOOK = """
import json, sys
import numpy as np
tiny, one = np.float32([1e-40]), np.float32([1])
before = bool(tiny * one != 0)
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in (type(finder).__module__ + str(finder))]
sys.path[:0] = [{folder!r}, {tests!r}]
import fastrnn
from fastrnn.backends import _native
assert _native.__file__ == {module!r}, _native.__file__
fastrnn.set_backend("native")
after = bool(tiny * one != 0)
x = np.ones((6, 1, 2), np.float32)
x[1], x[3] = np.inf, np.nan
like_reference = []
for layer in (fastrnn.RNN(2, 5, rng=0), fastrnn.LSTM(2, 5, rng=0), fastrnn.GRU(2, 5, rng=0)):
    y = layer(x)[0]
    with fastrnn.use_backend("numpy"):
        like_reference.append(np.array_equal(np.isnan(y), np.isnan(layer(x)[0])))
from golden import NAMES, hashes, recorded
wrong = []
for level in fastrnn.backends.native.levels():
    fastrnn.backends.native.set_level(level)
    wrong += [f"{{level}} {{name}}" for name in NAMES if hashes(name) != recorded()[level][name]]
print(json.dumps([before, after, like_reference, wrong]))
"""


def look_at(module, folder):
    """Denormals before and after the import, NaN as in the reference by cell, the golden cases whose bits differ."""
    shutil.copytree(Path(fastrnn.__file__).parent, folder / "fastrnn", ignore=shutil.ignore_patterns("_native*.so"))
    copy = Path(shutil.copy(module, folder / "fastrnn" / "backends"))
    code = LOOK.format(folder=str(folder), tests=str(Path(__file__).parent), module=str(copy))
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


RIGHT = [True, True, [True] * 3, []]


@needs_native
def test_the_module_in_use(tmp_path):
    assert look_at(NATIVE.origin, tmp_path) == RIGHT


@needs_native
@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_flags_of_the_environment(tmp_path):
    """Forty seconds: the whole module is built."""
    pytest.importorskip("Cython")
    build = tmp_path / "build"
    environment = {**os.environ, "CFLAGS": HOSTILE, "LDFLAGS": "-Ofast -ffast-math"}
    python = f"-DPython_EXECUTABLE={sys.executable}"
    configure = ["cmake", "-S", str(SOURCE), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", python]
    subprocess.run(configure, env=environment, check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", str(build), "--target", "_native", "--parallel", "2"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (module,) = build.glob("_native*.so")
    assert look_at(module, tmp_path) == RIGHT
