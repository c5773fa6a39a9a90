"""LSTM(…, proj_size=P): against PyTorch, the reference against central differences, the others against it, and what the
package promises of every layer."""

import copy
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

OPTIONS = {
    "plain": {},
    "coupled": {"coupled": True},
    "peephole": {"peephole": True, "clip": 0.4, "activations": ("sigmoid", "softsign", ("scaled_tanh", 1.7, 0.6))},
}
# H and P: a vector that is not full; several panels of either; P that fills its panels.
SIZES = [(5, 2), (70, 33), (130, 64)]


def case_of(T, B, I, H, P, dtype=np.float64, **options):
    return make_case("lstm", T, B, I, H, proj_size=P, dtype=dtype, **options)


def torch_results(case):
    """What `run` gives, by torch."""
    torch = pytest.importorskip("torch")
    layer, past = case.layer, np.isnan(case.x)
    options = {name: getattr(layer, name) for name in ("num_layers", "bias", "bidirectional", "proj_size")}
    module = torch.nn.LSTM(layer.input_size, layer.hidden_size, dtype=torch.float64, **options)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        name: array.shape for name, array in layer.params.items()
    }
    assert list(layer.params) == [name for name, _ in module.named_parameters()]
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.params.items()})
    x, h, c = (torch.tensor(np.nan_to_num(a), requires_grad=True) for a in (case.x, *case.state))
    given = x
    if case.lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(case.lengths), enforce_sorted=False)
    y, after = module(given, (h, c))
    if case.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(case.x))
    loss = (y * torch.tensor(np.nan_to_num(case.dy))).sum()
    (loss + sum((part * torch.tensor(d)).sum() for part, d in zip(after, case.dstate))).backward()
    assert not np.any(x.grad.numpy()[past])
    found = {"y": y, "state[0]": after[0], "state[1]": after[1]}
    found |= {"grads.x": x.grad, "grads.state[0]": h.grad, "grads.state[1]": c.grad}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_torch(everywhere, options, with_lengths):
    case = case_of(9, 6, 5, 21, 13, **options)
    if with_lengths:
        lengths = np.array([9, 1, 4, 9, 2, 7])
        past = np.arange(9)[:, None] >= lengths
        case = case._replace(lengths=lengths)
        case.x[past], case.dy[past] = np.nan, np.nan
    assert_near(run(case), torch_results(case), 1e-13)


@pytest.mark.parametrize("between", [(), ("resets", "state_scale")], ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_the_reference_s_gradients(option, between):
    case = case_of(4, 2, 3, 4, 2, bidirectional=not between, between=between, **OPTIONS[option])
    if between:
        case.between["state_scale"] = case.between["state_scale"][..., 0].copy()

    def loss():
        y, after = case.layer(case.x, case.state, **case.between)
        return (y * case.dy).sum() + sum((part * d).sum() for part, d in zip(after, case.dstate))

    with fastrnn.use_backend("numpy"):
        found = run(case)
        arrays = {"grads.x": case.x, "grads.state[0]": case.state[0], "grads.state[1]": case.state[1]}
        arrays |= case.layer.params
        if between:
            arrays["grads.state_scale"] = case.between["state_scale"]
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name], differences(loss, array), rtol=1e-5, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_backends_agree(kernels, option, size):
    """Few terms, whose gradients are taken another way, and more than a chunk of them."""
    for T, B, more in ((2, 3, {}), (9, 13, {"num_layers": 2, "bidirectional": True}), (40, 20, {})):
        case = case_of(T, B, 6, *size, with_lengths=T > 2, **more, **OPTIONS[option])
        found = run(case)
        with fastrnn.use_backend("numpy"):
            expected = run(case)
        assert_near(found, expected, 3e-13)


