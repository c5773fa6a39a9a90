"""Losses and their gradients, against torch, against central differences and, for CTC, against every alignment."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn.train.counting import counted
from fastrnn.train.ctc import ctc, ctc_greedy
from fastrnn.train.losses import binary_cross_entropy, cross_entropy, huber, mean_squared

torch = pytest.importorskip("torch")
functional = torch.nn.functional

T, B, C, F = 5, 3, 4, 2
EPS = float(np.finfo(np.float32).eps)


def normal(*shape, seed=0, dtype=np.float64, scale=2.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def classes(*shape, seed=1, low=0, high=C):
    return np.random.default_rng(seed).integers(low, high, shape)


def by_torch(loss, x, *others, **options):
    """The value and gradient that torch has."""
    tensor = torch.tensor(x, requires_grad=True)
    value = loss(tensor, *[torch.tensor(other) for other in others], **options)
    value.backward()
    return value.item(), tensor.grad.numpy()


def assert_close(found, expected, bound):
    assert type(found[0]) is float and found[1].dtype == expected[1].dtype
    assert found[0] == pytest.approx(expected[0], rel=bound, abs=bound)
    np.testing.assert_allclose(found[1], expected[1], rtol=bound, atol=bound)


def central_differences(loss, x, step=1e-6):
    """The gradient of the first of what `loss` returns, in float64."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            values.append(loss(moved)[0])
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


# The losses of single elements: ours, torch's, targets of a shape
ELEMENTWISE = {
    "binary": (
        binary_cross_entropy,
        functional.binary_cross_entropy_with_logits,
        lambda *shape: np.random.default_rng(3).random(shape),
    ),
    "squared": (mean_squared, functional.mse_loss, lambda *shape: normal(*shape, seed=3)),
    "huber": (huber, functional.huber_loss, lambda *shape: normal(*shape, seed=3)),
    "huber of 0.3": (
        lambda *given, **named: huber(*given, 0.3, **named),
        lambda *given: functional.huber_loss(*given, delta=0.3),
        lambda *shape: normal(*shape, seed=3),
    ),
}
elementwise = pytest.mark.parametrize("name", ELEMENTWISE)

# Every loss as a function of its first argument, with targets for (T, B, C): what is said of all of them
LOSSES = {"cross-entropy": (cross_entropy, lambda: classes(T, B))} | {
    name: (ours, lambda make=make: make(T, B, C)) for name, (ours, _, make) in ELEMENTWISE.items()
}
every_loss = pytest.mark.parametrize("name", LOSSES)


# --- values and gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 2, -100])
@pytest.mark.parametrize("shape", [(7,), (T, B), (2, T, B)])
def test_cross_entropy_is_torchs(smoothing, weighted, ignore, shape):
    x, y = normal(*shape, C), classes(*shape)
    if ignore == -100:
        y.flat[::3] = -100
    weight = np.array([0.5, 0.0, 2.0, 1.5]) if weighted else None
    found = cross_entropy(x, y, label_smoothing=smoothing, ignore_index=ignore, weight=weight)
    options = {"label_smoothing": smoothing, "weight": None if weight is None else torch.tensor(weight)}
    if ignore is not None:
        options["ignore_index"] = ignore
    expected = by_torch(functional.cross_entropy, x.reshape(-1, C), y.ravel(), **options)
    assert_close(found, (expected[0], expected[1].reshape(x.shape)), 1e-12)


def test_cross_entropy_of_one_element():
    expected = by_torch(functional.cross_entropy, normal(C), np.array(2))
    assert_close(cross_entropy(normal(C), 2), expected, 1e-12)
    with pytest.raises(ValueError, match="expected at least one element that counts"):
        cross_entropy(normal(C), 2, ignore_index=2)


@elementwise
@pytest.mark.parametrize("shape", [(), (7,), (T, B), (T, B, F)])
def test_elementwise_losses_are_torchs(name, shape):
    ours, torchs, make = ELEMENTWISE[name]
    x, y = normal(*shape), np.asarray(make(*shape))
    assert_close(ours(x, y), by_torch(torchs, np.asarray(x), y), 1e-12)


@every_loss
def test_gradients_are_central_differences(name):
    loss, make = LOSSES[name]
    x, y, lengths = normal(T, B, C), make(), np.array([5, 2, 0])
    np.testing.assert_allclose(
        loss(x, y, lengths=lengths)[1], central_differences(lambda x: loss(x, y, lengths=lengths), x), atol=1e-9
    )


