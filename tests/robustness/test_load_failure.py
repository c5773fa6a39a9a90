"""A backend that does not load: one warning that says why and the next backend, or an ImportError where it is forced.

Each case is a copy of the package whose native module, or Numba, is broken in one way, in an interpreter of its own.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

NATIVE = importlib.util.find_spec("fastrnn.backends._native")
if NATIVE is None:
    pytest.skip("the native backend is not built", allow_module_level=True)

# The copy has to come before what an editable installation puts in front of the path.
PREPARE = """
import sys, warnings
sys.meta_path[:] = [finder for finder in sys.meta_path if "scikit_build" not in type(finder).__module__
                    and "editable" not in type(finder).__module__]
sys.path.insert(0, {folder!r})
"""
HIDE_NUMBA = "sys.modules['numba'] = None\n"  # takes seconds to import
# Says what happens when the package is imported and used: the warnings, the backends, the configuration.
USE = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastrnn, fastrnn.cli
    assert fastrnn.__file__.startswith({folder!r}), fastrnn.__file__
    available = fastrnn.available_backends()
    assert not caught, "asking what is there is no reason to warn"
    y, h = fastrnn.GRU(2, 3, rng=0)([[1.0, 2.0]])
    assert y.shape == (1, 3)
    fastrnn.RNN(2, 3)([[1.0, 2.0]])
print(len(caught), *(f"{{w.category.__name__}}: {{w.message}}" for w in caught))
print(fastrnn.get_backend(), *available)
fastrnn.cli.main(["info"])
"""
FALLS_BACK = "1 RuntimeWarning: fastrnn falls back to a slower backend; backend: "


def compile_module(source, target):
    """A shared library with these lines of C."""
    file = target.with_suffix(".c")
    file.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(target), str(file)], check=True)


def garbage(target):
    target.write_bytes(b"not a library " * 100)


def empty(target):
    target.write_bytes(b"")


def truncated(target):
    """Within its header; of one cut off later the system maps pages that do not exist, which no program survives."""
    target.write_bytes(Path(NATIVE.origin).read_bytes()[:50])


def other_machine(target):
    """The module itself, said to be for another processor: e_machine 0xf3 is RISC-V."""
    data = bytearray(Path(NATIVE.origin).read_bytes())
    data[18:20] = b"\xf3\x00"
    target.write_bytes(data)


def missing_symbol(target):
    compile_module(
        "extern void *fr_symbol_of_another_libc(void);\n"
        "void *PyInit__native(void) { return fr_symbol_of_another_libc(); }",
        target,
    )


def no_init(target):
    compile_module("int fr_nothing;", target)


def raises(target):
    """A module whose initialisation fails with an error that is no ImportError."""
    compile_module(
        "extern void *PyExc_RuntimeError;\nextern void PyErr_SetString(void *, const char *);\n"
        'void *PyInit__native(void) { PyErr_SetString(PyExc_RuntimeError, "no more static TLS"); return 0; }',
        target,
    )


def incomplete(target):
    """A module of an older version: names are missing."""
    target.with_name("_native.py").write_text("compiler = None\n")


def no_level(target):
    """A CPU below x86-64-v2."""
    target.with_name("_native.py").write_text(
        "def __getattr__(name):\n    return (lambda: []) if name == 'levels' else object()\n"
    )


BREAKS = {
    garbage: "invalid ELF header",
    empty: "file too short",
    truncated: "file too short",
    other_machine: "cannot open shared object file",
    missing_symbol: "undefined symbol: fr_symbol_of_another_libc",
    no_init: "does not define module export function",
    raises: "no more static TLS",
    incomplete: "cannot import name",
    no_level: "need SSE4.2 and POPCNT",
}


def copy_package(folder):
    ignored = shutil.ignore_patterns("_native*", "__pycache__")
    shutil.copytree(Path(fastrnn.__file__).parent, folder / "fastrnn", ignore=ignored)


