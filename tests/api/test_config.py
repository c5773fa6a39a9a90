"""The choice of backend, the number of threads, the environment, and what importing costs others."""

import contextvars
import os
import re
import threading
import warnings

import pytest
from interpreters import output, python

import fastrnn
from fastrnn import backends
from fastrnn.core import config, cpus


@pytest.fixture
def restored():
    """The process-wide settings, put back afterwards."""
    name, threads = fastrnn.get_backend(), fastrnn.get_num_threads()
    yield
    fastrnn.set_backend(name)
    fastrnn.set_num_threads(threads)


# --- the choice of backend


def test_priorities(restored):
    names = fastrnn.available_backends()
    assert list(names) == [name for name in ("native", "numba", "numpy") if name in names]
    assert names[-1] == "numpy"
    for name in names:
        fastrnn.set_backend(name)
        assert fastrnn.get_backend() == name
        with fastrnn.use_backend("numpy"):
            assert fastrnn.get_backend() == "numpy"
            with fastrnn.use_backend(names[0]):
                assert fastrnn.get_backend() == names[0]
            fastrnn.set_backend(names[0])
            assert fastrnn.get_backend() == "numpy"
        assert fastrnn.get_backend() == names[0]


def test_use_backend_ends_with_an_error(restored):
    fastrnn.set_backend(fastrnn.available_backends()[0])
    before = fastrnn.get_backend()
    with pytest.raises(ZeroDivisionError), fastrnn.use_backend("numpy"):
        _ = 1 / 0
    assert fastrnn.get_backend() == before


def test_use_backend_is_of_its_context(monkeypatch):
    marker = type("Marker", (), {"name": "marker"})
    monkeypatch.setattr(config, "_backend", marker)
    seen = []
    with fastrnn.use_backend("numpy"):
        # In a context of its own, since a free-threaded Python's threads begin with a copy of their maker's.
        thread = threading.Thread(target=lambda: seen.append(contextvars.Context().run(fastrnn.get_backend)))
        thread.start()
        thread.join()
        seen.append(contextvars.copy_context().run(fastrnn.get_backend))
    assert seen == ["marker", "numpy"]


@pytest.mark.parametrize("choose", [fastrnn.set_backend, fastrnn.use_backend])
def test_an_unknown_backend(choose):
    before = fastrnn.get_backend()
    with pytest.raises(fastrnn.BackendUnavailable, match="'native', 'numba', 'numpy', got 'numppy'"):
        choose("numppy")
    with pytest.raises(TypeError, match="backend: expected a name, got NoneType"):
        choose(None)
    assert fastrnn.get_backend() == before


def test_backend_unavailable_is_an_import_and_a_value_error():
    assert issubclass(fastrnn.BackendUnavailable, ImportError)
    assert issubclass(fastrnn.BackendUnavailable, ValueError)


@pytest.mark.parametrize("choose", [fastrnn.set_backend, fastrnn.use_backend])
def test_a_backend_that_is_not_installed(monkeypatch, choose):
    monkeypatch.setitem(backends.ENTRIES, "numba", backends.Entry(backends.import_numba, needs="no_such_module"))
    monkeypatch.delitem(backends._loaded, "numba", raising=False)
    assert "numba" not in fastrnn.available_backends()
    with pytest.raises(fastrnn.BackendUnavailable, match="'numba' is not installed .*no_such_module"):
        choose("numba")


@pytest.fixture
def broken(monkeypatch):
    """A native backend whose file is there and whose import fails."""

    def fails():
        raise ImportError("wrong architecture")

    monkeypatch.setitem(backends.ENTRIES, "native", backends.Entry(fails, needs="json"))
    monkeypatch.delitem(backends._loaded, "native", raising=False)
    monkeypatch.setattr(config, "_backend", None)
    monkeypatch.setattr(config, "_best_backend", None)


