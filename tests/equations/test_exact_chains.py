"""Long chains in which every value is a small integer: results equal an integer computation, bit for bit.

An RNN with relu whose values stay positive is linear. So are LSTM and GRU whose gates are held at 0 or 1 and whose
values are multiples of a number so small that tanh v is v. And they are exact where every gate is saturated, at 0 or 1
as its integer pre-activation has it, and every tanh at 0 or ±1. An element read from a wrong place, or twice, changes
an integer; no rounding hides it.
"""

import numpy as np
import pytest
from cases import assert_same_bits, bare, make_layer, parts_of

UNIT = 1024  # a pre-activation of this size saturates sigmoid and tanh in both dtypes
LARGE = 4096  # a cell state so far from zero that no chain here brings its tanh from ±1
TINY = 2.0**-40  # tanh v = v and 1 - v² = 1 for all v near it, in both dtypes
SIZES = [(60, 3, 5, 1), (60, 3, 1, 17), (45, 5, 7, 33), (40, 2, 3, 130), (25, 13, 4, 67)]  # T, B, I, H


def integer_layer(rng, kind, I, H, dtype):
    """A layer in both directions and its integer parameters: per direction w_ih, w_hh, b_ih, b_hh."""
    layer = make_layer(kind, I, H, dtype=dtype, bidirectional=True, rng=0)
    gates, directions = {"rnn_relu": 1, "lstm": 4, "gru": 3}[kind], []
    for suffix in ("", "_reverse"):
        if kind == "rnn_relu":  # a permutation of the state: every value grows by what comes in, no faster
            w_hh = np.eye(H, dtype=np.int64)[rng.permutation(H)]
            w_ih, b_ih, b_hh = rng.integers(0, 2, (H, I)), rng.integers(1, 3, H), rng.integers(0, 2, H)
        else:
            w_ih, w_hh = (2 * UNIT * rng.integers(-1, 2, (gates * H, n)) for n in (I, H))
            b_ih, b_hh = UNIT * np.ones(gates * H, np.int64), 2 * UNIT * rng.integers(-1, 2, gates * H)
        directions.append([w_ih, w_hh, b_ih, b_hh])
        for name, w in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), directions[-1]):
            layer.params[f"{name}_l0{suffix}"][...] = w
    return layer, directions


def rnn_row(w, x, order, state, dy, dstate):
    """One row in integers: (y, state, dx, dstate0, parameter gradients)."""
    w_ih, w_hh, b_ih, b_hh = w
    h, before, y = state[0], {}, {}
    for t in order:
        before[t], h = h, w_ih @ x[t] + b_ih + w_hh @ h + b_hh
        y[t] = h
        assert h.min() > 0, "relu would cut"
    dh, dx, dw = dstate[0], {}, [np.zeros_like(array) for array in w]
    for t in reversed(order):
        da = dh + dy[t]
        dx[t], dh = w_ih.T @ da, w_hh.T @ da
        for gradient, term in zip(dw, (np.outer(da, x[t]), np.outer(da, before[t]), da, da)):
            gradient += term
    return y, (h,), dx, (dh,), dw


