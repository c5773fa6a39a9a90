"""The command line: what it prints, what it refuses and how, its exit codes."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fastrnn
from fastrnn import cli, verify
from fastrnn.backends import reference
from fastrnn.benchmark.kinds import KINDS


def refused(capsys, *arguments):
    """The message of a command that must end with exit code 2."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    return capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in (fastrnn.__version__, fastrnn.get_backend(), str(fastrnn.get_num_threads()), np.__version__):
        assert word in printed


def test_alone_it_shows_its_help(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    for command in ("info", "bench", "verify"):
        assert command in printed


def test_a_reader_that_has_enough():
    """As `fastrnn info | head -1`, where the pipe is closed before all is written: no traceback."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "fastrnn", "info"], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert done.stderr == b"" and done.returncode == cli.NO_READER


def test_plot_without_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = cli.build_parser().parse_args(["bench", "--plot"])
    assert str(options.plot) == "fastrnn-bench.png"


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fastrnn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"fastrnn {fastrnn.__version__}"


def test_the_command_line_loads_what_it_needs_when_it_needs_it():
    code = "import sys, fastrnn, fastrnn.cli, fastrnn.verify; print({'rich', 'matplotlib', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("--sizes", "1,2,3", "expected four positive integers T,B,I,H or one of default, quick"),
        ("--cell", "lstm,elman", "indrnn, all, got 'elman'"),
        ("--backend", "cuda", "got 'cuda'"),
        ("--peers", "keras", "expected names among torch, onnxruntime, openvino, jax, got 'keras'"),
        ("--sizes", "1,1,1,5000000000", "expected sizes of arrays that a machine can hold, got '1,1,1,5000000000'"),
        ("--threads", "0", "expected a positive integer up to 65536, got '0'"),
        ("--threads", "70000", "expected a positive integer up to 65536, got '70000'"),
        ("--threads", "two", "expected a positive integer up to 65536, got 'two'"),
        ("--seconds", "-1", "expected a positive number, got '-1'"),
        ("--seconds", "inf", "expected a positive number, got 'inf'"),
        ("--model-seconds", "nan", "expected a number of at least 0, got 'nan'"),
        ("--dtype", "float16", "float16"),
        ("--json", "/no/such/folder/x.json", "a file that can be written, got '/no/such/folder/x.json': No such"),
        ("--json", "/", "expected a file that can be written, got '/': Is a directory"),
        ("--plot", "picture.txt", "expected a name that ends in .png, .pdf, .svg, got 'picture.txt'"),
        ("--text", "/no/such/book.txt", "expected a readable file, got '/no/such/book.txt': No such file"),
    ],
)
def test_bench_refuses(capsys, option, value, expected):
    pytest.importorskip("rich")
    message = refused(capsys, "bench", f"{option}={value}")
    assert f"argument {option}: " in message
    assert expected in message


def test_bench_refuses_a_text_that_is_too_short(capsys, tmp_path):
    pytest.importorskip("rich")
    book = tmp_path / "book.txt"
    book.write_text("short")
    message = refused(capsys, "bench", "--text", str(book))
    assert "argument --text: book.txt: expected at least 10,000 characters of text, got 5" in message


TINY = ("--backend", "numpy", "--cell", "rnn", "--sizes", "2,1,1,1", "--seconds", "0.001")
GRID_ALONE = (*TINY, "--no-steps", "--model-seconds", "0")


def test_bench_measures_every_cell(tmp_path):
    pytest.importorskip("rich")
    figures = tmp_path / "figures.json"
    assert cli.main(["bench", *GRID_ALONE, "--cell", "gru,all", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert [record["cell"] for record in found["results"]] == 2 * list(KINDS) and found["left_out"] == []


def test_bench_takes_single_steps_of_the_cells_that_have_numpy_code(capsys, tmp_path):
    pytest.importorskip("rich")
    figures = tmp_path / "figures.json"
    asked = "bench", *TINY, "--quick", "--model-seconds", "0", "--json", str(figures)
    assert cli.main([*asked, "--cell", "mingru,gru"]) == 0
    assert "no single steps" not in capsys.readouterr().out
    assert {record["cell"] for record in json.loads(figures.read_text())["single_steps"]} == {"gru"}
    assert cli.main([*asked, "--cell", "mingru"]) == 0
    assert "no single steps: there is NumPy code for rnn, lstm, gru" in capsys.readouterr().out
    assert json.loads(figures.read_text())["single_steps"] == []


def test_bench_says_what_it_could_not_write_and_writes_the_rest(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.svg"
    asked = (*GRID_ALONE, "--json", "/dev/full", "--plot", str(picture))
    assert "cannot write '/dev/full': No space left on device" in refused(capsys, "bench", *asked)
    assert "<svg" in picture.read_text()


def test_a_picture_that_cannot_be_drawn_loses_no_figures(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")

    def fails(report):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("fastrnn.benchmark.plot.draw", fails)
    figures = tmp_path / "figures.json"
    asked = (*GRID_ALONE, "--plot", str(tmp_path / "picture.png"), "--json", str(figures))
    assert "picture.png': RuntimeError: no fonts" in refused(capsys, "bench", *asked)
    found = json.loads(figures.read_text())
    assert len(found["results"]) == 2 and found["single_steps"] == []


@pytest.mark.parametrize("where", ["run_workload", "run_shape", "learn", "print"])
def test_what_was_measured_outlives_what_ends_the_command(capsys, monkeypatch, tmp_path, where):
    """Ctrl-C in the grid, in the single steps or in the model's training; a terminal that is gone for the tables."""
    pytest.importorskip("rich")
    from fastrnn.benchmark import charlm, runner, steps

    done = []

    def first_then_interrupted(function):
        def call(*arguments):
            if done:
                raise KeyboardInterrupt
            done.append(arguments)
            return function(*arguments)

        return call

    if where == "print":

        def closed(report, width):
            raise BrokenPipeError

        monkeypatch.setattr("fastrnn.benchmark.table.grid_tables", closed)
    else:
        module = {"run_workload": runner, "run_shape": steps, "learn": charlm}[where]
        monkeypatch.setattr(module, where, first_then_interrupted(getattr(module, where)))
    book, figures = tmp_path / "book.txt", tmp_path / "figures.json"
    book.write_text("what is said is said again " * 1000)
    asked = "bench", *TINY, "--quick", "--cell", "rnn,gru", "--text", str(book), "--model-seconds", "0.01"
    asked += "--json", str(figures)
    if where == "print":
        assert cli.main(asked) == cli.NO_READER
    else:
        assert cli.main(asked) == cli.INTERRUPTED
        printed = capsys.readouterr().out
        assert "Forward: inference" in printed and f"wrote {figures}" in printed.replace("\n", "")
        assert ("One step from NumPy code" in printed) == (where != "run_workload")
        assert ("Next character" in printed) == (where == "learn")
    found = json.loads(figures.read_text())
    assert len(found["results"]) == (1 if where == "run_workload" else 4)
    shapes = {"run_workload": 0, "run_shape": 1}.get(where, 2 * len(steps.QUICK))
    assert len(found["single_steps"]) == 7 * shapes
    trained = [run["cell"] for run in (found["character_model"] or {"cells": []})["cells"]]
    assert trained == {"learn": ["rnn"], "print": ["rnn", "gru"]}.get(where, [])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_the_command_prints_in_any_encoding(encoding, tmp_path):
    pytest.importorskip("rich")
    figures = tmp_path / "figures.json"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "120"}

    def printed(*arguments):
        done = subprocess.run([sys.executable, "-m", "fastrnn", *arguments], capture_output=True, env=environment)
        assert done.returncode == (2 if "é" in arguments else 0), done.stderr.decode()
        return (done.stdout + done.stderr).decode(encoding)

    assert "T,B,I,H;" in printed("bench", "--help")
    assert "expected names among" in printed("bench", "--cell", "é")
    assert "numpy" in printed("info")
    shown = printed("bench", *TINY, "--quick", "--model-seconds", "0", "--json", str(figures))
    assert "Training" in shown and "wrote" in shown
    assert ("±%" if encoding != "ascii" else "~%") in shown
    assert ("NumPy, µs" if encoding != "ascii" else "NumPy, us") in shown
    assert len(json.loads(figures.read_text())["results"]) == 2