def test_a_broken_backend_falls_back_with_one_warning(broken):
    best = fastrnn.available_backends()[0]
    assert best != "native"
    with pytest.warns(RuntimeWarning, match="'native' cannot be loaded: wrong architecture") as caught:
        layer = fastrnn.RNN(1, 1)
        assert layer([[0.0]])[0].shape == (1, 1)
    assert caught[0].filename.endswith(("layer.py", "layers.py", "test_config.py"))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastrnn.get_backend() == best


def test_a_broken_backend_that_is_asked_for(broken):
    with pytest.raises(fastrnn.BackendUnavailable, match="wrong architecture"):
        fastrnn.set_backend("native")


def test_a_missing_native_module_falls_back_silently(monkeypatch):
    monkeypatch.setitem(backends.ENTRIES, "native", backends.Entry(backends.import_native, needs="no_such_module"))
    monkeypatch.delitem(backends._loaded, "native", raising=False)
    monkeypatch.setattr(config, "_backend", None)
    monkeypatch.setattr(config, "_best_backend", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastrnn.get_backend() == fastrnn.available_backends()[0] != "native"


@pytest.mark.parametrize("name", fastrnn.available_backends())
def test_forced_by_the_environment(name):
    assert output("import fastrnn; print(fastrnn.get_backend())", FASTRNN_BACKEND=name) == name


def test_forced_and_not_there():
    catch = "try:\n    import fastrnn\nexcept ImportError as error:\n    print(error)"
    said = output(catch, FASTRNN_BACKEND="torch")
    assert said == "FASTRNN_BACKEND: expected one of 'native', 'numba', 'numpy', got 'torch'"
    hidden = "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
    assert "FASTRNN_BACKEND: 'numba'" in output(hidden + catch, FASTRNN_BACKEND="numba")


def test_an_empty_variable_is_not_set():
    best = output("import fastrnn; print(fastrnn.get_backend(), fastrnn.get_num_threads())")
    code = "import fastrnn; print(fastrnn.get_backend(), fastrnn.get_num_threads())"
    assert output(code, FASTRNN_BACKEND="", FASTRNN_NUM_THREADS="") == best


@pytest.mark.skipif("native" not in fastrnn.available_backends(), reason="the native backend reads FASTRNN_ISA")
def test_an_unknown_instruction_set():
    done = python("import fastrnn; fastrnn.GRU(1, 1)([[1.0]])", FASTRNN_ISA="x86-64-v9")
    assert done.returncode == 1
    assert re.search("ValueError: FASTRNN_ISA: expected .*'x86-64-v9'", done.stderr)


# --- threads


def test_num_threads(restored):
    for n in (1, 3):
        fastrnn.set_num_threads(n)
        assert fastrnn.get_num_threads() == n
    for n, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="^n: expected an integer"):
            fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == 3


def test_num_threads_of_the_environment():
    code = "import fastrnn; print(fastrnn.get_num_threads())"
    assert output(code, FASTRNN_NUM_THREADS="3") == "3"
    assert output(code) == str(cpus.usable_cpus())
    for word in ("0", "-1", "two", "1.5", " "):
        done = python("import fastrnn", FASTRNN_NUM_THREADS=word)
        assert f"ValueError: FASTRNN_NUM_THREADS: expected a positive integer, got {word!r}" in done.stderr


