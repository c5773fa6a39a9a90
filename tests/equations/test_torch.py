"""Against torch: outputs, states and every gradient, with the same parameters moved over by name."""

import numpy as np
import pytest
from cases import CELL_KINDS as KINDS
from cases import Case, assert_close, assert_results_close, bare, magnitude, make_case, parts_of, run, tolerance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastrnn

torch = pytest.importorskip("torch")

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
FUNCTIONS = {
    "rnn_tanh": (torch.rnn_tanh_cell, fastrnn.rnn_tanh_cell_forward, fastrnn.rnn_tanh_cell_backward),
    "rnn_relu": (torch.rnn_relu_cell, fastrnn.rnn_relu_cell_forward, fastrnn.rnn_relu_cell_backward),
    "lstm": (torch.lstm_cell, fastrnn.lstm_cell_forward, fastrnn.lstm_cell_backward),
    "gru": (torch.gru_cell, fastrnn.gru_cell_forward, fastrnn.gru_cell_backward),
}


def leaf(array):
    """A tensor of its own, NaN replaced: torch multiplies padding with zero."""
    return leaf_as_it_is(np.nan_to_num(array))


def leaf_as_it_is(array):
    return torch.from_numpy(array).clone().requires_grad_()


def torch_layer(layer, kind):
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(kind, torch.nn.RNN)
    extra = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    peer = module(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        dtype={"float32": torch.float32, "float64": torch.float64}[layer.dtype.name],
        **extra,
    )
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    return peer


def torch_run(case, kind, read=leaf):
    """What cases.run returns, computed by torch."""
    peer, x, state = torch_layer(case.layer, kind), read(case.x), [leaf(part) for part in case.state]
    if case.lengths is None:
        y, after = peer(x, bare(tuple(state)))
    elif not case.lengths.all():
        return torch_run_without_stepless_rows(case, kind)
    else:
        first = case.layer.batch_first
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(case.lengths), first, enforce_sorted=False)
        y, after = peer(packed, bare(tuple(state)))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, first, total_length=case.x.shape[1 if first else 0])
    after = parts_of(after)
    torch.autograd.backward([y, *after], [leaf(g).detach() for g in (case.dy, *case.dstate)])
    return {
        "y": y.detach().numpy(),
        **{f"state[{i}]": part.detach().numpy() for i, part in enumerate(after)},
        "grads.x": x.grad.numpy(),
        **{f"grads.state[{i}]": part.grad.numpy() for i, part in enumerate(state)},
        **{name: parameter.grad.numpy() for name, parameter in peer.named_parameters()},
    }


def torch_run_without_stepless_rows(case, kind):
    """torch takes no rows of length 0: what they are is written here, and torch computes the others."""
    rows, axis = np.flatnonzero(case.lengths), 0 if case.layer.batch_first else 1
    results = {"y": np.zeros_like(case.dy), "grads.x": np.zeros_like(case.x)}
    results |= {f"state[{i}]": part.copy() for i, part in enumerate(case.state)}
    results |= {f"grads.state[{i}]": part.copy() for i, part in enumerate(case.dstate)}
    results |= {name: np.zeros_like(array) for name, array in case.layer.params.items()}
    if len(rows):
        x, dy = np.take(case.x, rows, axis), np.take(case.dy, rows, axis)
        state, dstate = (tuple(part[:, rows] for part in parts) for parts in (case.state, case.dstate))
        for name, array in torch_run(Case(case.layer, x, state, case.lengths[rows], dy, dstate), kind).items():
            if name in case.layer.params:
                results[name] = array
            else:
                results[name][(slice(None),) * (1 if "state" in name else axis) + (rows,)] = array
    return results


