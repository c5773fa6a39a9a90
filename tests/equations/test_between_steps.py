"""Resets, state_scale and mask against layers that know nothing of them: chunks, single steps, rows of valid steps."""

import numpy as np
import pytest
from cases import BETWEEN, KINDS, assert_same_bits, bare, make_case, make_layer, parts_of, run

import fastrnn

T, B, I, H = 12, 5, 6, 19


def chunks(begins):
    """The bounds of the steps between resets, of one row."""
    cuts = [0, *(np.flatnonzero(begins[1:]) + 1), len(begins)]
    return list(zip(cuts, cuts[1:]))


def by_chunks(layer, x, state, begins, dy, dstate, length):
    """One row, every chunk a call of its own: y, the final state, and the gradients of x, the state and parameters."""
    zero = tuple(np.zeros_like(part) for part in state)
    D = 1 + layer.bidirectional
    y, dx, params, last = [], [], None, []
    pieces = [(a, min(b, length)) for a, b in chunks(begins) if a < length]
    for k, (a, b) in enumerate(pieces):
        # A direction's state comes in at its end of the row, and goes out at the other.
        first, end = k == 0 and not begins[0], k == len(pieces) - 1
        came = [
            np.array([s[d] if (end if d % D else first) else z[d] for d in range(len(s))]) for s, z in zip(state, zero)
        ]
        goes = [
            np.array([g[d] if (k == 0 if d % D else end) else z[d] for d in range(len(g))])
            for g, z in zip(dstate, zero)
        ]
        out, after, tape = layer.forward(x[a:b], bare(tuple(came)))
        grads = layer.backward(tape, dy[a:b], bare(tuple(goes)), accumulate=params)
        params = grads.params
        y.append(out)
        dx.append(grads.x)
        last.append((parts_of(after), parts_of(grads.state)))
    after = [np.array([last[0 if d % D else -1][0][p][d] for d in range(len(state[p]))]) for p in range(len(state))]
    before = [
        np.array([last[-1 if d % D else 0][1][p][d] * (d % D or not begins[0]) for d in range(len(state[p]))])
        for p in range(len(state))
    ]
    return np.concatenate(y), after, np.concatenate(dx), before, params


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_resets_are_chunks(backend, kind, options, with_lengths):
    case = make_case(
        kind, T, B, I, H, seed=3, with_lengths=with_lengths, between=("resets",), dtype=np.float64, **options
    )
    found = run(case)
    sums = {name: np.zeros_like(array) for name, array in case.layer.params.items()}
    exact = backend != "numpy"
    for b in range(B):
        length = T if case.lengths is None else int(case.lengths[b])
        if length == 0:
            continue
        state, dstate = ([part[:, b] for part in parts] for parts in (case.state, case.dstate))
        y, after, dx, before, params = by_chunks(
            case.layer, case.x[:, b], state, case.between["resets"][:, b], case.dy[:, b], dstate, length
        )
        named = {"y": (found["y"][:length, b], y), "grads.x": (found["grads.x"][:length, b], dx)}
        named |= {f"state[{p}]": (found[f"state[{p}]"][:, b], part) for p, part in enumerate(after)}
        for name, (got, expected) in named.items():
            if exact:
                assert_same_bits(np.ascontiguousarray(got), expected, name)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13, err_msg=name)
        for p, part in enumerate(before):
            np.testing.assert_allclose(found[f"grads.state[{p}]"][:, b], part, rtol=1e-12, atol=1e-13)
        for name, array in params.items():
            sums[name] += array
    for name, array in sums.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_leaves_steps_out(backend, kind):
    """Left padding, gaps and a row without a step, with two layers and both directions: the valid steps alone."""
    case = make_case(kind, T, B, I, H, seed=5, dtype=np.float64, num_layers=2, bidirectional=True)
    mask = np.random.default_rng(0).random((T, B)) < 0.6
    mask[:4, 0], mask[4:, 0], mask[:, 1] = False, True, False
    found = run(case._replace(between={"mask": mask}))
    assert not np.any(found["y"][~mask]) and not np.any(found["grads.x"][~mask])
    for b in range(B):
        valid = mask[:, b]
        if not valid.any():
            for p, (part, gradient) in enumerate(zip(case.state, case.dstate)):
                np.testing.assert_array_equal(found[f"state[{p}]"][:, b], part[:, b])
                np.testing.assert_array_equal(found[f"grads.state[{p}]"][:, b], gradient[:, b])
            continue
        state, dstate = ([part[:, b] for part in parts] for parts in (case.state, case.dstate))
        y, after, tape = case.layer.forward(case.x[valid, b], bare(tuple(state)))
        grads = case.layer.backward(tape, case.dy[valid, b], bare(tuple(dstate)))
        close = {"rtol": 1e-12, "atol": 1e-13}
        np.testing.assert_allclose(found["y"][valid, b], y, **close)
        np.testing.assert_allclose(found["grads.x"][valid, b], grads.x, **close)
        for p, (part, gradient) in enumerate(zip(parts_of(after), parts_of(grads.state))):
            np.testing.assert_allclose(found[f"state[{p}]"][:, b], part, **close)
            np.testing.assert_allclose(found[f"grads.state[{p}]"][:, b], gradient, **close)


