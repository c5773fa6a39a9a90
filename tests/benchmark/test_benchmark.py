"""The benchmark beside its figures: ceilings, sampling, agreement of competitors, the character model, the output."""

import io
import json
import re
import time
from contextlib import nullcontext

import numpy as np
import pytest

import fastrnn
from fastrnn.benchmark import ceiling, charlm, measure, peers, runner, steps, text, workloads
from fastrnn.benchmark.kinds import KINDS
from fastrnn.benchmark.measure import CallFailed, LocalCall, Timing
from fastrnn.benchmark.workloads import Size, Workload
from fastrnn.train import Adam

# --- ceilings


@pytest.mark.parametrize("mode", workloads.MODES)
@pytest.mark.parametrize("cell", (*workloads.CELLS, "mingru"))
def test_floor_without_a_cache_limit_is_all_flops_at_the_peak(cell, mode):
    workload = Workload(cell, Size(T=7, B=3, I=5, H=11), mode)
    assert ceiling.floor(workload, np.float32, 2.0**30, np.inf) == (workload.flops / 2**30, False)


@pytest.mark.parametrize("dtype, seconds", [(np.float32, 120 + 400), (np.float64, 120 + 800)])
def test_floor_of_a_cache_limit_by_hand(dtype, seconds):
    # An LSTM of H = 5 has 100 weights in W_hh, in float32 40 s at 10 bytes/s; their 600 flop for 3 rows take 6 s at
    # 100 flop/s. The x product: 10 steps, 3 rows, 20 dot products over 10 inputs, 12000 flop.
    workload = Workload("lstm", Size(T=10, B=3, I=10, H=5), "forward")
    assert workload.recurrent_bytes(dtype) == 100 * np.dtype(dtype).itemsize
    assert ceiling.floor(workload, dtype, 100.0, 10.0) == (seconds, True)
    # Training: three products with x's size, dW_hh (6000 flop), and the sequence once forward and once backward.
    training = ceiling.floor(workload._replace(mode="training"), dtype, 100.0, 10.0)
    assert training == (3 * 120 + 60 + 2 * (seconds - 120), True)


def test_floor_turns_to_the_fmas_as_rows_share_a_stream():
    def limit(B):
        return ceiling.floor(Workload("gru", Size(4, B, 8, 8), "forward"), np.float32, 1000.0, 500.0).by_cache

    # 4 bytes at 500 bytes/s against 2 flop a row at 1000 flop/s: 4 rows take as long to compute as to read for.
    assert [limit(B) for B in (1, 3, 4, 5)] == [True, True, False, False]


def test_ceilings_are_measured_once_per_footprint(monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "fma_peak", lambda dtype, threads: 1e9 * (1 + len(asked)))
    monkeypatch.setattr(runner, "read_bandwidth", lambda size, threads: asked.append((size, threads)) or 1e10 + size)
    settings = SETTINGS._replace(sizes=(Size(2, 1, 1, 4), Size(3, 1, 1, 8)), cells=("rnn", "lstm"), threads=2)
    outcome = runner.run_grid(settings, [peers.Ours("numpy")], lambda *what: None)
    assert asked == [(64, 2), (256, 2), (1024, 2)]  # the LSTM of 4 units has as large a W_hh as the RNN of 8
    assert outcome.bandwidths == {size: 1e10 + size for size, _ in asked}
    assert outcome.peaks == [1e9, 3e9] and outcome.peak == 3e9


# --- sampling


def test_timing_statistics():
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0), calls=7)
    assert timing.median == 3
    assert (timing.percentile(25), timing.percentile(75)) == (2, 4)
    assert timing.spread == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "call, budget, samples, calls",
    [
        (1e-6, 0.1, 25, 4000),  # many short calls fill the budget
        (0.01, 0.1, 10, 1),
        (5.0, 0.1, 3, 1),  # a slow one still gets its three
        (1e-5, 1e-6, 3, 100),  # no sample is shorter than a millisecond
    ],
)
def test_plan(call, budget, samples, calls):
    found_samples, found_calls = measure.plan(call, budget)
    assert found_samples == pytest.approx(samples, abs=1 if samples > 3 else 0)
    assert found_calls == pytest.approx(calls, rel=0.01)


def test_schedule_spreads_every_competitor_over_the_run():
    order = measure.schedule([9, 3])
    assert [order.count(i) for i in (0, 1)] == [9, 3]
    assert all(order[k : k + 4].count(1) == 1 for k in (0, 4, 8))