def lstm_row(w, x, order, state, dy, dstate):
    """Gates are 0 or 1, so what they pass on to their pre-activations is zero: only dc finds a way back."""
    w_ih, w_hh, b_ih, b_hh = w
    (h, c), y, kept = state, {}, []
    for t in order:
        a = w_ih @ x[t] + b_ih + w_hh @ h + b_hh
        assert np.abs(a).min() >= UNIT
        i, f, g, o = np.split(a, 4)
        c = (f > 0) * c + (i > 0) * np.sign(g)
        assert np.all((c == 0) | (np.abs(c) > LARGE // 2)), "tanh c would not be exact"
        h = y[t] = (o > 0) * np.sign(c)
        kept.append((f > 0, o > 0, c == 0))
    dh, dc = dstate
    for t, (f, o, open_) in zip(reversed(order), reversed(kept)):  # where c is 0, tanh has slope 1
        dc = (dc + (dh + dy[t]) * o * open_) * f
        dh = np.zeros_like(dh)
    return y, (h, c), {t: np.zeros_like(x[t]) for t in order}, (dh, dc), [np.zeros_like(array) for array in w]


def gru_row(w, x, order, state, dy, dstate):
    w_ih, w_hh, b_ih, b_hh = w
    (h,), y, kept = state, {}, []
    for t in order:
        (a_r, a_z, a_n), (u_r, u_z, u_n) = np.split(w_ih @ x[t] + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        r, z, n = a_r + u_r > 0, a_z + u_z > 0, a_n + (a_r + u_r > 0) * u_n
        assert min(np.abs(v).min() for v in (a_r + u_r, a_z + u_z, n)) >= UNIT and r.shape == z.shape
        h = y[t] = np.where(z, h, np.sign(n))
        kept.append(z)
    (dh,) = dstate
    for t, z in zip(reversed(order), reversed(kept)):
        dh = (dh + dy[t]) * z
    return y, (h,), {t: np.zeros_like(x[t]) for t in order}, (dh,), [np.zeros_like(array) for array in w]


ROWS = {"rnn_relu": rnn_row, "lstm": lstm_row, "gru": gru_row}


def integer_results(kind, directions, x, state, lengths, dy, dstate, H):
    """All that forward and backward give, by name."""
    T, B, _ = x.shape
    y, dx = np.zeros((T, B, 2 * H), np.int64), np.zeros_like(x)
    out, dstate0 = ([np.zeros_like(part) for part in state] for _ in range(2))
    results = {}
    for d, w in enumerate(directions):
        half, total = slice(d * H, (d + 1) * H), [np.zeros_like(array) for array in w]
        for b in range(B):
            order = list(range(lengths[b]))[:: -1 if d else 1]
            given = [part[d, b] for part in state], dy[:, b, half], [part[d, b] for part in dstate]
            got = ROWS[kind](w, x[:, b], order, *given)
            for t in order:
                y[t, b, half] = got[0][t]
                dx[t, b] += got[2][t]
            for target, part in zip((*out, *dstate0, *total), (*got[1], *got[3], *got[4])):
                if target.ndim == 3:
                    target[d, b] = part
                else:
                    target += part
        for name, gradient in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), total):
            results[f"{name}_l0{'_reverse' * d}"] = gradient
    states = {f"state{i}": part for i, part in enumerate(out)} | {f"dstate{i}": part for i, part in enumerate(dstate0)}
    return {"y": y, "dx": dx, **states, **results}


def integer_data(rng, kind, T, B, I, H, directions):
    """x, state, dy, dstate; for an LSTM a large c, in one half of the cases to be kept, in the other forgotten."""
    shape = (2, B, H)
    x, dy = rng.integers(0, 2, (T, B, I)), rng.integers(0, 3, (T, B, 2 * H))
    dstate = [rng.integers(0, 3, shape) for _ in range(2 if kind == "lstm" else 1)]
    h = rng.integers(1, 4, shape) if kind == "rnn_relu" else rng.integers(-1, 2, shape)
    return x, [h, LARGE * rng.choice([-1, 1], shape)] if kind == "lstm" else [h], dy, dstate


def hold_gates(layer, directions, H, mode):
    """Of an LSTM: "add" never forgets (f = 1), "forget" adds nothing (i = 0); the other gates follow the data."""
    gate, sign = {"add": (1, 1), "forget": (0, -1)}[mode]
    for d, w in enumerate(directions):
        w[2][gate * H : (gate + 1) * H] = sign * (2**20 + UNIT)
        layer.params["bias_ih_l0" + "_reverse" * d][...] = w[2]


VIEWS = {
    "plain": lambda array: array,
    "reversed": lambda array: np.array(array[::-1, ::-1])[::-1, ::-1],
    "apart": lambda array: np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3],
}


def check(kind, size, dtype, view, mode=None, seed=0):
    T, B, I, H = size
    rng = np.random.default_rng([seed, *size])
    layer, directions = integer_layer(rng, kind, I, H, dtype)
    x, state, dy, dstate = integer_data(rng, kind, T, B, I, H, directions)
    if mode:
        hold_gates(layer, directions, H, mode)
    lengths = rng.integers(0, T + 1, B)
    lengths[0] = T
    expected = integer_results(kind, directions, x, state, lengths, dy, dstate, H)
    exact = 2 ** (np.finfo(dtype).nmant + 1)
    assert all(np.abs(array).max() <= exact for array in expected.values()), "sums would round"

    real = [np.array(part, dtype) for part in state], [np.array(part, dtype) for part in dstate]
    y, out, tape = layer.forward(VIEWS[view](x.astype(dtype)), bare(tuple(real[0])), lengths=lengths)
    grads = layer.backward(tape, VIEWS[view](dy.astype(dtype)), bare(tuple(real[1])))
    got = {"y": y, "dx": grads.x, **grads.params}
    got |= {f"state{i}": part for i, part in enumerate(parts_of(out))}
    got |= {f"dstate{i}": part for i, part in enumerate(parts_of(grads.state))}
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(got[name] + dtype(0), array.astype(dtype), name)  # integers have no -0


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear_rnn(kernels, size, dtype, view):
    check("rnn_relu", size, dtype, view)


