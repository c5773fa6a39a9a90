"""IEEE arithmetic: NaN and infinity go where the reference's equations take them, on every level, in body and tail."""

import numpy as np
import pytest
from cases import KINDS, assert_same_bits, bare, make_case, parts_of, run

import fastrnn
from fastrnn.spec import CELLS

SPECIAL = (np.nan, np.inf, -np.inf)
WIDTH = 5  # of the size that is not the one under test
DTYPES = [np.float32, np.float64]

# Lanes of a vector of float32, the longest panel of Numba's; half as many of float64.
LANES = {"native:x86-64-v2": 4, "native:x86-64-v3": 8, "native:x86-64-v4": 16, "native:neon": 4, "numba": 16}

_expected: dict = {}


@pytest.fixture(autouse=True)
def quiet():
    """The reference meets invalid operations here on purpose."""
    with np.errstate(all="ignore"):
        yield


def lengths_to(kernels, dtype):
    """1 to four vectors."""
    return range(1, 4 * LANES[kernels] * 4 // np.dtype(dtype).itemsize + 1)


def sizes_to(kernels, dtype):
    """(I, H), each of the two in turn of every length."""
    for n in lengths_to(kernels, dtype):
        yield n, WIDTH
        yield WIDTH, n


def nan_places(results):
    return {name: np.isnan(array) for name, array in results.items()}


def check_nans(case, key):
    """The same elements are NaN as in the reference, which computes each case once for all levels."""
    if key not in _expected:
        with fastrnn.use_backend("numpy"):
            _expected[key] = nan_places(run(case))
    for name, places in nan_places(run(case)).items():
        expected = _expected[key][name]
        assert np.array_equal(places, expected), (
            f"{key}: {name} has {places.sum()} NaN, expected {expected.sum()}, "
            f"first difference at {np.argwhere(places != expected)[0]}"
        )


def spoil_every_position(case):
    """Each row of the batch has one special value at one place: of the first x, the state, the last dy, or dstate.

    Rows do not meet but in the gradients of the parameters. A place has another of the values in layers one unit wider.
    Returns how many rows were used.
    """
    row = 0
    for array in (case.x[0], case.dy[-1], *(part[0] for part in case.state + case.dstate)):
        for position in range(array.shape[-1]):
            array[row, position] = SPECIAL[(position + sum(array.shape)) % len(SPECIAL)]
            row += 1
    return row


def rows_needed(kind, I, H):
    return I + H + 2 * H * len(CELLS[kind].states)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_position_of_a_row(kernels, kind, dtype):
    for I, H in sizes_to(kernels, dtype):
        B = rows_needed(kind, I, H)
        case = make_case(kind, 2, B, I, H, dtype=dtype)
        assert spoil_every_position(case) == B
        check_nans(case, (kind, dtype, I, H, "rows"))


def spoiled(case, array, rng):
    """Puts each special value at a random place of `array`, one of the case's, and takes it back."""
    for value in SPECIAL:
        position = rng.integers(array.size)
        before, array.flat[position] = array.flat[position], value
        yield position, value
        array.flat[position] = before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_weights(kernels, kind, dtype):
    """A special value among the weights reaches every row, and so few of them that gradients show where it goes."""
    rng = np.random.default_rng(7)
    for I, H in sizes_to(kernels, dtype):
        case = make_case(kind, 2, 1, I, H, dtype=dtype)
        for name, array in case.layer.params.items():
            for position, value in spoiled(case, array, rng):
                check_nans(case, (kind, dtype, I, H, name, position, value))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_a_row_alone(kernels, kind, dtype):
    """One row takes another way through the kernels, and shows what its values do to the parameters' gradients."""
    rng = np.random.default_rng(8)
    for I, H in sizes_to(kernels, dtype):
        case = make_case(kind, 2, 1, I, H, dtype=dtype)
        for k, array in enumerate((case.x, case.dy, *case.state, *case.dstate)):
            for position, value in spoiled(case, array, rng):
                check_nans(case, (kind, dtype, I, H, k, position, value))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_position_alone(kernels, kind, dtype):
    """Every place of x, state, dy and dstate, and every row and column of the weights, one at a time."""
    for I, H in sizes_to(kernels, dtype):
        for B in (1, 7):
            case = make_case(kind, 2, B, I, H, dtype=dtype)
            arrays = dict(enumerate((case.x[:, -1], case.dy[:, -1], *(p[:, -1] for p in case.state + case.dstate))))
            for name, array in (arrays | dict(case.layer.params)).items():
                rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
                for k in range(max(rows, columns)):
                    place = (k % rows, k % columns)[: array.ndim]
                    before = array[place]
                    for value in SPECIAL:
                        array[place] = value
                        check_nans(case, (kind, dtype, I, H, B, name, place, value))
                    array[place] = before
        _expected.clear()


@pytest.mark.parametrize("options", [{"with_lengths": True}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once(kernels, kind, options):
    """Random places in all arrays, in batches of every kind, in chunks longer than those the kernels take at once."""
    for seed in range(6):
        case = make_case(kind, 60, 1 + 5 * (seed % 3), 9, 21, seed=seed, **options)
        rng = np.random.default_rng(seed)
        for array in (case.x, case.dy, *case.state, *case.dstate, *case.layer.params.values()):
            count = rng.integers(0, 2)
            array.flat[rng.integers(array.size, size=count)] = rng.choice(SPECIAL, count)
        check_nans(case, (kind, str(options), seed))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2, "dtype": np.float64}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_hold_anything(kernels, kind, options, threads):
    """x and dy at padded steps are not read: NaN, infinities and numbers there give the same bits, gradients too."""
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(threads)
    try:
        case = make_case(kind, 12, 14, 33, 47, with_lengths=True, seed=2, **options)
        past = np.arange(len(case.x))[:, None] >= case.lengths
        assert 0 < past.sum() < past.size and np.isnan(case.x[past]).all()
        expected = run(case)
        assert all(np.isfinite(array).all() for array in expected.values())
        for value in (0, 1e30, np.inf, -np.inf):
            case.x[past], case.dy[past] = value, value
            for name, array in run(case).items():
                assert_same_bits(array, expected[name], f"{name}, padded with {value}")
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_passes_the_activations(kernels, kind, dtype):
    """Every lane: the clamps before exp, and relu's, return NaN for NaN, and the limits for infinities."""
    for H in lengths_to(kernels, dtype):
        case = make_case(kind, 1, 3, 1, H, dtype=dtype, bias=False)
        for array in case.layer.params.values():
            array[:] = 1 if array.shape[-1] == 1 or array.ndim == 1 else 0  # of a leak too: h is f
        x = np.array(SPECIAL, dtype).reshape(1, 3, 1)
        y, state = case.layer(x)
        assert np.isnan(y[0, 0]).all()
        high, low = {
            "rnn_tanh": (1, -1),
            "rnn_relu": (np.inf, 0),
            "lstm": (np.tanh(dtype(1)), 0),  # all gates open or shut
            "lstm_coupled": (np.tanh(dtype(1)), 0),
            "leaky_tanh": (1, -1),
            "leaky_relu": (np.inf, 0),
            "gru_reset_first": (0, -1),
            "gru": (0, -1),  # z = 1 keeps the old h, z = 0 takes n
        }[kind]
        np.testing.assert_allclose(y[0, 1], high, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(y[0, 2], low, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_passes_the_gradient_of_relu(kernels, dtype, backend):
    """Every lane: where h is NaN the gradient goes on as it is, as where h is positive; elsewhere it is zero."""
    with fastrnn.use_backend("numpy" if backend == "reference" else fastrnn.get_backend()):
        for H in lengths_to(kernels, dtype):
            case = make_case("rnn_relu", 1, 4, 1, H, dtype=dtype)
            params = case.layer.params
            params["weight_ih_l0"][:], params["weight_hh_l0"][:] = 1, np.eye(H)
            params["bias_ih_l0"][:], params["bias_hh_l0"][:] = 0, 0
            x = np.array([np.nan, 2, 0, -2], dtype).reshape(1, 4, 1)
            dy = np.arange(1, 4 * H + 1, dtype=dtype).reshape(1, 4, H)
            _, _, tape = case.layer.forward(x)
            grads = case.layer.backward(tape, dy)
            passed = np.where(np.array([True, True, False, False])[:, None], dy, 0)
            np.testing.assert_array_equal(grads.state, passed)
            np.testing.assert_array_equal(grads.x[..., 0], passed.sum(axis=2))
            np.testing.assert_array_equal(grads.params["bias_ih_l0"], passed[0].sum(axis=0))


# --- denormal numbers: zero to the native kernels, numbers like others to Numba and to the reference


def tiny(dtype):
    """A denormal number far from both ends of their range."""
    return dtype(np.finfo(dtype).smallest_normal / 64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_denormal_operands(kernels, kind, dtype):
    """The native kernels give the bits that zeros in the place of all denormal operands give."""
    if not kernels.startswith("native"):
        return assert_gradual_underflow(kind, dtype)
    case = make_case(kind, 4, 7, 19, 21, dtype=dtype)
    names = ["x", "dy", "state", "dstate", *case.layer.params]
    for name in names:
        arrays = {"x": (case.x,), "dy": (case.dy,), "state": case.state, "dstate": case.dstate}
        arrays = arrays.get(name) or (case.layer.params[name],)
        chosen = [np.random.default_rng(k).random(a.shape) < 0.5 for k, a in enumerate(arrays)]
        results = []
        for value in (0, tiny(dtype)):
            for array, some in zip(arrays, chosen):
                array[some] = value
            results.append(run(case))
        for result, array in results[1].items():
            assert_same_bits(array, results[0][result], f"{result}, denormals in {name}")


def assert_gradual_underflow(kind, dtype):
    """A denormal x that an RNN returns as it is; a denormal c or h that a gate halves."""
    case = make_case(kind, 1, 1, 1, 1, dtype=dtype, bias=False)
    recurrent = not kind.startswith("rnn")
    case.layer.params["weight_ih_l0"][:] = not recurrent
    case.layer.params["weight_hh_l0"][:] = 0
    if "alpha_l0" in case.layer.params:
        case.layer.params["alpha_l0"][:] = 0.5
    state = [np.full((1, 1, 1), tiny(dtype)) for _ in case.state]
    _, after = case.layer(np.full((1, 1, 1), tiny(dtype)), bare(state))
    assert parts_of(after)[-1] == tiny(dtype) / (2 if recurrent else 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormal_results(kernels, dtype):
    """A product of normal numbers that is denormal: zero in the native kernels, forward and in every gradient."""
    for H in lengths_to(kernels, dtype):
        case = make_case("rnn_relu", 1, 2, 1, H, dtype=dtype, bias=False)
        root = np.sqrt(np.finfo(dtype).smallest_normal) / 8
        case.layer.params["weight_ih_l0"][:] = root
        case.layer.params["weight_hh_l0"][:] = 0
    if "alpha_l0" in case.layer.params:
        case.layer.params["alpha_l0"][:] = 0.5
        y, h = case.layer(np.full((1, 2, 1), root))
        expected = 0 if kernels.startswith("native") else root * root
        assert (y == expected).all() and (h == expected).all()

        case.layer.params["weight_ih_l0"][:] = 1
        _, _, tape = case.layer.forward(np.full((1, 2, 1), root))
        grads = case.layer.backward(tape, np.full((1, 2, H), root / H))
        sums = {name: array for name, array in grads.params.items() if name == "weight_ih_l0"}
        assert all(((array == 0).all()) == kernels.startswith("native") for array in sums.values())


@pytest.mark.parametrize("kind", KINDS)
def test_biases_are_added_without_denormals(kernels, kind):
    """Two denormal biases whose sum is a normal number count as zero all the same."""
    case = make_case(kind, 2, 1, 3, 5)
    half = np.finfo(np.float32).smallest_normal * np.float32(0.75)
    results = []
    for value in (0, half):
        for name in ("bias_ih_l0", "bias_hh_l0"):
            case.layer.params[name][:] = value
        y, state = case.layer(np.zeros_like(case.x), bare([np.zeros_like(part) for part in case.state]))
        results.append([y, *parts_of(state)])
    if kernels.startswith("native"):
        for actual, expected in zip(results[1], results[0]):
            assert_same_bits(actual, expected, "denormal biases")
    elif kind.startswith("rnn"):
        assert (results[1][0][0] > 0).all()