def test_settle_waits_for_threads_that_spin(monkeypatch):
    cpu_seconds = iter([0.0, 0.001, 0.001, 0.0019, 0.0019, 0.002])  # a thread busy for two looks, idle at the third
    monkeypatch.setattr(measure, "process_time", lambda: next(cpu_seconds))
    measure.settle()
    assert list(cpu_seconds) == []


def test_interleave_samples_in_turns_within_each_context():
    active, log = [], []

    def competitor(name):
        class Context(nullcontext):
            def __enter__(self):
                active.append(name)

            def __exit__(self, *_):
                active.remove(name)

        return LocalCall(lambda: log.append((name, tuple(active))), Context)

    timings = measure.interleave([competitor("a"), competitor("b")], budget=1e-4)
    assert [len(timing.samples) for timing in timings] == [3, 3]
    assert set(log) == {("a", ("a",)), ("b", ("b",))}
    warm = [i for i, (name, _) in enumerate(log) if name == "b"][0]
    turns = [name for i, (name, _) in enumerate(log) if i > warm and name != log[i - 1][0]]
    assert turns == ["a", "b", "a", "b", "a", "b"]


def test_interleave_goes_on_without_a_call_that_fails():
    def fails_after(runs):
        def run():
            nonlocal runs
            runs -= 1
            if runs < 0:
                raise CallFailed("broken")
            time.sleep(2e-3)  # longer than any sample has to be: one run tells how long, each sample is another

        return LocalCall(run)

    steady, early, late = measure.interleave([fails_after(9), fails_after(0), fails_after(2)], budget=1e-3)
    assert isinstance(steady, Timing) and len(steady.samples) == 3
    assert str(early) == str(late) == "broken"


# --- competitors


class Crooked(peers.Ours):
    """Computes with the reference, then adds a little."""

    def __init__(self):
        super().__init__("numpy")
        self.name = "crooked"

    def prepare(self, problem):
        reference = peers.Ours("numpy").prepare(problem)
        return LocalCall(lambda: (reference.run()[0] + 0.01,), reference.context)


SETTINGS = runner.Settings(
    sizes=(Size(3, 2, 3, 4),),
    cells=("rnn", "gru"),
    modes=workloads.MODES,
    dtype=np.dtype(np.float32),
    threads=1,
    seconds=0.002,
)


def test_run_grid_measures_all_and_leaves_out_what_computes_something_else():
    shown = []
    outcome = runner.run_grid(SETTINGS, [peers.Ours("numpy"), Crooked()], lambda *what: shown.append(what))
    grid = list(workloads.workloads(SETTINGS.sizes, SETTINGS.cells))
    assert outcome.competitors == ["numpy", "crooked"]
    assert [(r.workload, r.competitor) for r in outcome.results] == [(workload, "numpy") for workload in grid]
    assert [(gap.workload, gap.competitor) for gap in outcome.left_out] == [(workload, "crooked") for workload in grid]
    assert all(gap.reason.startswith("wrong by ") for gap in outcome.left_out)
    assert shown[-1] == ("done", 8, 8)


def test_run_grid_measures_no_one_on_a_cell_that_they_do_not_have():
    class Elman(Crooked):
        cells = ("rnn",)

    outcome = runner.run_grid(SETTINGS, [peers.Ours("numpy"), Elman()], lambda *what: None)
    assert {result.competitor for result in outcome.results} == {"numpy"} and len(outcome.results) == 4
    assert [gap.workload[::2] for gap in outcome.left_out] == [("rnn", "forward"), ("rnn", "training")]


def test_few_rows_may_disagree_where_a_derivative_jumps():
    training = [
        Workload(cell, Size(3, B, 4, 5), "training") for cell, B in (("rnn_relu", 1), ("rnn_relu", 64), ("gru", 64))
    ]
    assert [runner.spare_rows(workload) for workload in training] == [0, 3, 0]
    assert runner.spare_rows(training[1]._replace(mode="forward")) == 0
    expected = np.random.default_rng(0).standard_normal((3, 64, 4))
    result = expected.copy()
    result[1, [5, 40, 63]] += 0.1
    peers.check_agreement(result, expected, 3)
    for wrong, spare in (
        (result, 2),
        (result, 0),
        (result + 0.1, 3),
        (np.where(result == result[1, 5, 0], np.nan, result), 3),
    ):
        with pytest.raises(peers.Disagreement):
            peers.check_agreement(wrong, expected, spare)


