"""Recurrent dropout and zoneout against a loop in NumPy that is given the masks of the tape."""

import json
import pickle
from functools import cache

import numpy as np
import pytest
from cases import (
    assert_results_close,
    assert_same_bits,
    bare,
    make_case,
    make_layer,
    parts_of,
    run,
)

import fastrnn
from fastrnn.spec import CELLS

T, B, I, H = 6, 4, 3, 5
BOTH = {"recurrent_dropout": 0.3, "zoneout": 0.4}
STACK = {"num_layers": 2, "bidirectional": True}
OPTIONS = {kind: {} for kind in CELLS} | {
    "lstm with peepholes": {"peephole": True, "activations": ("sigmoid", "softsign", "tanh")},
    "rnn of softplus": {"activations": ["softplus"]},
}


def kind_of(option):
    return {"lstm with peepholes": "lstm", "rnn of softplus": "rnn_tanh"}.get(option, option)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def new_state(option, w, x, h, c, fed):
    """h and c of a step without zoneout, `fed` being what W_hh takes."""
    a, u = x @ w["weight_ih"].T + w["bias_ih"], fed @ w["weight_hh"].T + w["bias_hh"]
    if option == "gru_reset_first":
        (a_r, a_z, a_n), (u_r, u_z, _) = np.split(a, 3, 1), np.split(u, 3, 1)
        (_, _, w_n), (_, _, b_n) = np.split(w["weight_hh"], 3), np.split(w["bias_hh"], 3)
        z, n = sigmoid(a_z + u_z), np.tanh(a_n + (sigmoid(a_r + u_r) * fed) @ w_n.T + b_n)
        return (1 - z) * n + z * h, None
    if option == "gru":
        (a_r, a_z, a_n), (u_r, u_z, u_n) = np.split(a, 3, 1), np.split(u, 3, 1)
        z, n = sigmoid(a_z + u_z), np.tanh(a_n + sigmoid(a_r + u_r) * u_n)
        return (1 - z) * n + z * h, None
    if option.endswith("norm"):
        return normalised_state(option, w, x, h, c, fed)
    v = a + u
    if option == "lstm_coupled":
        i, g, o = np.split(v, 3, 1)
        c = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if "lstm" in option:
        i, f, g, o = np.split(v, 4, 1)
        p_i, p_f, p_o = np.split(w["peephole"], 3) if "peephole" in w else (0, 0, 0)
        g = g / (1 + np.abs(g)) if "peephole" in w else np.tanh(g)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * g
        return sigmoid(o + p_o * c) * np.tanh(c), c
    f = np.log1p(np.exp(v)) if "softplus" in option else np.maximum(v, 0) if "relu" in option else np.tanh(v)
    return (h + w["alpha"] * (f - h) if "leaky" in option else f), None


def standard(v):
    return (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)


