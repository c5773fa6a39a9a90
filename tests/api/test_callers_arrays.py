"""What callers do to their arrays, and of what classes these are: no crash, and nothing else is read or written."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from cases import assert_same_bits, bare, make_case, make_layer, run

import fastrnn


@pytest.mark.parametrize("changed", [[3, 5], [1, 1], [10**6, 10**9], [-5, 0]])
def test_lengths_changed_before_backward(backend, changed):
    """A tape has a copy: they are what the kernels' memory accesses depend on."""
    case = make_case("gru", 5, 2, 3, 4)
    lengths = np.array([5, 2])
    y, _, tape = case.layer.forward(case.x, bare(case.state), lengths=lengths)
    expected = case.layer.backward(tape, case.dy)
    lengths[:] = changed
    again = case.layer.backward(tape, case.dy)
    for name, array in expected.params.items():
        assert_same_bits(again.params[name], array, name)
    assert_same_bits(again.x, expected.x, "dx")


def test_lengths_changed_while_the_kernels_run():
    """Rows get any number of steps; nothing else is read or written, in the arrays around them least of all."""
    layer = fastrnn.GRU(3, 64, rng=0)
    x, lengths, done = np.zeros((200, 64, 3), np.float32), np.full(64, 200), threading.Event()

    def change():
        while not done.is_set():
            lengths[:] = 10**9
            lengths[:] = -(10**9)
            lengths[:] = 200

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with fastrnn.use_backend("native"):
            served, end = layer.freeze(), time.monotonic() + 1
            while time.monotonic() < end:
                try:
                    served(x, lengths=lengths)
                except ValueError as error:
                    assert "lengths: expected integers from 0 to T = 200" in str(error)
    finally:
        done.set()
        changer.join()


def masked(array):
    """Of the class, with nothing masked: others are refused."""
    return np.ma.masked_array(array, mask=np.zeros(array.shape, bool))


@pytest.mark.parametrize("subclass", [lambda array: array.view(np.matrix), masked], ids=["matrix", "masked"])
def test_step_into_an_array_of_a_subclass(backend, subclass):
    """Its elements are written, whatever it makes of shapes and masks."""
    served = fastrnn.RNN(3, 4, 2, rng=0).freeze()
    x, state = np.ones(3, np.float32), np.zeros((2, 4), np.float32)
    expected, after = served.step(x, state)
    out = np.zeros(4, np.float32), subclass(np.zeros((2, 4), np.float32))
    returned = served.step(x, state, out=out)
    assert returned is out
    assert_same_bits(out[0], expected, "y")
    assert_same_bits(np.asarray(out[1]), after, "state")


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("subclass", [lambda array: array.view(np.matrix), masked], ids=["matrix", "masked"])
def test_accumulate_into_arrays_of_a_subclass(backend, subclass, order):
    case = make_case("lstm", 5, 2, 3, 4)
    *_, tape = case.layer.forward(case.x)
    expected = case.layer.backward(tape, case.dy).params
    sums = {name: np.zeros(array.shape, array.dtype, order) for name, array in expected.items()}
    sums = {name: subclass(array) if array.ndim == 2 else array for name, array in sums.items()}
    returned = case.layer.backward(tape, case.dy, accumulate=sums).params
    for name, array in expected.items():
        assert returned[name] is sums[name]
        assert_same_bits(np.asarray(sums[name]), array, name)


def reshape(array, shape):
    """In place, which NumPy discourages and allows."""
    if hasattr(array, "_set_shape"):
        array._set_shape(shape)
    else:
        array.shape = shape


def test_shapes_set_before_backward(backend):
    """The memory is the same, and so is the result."""
    case = make_case("gru", 2, 60, 4, 16)
    expected = run(case)
    x = case.x.copy()
    y, _, tape = case.layer.forward(x, bare(case.state))
    reshape(x, (60, 2, 4))
    reshape(y, (120, 16))
    grads = case.layer.backward(tape, case.dy, bare(case.dstate))
    for name, array in grads.params.items():
        assert_same_bits(array, expected[name], name)