@pytest.mark.parametrize("by_unit", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_state_scale_is_a_loop_of_cells(backend, kind, by_unit):
    """The state multiplied between calls of one step each; the gradient of a factor per row is the sum over units."""
    case = make_case(kind, T, B, I, H, seed=7, dtype=np.float64)
    scale = np.random.default_rng(1).uniform(-1, 1, (T, B, H if by_unit else 1))
    found = run(case._replace(between={"state_scale": scale if by_unit else scale[..., 0]}))
    state, tapes, y = case.state, [], []
    for t in range(T):
        came = state
        out, state, tape = case.layer.forward(case.x[t : t + 1], bare(tuple(part * scale[t] for part in came)))
        state = parts_of(state)
        tapes.append((tape, came))
        y.append(out)
    np.testing.assert_allclose(found["y"], np.concatenate(y), rtol=1e-12, atol=1e-13)
    dstate, by_scale = case.dstate, np.zeros_like(scale)
    for t in reversed(range(T)):
        tape, came = tapes[t]
        grads = case.layer.backward(tape, case.dy[t : t + 1], bare(tuple(dstate)))
        entered = parts_of(grads.state)
        products = sum(part[0] * gradient[0] for part, gradient in zip(came, entered))
        by_scale[t] = products if by_unit else products.sum(axis=-1, keepdims=True)
        dstate = [gradient * scale[t] for gradient in entered]
        np.testing.assert_allclose(found["grads.x"][t], grads.x[0], rtol=1e-11, atol=1e-12)
    by_scale = by_scale if by_unit else by_scale[..., 0]
    np.testing.assert_allclose(found["grads.state_scale"], by_scale, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", [{"batch_first": True, "bidirectional": True}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("between", BETWEEN, ids="+".join)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_on_any_number_of_threads(level, dtype, between, options):
    for size in ((9, 33, 48, 96), (12, 1, 64, 130), (30, 5, 40, 70)):
        case = make_case("lstm", *size, seed=2, with_lengths=True, between=between, dtype=dtype, **options)
        results = []
        for threads in (1, 2, 3):
            fastrnn.set_num_threads(threads)
            results.append(run(case))
        for other in results[1:]:
            for name, array in results[0].items():
                assert_same_bits(other[name], array, name)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changed_is_nothing_done(kernels, kind):
    """No reset, factors of 1 and a full mask: the bits of a call without them."""
    case = make_case(kind, T, B, I, H, seed=1, with_lengths=True, num_layers=2, bidirectional=True)
    alone = run(case)
    never = {"resets": np.zeros((T, B), bool), "mask": np.ones((T, B), bool)}
    for name, array in run(case._replace(between=never)).items():
        assert_same_bits(array, alone[name], name)
    found = run(case._replace(between={"state_scale": np.ones((T, B))}))
    for name in ("y", "state[0]"):
        assert_same_bits(found[name], alone[name], name)


def test_resets_past_a_row_s_length_are_ignored(backend):
    case = make_case("gru", T, B, I, H, seed=4, with_lengths=True, bidirectional=True)
    past = np.arange(T)[:, None] >= case.lengths
    alone = run(case)
    for name, array in run(case._replace(between={"resets": past})).items():
        assert_same_bits(array, alone[name], name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_begins_rows_anew(backend, kind):
    layer = make_layer(kind, I, H, rng=0, num_layers=2)
    frozen, rng = layer.freeze(), np.random.default_rng(0)
    x, resets = rng.standard_normal((T, B, I)).astype(np.float32), rng.random((T, B)) < 0.3
    y, after = layer(x, resets=resets)
    state = layer.zero_state(B)
    for t in range(T):
        y_t, state = frozen.step(x[t], state, resets=resets[t])
        np.testing.assert_allclose(y_t, y[t], rtol=1e-6, atol=1e-7)
    for part, expected in zip(parts_of(state), parts_of(after)):
        np.testing.assert_allclose(part, expected, rtol=1e-6, atol=1e-7)
    alone, _ = frozen.step(
        x[0, 0], tuple(p[:, 0] for p in state) if isinstance(state, tuple) else state[:, 0], resets=np.True_
    )
    np.testing.assert_allclose(alone, frozen.step(x[0, 0])[0], rtol=1e-6, atol=1e-7)


def test_gates_and_states_are_in_the_caller_s_order(backend):
    case = make_case("lstm", T, B, I, H, seed=6, between=("mask",), dtype=np.float64)
    mask = case.between["mask"]
    y, _, tape = case.layer.forward(case.x, bare(case.state), mask=mask)
    np.testing.assert_array_equal(tape.outputs[0], y)
    (gates,) = tape.gates
    np.testing.assert_allclose((gates["o"] * np.tanh(gates["c"]))[mask], y[mask], rtol=1e-12)
    grads = case.layer.backward(tape, case.dy, states=True)
    assert not np.any(grads.states[0][:, 0][~mask])
    last = [int(np.flatnonzero(mask[:, b])[-1]) for b in range(B)]
    for b, t in enumerate(last):
        np.testing.assert_array_equal(grads.states[0][t, 0, b], case.dy[t, b])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"resets": np.zeros((T, B + 1), bool)}, ValueError, r"resets: expected shape \(12, 5\), got \(12, 6\)"),
        ({"resets": np.zeros((T, B))}, TypeError, "resets: expected booleans, got dtype float64"),
        ({"resets": [3] * T}, TypeError, "resets: expected booleans, got dtype int64"),
        ({"mask": np.ones((B, T), bool)}, ValueError, r"mask: expected shape \(12, 5\), got \(5, 12\)"),
        ({"mask": np.ones((T, B), int)}, TypeError, "mask: expected booleans"),
        (
            {"state_scale": np.ones((T, B, H + 1))},
            ValueError,
            r"state_scale: expected shape \(12, 5\) or \(12, 5, 19\)",
        ),
        ({"state_scale": np.ones((T, B), complex)}, TypeError, "state_scale: expected real numbers"),
        ({"state_scale": "half"}, TypeError, "state_scale: expected real numbers"),
    ],
)
def test_bad_arguments(arguments, error, message):
    layer = fastrnn.GRU(I, H, rng=0)
    x = np.zeros((T, B, I), np.float32)
    for call in (layer, layer.forward, layer.freeze()):
        with pytest.raises(error, match=message):
            call(x, **arguments)


def test_bad_resets_of_a_step():
    layer = fastrnn.GRU(I, H, rng=0).freeze()
    with pytest.raises(ValueError, match=r"resets: expected shape \(5,\), got \(4,\)"):
        layer.step(np.zeros((B, I)), np.zeros((1, B, H)), resets=np.zeros(4, bool))
    with pytest.raises(TypeError, match="resets: expected booleans"):
        layer.step(np.zeros((B, I)), np.zeros((1, B, H)), resets=np.zeros(B))
