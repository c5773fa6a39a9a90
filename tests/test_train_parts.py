"""Parts and models: every gradient against central differences in float64, Linear and Embedding against torch."""

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn.train import (
    AttentionPooling,
    Chain,
    DotAttention,
    Dropout,
    Embedding,
    LastStep,
    Linear,
    Model,
)

STEP = 1e-6
F64 = {"dtype": np.float64, "rng": 0}


def differences(function, array):
    """The gradient of a scalar function by an array that it reads, where that is finite."""
    found = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        if not np.isfinite(value):
            continue
        sides = []
        for side in (value + STEP, value - STEP):
            array[index] = side
            sides.append(function())
        array[index] = value
        found[index] = (sides[0] - sides[1]) / (2 * STEP)
    return found


def check(part, inputs, **options):
    """All gradients of a random linear function of the output; returns the tape."""
    y, tape = part.forward(*inputs, **options)
    np.testing.assert_array_equal(part(*inputs, **options), y)
    dy = np.random.default_rng(9).standard_normal(y.shape)
    grads = part.backward(tape, dy)

    def loss():
        return (part(*inputs, **options) * dy).sum()

    by_input = grads.x if isinstance(grads.x, tuple) else (grads.x,)
    for array, gradient in zip(inputs, by_input):
        if gradient is not None:
            np.testing.assert_allclose(gradient, differences(loss, array), atol=1e-8, err_msg="x")
    assert list(grads.params) == list(part.params)
    for name, array in part.params.items():
        np.testing.assert_allclose(grads.params[name], differences(loss, array), atol=1e-7, err_msg=name)
    return tape


def values(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def padded(T, B, F, lengths):
    x = values(T, B, F)
    x[np.arange(T)[:, None] >= np.array(lengths)] = np.nan
    return x


@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 2, 3), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    check(Linear(3, 4, bias=bias, **F64), [values(*shape)])


def test_linear_against_torch():
    torch = pytest.importorskip("torch")
    part, module = Linear(30, 40, rng=0), torch.nn.Linear(30, 40)
    assert [(n, a.shape) for n, a in part.params.items()] == [(n, tuple(p.shape)) for n, p in module.named_parameters()]
    part.load_state_dict({name: p.detach().numpy() for name, p in module.named_parameters()})
    x = values(5, 7, 30).astype(np.float32)
    y, tape = part.forward(x)
    given = torch.from_numpy(x).requires_grad_()
    right = module(given)
    np.testing.assert_allclose(y, right.detach(), atol=1e-6)
    right.backward(torch.from_numpy(y))
    grads = part.backward(tape, y)
    np.testing.assert_allclose(grads.x, given.grad, atol=1e-5)
    np.testing.assert_allclose(grads.params["weight"], module.weight.grad, atol=1e-4)
    np.testing.assert_allclose(grads.params["bias"], module.bias.grad, atol=1e-4)
    for array in Linear(100, 200, rng=0).params.values():
        assert 0.095 < np.abs(array).max() <= 0.1


def test_linear_passes_over_padding_that_nothing_reads():
    x = padded(4, 2, 3, [4, 2])
    part = Linear(3, 2, **F64)
    y, tape = part.forward(x)
    dy = np.where(np.isnan(y), 0, 1.0)
    assert np.isfinite(part.backward(tape, dy).params["weight"]).all()


def test_embedding():
    check(Embedding(5, 3, **F64), [np.array([[0, 2, 2, 4], [1, 0, 2, 2]])])


def test_padding_has_no_gradient():
    part, x = Embedding(5, 3, padding_idx=2, **F64), np.array([0, 2, 4])
    assert not part.params["weight"][2].any()
    y, tape = part.forward(x)
    np.testing.assert_array_equal(part.backward(tape, np.ones((3, 3))).params["weight"][:, 0], [1, 0, 0, 0, 1])


def test_embedding_against_torch():
    torch = pytest.importorskip("torch")
    part, module = Embedding(50, 8, rng=0), torch.nn.Embedding(50, 8)
    part.params["weight"] = module.weight.detach().numpy()
    x = np.random.default_rng(0).integers(0, 50, (20, 16))
    y, tape = part.forward(x)
    right = module(torch.from_numpy(x))
    np.testing.assert_array_equal(y, right.detach())
    dy = values(*y.shape).astype(np.float32)
    right.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(part.backward(tape, dy).params["weight"], module.weight.grad, atol=1e-5)
    assert abs(Embedding(100, 100, rng=0).params["weight"].std() - 1) < 0.02