def normalised_state(option, w, x, h, c, fed):
    """The same of layer normalisation, all gates together."""
    G, size = len(w["weight_hh"]), h.shape[1]
    gain_x, gain_h, rest = np.split(w["norm"], [G, 2 * G])
    a = gain_x * standard(x @ w["weight_ih"].T) + w["bias_ih"]
    u = gain_h * standard(fed @ w["weight_hh"].T) + w["bias_hh"]
    if option == "gru_norm":
        (a_r, a_z, a_n), (u_r, u_z, u_n) = np.split(a, 3, 1), np.split(u, 3, 1)
        z, n = sigmoid(a_z + u_z), np.tanh(a_n + sigmoid(a_r + u_r) * u_n)
        return (1 - z) * n + z * h, None
    i, f, g, o = np.split(a + u, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(rest[:size] * standard(c) + rest[size:]), c


def loop(option, case, masks, moved=(0, 0)):
    """y and the final state; `masks` by name for each layer and direction, of arrays (T, B, H) or numbers.

    `moved`, each (T, L·D, B, H), is added to h and to c after every step.
    """
    layer, between = case.layer, case.between
    D, y, ends, (T, B) = 1 + layer.bidirectional, case.x, case.lengths, case.x.shape[:2]
    ends = np.full(B, T) if ends is None else ends
    resets, scale = between.get("resets", np.zeros((T, B), bool)), between.get("state_scale", np.ones((T, B, 1)))
    after = [part.copy() for part in case.state]
    for k in range(layer.num_layers):
        outputs = []
        for d in range(D):
            suffix, row = f"_l{k}" + "_reverse" * d, k * D + d
            w = {n.removesuffix(suffix): array for n, array in layer.params.items() if n.endswith(suffix)}
            given = {name: np.broadcast_to(mask, (T, B, layer.hidden_size)) for name, mask in masks[row].items()}
            state, out = [part[row] for part in case.state], np.zeros((T, B, layer.hidden_size))
            added = [np.broadcast_to(part, (T, len(masks), *out.shape[1:]))[:, row] for part in moved]
            for t in range(T)[:: -1 if d else 1]:
                valid = (t < ends)[:, None]
                begins = resets[t] if not d else resets[t + 1] & (t + 1 < ends) if t + 1 < T else np.zeros(B, bool)
                entered = [np.where(begins[:, None], 0, part * scale[t]) for part in state]
                fed = entered[0] * given["recurrent_dropout"][t] if "recurrent_dropout" in given else entered[0]
                new = new_state(option, w, np.where(valid, y[t], 0), *(entered + [None])[:2], fed)
                for p, (name, before) in enumerate(zip(("zoneout_h", "zoneout_c"), entered)):
                    m = given[name][t] if name in given else 0
                    state[p] = np.where(valid, m * before + (1 - m) * new[p] + added[p][t], state[p])
                out[t] = np.where(valid, state[0], 0)
            outputs.append(out)
            for part, value in zip(after, state):
                part[row] = value
        y = np.concatenate(outputs, axis=-1)
    return y, after


def loss(option, case, masks, moved):
    y, after = loop(option, case, masks, moved)
    valid = ~np.isnan(case.dy)
    return (y[valid] * case.dy[valid]).sum() + sum((part * d).sum() for part, d in zip(after, case.dstate))


def forward(case):
    return case.layer.forward(case.x, bare(case.state), lengths=case.lengths, **case.between)


def restarted(case):
    """The case, its layer's generator where it began."""
    case.layer.rng.bit_generator.state = np.random.PCG64(5).state
    return case


def in_stack(option, **more):
    options = BOTH | STACK | OPTIONS[option] | more
    return make_case(
        kind_of(option), T, B, I, H, seed=2, with_lengths=True, between=("resets", "state_scale"), dtype=np.float64,
        **options,
    )  # fmt: skip


@cache
def expected(option):
    """By the loop: y, the final state, and of every gradient the products with random directions."""
    case = restarted(in_stack(option))
    with fastrnn.use_backend("numpy"):
        masks = forward(case)[2].masks
    y, after = loop(option, case, masks)
    arrays = {"grads.x": case.x, **{f"grads.state[{p}]": part for p, part in enumerate(case.state)}}
    arrays |= {"grads.state_scale": case.between["state_scale"], **case.layer.params}
    moved = [np.zeros((T, *part.shape)) for part in case.state]
    arrays |= {f"grads.states[{p}]": part for p, part in enumerate(moved)}
    slopes = {}
    for name, array in arrays.items():
        for seed in range(3):
            along, sides = 1e-6 * np.random.default_rng(seed).standard_normal(array.shape), []
            for sign in (1, -2, 1):
                array += sign * along
                sides.append(loss(option, case, masks, moved))
            slopes[name, seed] = (sides[0] - sides[1]) / 2e-6
    return masks, {"y": y, **{f"state[{p}]": part for p, part in enumerate(after)}}, slopes


@pytest.mark.parametrize("option", OPTIONS)
def test_values_and_gradients(backend, option):
    """Both at once, in both directions of two layers, of rows of different lengths, with resets and scales."""
    masks, values, slopes = expected(option)
    case = restarted(in_stack(option))
    tape = forward(case)[2]
    for drawn, same in zip(tape.masks, masks, strict=True):
        assert drawn.keys() == {"recurrent_dropout", "zoneout_h", "zoneout_c"} & drawn.keys() == same.keys()
        assert all(np.array_equal(drawn[name], same[name]) for name in same)
    found = run(restarted(case))
    states = case.layer.backward(tape, case.dy, bare(case.dstate), states=True).states
    found |= {f"grads.states[{p}]": part for p, part in enumerate(parts_of(states))}
    for name, array in values.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-13, err_msg=name)
    for (name, seed), slope in slopes.items():
        along = np.random.default_rng(seed).standard_normal(found[name].shape)
        got = np.nansum(found[name] * along)
        np.testing.assert_allclose(got, slope, rtol=1e-6, atol=1e-7, err_msg=name)