@pytest.mark.parametrize("closer", [False, True], ids=["plain", "converted"])
@pytest.mark.parametrize("accumulates", [False, True])
def test_shapes_and_dtypes_set_before_backward_of_a_step(backend, closer, accumulates):
    """The memory is the same, and so is the result."""
    rng = np.random.default_rng(0)
    x, h, c, dh = (rng.standard_normal((3, n), np.float32) for n in (4, 8, 8, 8))
    weights = [rng.standard_normal(shape, np.float32) for shape in ((32, 4), (32, 8), (32,), (32,))]
    given = dh.tolist() if closer else dh

    def zeros():
        shapes = zip(("w_ih", "w_hh", "b_ih", "b_hh"), ((32, 4), (32, 8), (32,), (32,)))
        return {name: np.zeros(shape, np.float32) for name, shape in shapes} if accumulates else None

    _, tape = fastrnn.lstm_cell_forward(x, (h, c), *weights)
    expected = fastrnn.lstm_cell_backward(tape, given, accumulate=zeros())
    _, tape = fastrnn.lstm_cell_forward(x, (h, c), *weights)
    for array, shape in zip((x, *weights), ((4, 3), (8, 16), (256,), (4, 8), (2, 16))):
        reshape(array, shape)
        array.dtype = np.int32
    sums = fastrnn.lstm_cell_backward(tape, given, accumulate=zeros())
    for array, right in zip(
        (sums.x, *sums.state, *sums[2:]), (expected.x, *expected.state, *expected[2:]), strict=True
    ):
        assert_same_bits(array, right, "after shapes and dtypes were set")


def results(layer, x):
    """What a layer or cell makes of x, frozen and not, and the gradients."""
    found = [layer(x)[0], layer.freeze()(x)[0]]
    tape = layer.forward(x)[-1]
    dy = np.ones((*x.shape[:-1], layer.hidden_size), np.float32)
    return [*found, *layer.backward(tape, dy).params.values(), *layer.state_dict().values()]


