"""What a caller does with what `forward` took and gave leaves the gradients as they are, or is refused."""

import copy
import pickle

import numpy as np
import pytest
from cases import CELL_KINDS as KINDS
from cases import assert_same_bits, bare, make_case, make_layer, parts_of

import fastrnn

T, B, I, H = 5, 3, 4, 6
FUNCTIONS = {"rnn_tanh": "rnn_tanh_cell", "rnn_relu": "rnn_relu_cell", "lstm": "lstm_cell", "gru": "gru_cell"}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def cell_of(kind):
    extra = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    return {"lstm": fastrnn.LSTMCell, "gru": fastrnn.GRUCell}.get(kind, fastrnn.RNNCell)(I, H, rng=0, **extra)


def recordings(kind, options):
    """Every way to record a tape: what gives (y or None, state, tape), the shape of x, and the backward pass."""
    layer, cell = make_layer(kind, I, H, rng=0, **options), cell_of(kind)
    weights = list(cell.params.values())
    forward = getattr(fastrnn, f"{FUNCTIONS[kind]}_forward")
    backward = getattr(fastrnn, f"{FUNCTIONS[kind]}_backward")
    rows = layer.num_layers * (1 + layer.bidirectional)
    x = (B, T, I) if layer.batch_first else (T, B, I)
    yield layer.forward, x, (rows, B, H), lambda tape, dstate: layer.backward(tape, None, bare(dstate))
    yield layer.forward, (T, I), (rows, H), lambda tape, dstate: layer.backward(tape, None, bare(dstate))
    for x, h in (((B, I), (B, H)), ((I,), (H,))):
        yield cell.forward, x, h, lambda tape, dstate: cell.backward(tape, *dstate)
        yield (lambda x, state: forward(x, state, *weights)), x, h, lambda tape, dstate: backward(tape, *dstate)


OPTIONS = [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "batch_first": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "stacked"])
def test_states_are_the_callers_to_change(backend, kind, options):
    """The initial and the final state, written before backward: the gradients are the same bits."""
    rng = np.random.default_rng(1)
    for forward, x_shape, h_shape, backward in recordings(kind, options):
        x = rng.standard_normal(x_shape).astype(np.float32)
        state = tuple(rng.standard_normal(h_shape).astype(np.float32) for _ in range(1 + (kind == "lstm")))
        dstate = tuple(np.ones(h_shape, np.float32) for _ in state)
        *_, after, tape = forward(x, bare(state))
        expected = backward(tape, dstate)
        for part in (*state, *parts_of(after)):
            part[...] = np.nan
        assert_same_gradients(backward(tape, dstate), expected)


def arrays_of(grads):
    named = [("x", grads.x), *(("state", part) for part in parts_of(grads.state))]
    if isinstance(grads, fastrnn.Grads):
        return [*named, *grads.params.items()]
    return [*named, *zip(grads._fields[2:], grads[2:], strict=True)]


def assert_same_gradients(actual, expected):
    for (name, array), (_, other) in zip(arrays_of(actual), arrays_of(expected), strict=True):
        assert not np.isnan(array).any()
        assert_same_bits(array, other, name)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(T, B), (0, B), (T, 0)])
def test_y_of_forward_is_read_only(backend, kind, shape, batch_first):
    """The tape reads it: `y -= target`, to save the gradient an array, would change all gradients without a word."""
    layer = make_layer(kind, I, H, 2, rng=0, batch_first=batch_first)
    x = np.ones(shape[:: -1 if batch_first else 1] + (I,), np.float32)
    y, _, tape = layer.forward(x)
    assert type(y) is np.ndarray and not y.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        y -= 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        y.flags.writeable = True
    layer.backward(tape, y)
    called, _ = layer(x)
    assert called.flags.writeable and layer.freeze()(x)[0].flags.writeable
    assert_same_bits(called, y, "y")


def test_y_of_an_unbatched_forward_is_read_only(backend, kind):
    assert not make_layer(kind, I, H).forward(np.ones((T, I), np.float32))[0].flags.writeable


def test_y_is_the_one_array_that_the_tape_shares(backend, kind):
    case = make_case(kind, T, B, I, H, num_layers=2, bidirectional=True, with_lengths=True)
    y, state, tape = case.layer.forward(case.x, bare(case.state), lengths=case.lengths)
    kept = [*tape.call.state, tape.call.steps.lengths, *[mask for mask in tape.kept if mask is not None]]
    for run in tape.runs:
        kept += [array for array in (run.y, *run.state, run.saved) if array is not None]
    assert any(np.shares_memory(y, array) for array in kept)
    for part in (*parts_of(state), *case.state, case.lengths):
        assert part.flags.writeable and not any(np.shares_memory(part, array) for array in kept)


# --- tapes stay where they were made; gradients travel


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *[lambda tape, n=n: pickle.dumps(tape, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)]],
)
def test_a_tape_says_what_to_send_instead(kind, copied):
    for forward, x_shape, *_ in recordings(kind, {}):
        tape = forward(np.ones(x_shape, np.float32), None)[-1]
        with pytest.raises(TypeError, match="a Tape of .* neither copied nor pickled: call forward where backward"):
            copied(tape)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_gradients_travel(kind, protocol):
    for forward, x_shape, _, backward in recordings(kind, {}):
        *_, after, tape = forward(np.ones(x_shape, np.float32), None)
        grads = backward(tape, parts_of(after))
        for copied in (pickle.loads(pickle.dumps(grads, protocol)), copy.deepcopy(grads)):
            assert type(copied) is type(grads)
            assert_same_gradients(copied, grads)
            for (_, array), (_, other) in zip(arrays_of(copied), arrays_of(grads), strict=True):
                assert not np.shares_memory(array, other)


def test_gradients_that_travelled_are_accumulated_into(backend, kind):
    layer, x = make_layer(kind, I, H, rng=0), np.ones((T, B, I), np.float32)
    y, _, tape = layer.forward(x)
    expected = layer.backward(tape, y, accumulate=layer.backward(tape, y))
    sent = pickle.loads(pickle.dumps(layer.backward(tape, y), 5))
    assert_same_gradients(layer.backward(tape, y, accumulate=sent), expected)