def test_gradient_with_smoothing_weights_and_mask_is_central_differences():
    x, y, mask = normal(T, B, C), classes(T, B), classes(T, B, high=2).astype(bool)

    def loss(x):
        return cross_entropy(x, y, mask=mask, label_smoothing=0.2, weight=[1, 2, 0.5, 0])

    np.testing.assert_allclose(loss(x)[1], central_differences(loss, x), atol=1e-9)


@every_loss
def test_float32_is_within_rounding_of_float64(name):
    """Gradients have two roundings, and those of what is taken from each other, at most 1 in size over the count."""
    loss, make = LOSSES[name]
    x, y = normal(T, B, C, dtype=np.float32), make()
    y = y.astype(np.float32) if y.dtype == np.float64 else y
    exact, found = loss(x.astype(np.float64), y), loss(x, y)
    assert found[1].dtype == np.float32
    n = T * B if name == "cross-entropy" else T * B * C
    np.testing.assert_allclose(found[1], exact[1], rtol=2 * EPS, atol=2 * EPS / n)
    assert found[0] == pytest.approx(exact[0], rel=2 * EPS)


@every_loss
def test_large_values_do_not_overflow(name):
    loss, make = LOSSES[name]
    for dtype in (np.float32, np.float64):
        value, gradient = loss(normal(T, B, C, scale=1000, dtype=dtype), make())
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_extremes_of_the_cross_entropies():
    assert cross_entropy([[0.0, -np.inf]], [0])[0] == 0
    value, gradient = cross_entropy([[0.0, -np.inf]], [1])
    assert value == np.inf
    np.testing.assert_array_equal(gradient, [[1, -1]])
    value, gradient = binary_cross_entropy([40.0, -40.0, 800.0], [1.0, 0.0, 0.0], total=1)
    assert value == 800 + 2 * np.exp(-40.0)
    np.testing.assert_allclose(gradient, [-np.exp(-40.0), np.exp(-40.0), 1], rtol=1e-15)  # not 1 - 1


# --- what counts


@every_loss
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_only_what_counts_is_read(name, data):
    """The loss is that of the counted elements alone; NaN and classes out of range elsewhere change nothing."""
    loss, make = LOSSES[name]
    x, y = normal(T, B, C), make()
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    shapes = [(T,), (T, B)] + [(T, B, C)] * (name != "cross-entropy")
    shape = data.draw(st.none() | st.sampled_from(shapes))
    size = 0 if shape is None else int(np.prod(shape))
    mask = (
        None if shape is None else np.reshape(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), shape)
    )
    valid = np.ones(y.shape, bool)
    if lengths is not None:
        valid &= (np.arange(T)[:, None] < np.array(lengths)).reshape((T, B) + (1,) * (y.ndim - 2))
    if mask is not None:
        valid &= mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))
    options = {"mask": mask, "lengths": lengths}
    assert counted(y.shape, **options) == valid.sum()
    x[~valid], y[~valid] = np.nan, 1000
    if not valid.any():
        with pytest.raises(ValueError, match="mask, lengths: expected at least one element"):
            loss(x, y, **options)
        value, gradient = loss(x, y, **options, total=7)
        assert value == 0
    else:
        value, gradient = loss(x, y, **options)
        alone = loss(x[valid], y[valid])
        assert value == pytest.approx(alone[0], rel=1e-12)
        np.testing.assert_allclose(gradient[valid], alone[1], rtol=1e-12, atol=1e-15)
    assert gradient.shape == x.shape
    assert (gradient[~valid] == 0).all()


@every_loss
def test_shards_add_up_to_the_batch(name):
    loss, make = LOSSES[name]
    x, y, lengths = normal(T, B, C), make(), np.array([4, 0, 2])
    whole = loss(x, y, lengths=lengths)
    total = counted(y.shape, lengths=lengths)
    shards = [loss(x[:, b : b + 1], y[:, b : b + 1], lengths=lengths[b : b + 1], total=total) for b in range(B)]
    assert sum(value for value, _ in shards) == pytest.approx(whole[0], rel=1e-14)
    np.testing.assert_allclose(np.concatenate([gradient for _, gradient in shards], 1), whole[1], rtol=1e-14)


def test_counted():
    assert counted((T, B)) == T * B
    assert counted(()) == 1
    assert counted((T, B, F), lengths=[5, 2, 0]) == 7 * F
    assert counted((T, B, F), mask=np.eye(T, B, dtype=bool), lengths=[5, 1, 5]) == 2 * F
    with pytest.raises(TypeError, match=r"shape: expected a tuple of integers, got \(1.5, 2\)"):
        counted((1.5, 2))
    with pytest.raises(ValueError, match=r"shape: expected integers of at least 0, got \(-1, 2\)"):
        counted((-1, 2))