def test_embedding_does_not_read_past_the_end():
    part, x = Embedding(5, 3, **F64), np.array([[1, 2], [3, 99], [-7, 1000]])
    y, tape = part.forward(x, lengths=[2, 1])
    assert not y[2].any() and not y[1, 1].any()
    weight = part.backward(tape, np.ones_like(y)).params["weight"]
    np.testing.assert_array_equal(weight[:, 0], [0, 1, 1, 1, 0])


def test_last_step():
    x, lengths = padded(5, 3, 4, [5, 2, 0]), [5, 2, 0]
    part = LastStep()
    y, _ = part.forward(x, lengths)
    np.testing.assert_array_equal(y, [x[4, 0], x[1, 1], np.zeros(4)])
    check(part, [x], lengths=lengths)
    check(part, [values(5, 3, 4)])
    lstm = fastrnn.LSTM(4, 3, bidirectional=True, **F64)
    h, (last, _) = lstm(x, lengths=lengths)
    y = LastStep(bidirectional=True)(h, lengths)
    np.testing.assert_array_equal(y, np.concatenate(list(last), axis=1))
    check(LastStep(bidirectional=True), [x], lengths=lengths)


def test_dropout():
    part = Dropout(0.25, rng=3)
    x = np.ones((200, 100), np.float32)
    np.testing.assert_array_equal(part(x), x)
    y, tape = part.forward(x)
    assert abs((y == 0).mean() - 0.25) < 0.01 and set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(part.backward(tape, x).x, y)
    assert not part.forward(x)[0].tobytes() == y.tobytes()
    for p, expected in ((0.0, x), (1.0, 0 * x)):
        y, tape = Dropout(p).forward(x)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(Dropout(p).backward(tape, x).x, expected)


@pytest.mark.parametrize("lengths", [None, [6, 1, 4]])
def test_attention_pooling(lengths):
    x = padded(6, 3, 4, lengths or [6] * 3)
    part = AttentionPooling(4, 5, **F64)
    tape = check(part, [x], lengths=lengths)
    weights = tape.weights
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-12)
    y = part(x, lengths=lengths)
    for b in range(3):
        T = lengths[b] if lengths else 6
        assert not weights[T:, b].any()
        scores = np.tanh(x[:T, b] @ part.params["weight"].T + part.params["bias"]) @ part.params["query"]
        right = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[:T, b], right, rtol=1e-12)
        np.testing.assert_allclose(y[b], right @ x[:T, b], rtol=1e-10)


@pytest.mark.parametrize("lengths", [None, [6, 1, 4]])
@pytest.mark.parametrize("sizes", [(4,), (4, 4, True), (3, 4)])
def test_dot_attention(sizes, lengths):
    options = {"general": True} if len(sizes) == 3 else {}
    part = DotAttention(*sizes[:2], **options, **F64)
    queries, keys = values(5, 3, sizes[0], seed=2), padded(6, 3, 4, lengths or [6] * 3)
    tape = check(part, [queries, keys], lengths=lengths)
    y = part(queries, keys, lengths)
    weight = part.params["weight"] if part.general else np.eye(4)
    for b in range(3):
        T = lengths[b] if lengths else 6
        scores = queries[:, b] @ weight @ keys[:T, b].T
        right = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(tape.weights[:, b, :T], right, rtol=1e-10)
        assert not tape.weights[:, b, T:].any()
        np.testing.assert_allclose(y[:, b], right @ keys[:T, b], rtol=1e-10, atol=1e-12)


# --- models


CHAINS = {
    "tagger": lambda: Chain(Embedding(6, 3, **F64), fastrnn.LSTM(3, 4, **F64), Linear(4, 5, **F64)),
    "classifier": lambda: Chain(
        fastrnn.LSTM(3, 4, bidirectional=True, **F64), LastStep(bidirectional=True), Linear(8, 2, **F64)
    ),
    "deep": lambda: Chain(
        emb=Embedding(6, 3, **F64),
        rnn=fastrnn.GRU(3, 4, num_layers=2, **F64),
        pool=AttentionPooling(4, **F64),
        out=Linear(4, 2, **F64),
    ),  # fmt: skip
    "nested": lambda: Chain(
        inner=Chain(fastrnn.RNN(3, 4, **F64), Linear(4, 3, **F64)), last=LastStep(), out=Linear(3, 1, **F64)
    ),
}