def test_single_precision(kernels):
    case = case_of(11, 9, 6, 70, 33, np.float32, with_lengths=True, num_layers=2)
    assert_near_float64(case, 5e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_on_any_number_of_threads(kernels, threads, dtype):
    for T, B, more in ((30, 1, {}), (30, 2, {"bidirectional": True}), (40, 20, {})):
        case = case_of(T, B, 40, 130, 70, dtype, with_lengths=B > 2, **more)
        assert_same_bits_on_threads(case, threads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_in_any_batch(kernels, dtype):
    case = case_of(12, 15, 20, 70, 33, dtype, with_lengths=True, bidirectional=True)
    assert_same_bits_in_batches(case)


@pytest.mark.parametrize("B", [1, 2, 11])
def test_same_bits_in_chunks_and_steps(kernels, B):
    case = case_of(14, B, 19, 70, 33, np.float32, num_layers=2)
    served = case.layer.freeze()
    whole, state = case.layer(case.x, case.state)
    y, trained, _ = case.layer.forward(case.x, case.state)
    assert_same_bits(y, whole, "training")
    assert_same_bits(served(case.x, case.state)[0], whole, "frozen")
    for length in (1, 5):
        ys, now = [], case.state
        for t in range(0, 14, length):
            y, now = case.layer(case.x[t : t + length], now)
            ys.append(y)
        assert_same_bits(np.concatenate(ys), whole, f"chunks of {length}")
    ys, now = [], tuple(part.copy() for part in case.state)
    out = np.empty((B, 33), np.float32), now  # over the state itself
    for t, x_t in enumerate(case.x):
        y, now = served.step(x_t, now, out) if t % 2 else served.step(x_t.tolist(), now)
        out = out[0], now
        ys.append(y.copy())
    assert_same_bits(np.stack(ys), whole, "steps")
    for k in range(2):
        assert_same_bits(now[k], state[k], f"state[{k}] after steps")
        assert_same_bits(trained[k], state[k], f"state[{k}] in training")


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"direction": "reverse"}], ids=str)
def test_checkpoints_change_no_bits(kernels, options):
    case = case_of(23, 13, 7, 70, 33, np.float32, with_lengths=True, between=("resets",), **options)

    def results(**how):
        y, state, tape = case.layer.forward(case.x, case.state, lengths=case.lengths, **case.between, **how)
        grads = case.layer.backward(tape, case.dy, case.dstate, states=True)
        pairs = {"state": state, "dstate": grads.state, "states": grads.states}
        found = {"y": y, "x": grads.x, **grads.params}
        return found | {f"{name}[{k}]": pair[k] for name, pair in pairs.items() for k in range(2)}

    expected = results()
    for every in (1, 5):
        for name, array in results(checkpoint=every).items():
            assert_same_bits(array, expected[name], f"{name}, checkpoint={every}")


def test_gradients_by_every_state(everywhere):
    """`states` are those by the states that a pass cut in two would take."""
    case = case_of(6, 3, 4, 37, 20)
    y, state, tape = case.layer.forward(case.x, case.state)
    states = case.layer.backward(tape, case.dy, case.dstate, states=True).states
    assert [part.shape for part in states] == [(6, 1, 3, 20), (6, 1, 3, 37)]
    _, middle = case.layer(case.x[:4], case.state)
    _, _, later = case.layer.forward(case.x[4:], middle)
    found = case.layer.backward(later, case.dy[4:], case.dstate).state
    for part, after, dy in zip(found, states, (case.dy[3], 0)):
        np.testing.assert_allclose(after[3, 0], part[0] + dy, rtol=0, atol=1e-13)