# --- arguments


@every_loss
def test_nothing_given_is_changed(name):
    loss, make = LOSSES[name]
    x, y, mask = normal(T, B, C), make(), np.ones((T, B), bool)
    kept = x.copy(), y.copy()
    for array in (x, y, mask):
        array.flags.writeable = False
    for options in ({}, {"mask": mask}):
        gradient = loss(x, y, **options)[1]
        assert not np.shares_memory(gradient, x) and gradient.flags.writeable
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_and_byte_order_change_no_bits(name, dtype):
    loss, make = LOSSES[name]
    x, y = normal(T, B, C, dtype=dtype), make()
    expected = loss(x, y, lengths=[5, 3, 1])
    layouts = [np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(x.dtype.newbyteorder())]
    for other in layouts:
        found = loss(other, y.astype(y.dtype.newbyteorder()), lengths=[5, 3, 1])
        assert found[0] == expected[0] and found[1].dtype == dtype
        np.testing.assert_array_equal(found[1], expected[1])


WRONG = [
    (
        lambda: cross_entropy(normal(T, B, C), np.zeros((T, B))),
        TypeError,
        "targets: expected integers, got dtype float64",
    ),
    (lambda: cross_entropy(normal(T, B, C), classes(B, T)), ValueError, "targets: expected shape (5, 3), got (3, 5)"),
    (lambda: cross_entropy(np.zeros((T, C), int), classes(T)), TypeError, "logits: expected float32 or float64"),
    (lambda: cross_entropy(1.0, 0), ValueError, "logits: expected shape (..., C) of at least one class, got ()"),
    (lambda: cross_entropy(np.ones((2, 0)), [0, 0]), ValueError, "at least one class, got (2, 0)"),
    (lambda: cross_entropy(np.ones((0, 3)), np.zeros(0, int)), ValueError, "expected at least one element that counts"),
    (lambda: cross_entropy(normal(2, C), [0, 1], label_smoothing=2), ValueError, "label_smoothing: expected a number"),
    (lambda: cross_entropy(normal(2, C), [0, 1], ignore_index=0.5), TypeError, "ignore_index: expected an integer"),
    (lambda: cross_entropy(normal(2, C), [0, 1], weight=[1, 1]), ValueError, "weight: expected shape (4,), got (2,)"),
    (lambda: cross_entropy(normal(2, C), [0, 1], weight=[1, 1, -1, 1]), ValueError, "weight: expected finite numbers"),
    (lambda: cross_entropy(normal(2, C), [0, 1], weight=[0, 0, 1, 1]), ValueError, "only classes of weight 0"),
    (
        lambda: cross_entropy(normal(2, C), [0, 1], lengths=[1, 1]),
        ValueError,
        "lengths: expected None for losses of shape (2,)",
    ),
    (
        lambda: cross_entropy(normal(T, B, C), classes(T, B), lengths=[6, 1, 1]),
        ValueError,
        "lengths: expected integers",
    ),
    (lambda: cross_entropy(normal(T, B, C), classes(T, B), mask=np.ones((T, B))), TypeError, "mask: expected booleans"),
    (
        lambda: mean_squared(normal(T, B), normal(T, B), mask=np.ones(B, bool)),
        ValueError,
        "mask: expected shape (5, 3) or (5,)",
    ),
    (lambda: mean_squared(normal(T, 1), normal(T)), ValueError, "targets: expected shape (5, 1), got (5,)"),
    (lambda: mean_squared(normal(T), normal(T), total=0), ValueError, "total: expected a finite number above 0, got 0"),
    (lambda: mean_squared(normal(T), normal(T), total="3"), TypeError, "total: expected a real number, got str"),
    (lambda: huber(normal(T), normal(T), 0.0), ValueError, "delta: expected a finite number above 0, got 0.0"),
    (lambda: huber(normal(T), normal(T) + 1j), TypeError, "targets: expected real numbers, got dtype complex128"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_arguments(case):
    call, error, message = WRONG[case]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", [-1, C, 1000])
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64])
def test_target_that_is_no_class_is_named_with_its_place(wrong, dtype):
    y = classes(T, B).astype(dtype)
    y[3, 1] = y[4, 2] = np.array(wrong).astype(dtype)
    for options in ({}, {"lengths": [5, 5, 3]}, {"mask": np.arange(T) > 0}):
        with pytest.raises(ValueError) as caught:
            cross_entropy(normal(T, B, C), y, **options)
        assert str(caught.value) == f"targets: expected classes from 0 to C - 1 = 3, got {y[3, 1]} at (3, 1)"


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_probability_out_of_range_is_named_with_its_place(wrong):
    y = np.full((T, B, F), 0.5)
    y[2, 1, 1] = wrong
    for options in ({}, {"lengths": [5, 3, 0]}):
        with pytest.raises(ValueError) as caught:
            binary_cross_entropy(normal(T, B, F), y, **options)
        assert str(caught.value) == f"targets: expected numbers from 0 to 1, got {wrong} at (2, 1, 1)"