def test_num_threads_of_openmps_variable():
    """Its first number, where there is one; ours comes before it."""
    code = "import fastrnn; print(fastrnn.get_num_threads(), fastrnn.show_config()['threads'])"
    for word, count in (("1", 1), ("3", 3), ("7,2", 7), (" 5 , 2", 5), ("70", 70)):
        assert output(code, OMP_NUM_THREADS=word) == f"{count} {count}", word
    for word in ("", " ", "0", "-1", "two", "1.5", ",2", "70000", "9" * 5000):
        assert output(code, OMP_NUM_THREADS=word) == f"{cpus.usable_cpus()} {cpus.usable_cpus()}", word
    assert output(code, OMP_NUM_THREADS="3", FASTRNN_NUM_THREADS="4") == "4 4"
    assert output(code, OMP_NUM_THREADS="3", FASTRNN_NUM_THREADS="") == "3 3"
    assert (
        output("import fastrnn; fastrnn.set_num_threads(2); print(fastrnn.get_num_threads())", OMP_NUM_THREADS="3")
        == "2"
    )
    done = python("import fastrnn", OMP_NUM_THREADS="3", FASTRNN_NUM_THREADS="two")
    assert "ValueError: FASTRNN_NUM_THREADS: expected a positive integer, got 'two'" in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_the_affinity_mask_counts():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert output(code + "import fastrnn; print(fastrnn.get_num_threads())") == "1"


CGROUPS = {
    "v2": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "max 100000\n"}, 1.5),
    "v2, a tighter ancestor": ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, 0.5),
    "v2, unlimited": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "v2, of a container": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "v2, path outside the mount": ("0::/../host/x\n", {"cpu.max": "200000 100000\n"}, 2),
    "v1": (
        "5:memory:/x\n3:cpu,cpuacct:/x\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "v1, unlimited": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    "v1, of a container": (
        "3:cpuacct,cpu:/docker/abc\n0::/docker/abc\n",
        {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "no cpu controller": ("5:memory:/x\n", {}, None),
    "v1, without a period": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "250000\n"}, None),
    "v2, a period of zero": ("0::/\n", {"cpu.max": "50000 0\n"}, None),
    "no cgroups": ("", {}, None),
}


@pytest.mark.parametrize(("membership", "files", "quota"), CGROUPS.values(), ids=CGROUPS)
def test_cgroup_quota(tmp_path, monkeypatch, membership, files, quota):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = cpus.cgroup_quota(str(tmp_path / "membership"), str(tmp_path / "fs"))
    assert found == quota
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert cpus.usable_cpus() == {None: 4, 0.5: 1, 1.5: 2, 2.5: 3}.get(quota, quota)


def test_without_files_there_is_no_quota(tmp_path):
    assert cpus.cgroup_quota(str(tmp_path / "none"), str(tmp_path)) is None


# --- show_config and importing


def test_show_config():
    shown = fastrnn.show_config()
    assert shown["version"] == fastrnn.__version__
    assert shown["backend"] == fastrnn.get_backend()
    assert shown["available_backends"] == fastrnn.available_backends()
    assert shown["threads"] == fastrnn.get_num_threads()
    if "native" in fastrnn.available_backends():
        assert shown["instruction_set"] in shown["instruction_sets"]
    else:
        assert shown["instruction_set"] is None
    with pytest.raises(TypeError):
        shown["threads"] = 1
    table = str(shown).splitlines()
    assert [line.split("  ")[0].strip() for line in table] == [key.replace("_", " ") for key in shown]
    assert ", ".join(fastrnn.available_backends()) in str(shown)
    assert f"{fastrnn.get_num_threads()}" in next(line for line in table if line.startswith("threads"))


def test_import_brings_in_nothing_heavy():
    code = "import sys, fastrnn; fastrnn.available_backends(); print(*sys.modules)"
    loaded = {module.split(".")[0] for module in output(code).split()}
    assert not loaded & {
        "numba",
        "llvmlite",
        "rich",
        "matplotlib",
        "torch",
        "dataclasses",
        "pathlib",
        "multiprocessing",
    }


def test_import_has_no_side_effects():
    code = (
        "import sys, threading, numpy, warnings; before = numpy.geterr(), warnings.filters[:]\n"
        "import fastrnn; assert before == (numpy.geterr(), warnings.filters[:]) and threading.active_count() == 1"
    )
    assert output(code) == ""


def test_public_names():
    assert set(fastrnn.__all__) <= set(dir(fastrnn))
    for name in fastrnn.__all__:
        assert getattr(fastrnn, name).__doc__