@pytest.fixture(params=BREAKS, ids=lambda breaks: breaks.__name__)
def broken(request, tmp_path):
    """A folder with a copy of the package whose native module is broken, and the reason that must be told."""
    copy_package(tmp_path)
    request.param(tmp_path / "fastrnn" / "backends" / Path(NATIVE.origin).name)
    return tmp_path, BREAKS[request.param]


def python(folder, code, **environment):
    """Code in a fresh interpreter that finds the copy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")}
    code = (PREPARE + code).format(folder=str(folder))
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, timeout=120
    )


def output(folder, code, **environment):
    done = python(folder, code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_warning_and_the_next_backend(broken):
    folder, reason = broken
    warned, used, *info = output(folder, HIDE_NUMBA + USE)
    assert warned.startswith(FALLS_BACK + "'native' cannot be loaded: ") and reason in warned
    assert used == "numpy numpy"
    (line,) = (line for line in info if line.startswith("unavailable backends"))
    assert "'native' cannot be loaded: " in line and reason in line


def test_forced_it_is_an_import_error(broken):
    folder, reason = broken
    catch = "try:\n    import fastrnn\nexcept ImportError as error:\n    print(error)"
    (said,) = output(folder, catch, FASTRNN_BACKEND="native")
    assert said.startswith("FASTRNN_BACKEND: 'native' cannot be loaded: ") and reason in said


@pytest.mark.parametrize("broken", [garbage, no_level], indirect=True, ids=lambda breaks: breaks.__name__)
def test_a_level_for_a_backend_that_is_not_there(broken):
    assert output(broken[0], HIDE_NUMBA + USE, FASTRNN_ISA="x86-64-v2")[1] == "numpy numpy"


@pytest.mark.parametrize("broken", [garbage, no_level], indirect=True, ids=lambda breaks: breaks.__name__)
def test_a_word_that_is_no_level_is_an_error_there_too(broken):
    said = python(broken[0], HIDE_NUMBA + "import fastrnn", FASTRNN_ISA="rubbish").stderr
    assert "FASTRNN_ISA: expected one of x86-64-v2, x86-64-v3, x86-64-v4, neon, got 'rubbish'" in said


def test_something_else_of_the_name_numba(tmp_path):
    """Without a file, as a test's double."""
    copy_package(tmp_path)
    double = "import types; sys.modules['numba'] = types.ModuleType('numba')\n"
    assert output(tmp_path, double + USE)[1] == "numpy numpy"


@pytest.mark.parametrize("broken", [garbage], indirect=True, ids=lambda breaks: breaks.__name__)
def test_numba_comes_next(broken):
    warned, used, *_ = output(broken[0], USE)
    then = "numba numba numpy" if "numba" in fastrnn.available_backends() else "numpy numpy"
    assert warned.startswith(FALLS_BACK + "'native'") and used == then


@pytest.mark.parametrize("error", ["ImportError", "OSError", "AttributeError", "SystemError"])
def test_a_broken_numba(tmp_path, error):
    """Without the native module, and with a Numba that is there and cannot be imported."""
    copy_package(tmp_path)
    (tmp_path / "numba.py").write_text(f"raise {error}('no llvm')\n")
    warned, used, *_ = output(tmp_path, USE)
    assert warned == FALLS_BACK + "'numba' cannot be loaded: no llvm"
    assert used.startswith("numpy ")
    said = python(tmp_path, "import fastrnn", FASTRNN_BACKEND="numba").stderr
    assert "FASTRNN_BACKEND: 'numba' cannot be loaded: no llvm" in said


@pytest.mark.skipif("numba" not in fastrnn.available_backends(), reason="Numba is not installed")
def test_numba_told_not_to_compile(tmp_path):
    copy_package(tmp_path)
    warned, used, *_ = output(tmp_path, USE, NUMBA_DISABLE_JIT="1")
    assert warned.startswith(FALLS_BACK + "'numba' cannot be loaded: NUMBA_DISABLE_JIT is set")
    assert used.startswith("numpy ")