LARGER = (  # (T, B, I, H): single rows and several, in and beside whole vectors, on shared units and rows
    ((9, 1, 4, 40), {"recurrent_dropout": 0.5, "zoneout": 0.3}),
    ((12, 1, 4, 64), {"zoneout": 0.3}),
    ((7, 33, 4, 21), {"recurrent_dropout": 0.25, "mask_per": "step"}),
    ((9, 3, 70, 70), {"zoneout": 0.3, "mask_per": "sequence", "direction": "reverse"}),
    ((1, 6, 4, 40), {"recurrent_dropout": 0.5, "zoneout": 0.3}),
    ((2, 3, 5, 21), {"recurrent_dropout": 0.5}),
    ((30, 20, 5, 64), {"recurrent_dropout": 0.1, "zoneout": 0.2}),
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", CELLS)
def test_backends_agree(kernels, kind, dtype):
    for k, (sizes, options) in enumerate(LARGER):
        between = [(), ("resets",), ("state_scale",), ("mask",)][(k + len(kind)) % 4]
        lengths = between != ("mask",)
        case = make_case(kind, *sizes, seed=k, with_lengths=lengths, between=between, dtype=dtype, **options)
        found = run(restarted(case))
        with fastrnn.use_backend("numpy"):
            wanted = run(restarted(case))
        assert_results_close(found, wanted, case)


@pytest.mark.parametrize("kind", CELLS)
def test_nan_and_infinity_go_where_the_reference_takes_them(kernels, kind):
    for value in (np.nan, np.inf, -np.inf):
        case = make_case(kind, 3, 8, I, 19, seed=1, dtype=np.float64, between=("state_scale",), **BOTH)
        for row, array in enumerate((case.x, case.dy, *case.state, *case.dstate)):
            array[0, row, row % array.shape[-1]] = value
        with np.errstate(all="ignore"):
            found = run(restarted(case))
            with fastrnn.use_backend("numpy"):
                wanted = run(restarted(case))
        for name, array in wanted.items():
            np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(array), err_msg=name)


