"""layer_norm: against a composition of PyTorch's operations, the reference against central differences, the others
against it, and what the package promises of every layer."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from cases import (
    assert_near,
    assert_near_float64,
    assert_same_bits,
    assert_same_bits_in_batches,
    assert_same_bits_on_threads,
    make_case,
    run,
)
from differences import differences

import fastrnn

KINDS = ("lstm_norm", "gru_norm")
FORMS = (True, "gate")
GATES = {"lstm_norm": 4, "gru_norm": 3}


def case_of(kind, T, B, I, H, dtype=np.float64, **options):
    """Gains around 1 and biases of c around 0, neither of them exactly."""
    case = make_case(kind, T, B, I, H, dtype=dtype, **options)
    rng = np.random.default_rng(5)
    for name, array in case.layer.params.items():
        if name.startswith("norm"):
            array += rng.uniform(-0.5, 0.5, array.shape)
    return case


def torch_direction(torch, kind, form, w, x, state, ends):
    """y and the final state of one direction of one layer, visited from the first step on."""
    gates, T, now = GATES[kind], len(x), list(state)
    H = now[0].shape[-1]
    gain_x, gain_h, *of_c = torch.split(w["norm"], [gates * H, gates * H] + [H] * (2 * (gates == 4)))

    def normal(v, gain):
        parts = v.reshape(len(v), gates if form == "gate" else 1, -1)
        return gain * torch.nn.functional.layer_norm(parts, parts.shape[-1:], eps=1e-5).reshape(v.shape)

    ys = []
    for t in range(T):
        a = normal(x[t] @ w["weight_ih"].T, gain_x) + w["bias_ih"]
        u = normal(now[0] @ w["weight_hh"].T, gain_h) + w["bias_hh"]
        if gates == 4:
            i, f, g, o = (a + u).chunk(4, 1)
            c = torch.sigmoid(f) * now[1] + torch.sigmoid(i) * torch.tanh(g)
            new = torch.sigmoid(o) * torch.tanh(torch.nn.functional.layer_norm(c, (H,), *of_c, eps=1e-5)), c
        else:
            (a_r, a_z, a_n), (u_r, u_z, u_n) = a.chunk(3, 1), u.chunk(3, 1)
            z, n = torch.sigmoid(a_z + u_z), torch.tanh(a_n + torch.sigmoid(a_r + u_r) * u_n)
            new = ((1 - z) * n + z * now[0],)
        valid = torch.tensor(t < ends)[:, None]
        now = [torch.where(valid, after, before) for after, before in zip(new, now)]
        ys.append(torch.where(valid, now[0], torch.zeros(())))
    return torch.stack(ys), now


def torch_results(kind, form, case):
    """What `run` gives."""
    torch = pytest.importorskip("torch")
    layer, (T, B, _) = case.layer, case.x.shape
    ends = np.full(B, T) if case.lengths is None else case.lengths
    wanted = {name: torch.tensor(array, requires_grad=True) for name, array in layer.params.items()}
    x = torch.tensor(np.nan_to_num(case.x), requires_grad=True)
    state = [torch.tensor(part, requires_grad=True) for part in case.state]
    backward = torch.tensor([[ends[b] - 1 - t if t < ends[b] else t for b in range(B)] for t in range(T)])
    y, after = x, [[] for _ in state]
    for k in range(layer.num_layers):
        outputs = []
        for d in range(1 + layer.bidirectional):
            suffix = f"_l{k}" + "_reverse" * d
            w = {name.removesuffix(suffix): array for name, array in wanted.items() if name.endswith(suffix)}
            turned = y.gather(0, backward[..., None].expand_as(y)) if d else y
            begin = [part[k * (1 + layer.bidirectional) + d] for part in state]
            out, then = torch_direction(torch, kind, form, w, turned, begin, ends)
            outputs.append(out.gather(0, backward[..., None].expand_as(out)) if d else out)
            for parts, part in zip(after, then):
                parts.append(part)
        y = torch.cat(outputs, 2)
    after = [torch.stack(parts) for parts in after]
    loss = (y * torch.tensor(np.nan_to_num(case.dy))).sum()
    (loss + sum((part * torch.tensor(d)).sum() for part, d in zip(after, case.dstate))).backward()
    found = {"y": y, "grads.x": x.grad}
    found |= {f"state[{k}]": part for k, part in enumerate(after)}
    found |= {f"grads.state[{k}]": part.grad for k, part in enumerate(state)}
    found |= {name: array.grad for name, array in wanted.items()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_torch(everywhere, kind, form):
    for T, B, H, more in (
        (6, 1, 5, {}),
        (1, 3, 40, {}),
        (7, 13, 33, {"with_lengths": True, "bidirectional": True}),
        (5, 6, 21, {"num_layers": 2, "with_lengths": True}),
    ):
        case = case_of(kind, T, B, 4, H, layer_norm=form, **more)
        found, expected = run(case), torch_results(kind, form, case)
        assert_near({name: found[name] for name in expected}, expected, 2e-12)


@pytest.mark.parametrize("options", [
    {}, {"layer_norm": "gate", "norm_eps": 0.1, "bidirectional": True}, {"between": ("resets", "state_scale")},
    {"activations": ("hard_sigmoid", ("scaled_tanh", 1.7, 0.6), "softsign"), "clip": 2.0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_s_gradients(kind, options):
    if kind == "gru_norm" and "activations" in options:
        options = options | {"activations": options["activations"][:2]}
    case = case_of(kind, 4, 2, 3, 4, **options)
    bare = case.state if len(case.state) == 2 else case.state[0]

    def loss():
        y, after = case.layer(case.x, bare, **case.between)
        after = after if isinstance(after, tuple) else (after,)
        return (y * case.dy).sum() + sum((part * d).sum() for part, d in zip(after, case.dstate))

    with fastrnn.use_backend("numpy"):
        found = run(case)
        arrays = {"grads.x": case.x, **{f"grads.state[{k}]": part for k, part in enumerate(case.state)}}
        arrays |= case.layer.params
        if case.between:
            arrays["grads.state_scale"] = case.between["state_scale"]
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name], differences(loss, array), rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("H", [5, 70, 130])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree(kernels, kind, form, H):
    """Few terms, whose gradients are taken another way; more rows than wait together; more than a chunk of terms."""
    masks = {"zoneout": 0.2, "recurrent_dropout": 0.3}
    for T, B, more in ((2, 3, masks), (9, 13, {"num_layers": 2, "bidirectional": True}), (4, 200, masks), (40, 20, {})):
        case = case_of(kind, T, B, 6, H, layer_norm=form, with_lengths=T > 2, between=("resets",), **more)
        begin = copy.deepcopy(case.layer.rng)
        found = run(case)
        with fastrnn.use_backend("numpy"):
            if begin is not None:
                case.layer.rng.bit_generator.state = begin.bit_generator.state
            expected = run(case)
        assert_near(found, expected, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kernels, kind):
    case = case_of(kind, 11, 9, 6, 70, np.float32, with_lengths=True, num_layers=2)
    assert_near_float64(case, 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_zoneout_of_c_leaves_what_was_normalised(kernels, kind):
    """Units of c that stay, and of h that do not: h is of the c that was made."""
    keep = (0.0, 0.5) if kind == "lstm_norm" else 0.5
    case = case_of(kind, 5, 4, 3, 21, zoneout=keep, layer_norm="gate")
    begin = case.layer.rng.bit_generator.state
    found = run(case)
    with fastrnn.use_backend("numpy"):
        case.layer.rng.bit_generator.state = begin
        assert_near(found, run(case), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_any_number_of_threads_and_in_any_batch(kernels, threads, kind):
    case = case_of(kind, 12, 15, 20, 70, np.float32, with_lengths=True, bidirectional=True)
    assert_same_bits_on_threads(case, threads)
    assert_same_bits_in_batches(case)


@pytest.mark.parametrize("B", [1, 2, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_in_chunks_steps_and_with_checkpoints(kernels, kind, B):
    case = case_of(kind, 14, B, 19, 70, np.float32, num_layers=2)
    bare = case.state if len(case.state) == 2 else case.state[0]
    layer, served = case.layer, case.layer.freeze()
    y, state, tape = layer.forward(case.x, bare)
    assert_same_bits(layer(case.x, bare)[0], y, "call")
    assert_same_bits(served(case.x, bare)[0], y, "frozen")
    first, now = layer(case.x[:5], bare)
    assert_same_bits(np.concatenate([first, layer(case.x[5:], now)[0]]), y, "chunks")
    ys, now = [], bare
    for x_t in case.x:
        y_t, now = served.step(x_t, now)
        ys.append(y_t)
    assert_same_bits(np.stack(ys), y, "steps")
    grads = layer.backward(tape, case.dy)
    for every in (1, 5):
        _, _, kept = layer.forward(case.x, bare, checkpoint=every)
        for name, array in layer.backward(kept, case.dy).params.items():
            assert_same_bits(array, grads.params[name], f"{name}, checkpoint={every}")


@pytest.mark.parametrize("lengths", [None, (64, 3, 0, 64, 17, 33, 1, 40)], ids=["whole", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_where_blocks_of_terms_span_calls(kernels, threads, kind, lengths):
    """Sums of 256 terms, full at a call's end (checkpoint=32) or open there; where rows end, calls without terms."""
    case = case_of(kind, 64, 8, 3, 18, np.float32, bidirectional=True)
    given, results = {"lengths": lengths and np.array(lengths)}, []
    for count, every in itertools.product((1, 2, 3), (None, 32, 9)):
        threads(count)
        _, _, tape = case.layer.forward(case.x, checkpoint=every, **given)
        grads = case.layer.backward(tape, case.dy)
        results.append(({"x": grads.x, **grads.params}, f"threads={count}, checkpoint={every}"))
    expected = results[0][0]
    for found, what in results[1:]:
        for name, array in found.items():
            assert_same_bits(array, expected[name], f"{name}, {what}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_products_that_do_not_vary_count_as_zero(everywhere, kind, dtype):
    """A variance of zero: n is zero, whatever the gains, and so are the gradients by the weights."""
    case = case_of(kind, 3, 2, 4, 6, dtype)
    layer, H = case.layer, 6
    for name in ("weight_ih_l0", "weight_hh_l0"):
        layer.params[name][...] = 0.5
    y, _, tape = layer.forward(case.x)
    without = case_of(kind, 3, 2, 4, 6, dtype).layer
    for name in without.params:
        without.params[name] = layer.params[name] * (not name.startswith("weight"))
    near = 1e4 * np.finfo(dtype).eps  # a mean is rounded, and 1 / √eps is 316
    np.testing.assert_allclose(y, without(case.x)[0], rtol=0, atol=near)
    grads = layer.backward(tape, case.dy)
    assert all(np.isfinite(array).all() for array in grads.params.values())
    gains = grads.params["norm_l0"][: 2 * GATES[kind] * H]
    np.testing.assert_allclose(gains, 0, atol=near)


def test_what_a_layer_says_of_itself(backend):
    layer = fastrnn.LSTM(3, 4, 2, layer_norm=True, bidirectional=True, rng=0)
    assert layer.params["norm_l1_reverse"].shape == (40,)
    assert np.array_equal(layer.params["norm_l0"], np.repeat([1, 0], [36, 4]))
    assert np.array_equal(fastrnn.GRU(3, 4, layer_norm="gate", init="keras").params["norm_l0"], np.ones(24))
    assert "layer_norm=True" in repr(layer) and layer.config["layer_norm"] is True
    assert "layer_norm" not in fastrnn.LSTM(3, 4).config and "norm_eps" not in layer.config
    for kind, options in (
        (fastrnn.LSTM, {"layer_norm": "gate", "norm_eps": 0.01}),
        (fastrnn.GRU, {"layer_norm": True}),
    ):
        layer = kind(3, 4, rng=0, **options)
        assert {name: layer.config.get(name) for name in options} == options
        x = np.random.default_rng(0).standard_normal((5, 2, 3), np.float32)
        y, _ = layer(x)
        for other in (
            pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer.freeze(),
            kind.from_state_dict(layer.state_dict(), **options),
        ):  # fmt: skip
            assert_same_bits(other(x)[0], y, repr(other))
        _, _, tape = layer.forward(x)
        gates = len(layer.params["norm_l0"]) // 4 // 2 if kind is fastrnn.GRU else 4
        products = x @ layer.params["weight_ih_l0"].T
        of_x = [array for name, array in tape.gates[0].items() if name.startswith("x_")]
        assert len(of_x) == gates
        np.testing.assert_allclose(np.concatenate(of_x, axis=-1), products, atol=1e-6)


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU])
def test_a_file_keeps_the_options(kind, tmp_path):
    pytest.importorskip("safetensors")
    layer = kind(3, 4, layer_norm="gate", norm_eps=0.01, rng=0)
    fastrnn.save(tmp_path / "layer.safetensors", layer=layer)
    x = np.random.default_rng(0).standard_normal((5, 2, 3), np.float32)
    assert_same_bits(fastrnn.load(tmp_path / "layer.safetensors")["layer"](x)[0], layer(x)[0], "y")


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (fastrnn.LSTM, {"layer_norm": "gates"}, ValueError, "layer_norm: expected 'gate', got 'gates'"),
        (fastrnn.GRU, {"layer_norm": 1}, TypeError, "layer_norm: expected True or False"),
        (fastrnn.LSTM, {"layer_norm": True, "peephole": True}, ValueError, "peephole: expected False with layer_norm"),
        (fastrnn.LSTM, {"layer_norm": True, "coupled": True}, ValueError, "coupled: expected False with layer_norm"),
        (fastrnn.GRU, {"layer_norm": True, "reset": "before"}, ValueError, "reset: expected 'after' with layer_norm"),
        (fastrnn.LSTM, {"layer_norm": True, "proj_size": 2}, ValueError, "proj_size: expected 0 with layer_norm"),
        (fastrnn.LSTM, {"layer_norm": True, "norm_eps": 0.0}, ValueError, "norm_eps: expected a finite number above 0"),
        (fastrnn.GRU, {"norm_eps": "x"}, TypeError, "norm_eps: expected a real number"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(3, 4, **options)


def test_parameters_of_another_form_are_refused():
    plain, normed = fastrnn.GRU(3, 4), fastrnn.GRU(3, 4, layer_norm=True)
    with pytest.raises(ValueError, match="norm_l0"):
        normed.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="norm_l0"):
        plain.load_state_dict(normed.state_dict())
    with pytest.raises(ValueError, match="layer: expected one without layer normalisation"):
        fastrnn.flow.gradient_flow(normed, np.zeros((3, 3)))