options = st.fixed_dictionaries(
    {
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "num_layers": st.integers(1, 2),
        "dtype": st.sampled_from([np.float32, np.float64]),
    }
)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), sizes, options, st.booleans(), st.integers(0, 2**32 - 1))
def test_layers(backend, kind, sizes, options, with_lengths, seed):
    if kind == "rnn_relu":
        options["num_layers"] = 1
    case = make_case(kind, *sizes, seed=seed, with_lengths=with_lengths, **options)
    assert_results_close(run(case), torch_run(case, kind), case, factor=2)  # both sides are off by up to the tolerance


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"dtype": np.float64, "bias": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_nan(backend, kind, options):
    """What is NaN, and what is a number: relu passes the gradient of a NaN on."""
    case = make_case(kind, 5, 3, 6, 20, seed=11, **options)
    numbers, case.x[2, 1, 3] = torch_run(case, kind), np.nan
    actual, expected = run(case), torch_run(case, kind, read=leaf_as_it_is)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.isnan(actual[name]), np.isnan(array), name)
        there = ~np.isnan(array)
        scale = magnitude(numbers[name])
        assert_close(actual[name][there], array[there], 2 * tolerance(name, case), name, scale)
    if kind == "rnn_relu":
        assert np.isfinite(expected["grads.x"][2:, 1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched(backend, kind):
    case = make_case(kind, 6, 1, 5, 8, num_layers=2, bidirectional=True, seed=7)
    peer = torch_layer(case.layer, kind)
    y, state = case.layer(case.x[:, 0], bare(tuple(part[:, 0] for part in case.state)))
    y_peer, state_peer = peer(
        torch.from_numpy(case.x[:, 0]), bare(tuple(torch.from_numpy(p[:, 0]) for p in case.state))
    )
    assert_close(y, y_peer.detach().numpy(), 2 * tolerance("y", case), "y")
    for part, expected in zip(parts_of(state), parts_of(state_peer)):
        assert_close(part, expected.detach().numpy(), 2 * tolerance("state", case), "state")


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", CELLS)
def test_functional_cells(backend, kind, dtype, with_bias):
    case = make_case(kind, 1, 6, 11, 19, dtype=dtype, bias=with_bias, seed=8)
    x, state, dstate = case.x[0], tuple(p[0] for p in case.state), tuple(p[0] for p in case.dstate)
    weights = list(case.layer.params.values())
    peer, forward, backward = FUNCTIONS[kind]

    after, tape = forward(x, bare(state), *weights)
    grads = backward(tape, *dstate)

    x_t, state_t, weights_t = leaf(x), [leaf(p) for p in state], [leaf(w) for w in weights]
    after_t = parts_of(peer(x_t, bare(tuple(state_t)), *weights_t))
    torch.autograd.backward(after_t, [torch.from_numpy(d) for d in dstate])
    pairs = [(part, expected.detach(), "state") for part, expected in zip(parts_of(after), after_t)]
    pairs += [(grads.x, x_t.grad, "grads.x")]
    pairs += [(part, p.grad, "grads.state") for part, p in zip(parts_of(grads.state), state_t)]
    pairs += [(getattr(grads, name), w.grad, name) for name, w in zip(("w_ih", "w_hh", "b_ih", "b_hh"), weights_t)]
    for actual, expected, name in pairs:
        assert_close(actual, expected.numpy(), 2 * tolerance(name, case), name)
    if not with_bias:
        assert grads.b_ih is None and grads.b_hh is None


@pytest.mark.parametrize("kind", CELLS)
def test_cells(backend, kind):
    names = {"lstm": "LSTMCell", "gru": "GRUCell"}
    extra = {} if kind in names else {"nonlinearity": kind[4:]}
    cell = getattr(fastrnn, names.get(kind, "RNNCell"))(7, 9, rng=9, **extra)
    peer = getattr(torch.nn, names.get(kind, "RNNCell"))(7, 9, **extra)
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in cell.state_dict().items()})
    x = np.random.default_rng(10).standard_normal((4, 7), np.float32)
    state, frozen_state, peer_state = None, None, None
    frozen = cell.freeze()
    for _ in range(3):
        state, frozen_state = cell(x, state), frozen(x, frozen_state)
        peer_state = peer(torch.from_numpy(x), peer_state)
        for part, again, expected in zip(parts_of(state), parts_of(frozen_state), parts_of(peer_state)):
            assert_close(part, expected.detach().numpy(), 100, "state")
            np.testing.assert_array_equal(again, part)


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", CELLS)
def test_a_stack_of_alternating_directions(backend, kind, dtype, with_lengths):
    """torch has no layers of the reverse direction alone: its bidirectional ones compute it in their second half."""
    T, B, I, H, num_layers = 9, 4, 6, 11, 1 if kind == "rnn_relu" else 3
    direction = ("reverse", "forward", "reverse")[:num_layers]
    case = make_case(kind, T, B, I, H, num_layers=num_layers, direction=direction, dtype=dtype, seed=12)
    lengths = torch.tensor([9, 3, 5, 1]) if with_lengths else None
    x, states, peers = leaf(case.x), [leaf(part) for part in case.state], []
    values, after = x, [[] for _ in states]
    for k, word in enumerate(direction):
        d = int(word == "reverse")
        both = type(case.layer)(H if k else I, H, bidirectional=True, dtype=dtype, **nonlinearity(kind))
        for name in case.layer.params:
            if name.endswith(f"_l{k}"):
                both.params[name.replace(f"_l{k}", "_l0" + "_reverse" * d)] = case.layer.params[name]
        peer = torch_layer(both, kind)
        given = bare(tuple(torch.stack([part[k]] * 2) for part in states))
        if with_lengths:
            values = torch.nn.utils.rnn.pack_padded_sequence(values, lengths, enforce_sorted=False)
        values, then = peer(values, given)
        if with_lengths:
            values, _ = torch.nn.utils.rnn.pad_packed_sequence(values, total_length=T)
        values = values[..., d * H : (d + 1) * H]
        for kept, part in zip(after, parts_of(then)):
            kept.append(part[d])
        peers.append((k, d, peer))
    after = [torch.stack(parts) for parts in after]
    torch.autograd.backward([values, *after], [leaf(g).detach() for g in (case.dy, *case.dstate)])
    expected = {"y": values.detach().numpy(), "grads.x": x.grad.numpy()}
    expected |= {f"state[{i}]": part.detach().numpy() for i, part in enumerate(after)}
    expected |= {f"grads.state[{i}]": part.grad.numpy() for i, part in enumerate(states)}
    for k, d, peer in peers:
        for name, parameter in peer.named_parameters():
            if name.endswith("_reverse") == bool(d):
                expected[name.removesuffix("_reverse").replace("_l0", f"_l{k}")] = parameter.grad.numpy()
    case = case._replace(lengths=lengths.numpy() if with_lengths else None)
    assert_results_close(run(case), expected, case, factor=2)


def nonlinearity(kind):
    return {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
