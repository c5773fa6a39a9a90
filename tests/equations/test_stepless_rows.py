"""Rows of length 0: y is zero, the state passes through, and so does its gradient; nothing else knows of them."""

import numpy as np
import pytest
from cases import KINDS, Case, assert_close, assert_same_bits, bare, make_case, make_layer, parts_of, run, tolerance

import fastrnn

B, I, H = 7, 5, 19
STEPLESS = np.array([True, False, True, False, False, True, True])
OPTIONS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "dtype": np.float64},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
]


def stepless_case(kind, T, stepless=STEPLESS, **options):
    """What such rows hold in x and dy is NaN; in the state and its gradient what arithmetic would change."""
    case = make_case(kind, T, B, I, H, seed=12, **options)
    lengths = np.where(stepless, 0, 1 + np.arange(B) * 3 % T)
    odd = np.resize(np.array([np.nan, -0.0, np.inf, np.finfo(case.x.dtype).smallest_subnormal, 1e-3]), H)
    for part in (*case.state, *case.dstate):
        part[:, stepless] = odd
    for array in (case.x, case.dy):
        rows_first = array if case.layer.batch_first else array.swapaxes(0, 1)
        rows_first[stepless] = np.nan
    return case._replace(lengths=lengths)


def rows_of(case, name, array, rows):
    """These rows of a result or argument of that name."""
    return array[rows] if case.layer.batch_first and "state" not in name else array[:, rows]


def check_stepless(case, results, stepless=STEPLESS):
    """What is known of these rows' results."""
    for name in ("y", "grads.x"):
        if name in results:
            assert (rows_of(case, name, results[name], stepless) == 0).all(), name
    for name, given in (("state", case.state), ("grads.state", case.dstate)):
        for i, part in enumerate(given):
            if f"{name}[{i}]" in results:
                assert_same_bits(results[f"{name}[{i}]"][:, stepless], part[:, stepless], f"{name}[{i}]")


def without_stepless(case):
    keep = ~STEPLESS
    x, dy = (rows_of(case, "", array, keep) for array in (case.x, case.dy))
    state, dstate = (tuple(part[:, keep] for part in parts) for parts in (case.state, case.dstate))
    return Case(case.layer, x, state, case.lengths[keep], dy, dstate)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_training(backend, kind, T, options):
    case = stepless_case(kind, T, **options)
    results = run(case)
    check_stepless(case, results)
    for name, expected in run(without_stepless(case)).items():
        actual = results[name]
        if name not in case.layer.params:
            actual = rows_of(case, name, actual, ~STEPLESS)
        assert np.isfinite(expected).all()
        if backend == "numpy":
            assert_close(actual, expected, tolerance(name, case), name)
        else:
            assert_same_bits(actual, expected, name)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_inference(backend, kind, T, options):
    """The bits of training, from a layer and frozen, the short way and where arguments are converted."""
    case = stepless_case(kind, T, **options)
    trained, trained_state, _ = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
    lists = [part.tolist() for part in case.state]
    for call in (case.layer, case.layer.freeze()):
        for state in (case.state, tuple(lists)):
            for lengths in (case.lengths, case.lengths.tolist(), case.lengths.astype("u1")):
                y, after = call(case.x, bare(state), lengths=lengths)
                check_stepless(case, {"y": y, **{f"state[{i}]": part for i, part in enumerate(parts_of(after))}})
                assert_same_bits(y, trained, "y")
                for part, expected in zip(parts_of(after), parts_of(trained_state)):
                    assert_same_bits(part, expected, "state")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_has_a_step(backend, kind, T, options):
    everywhere = np.ones(B, bool)
    case = stepless_case(kind, T, everywhere, **options)
    results = run(case)
    check_stepless(case, results, everywhere)
    assert all((results[name] == 0).all() for name in case.layer.params)

    sums = {name: np.full_like(array, 3) for name, array in case.layer.params.items()}
    _, _, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
    grads = case.layer.backward(tape, case.dy, bare(case.dstate), accumulate=sums)
    assert all((grads.params[name] == 3).all() for name in sums)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("size", [(30, 1, 100, 300), (30, 2, 100, 300), (9, 50, 64, 130)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_have_no_step(kernels, kind, size, threads):
    """Work that is large enough to be divided, by units and by rows, of which one row, or none, has steps."""
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(threads)
    try:
        for first in (0, size[0]):
            case = make_case(kind, *size, bidirectional=True)
            lengths = np.zeros(size[1], int)
            lengths[0] = first
            stepless = lengths == 0
            case.x[:, stepless], case.dy[:, stepless] = np.nan, np.nan
            results = run(case._replace(lengths=lengths))
            check_stepless(case, results, stepless)
            assert all(np.isfinite(array).all() for array in results.values())
            assert all((results[name] != 0).any() == bool(first) for name in case.layer.params)
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_states_and_gradients(backend, kind):
    """None is zero in these rows as in all."""
    layer, x, dy = make_layer(kind, I, H, 2, rng=0), np.ones((4, 2, I)), np.ones((4, 2, H))
    for call in (layer, layer.freeze()):
        y, after = call(x.astype("f4"), lengths=np.array([0, 4]))
        assert (y[:, 0] == 0).all() and (y[:, 1] != 0).any()
        assert all((part[:, 0] == 0).all() and (part[:, 1] != 0).any() for part in parts_of(after))
    _, _, tape = layer.forward(x, lengths=[0, 4])
    grads = layer.backward(tape, dy)
    assert all((part[:, 0] == 0).all() and (part[:, 1] != 0).any() for part in parts_of(grads.state))
    if kind == "lstm":
        dh, dc = layer.backward(tape, dstate=(np.full((2, 2, H), 2), None)).state
        assert (dh[:, 0] == 2).all() and (dc[:, 0] == 0).all()
        dh, dc = layer.backward(tape, dstate=(None, np.full((2, 2, H), 2))).state
        assert (dh[:, 0] == 0).all() and (dc[:, 0] == 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout(backend, kind):
    """Between the layers zeros are dropped or scaled, which leaves them zero."""
    layer = make_layer(kind, I, H, 2, dropout=0.5, rng=0)
    x, dy = np.full((3, 2, I), np.nan), np.full((3, 2, H), np.nan)
    x[:, 1], dy[:, 1] = 1, 1
    y, _, tape = layer.forward(x, lengths=[0, 3])
    grads = layer.backward(tape, dy)
    assert (y[:, 0] == 0).all() and (grads.x[:, 0] == 0).all()
    assert all(np.isfinite(array).all() for array in grads.params.values())