def test_what_happens_between_steps(everywhere):
    """Each against the loop over steps that it stands for."""
    case = case_of(8, 5, 4, 37, 20, between=("resets", "state_scale", "mask"))
    resets, mask = case.between["resets"], case.between["mask"]
    scale = case.between["state_scale"][..., 0]
    y, state = case.layer(case.x, case.state, resets=resets, state_scale=scale, mask=mask)
    now = [part.copy() for part in case.state]
    for t in range(8):
        entered = [np.where(resets[t][:, None], 0, part * scale[t][:, None]) for part in now]
        x_t = np.where(mask[t][:, None], case.x[t], 0)
        y_t, after = case.layer(x_t[None], tuple(entered))
        now = [np.where(mask[t][:, None], new, old) for new, old in zip(after, now)]
        np.testing.assert_allclose(y[t], np.where(mask[t][:, None], y_t[0], 0), rtol=0, atol=1e-13)
    for found, expected in zip(state, now):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_recurrent_dropout_is_of_the_projected_h(everywhere):
    """Along a direction of all parameters; and what the tape shows is what a layer of one direction multiplies."""
    layer = fastrnn.LSTM(3, 9, 2, bidirectional=True, proj_size=5, recurrent_dropout=0.4, dtype=np.float64, rng=0)
    rng, begin = np.random.default_rng(1), layer.rng.bit_generator.state
    x, along = rng.standard_normal((6, 4, 3)), {n: rng.standard_normal(a.shape) for n, a in layer.params.items()}

    def forward(step):
        layer.rng.bit_generator.state = begin
        for name, array in layer.params.items():
            array += step * along[name]
        return layer.forward(x, lengths=[6, 2, 5, 6])

    y, _, tape = forward(0)
    assert [set(masks) for masks in tape.masks] == [{"recurrent_dropout"}] * 4
    assert {masks["recurrent_dropout"].shape for masks in tape.masks} == {(6, 4, 5)}
    grads = layer.backward(tape, np.cos(y)).params
    above, below = np.sin(forward(1e-6)[0]).sum(), np.sin(forward(-2e-6)[0]).sum()
    expected = sum((grads[name] * along[name]).sum() for name in grads)
    np.testing.assert_allclose((above - below) / 2e-6, expected, rtol=1e-7, atol=1e-7)


def test_shapes_and_what_a_layer_says_of_itself(backend):
    layer = fastrnn.LSTM(3, 8, 2, proj_size=5, bidirectional=True, batch_first=True, init="keras", rng=0)
    assert (layer.proj_size, layer.output_size) == (5, 10) == (layer.freeze().proj_size, layer.freeze().output_size)
    assert "proj_size=5" in repr(layer) and layer.config["proj_size"] == 5
    assert "proj_size" not in fastrnn.LSTM(3, 8).config and fastrnn.GRU(3, 8).proj_size == 0
    assert layer.params["weight_ih_l1_reverse"].shape == (32, 10)
    h, c = layer.zero_state(4)
    assert h.shape == (4, 4, 5) and c.shape == (4, 4, 8)
    y, (h, c), tape = layer.forward(np.ones((4, 7, 3)), (h, c))
    assert y.shape == (4, 7, 10) and h.shape == (4, 4, 5) and c.shape == (4, 4, 8)
    assert [part.shape for part in layer.backward(tape, y).state] == [h.shape, c.shape]
    assert tape.gates[0]["c"].shape == (4, 7, 8) and tape.outputs[0].shape == (4, 7, 10)
    y, (h, c) = layer(np.ones((7, 3)))
    assert y.shape == (7, 10) and h.shape == (4, 5) and c.shape == (4, 8)
    y, (h, c), tape = layer.forward(np.ones((4, 0, 3)))
    assert y.shape == (4, 0, 10) and h.shape == (4, 4, 5) and c.shape == (4, 4, 8)