def test_the_command_leaves_the_streams_as_they_were():
    before = sys.stdout.errors, sys.stderr.errors
    cli.main(["info"])
    assert (sys.stdout.errors, sys.stderr.errors) == before


def test_a_file_to_write_is_tried_and_left_as_it_was(tmp_path):
    there, new = tmp_path / "there.json", tmp_path / "new.json"
    there.write_text("old")
    assert (cli.writable(str(there)), cli.writable(str(new))) == (there, new)
    assert there.read_text() == "old" and not new.exists()


def test_bench_without_its_extra(capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert "rich not installed: pip install 'fastrnn[bench]'" in refused(capsys, "bench")
    assert "rich and matplotlib not installed" in refused(capsys, "bench", "--plot", "x.png")


# --- verify


@pytest.fixture
def few_cases(monkeypatch):
    """A sample of the cases, which the whole command takes longer for than a test should."""
    monkeypatch.setattr(verify, "CASES", verify.CASES[1::7])
    monkeypatch.setattr(verify, "INVARIANT", verify.INVARIANT[2::3])


def test_verify_passes(capsys, few_cases):
    assert cli.main(["verify", "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert "all checks passed" in printed
    assert sum(line.startswith("numpy ") for line in printed.splitlines()) == 2


def broken(**changes):
    """The reference under another name, with one of its functions replaced."""
    functions = {"pack": reference.pack, "forward": reference.forward, "backward": reference.backward}
    return SimpleNamespace(name="broken", **{**functions, **changes})


def wrong_output(packed, run, after, threads):
    reference.forward(packed, run, after, threads)
    run.y[-1, -1, -1] += run.y.dtype.type(1e-4)


def nan_gradient(cell, weights, run, given, wanted, threads):
    reference.backward(cell, weights, run, given, wanted, threads)
    wanted.dweights[0].w_hh[0, 0] = np.nan


def forgotten_state(packed, run, after, threads):
    kept = [part.copy() for part in after]
    reference.forward(packed, run, after, threads)
    after[0][...] = kept[0]


def nudge(element, towards):
    element[...] = np.nextafter(element, element.dtype.type(towards))  # |h| < 1: up or down


def threads_matter(packed, run, after, threads):
    reference.forward(packed, run, after, threads)
    nudge(run.y[0, 0, :1], threads == 1)


def row_matters(packed, run, after, threads):
    reference.forward(packed, run, after, threads)
    nudge(run.y[0, -1, :1], run.x.shape[1])


def length_matters(packed, run, after, threads):
    reference.forward(packed, run, after, threads)
    nudge(run.y[0, 0, :1], len(run.x))


@pytest.mark.parametrize(
    "check, where, changes",
    [
        ("forward", "y of", {"forward": wrong_output}),
        ("forward", "h of", {"forward": forgotten_state}),
        ("backward", "dw_hh[0] of", {"backward": nan_gradient}),
        ("threads", "y of", {"forward": threads_matter}),
        ("batch", "y of", {"forward": row_matters}),
        ("chunks", "y of", {"forward": length_matters}),
    ],
)
def test_verify_finds_a_broken_backend(capsys, monkeypatch, few_cases, check, where, changes):
    monkeypatch.setattr(verify.backends, "load", lambda name: broken(**changes))
    assert cli.main(["verify"]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED {check}: {where}" in printed
    assert "checks failed: " in printed


def test_verify_reports_a_backend_that_does_not_load(capsys, monkeypatch):
    def fails(name):
        raise fastrnn.BackendUnavailable("no such thing here")

    monkeypatch.setattr(verify.backends, "load", fails)
    assert cli.main(["verify", "--backend", "numpy"]) == 1
    assert "FAILED load: no such thing here" in capsys.readouterr().out


def test_verify_visits_every_level_and_returns_to_the_first(monkeypatch, few_cases):
    levels, visited = ["best", "plain"], []
    module = broken(levels=lambda: levels, level=lambda: "best", set_level=visited.append)
    monkeypatch.setattr(verify.backends, "load", lambda name: module)
    found = list(verify.verify(["broken"]))
    assert visited == ["best", "best", "plain", "best"]
    assert {finding.level for finding in found} == {"best", "plain"}


def test_error_in_eps():
    eps = np.finfo(np.float32).eps
    exact = np.array([0.5, -2.0])
    assert verify.error_in_eps(np.array([0.5, -2.0], np.float32), exact) == 0
    assert verify.error_in_eps(np.array([0.5 + 4 * eps, -2.0], np.float32), exact) == 2
    assert verify.error_in_eps(np.array([np.nan, -2.0], np.float32), exact) == np.inf
    assert verify.error_in_eps(np.array([1e-30], np.float32), np.zeros(1)) == np.inf


def test_allowed_error_by_hand():
    assert verify.Case("lstm", T=40, B=1, I=40, H=16).allowed == 48  # log2(56 * 40) = 11.1
