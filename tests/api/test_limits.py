"""Sizes that no memory, no address or no integer of the machine holds; gradients accumulated where others are read."""

import subprocess
import sys
import time

import numpy as np
import pytest
from cases import assert_same_bits, bare, make_case, parts_of

import fastrnn

LAYERS = [fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU]
CELLS = [fastrnn.RNNCell, fastrnn.LSTMCell, fastrnn.GRUCell]
HUGE = 10**5000  # more digits than Python writes out


def refused(call, error, *words, **arguments):
    """Promptly, in words."""
    begin = time.perf_counter()
    with pytest.raises(error) as caught:
        call(**arguments)
    assert time.perf_counter() - begin < 5
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("make", LAYERS + CELLS)
@pytest.mark.parametrize("sizes", [(2**45, 1), (1, 2**31), (2**63, 1), (1, 2**64), (2**32, 2**32)])
def test_huge_sizes(make, sizes):
    words = "cannot allocate the parameters of ", f"input_size={sizes[0]}, hidden_size={sizes[1]}"
    refused(lambda: make(*sizes), MemoryError, *words)


@pytest.mark.parametrize("make", LAYERS + CELLS)
def test_sizes_of_too_many_digits(make):
    refused(lambda: make(HUGE, 1), MemoryError, "input_size=an integer of 16610 bits, hidden_size=1")
    refused(lambda: make(1, HUGE), MemoryError, "hidden_size=an integer of 16610 bits")
    refused(
        lambda: make(-HUGE, 1), ValueError, "input_size: expected an integer of at least 1, got an integer of 16610"
    )


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("num_layers", [10**9, 2**63, HUGE], ids=["10**9", "2**63", "HUGE"])
def test_too_many_layers(make, num_layers):
    refused(
        lambda: make(1, 1, num_layers), MemoryError, "cannot allocate the parameters of input_size=1, hidden_size=1"
    )


WITH_LITTLE_MEMORY = """
import resource
import fastrnn

fastrnn.LSTM(1, 1)  # imports what is needed
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, -1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for sizes in ((2**31, 1), (1, 2**16), (2**32 + 1, 1), (1, 1, 2**26)):
    try:
        fastrnn.LSTM(*sizes)
    except MemoryError as error:
        print(error)
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(kilobytes < 10_000 or kilobytes)
"""