def test_run_grid_leaves_out_what_does_not_fit_into_memory(monkeypatch):
    def problem(workload, dtype):
        if workload.size.H > 4:
            raise MemoryError("cannot allocate the parameters")
        return workloads.problem(workload, dtype)

    monkeypatch.setattr(runner, "problem", problem)
    settings = SETTINGS._replace(sizes=(Size(3, 2, 3, 400), *SETTINGS.sizes))
    outcome = runner.run_grid(settings, [peers.Ours("numpy")], lambda *what: None)
    assert [(gap.workload.size.H, gap.competitor) for gap in outcome.left_out] == [(400, "numpy")] * 4
    assert {gap.reason for gap in outcome.left_out} == {"failed: cannot allocate the parameters"}
    assert {result.workload.size.H for result in outcome.results} == {4} and len(outcome.results) == 4


def test_run_grid_leaves_out_what_takes_too_long(monkeypatch):
    monkeypatch.setattr(runner, "estimate", lambda call: 4.0)
    outcome = runner.run_grid(SETTINGS, [peers.Ours("numpy")], lambda *what: None)
    assert not outcome.results
    assert {gap.reason for gap in outcome.left_out} == {"12.0 s a call"}  # 4 s for one of three steps
    monkeypatch.setattr(runner, "estimate", lambda call: 3.0)
    assert len(runner.run_grid(SETTINGS, [peers.Ours("numpy")], lambda *what: None).results) == 4


def test_a_long_budget_waits_for_longer_calls():
    assert [runner.longest_call(seconds) for seconds in (0.05, 0.3, 0.5, 2.0)] == [10, 10, 10, 40]


# --- the character model


def test_the_model_learns_a_text_that_repeats():
    corpus = text.encode("repeats", "abcdefgh" * 2000)
    recipe = charlm.Recipe(hidden_size=16, embedding_size=8, steps=16, streams=4, learning_rate=1e-2)
    model = charlm.make("gru", len(corpus.characters), recipe)
    before = charlm.bits_held_out(model, corpus, recipe)
    optimiser, state = Adam(model.params, recipe.learning_rate), None
    for _, batch in zip(range(80), charlm.forever(corpus.training, recipe)):
        _, gradients, state = charlm.gradients_of(model, batch, None if batch.starts else state)
        optimiser.step(gradients)
    assert before > 2.5 and charlm.bits_held_out(model, corpus, recipe) < 0.5


def test_learn_counts_what_it_did():
    corpus = text.encode("repeats", "abcdefgh" * 2000)
    recipe = charlm.Recipe(hidden_size=4, embedding_size=2, steps=8, streams=2)
    (learned,) = charlm.learn_all(["rnn"], corpus, recipe, 0.01, lambda *what: None)
    assert learned.characters == 16 * learned.steps > 0
    assert learned.seconds >= 0.01
    assert learned.parameters == 9 * 2 + 4 * 2 + 4 * 4 + 2 * 4 + 9 * 4 + 9
    assert learned.curve[-1][0] <= learned.seconds


def test_the_model_learns_with_every_layer():
    corpus = text.encode("repeats", "abcdefgh" * 2000)
    recipe = charlm.Recipe(hidden_size=4, embedding_size=2, steps=8, streams=2)
    learned = list(charlm.learn_all(tuple(KINDS), corpus, recipe, 0.01, lambda *what: None))
    assert [run.cell for run in learned] == list(KINDS)
    assert all(0 < run.bits_after < run.bits_before for run in learned)


# --- text


def test_batches_carry_on_where_the_one_before_stopped():
    tokens = np.arange(23)
    first, second = text.batches(tokens, T=4, B=2)
    np.testing.assert_array_equal(first.inputs, [[0, 11], [1, 12], [2, 13], [3, 14]])
    np.testing.assert_array_equal(second.inputs, first.inputs + 4)
    np.testing.assert_array_equal(second.targets, second.inputs + 1)
    assert first.starts and not second.starts


def test_encoding_keeps_the_frequent_characters_and_shares_a_token_for_the_rest(monkeypatch):
    monkeypatch.setattr(text, "VOCABULARY", 3)
    corpus = text.encode("t", "b" * 10000 + "aac" * 50 + "éb" + "ab" * 500)
    assert corpus.characters == "abc" + text.UNKNOWN
    whole = "".join(corpus.characters[token] for token in [*corpus.training, *corpus.held_out])
    assert whole == "b" * 10000 + "aac" * 50 + text.UNKNOWN + "b" + "ab" * 500
    assert len(corpus.held_out) == len(whole) // 20


