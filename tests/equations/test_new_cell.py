"""CONTRIBUTING.md's *A new cell*, to the letter: its cell is added to a copy of the tree, built and trained."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from builds import NOT_EDITABLE, build_module
from paths import ROOT, SUPPORT

# In an interpreter of its own, which finds the copy's package: prints what the cell does.
PROGRAM = (
    NOT_EDITABLE
    + """
import json
sys.path[:0] = sys.argv[1:]
import numpy as np
import fastrnn
from differences import differences
from fastrnn.layers import Toy

assert fastrnn.__file__.startswith(sys.argv[1]), fastrnn.__file__
rng = np.random.default_rng(0)


def everything(layer, x, lengths):
    y, h, tape = layer.forward(x, lengths=lengths)
    grads = layer.backward(tape, np.cos(np.arange(y.size).reshape(y.shape)), np.ones_like(h))
    return y, h, grads.x, grads.state, *grads.params.values()


# Every backend as the reference, at sizes that fill tiles and that do not.
for B, I, H, both in (1, 3, 40, False), (2, 20, 16, True), (7, 3, 21, False), (20, 33, 70, True):
    layer = Toy(I, H, 2, bidirectional=both, dtype=np.float64, rng=0)
    x, lengths = rng.standard_normal((9, B, I)), rng.integers(0, 10, B)
    with fastrnn.use_backend("numpy"):
        right = everything(layer, x, lengths)
    for name in fastrnn.available_backends():
        with fastrnn.use_backend(name):
            for threads in 1, 2:
                fastrnn.set_num_threads(threads)
                for one, other in zip(everything(layer, x, lengths), right):
                    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)

# The derivative is the equation's.
layer, x, dy = Toy(3, 5, dtype=np.float64, rng=1), rng.standard_normal((6, 2, 3)), rng.standard_normal((6, 2, 5))
grads = layer.backward(layer.forward(x)[2], dy)
for given, gradient in ((x, grads.x), *((layer.params[name], grads.params[name]) for name in layer.params)):
    np.testing.assert_allclose(gradient, differences(lambda: (layer(x)[0] * dy).sum(), given), rtol=1e-6, atol=1e-8)

# It learns to keep the first of eight numbers.
layer, losses = Toy(1, 24, rng=2), []
for step in range(300):
    x = rng.uniform(-1, 1, (8, 32, 1)).astype(np.float32)
    y, h, tape = layer.forward(x)
    wrong = h[0, :, 0] - x[0, :, 0]
    losses.append(float((wrong**2).mean()))
    dh = np.zeros_like(h)
    dh[0, :, 0] = 2 * wrong / 32
    for name, gradient in layer.backward(tape, dstate=dh).params.items():
        layer.params[name] -= 0.5 * gradient
print(json.dumps([fastrnn.available_backends(), np.mean(losses[:20]), np.mean(losses[-20:])]))
"""
)


def recipe():
    """(path, code) of each step: a file's name at the beginning of a paragraph, and the block after it."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## A new cell\n")[1].split("\n## ")[0]
    steps = re.findall(r"^`([\w/.]+)`: .*?^```\w+\n(.*?)^```$", section, re.M | re.S)
    assert len(steps) == section.count("```") // 2 == 5
    return steps


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_the_recipe(tmp_path):
    """A minute: the whole module is built."""
    pytest.importorskip("Cython")
    pytest.importorskip("numba")
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("_native*.so", "__pycache__")
    for folder in "src", "csrc":
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", tree)
    for path, code in recipe():
        with (tree / path).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}" if path.endswith(".py") else code)
    subprocess.run([sys.executable, tree / "csrc" / "write_cells.py"], check=True)
    shutil.copy(build_module(tree, tmp_path / "build"), tree / "src" / "fastrnn" / "backends")
    command = [sys.executable, "-c", PROGRAM, tree / "src", SUPPORT]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    backends, before, after = json.loads(done.stdout)
    assert set(backends) == {"native", "numba", "numpy"}
    assert after < 0.25 * before