@pytest.mark.parametrize("system", ["linux"] if sys.platform == "linux" else [])  # others set no such limit
def test_nothing_is_allocated(system):
    """Beyond 32 bits of elements, where another machine has the memory."""
    done = subprocess.run([sys.executable, "-c", WITH_LITTLE_MEMORY], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    sizes = [(2**31, 1, 1), (1, 2**16, 1), (2**32 + 1, 1, 1), (1, 1, 2**26)]
    text = "cannot allocate the parameters of input_size={}, hidden_size={}, num_layers={}"
    assert done.stdout.splitlines() == [text.format(*size) for size in sizes] + ["True"]


@pytest.mark.parametrize("n", [2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, HUGE], ids=int.bit_length)
def test_huge_lengths(backend, n):
    layer, x = fastrnn.GRU(2, 3, rng=0), np.ones((4, 2, 2))
    shown = str(n) if n != HUGE else "an integer of 16610 bits"
    for lengths in ([n, 1], (1, n), [1, n]):
        for call in (layer, layer.forward, layer.freeze()):
            words = f"lengths: expected integers from 0 to T = 4, got {shown}"
            refused(call, ValueError, words, x=x, lengths=lengths)
    if abs(n) < 2**63:
        refused(lambda: layer(x, lengths=np.array([n, 1])), ValueError, f"got {n}")


@pytest.mark.parametrize("n", [2**16 + 1, 2**31, 2**64, HUGE], ids=int.bit_length)
def test_huge_numbers_of_threads(n):
    before = fastrnn.get_num_threads()
    refused(lambda: fastrnn.set_num_threads(n), ValueError, "n: expected at most 65536 threads, got")
    assert fastrnn.get_num_threads() == before
    word = "9" * 5000 if n == HUGE else str(n)
    done = subprocess.run(
        [sys.executable, "-c", "import fastrnn"], env={"FASTRNN_NUM_THREADS": word}, capture_output=True, text=True
    )
    assert "ValueError: FASTRNN_NUM_THREADS: expected a positive integer" in done.stderr


# --- accumulate: arrays of their own


OWN = "expected an array of its own, got one that overlaps"


def refused_unchanged(layer, tape, dy, dstate, sums, words, *arrays):
    arrays += tuple(sums.values())
    before = [array.copy() for array in arrays]
    refused(layer.backward, ValueError, words, tape=tape, dy=dy, dstate=dstate, accumulate=sums)
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_accumulate_overlaps_what_is_read(backend, kind):
    """x, dy and the gradient of the final state, where they share memory with a gradient; y, which is read-only."""
    case = make_case(kind, 3, 8, 4, 4)
    y, _, tape = case.layer.forward(case.x, bare(case.state))
    grads, name = case.layer.backward(tape, case.dy).params, "bias_ih_l0"
    read = {"x": case.x, "y": y, "dy": case.dy, "dstate": case.dstate[0]}
    for what, array in read.items():
        inside = array.reshape(-1)[-grads[name].size :]
        assert inside.base is not None and inside.shape == grads[name].shape
        words = f"accumulate['{name}']: {OWN} {what}"
        if what == "y":
            words = f"accumulate['{name}']: expected a writable array, got a read-only one"
        refused_unchanged(case.layer, tape, case.dy, bare(case.dstate), {**grads, name: inside}, words, *read.values())


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_accumulate_into_the_states_memory(backend, kind):
    """The initial state and the final one are not read."""
    case, name = make_case(kind, 3, 8, 4, 4), "bias_ih_l0"
    _, after, tape = case.layer.forward(case.x, bare(case.state))
    grads = case.layer.backward(tape, case.dy).params
    for part in (*case.state, *parts_of(after)):
        part[...] = 0
        inside = part.reshape(-1)[-grads[name].size :]
        into = {other: np.zeros_like(array) for other, array in grads.items()} | {name: inside}
        again = case.layer.backward(tape, case.dy, accumulate=into).params
        assert again[name] is inside
        for other, array in grads.items():
            assert_same_bits(again[other], array, other)


def test_accumulate_overlaps_itself(backend):
    layer = fastrnn.LSTM(3, 4, rng=0)
    y, _, tape = layer.forward(np.ones((2, 2, 3)))
    grads, room = layer.backward(tape, y).params, np.zeros(200, np.float32)
    views = [("weight_ih_l0", (16, 3), s) for s in ((0, 4), (12, 0), (4, 4), (8, 4), (0, 0), (4, 16), (-4, 4))]
    for name, shape, strides in [*views, ("bias_hh_l0", (16,), (0,))]:
        array = np.lib.stride_tricks.as_strided(room[50:], shape, strides)
        words = f"accumulate['{name}']: {OWN} itself"
        refused_unchanged(layer, tape, y, None, {**grads, name: array}, words, room)


def test_accumulate_overlaps_another(backend):
    layer = fastrnn.GRU(5, 5, rng=0)
    y, _, tape = layer.forward(np.ones((2, 2, 5)))
    grads = layer.backward(tape, y).params
    one = {**grads, "weight_hh_l0": grads["weight_ih_l0"]}
    words = f"accumulate['weight_hh_l0']: {OWN} accumulate['weight_ih_l0']"
    refused_unchanged(layer, tape, y, None, one, words)
    inside = {**grads, "bias_hh_l0": grads["weight_hh_l0"].reshape(-1)[10:25]}
    words = f"accumulate['bias_hh_l0']: {OWN} accumulate['weight_hh_l0']"
    refused_unchanged(layer, tape, y, None, inside, words)


def test_accumulate_in_functions_and_cells(backend):
    cell = fastrnn.LSTMCell(4, 4, rng=0)
    w_ih, w_hh, b_ih, b_hh = cell.params.values()
    x, dh, dc = (np.ones((4, 4), np.float32) for _ in range(3))
    _, tape = fastrnn.lstm_cell_forward(x, None, w_ih, w_hh, b_ih, b_hh)
    grads = fastrnn.lstm_cell_backward(tape, dh, dc)
    _, cell_tape = cell.forward(x)
    cell_grads = cell.backward(cell_tape, dh, dc)
    for what, array in (("x", x), ("dh", dh), ("dc", dc)):
        one, other = grads._replace(b_ih=array.reshape(-1)), {**cell_grads.params, "bias_ih": array.reshape(-1)}
        words = f"accumulate['b_ih']: {OWN} {what}"
        refused(fastrnn.lstm_cell_backward, ValueError, words, tape=tape, dh=dh, dc=dc, accumulate=one)
        words = f"accumulate['bias_ih']: {OWN} {what}"
        refused(cell.backward, ValueError, words, tape=cell_tape, dh=dh, dc=dc, accumulate=other)


def test_accumulate_side_by_side(backend):
    """Interleaved, transposed and neighbouring views of one array overlap nowhere and are accepted."""
    layer = fastrnn.LSTM(3, 4, rng=0)
    y, _, tape = layer.forward(np.ones((2, 2, 3)))
    expected = layer.backward(tape, y).params
    both, biases = np.zeros((16, 7), np.float32), np.zeros((16, 2), np.float32)
    sums = {
        "weight_ih_l0": both[:, :3],
        "weight_hh_l0": both[:, 3:],
        "bias_ih_l0": biases[:, 0],
        "bias_hh_l0": biases[::-1, 1],
    }
    assert layer.backward(tape, y, accumulate=sums)[2] == sums
    for name, array in expected.items():
        np.testing.assert_array_equal(sums[name], array)
