"""linear_recurrence: against a loop, differences and JAX; the same bits on any number of threads and in any batch."""

import numpy as np
import pytest
from cases import assert_close, assert_same_bits

import fastrnn
from fastrnn import linear_recurrence, linear_recurrence_backward, linear_recurrence_forward

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
# Single units, remainders of every vector, rows of whole cache lines, blocks of rows and of units, more than 256 steps.
SIZES = [(1, 1, 1), (5, 3, 7), (9, 4, 16), (40, 2, 70), (3, 300, 33), (6, 2, 5000), (600, 3, 5)]


def draw(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def make(dtype, T, B, D, constant=None, seed=0):
    """a with magnitudes up to 1 and more, b, h0 and dh."""
    rng = np.random.default_rng(seed)
    shape = {None: (T, B, D), "row": (B, D), "unit": (D,)}[constant]
    a = draw(rng, dtype, *shape)
    return (
        (a / (0.5 + np.abs(a))).astype(dtype),
        draw(rng, dtype, T, B, D),
        draw(rng, dtype, B, D),
        draw(rng, dtype, T, B, D),
    )


def loop(a, b, h0, dh, reverse):
    """h and the gradients as the equations have them, in double precision, by a loop over time."""
    wide = np.complex128 if b.dtype.kind == "c" else np.float64
    a, b, h0, dh = (array.astype(wide) for array in (a, b, h0, dh))
    factors = np.broadcast_to(a, b.shape)
    steps = range(len(b))[:: -1 if reverse else 1]
    h, p = np.empty_like(b), h0
    for t in steps:
        h[t] = p = factors[t] * p + b[t]
    da, db, g = np.empty_like(b), np.empty_like(b), np.zeros_like(h0)
    for k in range(len(b) - 1, -1, -1):
        t = steps[k]
        g = g + dh[t]
        da[t], db[t] = np.conj(h[steps[k - 1]] if k else h0) * g, g
        g = np.conj(factors[t]) * g
    if a.ndim < 3:
        da = da.sum(axis=tuple(range(3 - a.ndim)))
    return h, da, db, g


def run(a, b, h0, dh, reverse=False):
    h, tape = linear_recurrence_forward(a, b, h0, reverse=reverse)
    assert_same_bits(linear_recurrence(a, b, h0, reverse=reverse), h, "h without a tape")
    return h, *linear_recurrence_backward(tape, dh)


def check(a, b, h0, dh, reverse):
    """Of |a| below 1 in the mean, errors of a step do not grow: some eps for each of the last steps that count."""
    exact = loop(a, b, h0, dh, reverse)
    for name, found, expected in zip(("h", "da", "db", "dh0"), run(a, b, h0, dh, reverse), exact):
        assert found.dtype == b.dtype
        assert_close(found, expected.astype(b.dtype), 4 * np.ceil(np.log2(2 * len(b))) + 4, name)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [None, "row", "unit"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_a_loop(kernels, dtype, size, constant, reverse):
    check(*make(dtype, *size, constant), reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [None, "row", "unit"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_against_a_loop(dtype, constant, reverse):
    with fastrnn.use_backend("numpy"):
        check(*make(dtype, 5, 3, 7, constant), reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [None, "row", "unit"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_gradients_against_differences(backend, dtype, constant, reverse):
    """A complex gradient is dL/dx + i dL/dy of z = x + i y; L is the sum of Re(conj(dh) h)."""
    a, b, h0, dh = make(dtype, 4, 2, 3, constant)
    grads = run(a, b, h0, dh, reverse)[1:]
    for name, array, found in zip(("da", "db", "dh0"), (a, b, h0), grads):
        for direction in (1, 1j) if array.dtype.kind == "c" else (1,):
            for place in np.ndindex(array.shape):
                sides = []
                for sign in (1, -1):
                    before = array[place]
                    array[place] += sign * 1e-6 * direction
                    sides.append(np.sum(np.conj(dh) * linear_recurrence(a, b, h0, reverse=reverse)).real)
                    array[place] = before
                slope = (sides[0] - sides[1]) / 2e-6
                part = found[place].imag if direction == 1j else found[place].real
                assert abs(slope - part) < 1e-7 * (1 + abs(slope)), (name, place)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_against_jax(kernels, dtype, reverse):
    """JAX's associative scan and its own gradients, whose complex ones are the conjugates of torch's."""
    jax = pytest.importorskip("jax")
    a, b, h0, dh = make(dtype, 37, 2, 9)

    def scan(a, b, h0):
        first = -1 if reverse else 0
        b = b.at[first].add(a[first] * h0)
        return jax.lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), reverse=reverse)[1]

    h, pull = jax.vjp(scan, a, b, h0)
    expected = h, *map(np.conj, pull(np.conj(dh)))
    for name, found, other in zip(("h", "da", "db", "dh0"), run(a, b, h0, dh, reverse), expected):
        assert_close(found, np.asarray(other), 60, name)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [None, "row", "unit"])
@pytest.mark.parametrize("size", [(300, 1, 1000), (300, 3, 260), (60, 40, 130), (300, 7, 517)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_threads(kernels, threads, dtype, size, constant, reverse):
    given = make(dtype, *size, constant)
    threads(1)
    expected = run(*given, reverse)
    for n in (2, 3, 7):
        threads(n)
        for name, found, alone in zip(("h", "da", "db", "dh0"), run(*given, reverse), expected):
            assert_same_bits(found, alone, f"{name} on {n} threads")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch(kernels, dtype, reverse):
    """Rows alone, in another order, unbatched, of fewer units, with an `a` that is constant in memory or in shape."""
    a, b, h0, dh = make(dtype, 17, 9, 37)
    expected = run(a, b, h0, dh, reverse)
    for rows in ([4], [8, 0, 3], list(range(8, -1, -1))):
        for found, whole in zip(run(a[:, rows], b[:, rows], h0[rows], dh[:, rows], reverse), expected):
            assert_same_bits(found, whole[rows] if whole.ndim == 2 else whole[:, rows], f"rows {rows}")
    for found, whole in zip(run(a[:, 4], b[:, 4], h0[4], dh[:, 4], reverse), expected):
        assert_same_bits(found, np.ascontiguousarray(whole[4] if whole.ndim == 2 else whole[:, 4]), "unbatched")
    for units in (1, 5, 16, 23):
        given = a[..., :units], b[..., :units], h0[:, :units], dh[..., :units]
        for found, whole in zip(run(*given, reverse), expected):
            assert_same_bits(found, np.ascontiguousarray(whole[..., :units]), f"{units} units")
    spread = np.broadcast_to(a[3], a.shape)
    h, da, db, dh0 = run(a[3], b, h0, dh, reverse)
    for found, other in zip(run(spread, b, h0, dh, reverse), (h, None, db, dh0)):
        if other is not None:
            assert_same_bits(found, other, "constant a")
    assert da.shape == a[3].shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks(kernels, dtype):
    """Whole or in chunks: forward by the state, backward by its gradient."""
    a, b, h0, dh = make(dtype, 23, 3, 19)
    whole = run(a, b, h0, dh)
    for length in (1, 4, 23):
        tapes, hs, state = [], [], h0
        for t in range(0, 23, length):
            h, tape = linear_recurrence_forward(a[t : t + length], b[t : t + length], state)
            tapes.append(tape)
            hs.append(h)
            state = h[-1]
        assert_same_bits(np.concatenate(hs), whole[0], f"chunks of {length}")
        da, db, carry = [], [], np.zeros_like(h0)
        for t, tape in reversed(list(zip(range(0, 23, length), tapes))):
            part = dh[t : t + length].copy()
            part[-1] += carry
            grads = linear_recurrence_backward(tape, part)
            da.insert(0, grads.da)
            db.insert(0, grads.db)
            carry = grads.dh0
        for found, expected in zip((np.concatenate(da), np.concatenate(db), carry), whole[1:]):
            assert_same_bits(found, expected, f"gradients by chunks of {length}")


def test_past_the_caches(level, threads):
    """Arrays so large that what is written goes past the caches, or not, as alignment has it: the same bits."""
    rng = np.random.default_rng(0)
    T, B, D = 130, 4, 8192
    a, b, dh = (rng.random((T, B, D), np.float32) for _ in range(3))
    expected = [run(a[:, :, k : k + 1024], b[:, :, k : k + 1024], None, dh[:, :, k : k + 1024]) for k in (0, 7168)]
    for n in (1, 2):
        threads(n)
        whole = run(a, b, None, dh)
        for part, k in zip(expected, (0, 7168)):
            for found, array in zip(part, whole):
                assert_same_bits(np.ascontiguousarray(array[..., k : k + 1024]), found, f"{k} on {n} threads")
    odd = run(a[..., :8191], b[..., :8191], None, dh[..., :8191])
    for found, array in zip(odd, whole):
        assert_same_bits(np.ascontiguousarray(array[..., :8191]), found, "rows that do not begin at a line")


def test_layouts(backend):
    """Transposed, reversed, read-only, misaligned, of another byte order and dtype, lists: the values count."""
    a, b, h0, dh = make(np.float64, 6, 4, 5)
    expected = run(a, b, h0, dh)
    turned = [np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1) for array in (a, b, dh)]
    backwards = [array[::-1].copy()[::-1] for array in (a, b, dh)]
    column_major = [np.asfortranarray(array) for array in (a, b, dh)]
    swapped = [array.astype(">f8") for array in (a, b, dh)]
    lists = a.tolist(), b, dh.tolist()
    for given in (turned, backwards, column_major, swapped, lists):
        for found, array in zip(run(given[0], given[1], h0, given[2]), expected):
            assert_same_bits(found, array, "layout")
    for array in (a, b, h0, dh):
        array.flags.writeable = False
    for found, array in zip(run(a, b, h0, dh), expected):
        assert_same_bits(found, array, "read-only")


def test_nothing_given_changes_and_the_tape_serves_again(backend):
    given = make(np.float32, 6, 4, 5)
    copies = [array.copy() for array in given]
    a, b, h0, dh = given
    h, tape = linear_recurrence_forward(a, b, h0)
    h0[...] = 9  # of which the tape has a copy
    first, second = linear_recurrence_backward(tape, dh), linear_recurrence_backward(tape, dh)
    h0[...] = copies[2]
    for one, two, expected in zip(first, second, run(*given)[1:]):
        assert_same_bits(one, two, "again")
        assert_same_bits(one, expected, "state changed")
    for array, copy in zip(given, copies):
        assert_same_bits(array, copy, "an argument")
    with pytest.raises(ValueError, match="read-only"):
        h[0] = 0


def test_nan_and_infinity_stay_in_their_unit(kernels):
    a, b, h0, dh = make(np.float32, 5, 3, 40)
    expected = run(a, b, h0, dh)
    b[1, 1, 17], a[2, 2, 3] = np.nan, np.inf
    for found, array in zip(run(a, b, h0, dh), expected):
        same = found == array
        assert same[..., 0, :].all()
        assert np.delete(same[..., 1, :], 17, axis=-1).all() and np.delete(same[..., 2, :], 3, axis=-1).all()
    h = linear_recurrence(a, b, h0)
    assert np.isnan(h[1:, 1, 17]).all() and np.isinf(h[2, 2, 3])


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0), (0, 3)], ids=str)
def test_empty(backend, shape):
    for constant in (shape, shape[1:]):
        h, tape = linear_recurrence_forward(np.ones(constant), np.ones(shape))
        grads = linear_recurrence_backward(tape, np.ones(shape))
        assert h.shape == grads.db.shape == shape and grads.da.shape == constant and grads.dh0.shape == shape[1:]
        assert not grads.da.any() and not grads.dh0.any()


GOOD = {"a": np.ones((4, 2, 3)), "b": np.ones((4, 2, 3)), "h0": np.ones((2, 3))}


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"b": np.ones((4, 2, 3), int)}, TypeError, "b: expected float32, float64, complex64 or complex128, got int"),
        ({"b": np.ones((4, 2, 3), np.float16)}, TypeError, "b: expected float32"),
        ({"b": np.ones(3)}, ValueError, r"b: expected shape \(T, B, D\) or \(T, D\), got \(3,\)"),
        (
            {"a": np.ones((4, 2, 2))},
            ValueError,
            r"a: expected shape \(4, 2, 3\) or \(2, 3\) or \(3,\), got \(4, 2, 2\)",
        ),
        ({"a": np.ones((4, 3))}, ValueError, "a: expected shape"),
        ({"a": np.ones((4, 2, 3), complex)}, TypeError, "a: expected real numbers, got dtype complex128"),
        ({"a": "abc"}, TypeError, "a: expected real numbers"),
        ({"a": np.ma.masked_array(np.ones((2, 3)), np.eye(2, 3))}, TypeError, "a: expected an array without a mask"),
        ({"h0": np.ones(3)}, ValueError, r"h0: expected shape \(2, 3\), got \(3,\)"),
        ({"h0": np.ones((2, 3), complex)}, TypeError, "h0: expected real numbers"),
        ({"reverse": 1}, TypeError, "reverse: expected True or False, got int"),
    ],
    ids=str,
)
def test_bad_input(backend, wrong, error, message):
    for function in (linear_recurrence, linear_recurrence_forward):
        with pytest.raises(error, match=message):
            function(**GOOD | wrong)


def test_bad_input_of_backward(backend):
    tape = linear_recurrence_forward(**GOOD)[1]
    for tape_, dh, error, message in (
        (None, np.ones((4, 2, 3)), TypeError, "tape: expected one of linear_recurrence_forward, got NoneType"),
        (tape, np.ones((4, 2)), ValueError, r"dh: expected shape \(4, 2, 3\), got \(4, 2\)"),
        (tape, np.ones((4, 2, 3), complex), TypeError, "dh: expected real numbers"),
        (tape, None, TypeError, "dh: expected real numbers, got dtype object"),
    ):
        with pytest.raises(error, match=message):
            linear_recurrence_backward(tape_, dh)


def test_the_tape_remembers_its_backend_and_stays(backend):
    tape = linear_recurrence_forward(**GOOD)[1]
    assert repr(tape) == f"<Tape of linear_recurrence, T=4, B=2, D=3, backend {backend}>"
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        tape.__reduce__()
    with fastrnn.use_backend("numpy"):
        assert linear_recurrence_backward(tape, np.ones((4, 2, 3))).da[0, 0, 0] == 4