@pytest.mark.parametrize("kind", [fastrnn.GRU, fastrnn.GRUCell])
@pytest.mark.parametrize(
    "copied",
    [lambda layer: layer, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_the_shape_and_dtype_of_parameters_set(backend, kind, copied):
    """The memory is the same, and so is the result."""
    layer, x = copied(kind(4, 4, rng=0)), np.ones((5, 2, 4) if kind is fastrnn.GRU else (2, 4), np.float32)
    expected = results(layer, x)
    w_ih, w_hh, *_, b_hh = layer.params.values()
    reshape(w_ih, (48,))
    reshape(w_hh, (4, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        b_hh.dtype = np.float64
    for got, array in zip(results(layer, x), expected, strict=True):
        assert_same_bits(got, array, "a result")
    w_ih[:] = 0
    assert not layer.state_dict()[next(iter(layer.params))].any(), "the caller's array is no longer the layer's"


def test_the_shapes_of_a_functions_weights_set_before_backward(backend):
    weights = [np.full(shape, 0.25, np.float32) for shape in ((4, 3), (4, 4))]
    _, tape = fastrnn.rnn_tanh_cell_forward(np.ones((2, 3), np.float32), None, *weights)
    expected = fastrnn.rnn_tanh_cell_backward(tape, np.ones((2, 4), np.float32))
    reshape(weights[0], (12,))
    reshape(weights[1], (2, 8))
    got = fastrnn.rnn_tanh_cell_backward(tape, np.ones((2, 4), np.float32))
    assert_same_bits(got.w_ih, expected.w_ih, "w_ih")
    assert_same_bits(got.x, expected.x, "x")


def test_accumulate_into_a_mapping_that_makes_its_arrays_as_they_are_asked_for(backend, tmp_path):
    """A file of NumPy's reads them anew each time: the arrays returned are those that were added to."""
    case = make_case("gru", 5, 2, 3, 4)
    *_, tape = case.layer.forward(case.x)
    once = case.layer.backward(tape, case.dy).params
    np.savez(tmp_path / "grads.npz", **once)
    with np.load(tmp_path / "grads.npz") as stored:
        twice = case.layer.backward(tape, case.dy, accumulate=stored).params
    expected = case.layer.backward(tape, case.dy, accumulate=once).params
    for name, array in expected.items():
        assert_same_bits(twice[name], array, name)


def test_an_array_that_fails_in_its_own_way():
    class Failing:
        def __array__(self, *arguments, **options):
            raise ZeroDivisionError("whatever")

    with pytest.raises(TypeError, match="x: expected an array, got Failing: whatever"):
        fastrnn.RNN(3, 4)(Failing())


def test_load_state_dict_where_a_parameter_is_read_only():
    layer = fastrnn.LSTM(3, 4, rng=0)
    layer.params["weight_hh_l0"].flags.writeable = False
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"params\['weight_hh_l0'\]: expected a writable array"):
        layer.load_state_dict({name: np.zeros_like(array) for name, array in before.items()})
    for name, array in layer.params.items():
        assert_same_bits(array, before[name], name)


@pytest.mark.parametrize("dtype", [">i8", "<i8", "u8"])
def test_frozen_layers_refuse_wrong_lengths_of_any_byte_order(backend, dtype):
    served = fastrnn.LSTM(3, 4, rng=0).freeze()
    x = np.ones((6, 2, 3), np.float32)
    with pytest.raises(ValueError, match="lengths: expected integers from 0 to T = 6"):
        served(x, lengths=np.array([2**56, 2**57], dtype))
    expected = served(x, lengths=[1, 5])[0]
    assert_same_bits(served(x, lengths=np.array([1, 5], dtype))[0], expected, "y")


# --- arrays whose dtype names the machine's own byte order: equal to float32 in every way NumPy compares


def outright(array):
    """`array` in a dtype that names its byte order."""
    order = "<" if sys.byteorder == "little" else ">"
    named = array.copy().view(array.dtype.newbyteorder(order))
    assert named.dtype == array.dtype and named.dtype.byteorder == order
    return named


def of_a_field(array):
    """As `outright`, misaligned: a field of what big-endian records have been turned into."""
    records = np.empty(array.shape, [("flag", "u1"), ("value", array.dtype.newbyteorder("S"))])
    records["value"] = array
    named = records.byteswap().view(records.dtype.newbyteorder("S"))["value"]
    assert named.dtype == array.dtype and named.dtype.byteorder in "<>" and not named.flags.aligned
    return named


def assert_same_plain(actual, expected):
    """The same bits, in arrays whose dtype names no byte order."""
    for got, array in zip(flat(actual), flat(expected), strict=True):
        assert_same_bits(got, array, "a result")
        assert got.dtype.byteorder == "="


def flat(results):
    """The arrays within tuples and dicts."""
    if isinstance(results, np.ndarray):
        return [results]
    inner = results.values() if isinstance(results, dict) else results
    return [array for part in inner if part is not None for array in flat(part)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("named", [outright, of_a_field])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
def test_layers_of_arrays_that_name_their_byte_order(backend, kind, options, named, dtype):
    case = make_case(kind, 5, 3, 4, 6, dtype=dtype, **options)
    layer, x, dy = case.layer, named(case.x), named(case.dy)
    state, dstate = (bare(tuple(map(named, parts))) for parts in (case.state, case.dstate))
    plain, dplain, lengths = bare(case.state), bare(case.dstate), np.array([5, 2, 4])
    for some in ({}, {"lengths": lengths}):
        these = {name: named(array) for name, array in some.items()}
        assert_same_plain(layer(x, **these), layer(case.x, **some))
        assert_same_plain(layer(x, state, **these), layer(case.x, plain, **some))
        assert_same_plain(layer.freeze()(x, state, **these), layer.freeze()(case.x, plain, **some))
        *expected, tape = layer.forward(case.x, plain, **some)
        *got, same_tape = layer.forward(x, state, **these)
        assert_same_plain(got, expected)
        for given, wanted in (((dy,), (case.dy,)), ((None, dstate), (None, dplain)), ((dy, dstate), (case.dy, dplain))):
            assert_same_plain(layer.backward(same_tape, *given), layer.backward(tape, *wanted))
    sums = {name: named(np.zeros_like(array)) for name, array in layer.params.items()}
    expected = {name: np.zeros_like(array) for name, array in layer.params.items()}
    layer.backward(same_tape, dy, accumulate=sums), layer.backward(tape, case.dy, accumulate=expected)
    for name, array in expected.items():
        assert_same_bits(np.ascontiguousarray(sums[name], dtype), array, name)
    other = make_layer(kind, 4, 6, dtype=dtype, rng=1, **options)
    other.load_state_dict({name: named(array) for name, array in layer.state_dict().items()})
    assert_same_plain(other.state_dict(), layer.state_dict())
    assert_same_plain(layer(x[:, :0] if layer.batch_first else x[:0], state)[1], plain)


@pytest.mark.parametrize("named", [outright, of_a_field])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_steps_of_arrays_that_name_their_byte_order(backend, kind, named):
    case = make_case(kind, 5, 3, 4, 6, num_layers=2)
    served, x, plain, state = case.layer.freeze(), case.x[0], bare(case.state), bare(tuple(map(named, case.state)))
    expected = served.step(x, plain)
    for given in (plain, state):
        assert_same_plain(served.step(named(x), given), expected)
    assert_same_plain(served.step(x, state), expected)
    out = outright(np.zeros((3, 6), np.float32)), bare(tuple(outright(np.zeros_like(part)) for part in case.state))
    assert served.step(named(x), state, out=out) is out
    for got, array in zip(flat(out), flat(expected)):
        assert_same_bits(np.ascontiguousarray(got, np.float32), array, "out")


@pytest.mark.parametrize("named", [outright, of_a_field])
def test_cells_and_functions_of_arrays_that_name_their_byte_order(backend, named):
    cell = fastrnn.LSTMCell(4, 6, rng=0)
    rng = np.random.default_rng(1)
    x, h, c, dh = (rng.standard_normal((3, n)).astype(np.float32) for n in (4, 6, 6, 6))
    weights = list(cell.params.values())
    theirs = list(map(named, weights))
    given, wanted = (named(x), (named(h), named(c))), (x, (h, c))
    assert_same_plain(cell(*given), cell(*wanted))
    assert_same_plain(cell.freeze()(*given), cell.freeze()(*wanted))
    assert_same_plain(fastrnn.lstm_cell(*given, *theirs), cell(*wanted))
    assert_same_plain(fastrnn.lstm_cell(*wanted, *theirs), cell(*wanted))
    tapes = cell.forward(*given)[-1], cell.forward(*wanted)[-1]
    assert_same_plain(cell.backward(tapes[0], named(dh)), cell.backward(tapes[1], dh))
    tapes = fastrnn.lstm_cell_forward(*given, *theirs)[-1], fastrnn.lstm_cell_forward(*wanted, *weights)[-1]
    expected = fastrnn.lstm_cell_backward(tapes[1], dh)
    assert_same_plain(
        fastrnn.lstm_cell_backward(tapes[0], named(dh), named(dh)), fastrnn.lstm_cell_backward(tapes[1], dh, dh)
    )
    assert_same_plain(fastrnn.lstm_cell_backward(tapes[0], dh), expected)
    sums = fastrnn.CellGrads(None, None, *[named(np.zeros_like(array)) for array in weights])
    fastrnn.lstm_cell_backward(tapes[0], dh, accumulate=sums)
    for got, array in zip(sums[2:], expected[2:]):
        assert_same_bits(np.ascontiguousarray(got, np.float32), array, "a sum")


def test_a_dtype_that_names_its_byte_order(backend):
    order = "<" if sys.byteorder == "little" else ">"
    for dtype in (np.float32, np.float64):
        named = np.dtype(dtype).newbyteorder(order)
        layer, expected = fastrnn.GRU(3, 4, dtype=named, rng=0), fastrnn.GRU(3, 4, dtype=dtype, rng=0)
        x = outright(np.ones((5, 2, 3), dtype))
        assert layer.dtype.byteorder == "="
        assert_same_plain((layer(x), layer.state_dict()), (expected(x), expected.state_dict()))


def test_infinity_says_nothing(backend):
    """Neither a warning nor, where the program asks NumPy for one, an exception: it goes through as it is."""
    with np.errstate(all="raise"):
        for kind in ("rnn_relu", "rnn_tanh", "lstm", "gru"):
            layer = make_layer(kind, 2, 3, 2, dropout=0.5)
            x = np.full((4, 3, 2), np.inf, np.float32)
            y, _, tape = layer.forward(x)
            grads = layer.backward(tape, np.ones_like(y))
            apart = {name: np.full(array.shape, 3e38, np.float32, "F") for name, array in grads.params.items()}
            layer.backward(tape, np.full_like(y, 3e38), accumulate=apart)


def test_a_signal_that_the_program_has_blocked_stays_blocked():
    """The pool's threads do not take it instead, though they were made before."""
    code = """
import os, signal, time, numpy as np, fastrnn
fastrnn.set_num_threads(2)
fastrnn.LSTM(64, 64, rng=0)(np.zeros((100, 32, 64), np.float32))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.05)
raise SystemExit(0 if signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1 else 1)
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "FASTRNN_BACKEND": "native"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}, where {-signal.SIGUSR1} is the signal's doing"