@pytest.mark.parametrize("kind", CELLS)
def test_same_bits_on_any_number_of_threads(level, kind):
    for k, (sizes, between) in enumerate([((9, 33, 48, 96), ("resets",)), ((12, 1, 64, 130), ("state_scale",))]):
        case = make_case(kind, *sizes, seed=k, with_lengths=True, between=between, bidirectional=True, **BOTH)
        results = []
        for threads in (1, 2, 3):
            fastrnn.set_num_threads(threads)
            results.append(run(restarted(case)))
        for other in results[1:]:
            for name, array in results[0].items():
                assert_same_bits(other[name], array, name)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_expectation_is_what_is_kept_without_a_tape(backend, option):
    """In a call, of a frozen layer and step by step; recurrent dropout does nothing there."""
    zoneout = (0.5, 0.2) if len(CELLS[kind_of(option)].states) == 2 else 0.3
    options = {"num_layers": 2, **OPTIONS[option], "recurrent_dropout": 0.9, "zoneout": zoneout}
    for B, H in ((1, 40), (5, 9)):
        case = make_case(kind_of(option), T, B, I, H, seed=1, dtype=np.float64, **options)
        share = dict(zip(("zoneout_h", "zoneout_c"), np.atleast_1d(zoneout)))
        y, after = loop(option, case, [share] * 2)
        frozen, state, steps = case.layer.freeze(), bare(case.state), []
        for x in case.x:
            y_t, state = frozen.step(x, state)
            steps.append(y_t)
        for found, last in (case.layer(case.x, bare(case.state)), frozen(case.x, bare(case.state)), (steps, state)):
            np.testing.assert_allclose(found, y, rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(last, bare(after), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", CELLS)
def test_steps_rows_and_chunks_have_the_bits_of_the_whole(kernels, kind):
    for B, H in ((3, 19), (1, 40)):
        layer = make_layer(kind, I, H, zoneout=0.25, rng=0)
        x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
        (y, after), frozen, state = layer(x), layer.freeze(), layer.zero_state(B)
        for t in range(T):
            y_t, state = frozen.step(x[t], state)
            assert_same_bits(y_t, y[t], "y")
        assert_same_bits(np.array(state), np.array(after), "state")
        assert_same_bits(layer(x[:, -1:])[0], np.ascontiguousarray(y[:, -1:]), "y of the last row")
        first, between = layer(x[:2])
        rest, _ = layer(x[2:], between)
        assert_same_bits(np.concatenate([first, rest]), y, "y in chunks")


@pytest.mark.parametrize("kind", CELLS)
def test_checkpoints_have_the_same_bits(kernels, kind):
    case = make_case(kind, 11, 4, I, 21, seed=3, with_lengths=True, between=("resets", "state_scale"), **BOTH, **STACK)

    def everything(**checkpoint):
        arguments = {"lengths": case.lengths, **case.between, **checkpoint}
        y, _, tape = restarted(case).layer.forward(case.x, bare(case.state), **arguments)
        grads = case.layer.backward(tape, case.dy, bare(case.dstate))
        return [y, grads.x, *parts_of(grads.state), grads.state_scale, *grads.params.values()]

    for found, kept in zip(everything(checkpoint=4), everything(), strict=True):
        assert_same_bits(found, kept, "with checkpoints")


@pytest.mark.parametrize("mask_per", [None, "step", "sequence"])
def test_masks_are_drawn_in_order_and_shown(backend, mask_per):
    options = {"dropout": 0.5, "recurrent_dropout": 0.25, "zoneout": (0.4, 0.1), "mask_per": mask_per}
    layer = fastrnn.LSTM(I, H, batch_first=True, rng=3, **STACK, **options)
    rng = np.random.default_rng(9)
    layer.rng.bit_generator.state = rng.bit_generator.state
    x = np.ones((B, T, I), np.float32)
    tape = layer.forward(x)[2]
    assert len(tape.masks) == 4
    for k in range(2):
        if k:
            rng.random((T, B, 2 * H), np.float32)  # of dropout
        for name, p, custom, there, elsewhere in (
            ("recurrent_dropout", 0.25, "sequence", 0, 1 / 0.75),
            ("zoneout_h", 0.4, "step", 1, 0),
            ("zoneout_c", 0.1, "step", 1, 0),
        ):
            drawn = rng.random((T if (mask_per or custom) == "step" else 1, B, 2 * H), np.float32) < p
            wanted = np.where(np.repeat(drawn, T // len(drawn), axis=0), there, elsewhere).astype(np.float32)
            for d in range(2):
                mask = tape.masks[2 * k + d][name]
                assert mask.shape == (B, T, H) and not mask.flags.writeable
                np.testing.assert_array_equal(mask.swapaxes(0, 1), wanted[:, :, d * H : (d + 1) * H])
    unbatched = fastrnn.GRU(I, H, rng=0, zoneout=0.5).forward(x[0])[2].masks
    assert unbatched[0]["zoneout_h"].shape == (T, H)
    assert fastrnn.GRU(I, H, rng=0).forward(x)[2].masks == ({},)


def test_masks_are_in_the_caller_s_order(backend):
    """Steps that a mask leaves out keep the state: what remains is the loop over the others."""
    case = make_case("lstm", 9, 3, I, H, seed=2, between=("mask",), dtype=np.float64, **BOTH)
    y, _, tape = forward(case)
    for b in range(3):
        valid = case.between["mask"][:, b]
        row = case._replace(x=case.x[valid, b : b + 1], state=[s[:, b : b + 1] for s in case.state], between={})
        masks = [{name: mask[valid, b : b + 1] for name, mask in tape.masks[0].items()}]
        np.testing.assert_allclose(y[valid, b], loop("lstm", row, masks)[0][:, 0], rtol=1e-12, atol=1e-13)


def test_the_same_seed_draws_the_same(backend):
    x = np.ones((T, B, I), np.float32)
    layers = [fastrnn.GRU(I, H, rng=1, **BOTH) for _ in range(2)]
    layers.append(pickle.loads(pickle.dumps(layers[0])))
    first, second = ([layer.forward(x)[0] for layer in layers] for _ in range(2))
    for found in (first, second):
        assert all(np.array_equal(y, found[0]) for y in found)
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("kind", CELLS)
def test_a_probability_of_zero_is_the_plain_layer(kind):
    plain, layer = (make_layer(kind, I, H, rng=0, **o) for o in ({}, {"recurrent_dropout": 0, "zoneout": 0.0}))
    assert layer.rng is None and layer._spec == plain._spec and repr(layer) == repr(plain)
    one = make_layer(kind, I, H, rng=0, zoneout=(0.5, 0) if kind.startswith("lstm") else 0.5)
    assert one.forward(np.ones((T, B, I), np.float32))[2].masks[0].keys() == {"zoneout_h"}


def test_arguments_are_told_and_kept(tmp_path):
    for layer, text in (
        (fastrnn.LSTM(I, H, rng=0, zoneout=(0.5, 0.25), mask_per="step"), "zoneout=[0.5, 0.25], mask_per='step'"),
        (fastrnn.LSTM(I, H, rng=0, zoneout=[0.5, 0.5]), "zoneout=0.5"),
        (fastrnn.RNN(I, H, rng=0, nonlinearity="relu", recurrent_dropout=0.5), "recurrent_dropout=0.5"),
        (fastrnn.LeakyRNN(I, H, rng=0, nonlinearity="relu", zoneout=0.5), "zoneout=0.5"),
    ):
        again = type(layer)(**json.loads(json.dumps(layer.config)), rng=0)
        assert text in repr(layer) == repr(again) and again._spec == layer._spec
        x = np.ones((T, B, I), np.float32)
        options = {k: v for k, v in layer.config.items() if k in ("zoneout", "recurrent_dropout", "nonlinearity")}
        loaded = type(layer).from_state_dict(layer.state_dict(), **options)
        assert_same_bits(loaded(x)[0], layer(x)[0], "y")
        assert_same_bits(pickle.loads(pickle.dumps(layer.freeze()))(x)[0], layer(x)[0], "y")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (fastrnn.GRU, {"recurrent_dropout": 1.0}, ValueError, "recurrent_dropout: expected a number of at least 0 and"),
        (fastrnn.GRU, {"recurrent_dropout": -0.1}, ValueError, "recurrent_dropout: .* below 1, got -0.1"),
        (fastrnn.RNN, {"recurrent_dropout": True}, TypeError, "recurrent_dropout: expected a real number"),
        (fastrnn.LSTM, {"zoneout": 1}, ValueError, "zoneout: expected a number of at least 0 and below 1, got 1.0"),
        (fastrnn.LSTM, {"zoneout": np.nan}, ValueError, "zoneout: expected a number of at least 0 and below 1"),
        (fastrnn.LSTM, {"zoneout": (0.1, 1.5)}, ValueError, r"zoneout\[1\]: .* got 1.5"),
        (
            fastrnn.LSTM,
            {"zoneout": (0.1, 0.1, 0.1)},
            ValueError,
            "zoneout: expected a number or a pair, .* got 3 items",
        ),
        (fastrnn.LSTM, {"zoneout": (0.1, False)}, TypeError, r"zoneout\[1\]: expected a real number"),
        (fastrnn.LeakyRNN, {"zoneout": (0.1, 0.1)}, TypeError, "zoneout: expected a number for a cell whose state"),
        (fastrnn.GRU, {"zoneout": "half"}, TypeError, "zoneout: expected a real number, got str"),
        (fastrnn.GRU, {"mask_per": "row"}, ValueError, "mask_per: expected 'step', 'sequence' or None, got 'row'"),
        (fastrnn.GRU, {"mask_per": 1}, TypeError, "mask_per: expected 'step', 'sequence' or None, got int"),
    ],
)
def test_bad_arguments(make, options, error, message):
    with pytest.raises(error, match=message):
        make(I, H, rng=0, **options)