# --- CTC


def torch_ctc(x, targets, lengths, target_lengths, **options):
    def loss(logits):
        counts = torch.tensor(lengths), torch.tensor(target_lengths)
        return functional.ctc_loss(logits.log_softmax(2), torch.tensor(targets), *counts, **options)

    return by_torch(loss, x)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_ctc_is_torchs(data):
    steps, rows, labels = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4)), "T, B, S")
    blank = data.draw(st.integers(0, C - 1), "blank")
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=rows, max_size=rows), "lengths")
    counts = data.draw(st.lists(st.integers(0, labels), min_size=rows, max_size=rows), "target lengths")
    reduction, zero = data.draw(st.sampled_from(["mean", "sum"])), data.draw(st.booleans())
    seed = data.draw(st.integers(0, 9))
    x, y = normal(steps, rows, C, seed=seed), classes(rows, labels, seed=seed, high=C - 1)
    y[y >= blank] += 1
    options = {"blank": blank, "reduction": reduction, "zero_infinity": zero}
    expected = torch_ctc(x, y, lengths, counts, **options)
    x[np.arange(steps)[:, None] >= np.array(lengths)] = np.nan
    sequences = [row[:n].tolist() for row, n in zip(y, counts)]
    y[np.arange(labels) >= np.array(counts)[:, None]] = 1000
    for targets, more in ((y, {"target_lengths": counts}), (sequences, {})):
        assert_close(ctc(x, targets, lengths=lengths, **more, **options), expected, 1e-10)


def test_long_ctc_is_torchs():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 6, 20)), rng.integers(1, 20, (6, 25))
    lengths, counts = rng.integers(60, 151, 6), rng.integers(5, 26, 6)
    expected = torch_ctc(x, y, lengths, counts)
    assert_close(ctc(x, y, lengths=lengths, target_lengths=counts), expected, 1e-10)


def test_ctc_in_float32_is_float64_rounded():
    """It computes in float64, so nothing but the result is rounded."""
    x, y = normal(9, 2, C, dtype=np.float32), [[1, 2], [3, 3, 1]]
    exact, found = ctc(x.astype(np.float64), y), ctc(x, y)
    assert found[0] == exact[0] and found[1].dtype == np.float32
    np.testing.assert_array_equal(found[1], exact[1].astype(np.float32))


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [2, 2], [1, 2, 1]])
def test_ctc_sums_over_every_alignment(labels):
    x, steps = normal(5, 1, 3), 5
    p = np.exp(x[:, 0]) / np.exp(x[:, 0]).sum(axis=1, keepdims=True)
    whole = 0.0
    for path in itertools.product(range(3), repeat=steps):
        if [c for c, run in itertools.groupby(path) if c] == labels:
            whole += np.prod(p[np.arange(steps), path])
    assert ctc(x, [labels], reduction="sum")[0] == pytest.approx(-np.log(whole), rel=1e-12)


def test_ctc_gradient_is_central_differences():
    x, y, lengths = normal(6, 3, C), [[1, 2], [3, 3], []], [6, 4, 2]

    def loss(x):
        return ctc(x, y, lengths=lengths)

    np.testing.assert_allclose(loss(x)[1], central_differences(loss, x), atol=1e-9)


def test_ctc_shards_add_up_to_the_batch():
    x, y = normal(6, 3, C), [[1, 2], [3, 3, 1], []]
    whole = ctc(x, y)
    shards = [ctc(x[:, b : b + 1], y[b : b + 1], total=3) for b in range(3)]
    assert sum(value for value, _ in shards) == pytest.approx(whole[0], rel=1e-14)
    np.testing.assert_allclose(np.concatenate([gradient for _, gradient in shards], 1), whole[1], rtol=1e-14)
    each = [ctc(x[:, b : b + 1], y[b : b + 1], reduction="sum")[0] for b in range(3)]
    assert ctc(x, y, reduction="sum", total=2)[0] == pytest.approx(sum(each) / 2, rel=1e-14)