def test_default_text_is_the_standard_library_and_always_the_same():
    corpus = text.load_corpus()
    assert len(corpus.training) > 1_000_000
    np.testing.assert_array_equal(corpus.training, text.load_corpus().training)


# --- output


def test_numbers_for_readers():
    pytest.importorskip("rich")
    from fastrnn.benchmark import table

    assert [table.digits(v) for v in (0, 0.012, 0.5, 1.234, 9.999, 45.67, 999.6)] == [
        "0", "0.01", "0.50", "1.23", "10.0", "45.7", "1000",
    ]  # fmt: skip
    assert [table.si(v) for v in (7.0, 999.0, 999.7, 12345, 1.5e6, 2e9)] == [
        "7.00", "999", "1.00k", "12.3k", "1.50M", "2.00G",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One whole `fastrnn bench` at a tiny size, through the command line."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    from fastrnn.cli import main

    folder = tmp_path_factory.mktemp("bench")
    book = folder / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog. " * 300)
    arguments = ["bench", "--quick", "--sizes", "4,2,3,5;3,1,2,4", "--backend", "numpy", "--threads", "1"]
    arguments += ["--seconds", "0.002", "--model-seconds", "0.05", "--text", str(book)]
    arguments += ["--json", str(folder / "bench.json"), "--plot", str(folder / "bench.png")]
    threads = fastrnn.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(workloads.NAMES, Size(3, 1, 2, 4), "three steps")
        assert main(arguments) == 0
    assert fastrnn.get_num_threads() == threads
    return folder


def test_json_of_a_run(run):
    document = json.loads((run / "bench.json").read_text())
    assert document["schema"] == "fastrnn-bench/1"
    assert document["threads"] == 1 and document["dtype"] == "float32"
    assert document["machine"]["fastrnn"] == fastrnn.__version__
    assert len(document["results"]) == 2 * 2 * 3 and document["left_out"] == []
    for record in document["results"]:
        seconds = record["seconds"]
        assert seconds["min"] <= seconds["q1"] <= seconds["median"] <= seconds["q3"] <= seconds["max"]
        assert len(seconds["samples"]) >= 3
        assert record["competitor"] == "numpy"
        assert record["name"] == {4: None, 3: "three steps"}[record["T"]]
        assert record["gflops"] == pytest.approx(record["flops"] / seconds["median"] / 1e9)
        assert record["steps_per_s"] == pytest.approx(record["T"] * record["sequences_per_s"])
    if document["peak_gflops"] is None:
        assert document["read_bandwidths"] == [] and {record["limit"] for record in document["results"]} == {None}
    else:
        check_limits(document)
    assert len(document["single_steps"]) == 3 * len(steps.QUICK) * 7
    assert {record["backend"] for record in document["single_steps"]} == {"numpy"}
    model = document["character_model"]
    assert model["text"] == "book.txt"
    assert [cell["cell"] for cell in model["cells"]] == ["rnn", "lstm", "gru"]
    for cell in model["cells"]:
        assert 4 < cell["bits_before"] < 6  # log2 of 29 characters is 4.9
        assert cell["characters_per_s"] == pytest.approx(cell["characters"] / cell["seconds"])


def check_limits(document):
    """The shares of a run whose sizes are (4, 2, 3, 5) and (3, 1, 2, 4), from the ceilings it measured."""
    peak, rates = (
        document["peak_gflops"],
        {entry["bytes"]: entry["gbytes_per_s"] for entry in document["read_bandwidths"]},
    )
    assert set(rates) == {gates * H * H * 4 for gates in (1, 3, 4) for H in (4, 5)}
    for record in document["results"]:
        T, B, I, H, gates = *(record[name] for name in "TBIH"), {"rnn": 1, "lstm": 4, "gru": 3}[record["cell"]]
        fma, read = 2 * B * gates * H * H / peak, gates * H * H * 4 / rates[gates * H * H * 4]
        once = 2 * T * B * gates * H * I / peak + T * max(fma, read)
        if record["mode"] == "training":
            once = 3 * once - T * max(fma, read) + 2 * T * B * gates * H * H / peak  # dW_hh is not a sequence
        assert record["limit_share"] == pytest.approx(once * 1e-9 / record["seconds"]["median"])
        assert record["limit"] == ("cache" if read > fma else "fma")
        assert record["peak_share"] == pytest.approx(record["gflops"] / peak)


def test_plot_of_a_run(run):
    assert (run / "bench.png").read_bytes().startswith(b"\x89PNG")


SHOWN = (*workloads.GRID, *workloads.USERS)


def synthetic_report(cells, sizes=SHOWN):
    """Every competitor, figures of every magnitude, gaps."""
    from fastrnn.benchmark.report import Report

    settings = SETTINGS._replace(sizes=sizes, cells=cells)
    names, results, left_out = ["native", "numba", "numpy", "torch", "onnxruntime"], [], []
    grid = list(workloads.workloads(sizes, cells))
    for k, workload in enumerate(grid):
        for j, name in enumerate(names):
            seconds = workload.flops / 10.0 ** (7 + (k * 7 + j * 3) % 10 / 2)  # 0.01 to 300 GFLOP/s
            if k % 5 == j:
                reason = "wrong by 1.0e-02" if k % 2 else "failed: its process ended: Segmentation fault"
                left_out.append(runner.LeftOut(workload, name, reason))
            else:
                results.append(runner.Result(workload, name, Timing((seconds, 1.5 * seconds, 9.0 * seconds), 2)))
    bandwidths = {n: 2e11 + n for n in (workload.recurrent_bytes(np.float32) for workload in grid) if n}
    outcome = runner.Outcome(names, results, left_out, [5e11], bandwidths)
    machine = {"cpu": "A Processor", "instruction_set": "x86-64-v3", "fastrnn": "1.0", "numpy": "2.0", "python": "3.11"}
    machine |= {"blas_threads": None, "system": "Linux x86_64"}
    recipe = charlm.Recipe()
    learned = [charlm.Learned(cell, 400_000, 900, 1_843_200, 10.0, 6.9, 2.5, [(1.0, 3.0, 2e5)]) for cell in cells]
    return Report(machine, {"torch": "2.13.0"}, settings, outcome, "a text", recipe, learned)


NARROW, WIDE = "step/s  limit  time", "step/s GFLOP/s limit seq/s  ±% time"


@pytest.mark.parametrize(
    "cells, columns, parts, headings",
    [
        (workloads.CELLS, 80, 1, NARROW),
        (workloads.CELLS, 120, 1, WIDE),
        (("minlstm",), 80, 1, WIDE),
        (tuple(KINDS), 80, 6, NARROW),
        (tuple(KINDS), 120, 4, NARROW),
    ],
)
def test_tables_fit_the_terminal(cells, columns, parts, headings):
    console_module = pytest.importorskip("rich.console")
    from fastrnn.benchmark import table

    console = console_module.Console(width=columns, highlight=False, record=True, file=io.StringIO())
    report = synthetic_report(cells)
    for part in (*table.header(report), *table.grid_tables(report, columns), *table.model_tables(report)):
        console.print(part)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines), "a figure is cut off"
    assert "torch failed: its process ended: Segmentation fault" in lines
    blocks = [line for line in lines if line.startswith("T=")]
    assert len(blocks) == 2 * parts * len(SHOWN)
    assert "T=20 B=512 I=8 H=32  sensor windows" in blocks and "T=500 B=1 I=1 H=16" in blocks
    marked, apart = (
        sum(len(re.findall(p, line)) for line in lines) for p in ("%[cf]", r" \d{1,3}(?:\.\d)?%[cf](?: |$)")
    )
    assert marked == apart == 4 * 2 * len(cells) * len(SHOWN), "figures touch"
    assert any(line.endswith(headings) for line in lines)
    for cell in cells:
        title = re.escape(KINDS[cell].title)
        assert sum(bool(re.search(f"(?:^|  ){title}(?:$|  )", line)) for line in lines) == 3, "two modes and a model"


@pytest.mark.parametrize("cells, across, lowest", [(workloads.CELLS, 3, 3), (("minlstm",), 1, 1), (tuple(KINDS), 5, 8)])
def test_the_picture_has_a_panel_for_every_cell_and_mode(cells, across, lowest):
    pytest.importorskip("matplotlib")
    from fastrnn.benchmark.plot import draw

    figure = draw(synthetic_report(cells, SHOWN[:2]))
    *panels, curves, _, _ = figure.axes
    assert [axis.get_title(loc="left") for axis in panels] == [
        f"{KINDS[cell].title} {mode}" for mode in workloads.MODES for cell in cells
    ]
    assert len({axis.get_subplotspec().colspan.start for axis in panels}) == across
    assert sum(axis.get_xlabel() == "GFLOP/s" for axis in panels) == lowest
    looks = {(line.get_color(), line.get_linestyle()) for line in curves.lines if line.get_marker() == "None"}
    assert len(looks) == len(cells)