@pytest.mark.parametrize("lengths", [None, [4, 1, 3]])
@pytest.mark.parametrize("name", CHAINS)
def test_chain_gradients(name, lengths):
    chain = CHAINS[name]()
    if name in ("tagger", "deep"):
        x = np.random.default_rng(0).integers(0, 6, (4, 3))
    else:
        x = padded(4, 3, 3, lengths or [4] * 3)
    y, tape = chain.forward(x, lengths=lengths)
    dy = values(*y.shape)
    if lengths and y.ndim == 3:
        dy[np.arange(4)[:, None] >= np.array(lengths)] = 0
    grads = chain.backward(tape, dy)

    def loss():
        return (chain(x, lengths=lengths) * dy).sum()

    if grads.x is not None:
        np.testing.assert_allclose(grads.x, differences(loss, x), atol=1e-8)
    for key, array in chain.params.items():
        np.testing.assert_allclose(grads.params[key], differences(loss, array), atol=1e-7, err_msg=key)


def test_chain_carries_states():
    """Two pieces, the state carried, are the whole; gradients go back through it."""
    chain = Chain(rnn=fastrnn.LSTM(3, 4, **F64), more=Chain(fastrnn.GRU(4, 2, **F64)), out=Linear(2, 2, **F64))
    x = values(6, 2, 3)
    whole, after = chain.run(x)
    first, middle = chain.run(x[:2])
    second, last = chain.run(x[2:], middle)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_array_equal(last["more"]["0"], after["more"]["0"])
    y, tape = chain.forward(x)
    right = chain.backward(tape, y)
    y1, tape1 = chain.forward(x[:2])
    y2, tape2 = chain.forward(x[2:], tape1.state)
    grads2 = chain.backward(tape2, y2)
    grads1 = chain.backward(tape1, y1, grads2.state)
    np.testing.assert_allclose(np.concatenate([grads1.x, grads2.x]), right.x, atol=1e-14)
    for key in right.params:
        np.testing.assert_allclose(grads1.params[key] + grads2.params[key], right.params[key], atol=1e-12)
    with pytest.raises(ValueError, match="state: expected names among rnn, more, got 'out'"):
        chain.run(x, {"out": 1})
    with pytest.raises(TypeError, match="state: expected a mapping"):
        chain.run(x, x)


def test_model_params_and_gradients():
    model = Model(rnn=fastrnn.GRU(2, 3, rng=0), inner=Chain(Linear(3, 4, rng=1)), drop=Dropout(0.1))
    names = [*(f"rnn.{name}" for name in model.rnn.params), "inner.0.weight", "inner.0.bias"]
    assert list(model.params) == names
    assert model.params["rnn.bias_ih_l0"] is model.rnn.params["bias_ih_l0"]
    assert model.num_parameters == sum(array.size for array in model.params.values())
    model.params["inner.0.bias"] -= np.ones(4, np.float32)
    model.params["inner.0.weight"] = np.zeros((4, 3))
    assert not model.inner.params["0.weight"].any()
    with pytest.raises(ValueError, match="params: expected one of rnn.weight_ih_l0"):
        model.params["x"] = 1
    grads = {name: np.ones_like(array) for name, array in model.rnn.params.items()}
    found = model.gradients(rnn=grads, inner={"0.weight": np.ones((4, 3)), "0.bias": np.ones(4)})
    assert list(found) == names
    with pytest.raises(ValueError, match="inner: expected the gradients of this part"):
        model.gradients(rnn=grads)
    with pytest.raises(ValueError, match="rnn: expected exactly .* weight_ih_l0 is missing"):
        model.gradients(rnn={}, inner={})
    with pytest.raises(ValueError, match="other: expected a part among rnn, inner, drop"):
        model.gradients(rnn=grads, inner=dict.fromkeys(("0.weight", "0.bias"), 1), other={})


def test_model_state_dict():
    one, other = (
        Model(a=Linear(2, 3, rng=seed), b=Chain(Embedding(4, 2, rng=seed), fastrnn.LSTM(2, 2, rng=seed)))
        for seed in (0, 1)
    )
    given = {f"net.{name}": array for name, array in one.state_dict().items()} | {"x": np.ones(1)}
    other.load_state_dict(given, "net.")
    for name, array in one.params.items():
        np.testing.assert_array_equal(other.params[name], array)
    before = other.state_dict()
    given["net.b.0.weight"] = np.zeros((4, 3))
    given["net.a.weight"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"state_dict\['net.b.0.weight'\]: expected shape \(4, 2\), got \(4, 3\)"):
        other.load_state_dict(given, "net.")
    for name, array in before.items():
        np.testing.assert_array_equal(other.params[name], array)