def test_ctc_of_what_no_alignment_fits():
    x = normal(3, 3, C)
    value, gradient = ctc(x, [[1, 1, 1], [1], [2]], lengths=[3, 2, 0])
    assert value == np.inf
    assert np.isnan(gradient[:, 0]).all() and np.isfinite(gradient[:, 1:]).all()
    assert (gradient[2, 1] == 0).all() and (gradient[:, 2] == 0).all()
    value, gradient = ctc(x, [[1, 1, 1], [1], [2]], lengths=[3, 2, 0], zero_infinity=True)
    alone = ctc(x[:2, 1:2], [[1]], total=3)
    assert value == pytest.approx(alone[0], rel=1e-14)
    np.testing.assert_array_equal(gradient[:2, 1], alone[1][:, 0])
    assert (gradient[:, [0, 2]] == 0).all()


def test_ctc_without_steps():
    value, gradient = ctc(np.zeros((0, 2, C)), [[], []])
    assert value == 0 and gradient.shape == (0, 2, C)
    assert ctc(np.zeros((0, 1, C)), [[1]])[0] == np.inf


def test_ctc_greedy():
    path = np.array([[0, 1, 1, 0, 1, 2], [3, 3, 0, 0, 3, 1], [0, 0, 0, 0, 0, 0]]).T
    logits = np.eye(C)[path]
    assert ctc_greedy(logits) == [[1, 1, 2], [3, 3, 1], []]
    logits[4:, 0] = logits[1:, 1] = np.nan
    assert ctc_greedy(logits, [4, 1, 6]) == [[1], [3], []]
    assert ctc_greedy(np.eye(C)[path], blank=3) == [[0, 1, 0, 1, 2], [0, 1], [0]]


WRONG_CTC = [
    (lambda x: ctc(x[0], [[1]]), ValueError, "logits: expected shape (T, B, C), got (2, 4)"),
    (
        lambda x: ctc(x, [[1], [2, 0]]),
        ValueError,
        "targets: expected classes from 0 to C - 1 = 3 without the blank 0, got 0 at (1, 1)",
    ),
    (lambda x: ctc(x, [[1], [4]]), ValueError, "got 4 at (1, 0)"),
    (lambda x: ctc(x, [[1]]), ValueError, "targets: expected 2 label sequences, one for each row, got 1"),
    (lambda x: ctc(x, [[1], [1.5]]), TypeError, "targets[1]: expected integers, got dtype float64"),
    (lambda x: ctc(x, np.ones((3, 2), int)), ValueError, "targets: expected shape (2, S), got (3, 2)"),
    (
        lambda x: ctc(x, np.ones((2, 2), int), target_lengths=[1, 3]),
        ValueError,
        "target_lengths: expected integers from 0 to S = 2, got 3 for row 1",
    ),
    (lambda x: ctc(x, np.ones((2, 2), int), target_lengths=[1.0, 2]), TypeError, "target_lengths: expected integers"),
    (lambda x: ctc(x, [[1], [2]], lengths=[7, 1]), ValueError, "lengths: expected integers from 0 to T = 6, got 7"),
    (lambda x: ctc(x, [[1], [2]], blank=4), ValueError, "blank: expected a class from 0 to C - 1 = 3, got 4"),
    (lambda x: ctc(x, [[1], [2]], blank=1.0), TypeError, "blank: expected an integer, got float"),
    (lambda x: ctc(x, [[1], [2]], reduction="none"), ValueError, "reduction: expected 'mean' or 'sum', got 'none'"),
    (lambda x: ctc(x, [[1], [2]], zero_infinity=1), TypeError, "zero_infinity: expected True or False, got int"),
    (lambda x: ctc(x[:, :0], []), ValueError, "logits: expected at least one row, got none"),
    (lambda x: ctc_greedy(x[0]), ValueError, "logits: expected shape (T, B, C), got (2, 4)"),
    (lambda x: ctc_greedy(x, blank=-1), ValueError, "blank: expected a class"),
]


@pytest.mark.parametrize("case", range(len(WRONG_CTC)))
def test_wrong_arguments_of_ctc(case):
    call, error, message = WRONG_CTC[case]
    with pytest.raises(error) as caught:
        call(normal(6, 2, C))
    assert message in str(caught.value)