def test_copies_and_files(tmp_path):
    layer = fastrnn.LSTM(3, 8, 2, proj_size=5, bidirectional=True, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    expected, _ = layer(x)
    again = fastrnn.LSTM.from_state_dict({f"rnn.{n}": a for n, a in layer.state_dict().items()}, prefix="rnn.")
    made = fastrnn.LSTM(**layer.config)
    made.load_state_dict(layer.state_dict())
    copies = [again, made, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    copies.append(pickle.loads(pickle.dumps(layer.freeze())))
    if pytest.importorskip("safetensors"):
        fastrnn.save(tmp_path / "model", lstm=layer)
        copies.append(fastrnn.load(tmp_path / "model")["lstm"])
    for other in copies:
        assert_same_bits(other(x)[0], expected, str(other))


def test_bad_input(backend):
    for value, error, message in (
        (8, ValueError, "proj_size: expected an integer below hidden_size = 8, got 8"),
        (9, ValueError, "proj_size: expected an integer below"),
        (-1, ValueError, "proj_size: expected an integer of at least 0, got -1"),
        (True, TypeError, "proj_size: expected an integer, got bool"),
        (2.0, TypeError, "proj_size: expected an integer, got float"),
        (None, TypeError, "proj_size: expected an integer, got NoneType"),
    ):
        with pytest.raises(error, match=message):
            fastrnn.LSTM(3, 8, proj_size=value)
    with pytest.raises(ValueError, match="zoneout: expected 0 with proj_size=5"):
        fastrnn.LSTM(3, 8, proj_size=5, zoneout=0.1)
    layer = fastrnn.LSTM(3, 8, proj_size=5, rng=0)
    x, h, c = np.ones((2, 4, 3)), np.zeros((1, 4, 5)), np.zeros((1, 4, 8))
    y, _, tape = layer.forward(x)
    for call, message in (
        (lambda: layer(x, (c, c)), r"state\[0\]: expected shape \(1, 4, 5\), got \(1, 4, 8\)"),
        (lambda: layer(x, (h, h)), r"state\[1\]: expected shape \(1, 4, 8\), got \(1, 4, 5\)"),
        (lambda: layer.backward(tape, np.ones((2, 4, 8))), r"dy: expected shape \(2, 4, 5\)"),
        (lambda: layer.backward(tape, dstate=(c, None)), r"dstate\[0\]: expected shape \(1, 4, 5\)"),
        (lambda: layer(x, state_scale=np.ones((2, 4, 8))), r"state_scale: expected shape \(2, 4\), got \(2, 4, 8\)"),
        (lambda: layer.freeze().step(x[0], (h, h)), r"state\[1\]: expected shape \(1, 4, 8\)"),
        (lambda: layer.freeze().step(x[0], None, (np.ones((4, 8), np.float32), (h, c))), r"out\[0\]: expected shape"),
        (lambda: fastrnn.flow.gradient_flow(layer, x), "layer: expected one without a projection"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert_same_bits(layer(x)[0], y, "afterwards")


def test_state_dicts_that_do_not_fit():
    layer, plain = fastrnn.LSTM(3, 8, proj_size=5), fastrnn.LSTM(3, 8)
    arrays = layer.state_dict()
    del arrays["weight_hr_l0"]
    with pytest.raises(ValueError, match="weight_hr_l0 is missing"):
        layer.load_state_dict(arrays)
    with pytest.raises(ValueError, match="weight_hr_l0 is unexpected"):
        plain.load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match="expected weights of 4 hidden_size rows"):
        fastrnn.LSTM.from_state_dict(arrays)
    arrays = fastrnn.LSTM(3, 8, proj_size=5, bidirectional=True).state_dict()
    del arrays["weight_hr_l0"]
    with pytest.raises(ValueError, match="weight_hr_l0 is missing"):
        fastrnn.LSTM.from_state_dict(arrays)
    with pytest.raises(ValueError, match="got 'weight_hr_l0'"):
        fastrnn.GRU.from_state_dict({n: a[:24] for n, a in layer.state_dict().items()})
    with pytest.raises(ValueError, match=r"weight_hh_l0'\]: expected fewer than 8 columns"):
        fastrnn.LSTM.from_state_dict(plain.state_dict() | {"weight_hr_l0": np.ones((5, 8))})
    with pytest.raises(ValueError, match=r"weight_hr_l0'\]: expected shape \(5, 8\)"):
        layer.load_state_dict(layer.state_dict() | {"weight_hr_l0": np.ones((8, 5))})
