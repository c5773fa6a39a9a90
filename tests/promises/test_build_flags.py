"""What the environment's compiler flags must not change: the loaded module's arithmetic and the process's.

The module is built with flags against IEEE arithmetic and for the machine's newest instructions, loaded, and looked at.
Every such flag alone, with each compiler that is here, leaves what the build's own commands make of a few functions.
"""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builds import NOT_EDITABLE, build_module, configure
from paths import ROOT, SUPPORT

import fastrnn

HOSTILE = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only -ffp-contract=fast -march=native"
NATIVE = importlib.util.find_spec("fastrnn.backends._native")
needs_native = pytest.mark.skipif(NATIVE is None, reason="the native backend is not built")

# In an interpreter of its own: loads the package in {folder}, with the module {module}, and prints what it finds.
LOOK = """
import json, sys
import numpy as np
tiny, one = np.float32([1e-40]), np.float32([1])
before = bool(tiny * one != 0)
{not_editable}sys.path[:0] = [{folder!r}, {tests!r}]
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
    code = LOOK.format(not_editable=NOT_EDITABLE, folder=str(folder), tests=str(SUPPORT), module=str(copy))
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


RIGHT = [True, True, [True] * 3, []]


@needs_native
def test_the_module_in_use(tmp_path):
    assert look_at(NATIVE.origin, tmp_path) == RIGHT


needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")


@needs_native
@needs_cmake
@pytest.mark.slow
@pytest.mark.parametrize("more", ["", " -flto"])
def test_flags_of_the_environment(tmp_path, more):
    """Seventy seconds, and twice that with -flto: the whole module is built."""
    pytest.importorskip("Cython")
    environment = {**os.environ, "CFLAGS": HOSTILE + more, "LDFLAGS": "-Ofast -ffast-math"}
    assert look_at(build_module(ROOT, tmp_path / "build", environment), tmp_path) == RIGHT


# --- one flag at a time

PLACE = "-DFLAGS_OF_THE_ENVIRONMENT"  # where they stand in a command
AGAINST_IEEE = (
    "-Ofast -ffast-math -funsafe-math-optimizations -fno-signed-zeros -ffinite-math-only -ffp-contract=fast "
    "-frounding-math -freciprocal-math -fsingle-precision-constant -ffp-model=fast -fdenormal-fp-math=positive-zero"
).split() + ["-fassociative-math -fno-signed-zeros -fno-trapping-math"]
BEYOND_X86_64 = ["-mfpmath=387", "-march=native", "-mavx2 -mfma", "-mavx512f -mavx512vl"]
DENORMALS_ARE_ZERO = ["-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-mdaz-ftz"]
SMALLER = ("-fno-asynchronous-unwind-tables", "-fno-schedule-insns2", "-fno-gcse", "-fno-tree-pre")  # by the build
# What every flag against IEEE arithmetic would change somewhere.
FUNCTIONS = """
double sum(const double *a) { double s = 0; for (int i = 0; i < 64; i++) s += a[i]; return s; }
void scale(float *a, float b) { for (int i = 0; i < 64; i++) a[i] = a[i] / b; }
float product_and_sum(float a, float b, float c) { return a * b + c; }
float from_zero(float a) { return 0.0f - (0.0f - a); }
int is_nan(float a) { return a != a; }
double constant(double a) { return a * 0.1; }
float folded(void) { return 1.0f / 3.0f; }
"""
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
GENERATORS = {"Ninja": "ninja", "Unix Makefiles": "make"}


def compiled(compiler, flags, source):
    """The assembler code of a file, or None if the compiler does not know a flag."""
    command = [compiler, *flags, "-S", "-o", "-", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


@needs_cmake
@pytest.mark.parametrize("compiler", COMPILERS)
def test_each_flag_of_the_environment_leaves_the_code(tmp_path, compiler):
    """The build's flags take back each, and alone change nothing."""
    environment = {**os.environ, "CC": compiler, "CFLAGS": PLACE}
    configure(ROOT, tmp_path, environment, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    source = tmp_path / "functions.c"
    source.write_text(FUNCTIONS)
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    seen, without = 0, set()
    for entry in commands:
        words = [word for word in shlex.split(entry["command"]) if word.startswith(("-f", "-m", "-O", "-std", PLACE))]
        level = "forward.c" in entry["file"] and "-DFR_TYPE=f32" in entry["command"]
        if not level and "_native.c" not in entry["file"]:
            continue
        seen += 1
        machine = [word for word in words if word.startswith("-m")]
        optimised = next(word for word in reversed(words) if word.startswith("-O"))
        assert optimised in (("-O2", "-Os") if level else ("-O2",))
        plain = [optimised, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *machine]
        plain += ["-std=gnu11", "-fno-math-errno", *(word for word in words if word in SMALLER)] if level else []
        expected = compiled(compiler, plain, source)
        for flags in ("", *AGAINST_IEEE, *(BEYOND_X86_64 if level and machine else [])):
            unmended = compiled(compiler, [*plain, *flags.split()], source)
            if unmended is not None:
                at = words.index(PLACE)
                assert compiled(compiler, [*words[:at], *flags.split(), *words[at + 1 :]], source) == expected, flags
                without |= {flags} if unmended != expected else set()
    assert seen >= 2
    assert without >= set(AGAINST_IEEE[:6])  # the others, where the compiler heeds them


@needs_cmake
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("generator", [name for name, program in GENERATORS.items() if shutil.which(program)])
def test_no_flag_of_the_environment_links_what_makes_denormals_zero(tmp_path, compiler, generator):
    environment = {**os.environ, "CC": compiler, "CFLAGS": PLACE, "LDFLAGS": PLACE}
    configure(ROOT, tmp_path, environment, "-G", generator)
    if generator == "Ninja":
        command = ["ninja", "-C", str(tmp_path), "-t", "commands", "_native"]
        command = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    else:
        command = (tmp_path / "CMakeFiles" / "_native.dir" / "link.txt").read_text()
    words = [word for word in shlex.split(command) if word.startswith(("-f", "-m", "-O", PLACE))]
    assert words.count(PLACE) == 2

    def start_up(words):  # of a program, because newer compilers never add the code to a library
        asked = subprocess.run([compiler, "-###", *words, "-x", "c", os.devnull], capture_output=True, text=True)
        return "crtfastmath" in asked.stderr if asked.returncode == 0 else None

    heeded = [flag for flag in DENORMALS_ARE_ZERO if start_up([flag])]
    assert "-ffast-math" in heeded
    for flag in heeded:
        assert start_up([flag if word == PLACE else word for word in words]) is False