# Of LSTM and GRU: the gates' places and where they are held, and the place of the one that is linear.
HELD = {"lstm": ({0: 1, 1: 0, 3: 1}, 2), "gru": ({0: 1, 1: 0}, 2)}


def linear_layer(rng, kind, I, H, dtype):
    """A layer in both directions whose open gate computes what the linear RNN computes, times TINY; and that RNN."""
    _, directions = integer_layer(rng, "rnn_relu", I, H, dtype)
    layer = make_layer(kind, I, H, dtype=dtype, bidirectional=True, rng=0)  # the held gates keep their weights
    held, linear = HELD[kind]
    for d, w in enumerate(directions):
        for name, array, scale in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, (1, 1, TINY, TINY)):
            target = layer.params[f"{name}_l0{'_reverse' * d}"]
            target[linear * H : (linear + 1) * H] = array * scale
            for gate, value in held.items():
                if name == "bias_ih":
                    target[gate * H : (gate + 1) * H] = UNIT if value else -UNIT
    return layer, directions


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear_gate(kernels, size, dtype, kind):
    """The gradients of all weights, too: zero for the gates that are held."""
    T, B, I, H = size
    rng = np.random.default_rng([1, *size])
    layer, directions = linear_layer(rng, kind, I, H, dtype)
    x, [h], dy, [dh] = integer_data(rng, "rnn_relu", T, B, I, H, directions)
    lengths = rng.integers(0, T + 1, B)
    expected = integer_results("rnn_relu", directions, x, [h], lengths, dy, [dh], H)
    exact = 2 ** (np.finfo(dtype).nmant + 1)
    assert all(np.abs(array).max() <= exact for array in expected.values()), "sums would round"

    state, dstate = [(h * TINY).astype(dtype)], [dh.astype(dtype)]
    if kind == "lstm":  # c is forgotten; the final c is h, so that a part of the gradient may come through it
        stepless = (lengths == 0)[:, None]  # of these rows c is not forgotten
        part = rng.integers(0, 2, dh.shape) * dh * ~stepless
        state.append(np.where(stepless, state[0], dtype(1)))
        dstate = [(dh - part).astype(dtype), part.astype(dtype)]
    y, out, tape = layer.forward((x * TINY).astype(dtype), bare(tuple(state)), lengths=lengths)
    grads = layer.backward(tape, dy.astype(dtype), bare(tuple(dstate)))
    for name, part in zip(("y", "h", "c"), (y, *parts_of(out))):
        assert_same_bits(part, (expected["y" if name == "y" else "state0"] * TINY).astype(dtype), name)
    assert_same_bits(grads.x + dtype(0), expected["dx"].astype(dtype), "dx")
    dh0, *dc0 = parts_of(grads.state)
    assert_same_bits(dh0 + dtype(0), expected["dstate0"].astype(dtype), "dh0")
    assert not any(np.any(part) for part in dc0)
    linear = slice(HELD[kind][1] * H, (HELD[kind][1] + 1) * H)
    for name, gradient in grads.params.items():
        whole = np.zeros(gradient.shape, dtype)
        whole[linear] = expected[name] * (TINY if name.startswith("weight") else 1)
        assert_same_bits(gradient + dtype(0), whole, name)


@pytest.mark.parametrize("mode", ["add", "forget"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_saturated_lstm(kernels, size, dtype, mode):
    check("lstm", size, dtype, "reversed", mode)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_saturated_gru(kernels, size, dtype):
    check("gru", size, dtype, "apart")


@pytest.mark.parametrize("kind, mode", [("rnn_relu", None), ("lstm", "add"), ("gru", None)])
def test_very_long_chain(kernels, kind, mode):
    check(kind, (1500, 2, 3, 19), np.float64, "plain", mode)
