"""The Numba backend's cache on disk: whatever becomes of its files, calls compute, and the next finds new ones."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest

numba = pytest.importorskip("numba")

# What follows a prelude: compiles or loads, computes, and prints how many functions were found and how many were not.
ACTIVATION = """
import numpy as np
from fastrnn.backends.numba import calls
name, v, result = "tanh", np.linspace(-3, 3, 101, dtype=np.float32), np.empty(101, np.float32)
calls.activate(name, v, result)
np.testing.assert_allclose(result, np.tanh(v) if name == "tanh" else 1 / (1 + np.exp(-v)), rtol=1e-6)
stats = calls.activation_loop(name, np.dtype("f4")).stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
EVERY_FUNCTION = """
import numpy as np, fastrnn
from fastrnn.backends.numba import calls, products
layer, x, dy = fastrnn.RNN(3, 5, rng=0), np.linspace(-1, 1, 24).reshape(4, 2, 3), np.ones((4, 2, 5))
gradients, f4 = {}, np.dtype("f4")
for name in "numpy", "numba":
    with fastrnn.use_backend(name):
        y, h, tape = layer.forward(x)
        gradients[name] = layer.backward(tape, dy).params["weight_hh_l0"]
np.testing.assert_allclose(gradients["numba"], gradients["numpy"], rtol=1e-4)
v, result = np.zeros(3, f4), np.empty(3, f4)
calls.activate("sigmoid", v, result)
assert (result == 0.5).all()
loops = [calls.packing(f4), calls.forward_loop("rnn_tanh", False, False, f4)]
loops += [calls.backward_loop("rnn_tanh", False, False, f4)]
loops += [calls.activation_loop("sigmoid", f4)]
print(*[sum(sum(getattr(loop.stats, what).values()) for loop in loops) for what in ("cache_hits", "cache_misses")])
print(sum(products.multiply.stats.cache_hits.values()))
"""


def run(directory, program, prelude=""):
    """What the program prints in a process of its own, whose cache is in `directory`."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(directory)}
    done = subprocess.run([sys.executable, "-c", prelude + program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def files(directory, kind):
    """The cache's indices (nbi) or entries (nbc)."""
    found = sorted(directory.glob(f"*/*.{kind}"))
    assert found
    return found


def shorten(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def blank(path):
    """As after a loss of power: the size was written, the content was not."""
    path.write_bytes(bytes(path.stat().st_size))


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def pickle_another_thing(path):
    path.write_bytes(pickle.dumps(numba.__version__) + pickle.dumps(("stamp", None)) + b"\0" * 64)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "nbi": [shorten, empty, blank, pickle_another_thing],
    "nbc": [shorten, empty, blank, pickle_another_thing, flip_a_bit, os.unlink],
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that holds one function."""
    directory = tmp_path_factory.mktemp("compiled")
    assert run(directory, ACTIVATION) == "0 1\n"
    assert run(directory, ACTIVATION) == "1 0\n"
    return directory


@pytest.fixture
def cache(compiled, tmp_path):
    """A copy of it, to damage."""
    return shutil.copytree(compiled, tmp_path / "cache")


@pytest.mark.parametrize("kind, damage", [(kind, damage) for kind in DAMAGES for damage in DAMAGES[kind]])
def test_a_damaged_file_is_replaced(cache, kind, damage):
    for path in files(cache, kind):
        damage(path)
    assert run(cache, ACTIVATION) == "0 1\n"
    assert run(cache, ACTIVATION) == "1 0\n"


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_file_that_can_be_neither_read_nor_replaced(cache, kind):
    for path in files(cache, kind):
        replace_by_directory(path)
    for _ in range(2):
        assert run(cache, ACTIVATION) == "0 1\n"


@pytest.mark.parametrize("kind, damage", [("nbi", empty), ("nbc", shorten)])
def test_every_compiled_function(tmp_path, kind, damage):
    assert run(tmp_path, EVERY_FUNCTION) == "0 4\n0\n"
    for path in files(tmp_path, kind):
        damage(path)
    assert run(tmp_path, EVERY_FUNCTION) == "0 4\n0\n"  # multiply, too, is compiled anew
    assert run(tmp_path, EVERY_FUNCTION) == "4 0\n0\n"  # and comes along with the loops


def test_an_entry_of_another_function(cache):
    """As where two processes compile at once, each gives its entry the same name, and one index is lost."""
    [index], [entry] = files(cache, "nbi"), files(cache, "nbc")
    before = index.read_bytes()
    run(cache, ACTIVATION.replace('name, v, result = "tanh"', 'name, v, result = "sigmoid"'))
    other = next(path for path in files(cache, "nbc") if path != entry)
    index.write_bytes(before)
    other.replace(entry)
    assert run(cache, ACTIVATION) == "0 1\n"
    assert run(cache, ACTIVATION) == "1 0\n"


@pytest.mark.parametrize("size", [0, 1000], ids=["nothing fits", "the index fits"])
def test_a_full_disk(tmp_path, size):
    resource = pytest.importorskip("resource")
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {resource.RLIM_INFINITY}))"
    assert run(tmp_path, ACTIVATION, prelude) == "0 1\n"
    assert not list(tmp_path.glob("*/*.nbc")) and not list(tmp_path.glob("*/*.tmp*"))
    assert run(tmp_path, ACTIVATION) == "0 1\n"
    assert run(tmp_path, ACTIVATION) == "1 0\n"


def test_a_full_disk_and_a_damaged_index(cache):
    resource = pytest.importorskip("resource")
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, {resource.RLIM_INFINITY}))"
    for path in files(cache, "nbi"):
        shorten(path)
    assert run(cache, ACTIVATION, prelude) == "0 1\n"
    assert run(cache, ACTIVATION) == "0 1\n"
    assert run(cache, ACTIVATION) == "1 0\n"


@pytest.mark.parametrize("becomes", ["nothing", "a file"])
def test_a_directory_that_vanishes(tmp_path, becomes):
    """Between the import, which looks for a place, and the compilation."""
    directory = tmp_path / "cache"
    prelude = f"""
import pathlib, shutil, fastrnn.backends.numba.calls
def vanish():
    shutil.rmtree(directory)
    if {becomes == "a file"}:
        directory.touch()
directory = pathlib.Path({str(directory)!r})
from fastrnn.backends.numba.cache import KernelCache
save = KernelCache.save_overload
KernelCache.save_overload = lambda *arguments: (vanish(), save(*arguments))
"""
    assert run(directory, ACTIVATION, prelude) == "0 1\n"
    if becomes == "a file":
        directory.unlink()
        assert run(directory, ACTIVATION) == "0 1\n"
    assert run(directory, ACTIVATION) == "1 0\n"
