"""The promises: the same bits on any number of threads, in any batch, in any chunking."""

import numpy as np
import pytest
from cases import KINDS, assert_same_bits, bare, make_case, parts_of, run

# Sizes at which the native backend divides the work: by units (one row, few rows), by rows, both directions at once.
SIZES = [(40, 1, 100, 200), (30, 3, 60, 260), (30, 13, 60, 140), (9, 50, 64, 130)]


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"dtype": np.float64}], ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_threads(kernels, threads, kind, size, with_lengths, options):
    case = make_case(kind, *size, with_lengths=with_lengths, seed=4, **options)
    threads(1)
    expected = run(case)
    for n in (2, 3, 7):
        threads(n)
        for name, array in run(case).items():
            assert_same_bits(array, expected[name], f"{name} on {n} threads")


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_batch(kernels, kind, dtype, with_lengths):
    """y, states, dx and dstate of a row alone, in a part of the batch, in another order, and longer padded."""
    case = make_case(kind, 17, 15, 20, 37, with_lengths=with_lengths, bidirectional=True, dtype=dtype, seed=5)
    expected = run(case)

    def rows_of(rows, padding=0):
        pad = np.full((padding, len(rows), case.x.shape[2]), np.nan, dtype)
        dpad = np.full((padding, len(rows), case.dy.shape[2]), np.nan, dtype)
        lengths = None if case.lengths is None else case.lengths[rows]
        if padding and lengths is None:
            lengths = np.full(len(rows), len(case.x))
        part = case._replace(
            x=np.concatenate([case.x[:, rows], pad]),
            dy=np.concatenate([case.dy[:, rows], dpad]),
            state=tuple(s[:, rows] for s in case.state),
            dstate=tuple(s[:, rows] for s in case.dstate),
            lengths=lengths,
        )
        for name, array in run(part).items():
            if name in case.layer.params:
                continue  # these sum over rows
            array = array[: len(case.x)] if name in ("y", "grads.x") else array
            assert_same_bits(array, expected[name][:, rows], f"{name} of rows {rows}, padding {padding}")

    for row in (0, 7, 14):
        rows_of([row])
        rows_of([row], padding=3)
    rows_of([3, 1, 2])
    rows_of(list(range(14, -1, -1)))
    rows_of(list(range(15)), padding=5)


@pytest.mark.parametrize("size", [(23, 1, 19, 37), (23, 2, 33, 64), (23, 11, 8, 17)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks(kernels, kind, dtype, size):
    """Whole, in chunks carried by the state, step by step through a frozen layer; inference and training."""
    case = make_case(kind, *size, num_layers=2, dtype=dtype, seed=6)
    whole, whole_state = case.layer(case.x, bare(case.state))
    trained, trained_state, _ = case.layer.forward(case.x, bare(case.state))
    assert_same_bits(trained, whole, "training")
    served = case.layer.freeze()
    for length in (1, 4, 23):
        ys, state = [], bare(case.state)
        for t in range(0, len(case.x), length):
            y, state = served(case.x[t : t + length], state)
            ys.append(y)
        assert_same_bits(np.concatenate(ys), whole, f"chunks of {length}")
        for part, expected in zip(parts_of(state), parts_of(whole_state)):
            assert_same_bits(part, expected, f"state after chunks of {length}")
    ys, state = [], bare(case.state)
    for x_t in case.x:
        y, state = served.step(x_t, state)
        ys.append(y)
    assert_same_bits(np.stack(ys), whole, "steps")
    for part, expected, training in zip(parts_of(state), parts_of(whole_state), parts_of(trained_state)):
        assert_same_bits(part, expected, "state after steps")
        assert_same_bits(training, expected, "state after training")