def test_generators():
    rng = np.random.default_rng(0)
    model = Model(
        a=fastrnn.LSTM(2, 3, num_layers=2, dropout=0.5, rng=rng), b=fastrnn.LSTM(2, 3), c=Chain(Dropout(0.5, rng=rng))
    )
    assert list(model.generators) == ["a", "c.0"]
    assert all(generator is rng for generator in model.generators.values())


@pytest.mark.parametrize(
    "made",
    [
        Linear(2, 3, rng=0),
        Embedding(4, 2, padding_idx=0, dtype=np.float64, rng=0),
        AttentionPooling(3, rng=0),
        DotAttention(3, 4, rng=0),
        LastStep(bidirectional=True),
        Dropout(0.3, rng=0),
        Chain(Embedding(4, 2, rng=0), rnn=fastrnn.LSTM(2, 2, num_layers=2, dropout=0.5, rng=0)),
    ],
    ids=lambda made: type(made).__name__,
)
def test_copies(made):
    """Copies have arrays of their own; what a configuration makes is of the same shape."""
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert repr(again) == repr(made) and again.config == made.config
        for name, array in made.params.items():
            np.testing.assert_array_equal(again.params[name], array)
            assert not np.shares_memory(again.params[name], array)
    if not isinstance(made, Model):
        again = type(made)(**made.config)
        assert {n: a.shape for n, a in again.params.items()} == {n: a.shape for n, a in made.params.items()}


def test_repr_is_a_tree():
    chain = Chain(Embedding(4, 2), Chain(a=fastrnn.LSTM(2, 3), b=Linear(3, 4)))
    assert repr(chain).splitlines() == [
        "Chain(",
        "  (0): Embedding(num_embeddings=4, embedding_dim=2, padding_idx=None, dtype='float32')",
        "  (1): Chain(",
        "    (a): LSTM(2, 3)",
        "    (b): Linear(input_size=3, output_size=4, bias=True, dtype='float32')",
        "  )",
        ")",
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear(3, 0), ValueError, "output_size: expected an integer of at least 1"),
        (lambda: Linear(3, 2)(np.ones((2, 4))), ValueError, r"x: expected a last axis of 3, got shape \(2, 4\)"),
        (
            lambda: Linear(3, 2).backward(Linear(3, 2).forward(np.ones(3))[1], np.ones(3)),
            ValueError,
            "dy: expected shape",
        ),
        (
            lambda: Embedding(4, 2)(np.ones(3)),
            TypeError,
            "x: expected integers, the indices of rows, got dtype float64",
        ),
        (lambda: Embedding(4, 2)([[1], [4]]), ValueError, r"x: expected indices from 0 to 3, got 4 at \(1, 0\)"),
        (lambda: Embedding(4, 2)([-1]), ValueError, "got -1 at"),
        (lambda: Embedding(4, 2, padding_idx=4), ValueError, "padding_idx: expected an index below 4"),
        (lambda: Dropout(1.5), ValueError, "p: expected a number between 0 and 1"),
        (
            lambda: LastStep(bidirectional=True)(np.ones((2, 1, 3))),
            ValueError,
            "x: expected an even number of features",
        ),
        (
            lambda: AttentionPooling(3)(np.ones((2, 4, 3)), [2, 0, 1, 1]),
            ValueError,
            "lengths: expected at least one step",
        ),
        (lambda: AttentionPooling(3)(np.ones((0, 4, 3))), ValueError, "x: expected at least one step"),
        (lambda: DotAttention(3, 4, general=False), ValueError, "general: expected True where query_size 3"),
        (
            lambda: DotAttention(3)(np.ones((2, 2, 3)), np.ones((2, 1, 3))),
            ValueError,
            r"queries: expected shape \(S, 1, 3",
        ),
        (lambda: Model(a=3), TypeError, "a: expected a layer, cell, part or model, got int"),
        (lambda: Model(params=Linear(1, 1)), ValueError, "parts: expected names that a model does not use itself"),
        (lambda: Chain(fastrnn.LSTMCell(2, 3)), TypeError, "0: expected a layer, a part or a Chain, got LSTMCell"),
        (lambda: Chain(rnn=fastrnn.LSTM(2, 3, batch_first=True)), ValueError, "rnn: expected a layer with time first"),
        (lambda: Model(a=Linear(1, 1)).b, AttributeError, "no attribute 'b': its parts are a"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
