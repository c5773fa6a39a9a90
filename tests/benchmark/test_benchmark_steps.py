"""Single steps against NumPy code: the code by hand, who is measured against it and who is not, the output."""

import io
import json

import numpy as np
import pytest

import fastrnn
from fastrnn.benchmark import runner, steps, workloads
from fastrnn.benchmark.kinds import KINDS
from fastrnn.benchmark.measure import LocalCall, Timing
from fastrnn.benchmark.steps import Step, StepResult, StepSettings
from fastrnn.core import blas

WAYS = [("NumPy", "forward"), ("function", "forward"), ("cell", "forward"), ("frozen step", "forward")]
WAYS += [("layer", "forward"), ("NumPy", "training"), ("function", "training")]
STEP = 1e-5


def quiet(*what):
    pass


def case(cell, B=3, I=4, H=5, seed=7):
    """x, the parts of the state, their gradients and the weights, in float64 and with nothing near zero."""
    rng, gates, states = np.random.default_rng(seed), KINDS[cell].gates, 2 if cell == "lstm" else 1
    x, *state = (rng.standard_normal((B, n)) for n in (I, *[H] * states))
    dstate = tuple(rng.standard_normal((B, H)) for _ in range(states))
    shapes = (gates * H, I), (gates * H, H), (gates * H,), (gates * H,)
    return x, tuple(state), dstate, tuple(rng.standard_normal(shape) for shape in shapes)


def bare(parts):
    return parts if len(parts) > 1 else parts[0]


# --- by hand


@pytest.mark.parametrize("cell", workloads.CELLS)
def test_gradients_by_hand_against_central_differences(cell):
    """A linear function of the next state has dstate as its gradient by that state."""
    x, state, dstate, weights = case(cell)
    by_hand = steps.BY_HAND[cell]

    def loss():
        after = steps.arrays(by_hand.infer(x, bare(state), *weights))
        return sum((part * d).sum() for part, d in zip(after, dstate, strict=True))

    _, gradients = by_hand.both(x, bare(state), weights, dstate)
    inputs = (x, *state, *weights)
    for k, (gradient, array) in enumerate(zip(steps.arrays(gradients), inputs, strict=True)):
        numeric = np.empty_like(array)
        for index in np.ndindex(array.shape):
            here, sides = array[index], []
            for side in (here + STEP, here - STEP):
                array[index] = side
                sides.append(loss())
            array[index] = here
            numeric[index] = (sides[0] - sides[1]) / (2 * STEP)
        assert np.abs(numeric).max() > 1e-3, f"input {k}: nothing to compare"
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-8 * np.abs(numeric).max(), err_msg=f"input {k}")


@pytest.mark.parametrize("cell", workloads.CELLS)
def test_code_by_hand_is_the_reference(cell):
    x, state, dstate, weights = case(cell)
    by_hand, function = steps.BY_HAND[cell], steps.FUNCTIONS[cell]
    with fastrnn.use_backend("numpy"):
        expected = list(steps.arrays(function.both(x, bare(state), weights, dstate)))
    found = list(steps.arrays(by_hand.both(x, bare(state), weights, dstate)))
    after = list(steps.arrays(by_hand.infer(x, bare(state), *weights)))
    assert len(after) == len(state)
    for part, right in [*zip(found, expected, strict=True), *zip(after, expected)]:
        assert part.shape == right.shape and part.dtype == right.dtype == np.float64
        np.testing.assert_allclose(part, right, rtol=0, atol=1e-13 * np.abs(right).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", workloads.CELLS)
def test_all_ways_compute_the_same(cell, dtype):
    everyone = steps.contenders(cell, 3, 20, dtype)
    assert [who[:2] for who in everyone] == WAYS
    assert {part.dtype for who in everyone for part in steps.arrays(who.run())} == {np.dtype(dtype)}
    assert steps.vet(everyone) == {}


# --- measured


def settings(cells=("rnn", "gru"), shapes=((2, 4), (1, 3))):
    return StepSettings(cells, shapes, np.dtype(np.float32), "numpy", seconds=0.002)


def test_run_steps_measures_every_way_on_one_thread(monkeypatch):
    seen, shown = set(), []
    monkeypatch.setattr(LocalCall, "elapsed", fixed_times(seen))
    threads, blas_threads = fastrnn.get_num_threads(), blas.threads()
    found = steps.run_steps(settings(), lambda *what: shown.append(what))
    assert (fastrnn.get_num_threads(), blas.threads()) == (threads, blas_threads)
    assert seen == {("numpy", 1, None if blas_threads is None else 1)}
    assert [(s.cell, s.B, s.H, s.contender, s.mode) for s in found] == [
        (cell, B, H, *way) for cell in ("rnn", "gru") for B, H in ((2, 4), (1, 3)) for way in WAYS
    ]
    assert all(step.ratio == 1 for step in found if step.contender == "NumPy")
    assert {step.ratio for step in found if step.contender != "NumPy"} == {0.5}
    assert shown[0] == ("RNN one step B=2 H=4", 0, 4) and shown[-1] == ("done", 4, 4)


def fixed_times(seen):
    """In place of LocalCall.elapsed: the code by hand takes 10 ms, all else 20. It notes what is in force."""

    def elapsed(call, calls):
        seen.add((fastrnn.get_backend(), fastrnn.get_num_threads(), blas.threads()))
        return 0.01 if "by_hand" in call.run.__code__.co_freevars else 0.02

    return elapsed


def test_what_was_measured_outlives_an_interruption(monkeypatch):
    whole, found = steps.run_shape, []

    def interrupted(asked, cell, B, H):
        if found:
            raise KeyboardInterrupt
        return whole(asked, cell, B, H)

    monkeypatch.setattr(steps, "run_shape", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps.run_steps(settings(), quiet, found)
    assert [(step.contender, step.mode) for step in found] == WAYS and found[0][:3] == ("rnn", 2, 4)


@pytest.fixture
def wrong_gru(monkeypatch):
    """The results of one shape, with a function whose gradients alone are not those of the step by hand."""
    right = steps.FUNCTIONS["gru"]

    def backward(tape, dh):
        grads = right.backward(tape, dh)
        return grads._replace(w_hh=grads.w_hh + 0.01)

    monkeypatch.setitem(steps.FUNCTIONS, "gru", Step(right.infer, right.forward, backward))
    return steps.run_steps(settings(cells=("gru",), shapes=((2, 4),)), quiet)


def test_who_computes_something_else_is_not_timed(wrong_gru):
    assert [(step.contender, step.mode) for step in wrong_gru if step.timing is None] == [("function", "training")]
    assert [step.reason for step in wrong_gru[:-1]] == [None] * 6
    assert wrong_gru[-1].reason.startswith("wrong by ") and wrong_gru[-1].ratio is None


# --- output


def printed(found, columns=80):
    console_module = pytest.importorskip("rich.console")
    from fastrnn.benchmark.step_tables import step_tables

    console = console_module.Console(width=columns, highlight=False, file=io.StringIO())
    for part in step_tables(found):
        console.print(part)
    return console.file.getvalue().splitlines()


def row(lines, label, nth=0):
    """The figures of the nth row of that label."""
    return [line.rpartition(label)[2].split() for line in lines if f" {label} " in line][nth]


def test_a_wrong_contender_is_shown_as_wrong(wrong_gru):
    lines = printed(wrong_gru)
    assert row(lines, "forward + backward") == ["wrong", "—"]
    assert "wrong: not what the NumPy code computes, not measured." in lines
    assert len(row(lines, "function")) == 2 and row(lines, "function") != ["wrong", "—"]


def made_up(cells=workloads.CELLS, shapes=steps.SHAPES):
    """NumPy's code takes B·H µs, and H/16 times as long as fastrnn, twice that beside its backward."""
    found = []
    for cell in cells:
        for B, H in shapes:
            for name, mode in WAYS:
                by_hand = B * H * 1e-6
                own = by_hand if name == "NumPy" else by_hand * 16 / H / (1 + (mode == "training"))
                timings = (Timing((seconds,) * 3, 5) for seconds in (by_hand, own))
                found.append(StepResult(cell, B, H, mode, name, "native", *timings, None))
    return found


def test_tables_show_ratios_and_their_means():
    lines = printed(made_up())
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines), "a figure is cut off"
    assert lines[1] == "One step from NumPy code, one thread: NumPy's time over fastrnn's (native)"
    assert [line.split()[0] for line in lines if "H=16 " in line] == ["RNN", "LSTM", "GRU"]
    assert row(lines, "NumPy, µs", nth=5) == ["64.0", "256", "512", "1020", "2050"]  # LSTM, B=4
    ratios = ["1.00", "4.00", "8.00", "16.0", "32.0", "6.96"]  # the fifth root of 16384
    doubled = ["2.00", "8.00", "16.0", "32.0", "64.0", "13.9"]
    for label in ("function", "cell", "frozen step", "layer"):
        assert row(lines, label, nth=11) == ratios
        assert row(lines, label, nth=12) == ["6.96"] * 4  # all cells, by batch
    assert [line.split()[-6:] for line in lines if " forward + backward   " in line][:12] == [doubled] * 12
    assert printed([]) == []


def test_tables_of_a_run_that_was_interrupted():
    found = made_up(cells=("rnn",), shapes=((1, 16), (1, 64), (4, 16)))
    assert row(printed(found), "function", nth=1) == ["1.00", "—", "1.00"]


def test_json_of_steps(wrong_gru):
    from fastrnn.benchmark.report import Report, to_json

    asked = runner.Settings((), ("gru",), workloads.MODES, np.dtype(np.float32), 1, 0.008)
    document = json.loads(to_json(Report({}, {}, asked, runner.empty_outcome(), steps=wrong_gru)))
    *measured, wrong = document["single_steps"]
    assert [(record["contender"], record["mode"]) for record in measured] == WAYS[:-1]
    for record in measured:
        assert (record["cell"], record["B"], record["H"], record["backend"]) == ("gru", 2, 4, "numpy")
        seconds, lead = record["seconds"], measured[5 if record["mode"] == "training" else 0]["seconds"]
        assert seconds["min"] <= seconds["q1"] <= seconds["median"] <= seconds["q3"] <= seconds["max"]
        assert record["ratio"] == lead["median"] / seconds["median"] and record["reason"] is None
    assert wrong["seconds"] is None and wrong["ratio"] is None and wrong["reason"].startswith("wrong by ")
