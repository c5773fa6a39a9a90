"""Parts: every gradient against central differences in float64, Linear and Embedding against torch."""

import copy
import pickle

import numpy as np
import pytest
from differences import F64, differences, padded, past, values

import fastrnn
from fastrnn.train import AttentionPooling, DotAttention, Dropout, Embedding, LastStep, Linear, Part

LENGTHS = [None, [6, 1, 4], [0, 6, 3]]


def check(part, inputs, **options):
    """All gradients of a random linear function of the output; returns the tape."""
    y, tape = part.forward(*inputs, **options)
    np.testing.assert_array_equal(part(*inputs, **options), y)
    dy = values(*y.shape, seed=9)
    grads = part.backward(tape, dy)

    def loss():
        return (part(*inputs, **options) * dy).sum()

    by_input = grads.x if isinstance(grads.x, tuple) else (grads.x,)
    for array, gradient in zip(inputs, by_input):
        if gradient is not None:
            assert gradient.any() or not y.any()
            np.testing.assert_allclose(gradient, differences(loss, array), atol=1e-8, err_msg="x")
    assert list(grads.params) == list(part.params)
    for name, array in part.params.items():
        assert grads.params[name].any() or not y.size
        np.testing.assert_allclose(grads.params[name], differences(loss, array), atol=1e-7, err_msg=name)
    return tape


# --- Linear


@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 2, 3), (0, 3), (5, 0, 3)])
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


def test_linear_begins_as_torchs():
    torch = pytest.importorskip("torch")
    part, module = Linear(100, 200, rng=0), torch.nn.Linear(100, 200)
    for name, array in part.params.items():
        drawn = getattr(module, name).detach().numpy()
        for values_of in (array, drawn):
            assert 0.095 < np.abs(values_of).max() <= 0.1
            # Of a uniform distribution on ±1/10; the bias has 200 elements, so 4 standard errors are 10 %.
            assert abs(values_of.std() * np.sqrt(3) - 0.1) < 0.01


def test_linear_passes_over_padding_that_nothing_reads():
    x = padded(4, 2, 3, [4, 2])
    part = Linear(3, 2, **F64)
    y, tape = part.forward(x)
    dy = np.where(past(4, [4, 2])[..., None], 0, values(*y.shape))
    grads, clean = part.backward(tape, dy), part.backward(part.forward(np.nan_to_num(x))[1], dy)
    for name, array in clean.params.items():
        np.testing.assert_array_equal(grads.params[name], array)
    np.testing.assert_array_equal(grads.x, clean.x)
    dy[0, 0] = 1
    x[0, 0, 0] = np.nan  # but where a gradient comes from, NaN is not hidden
    assert np.isnan(part.backward(tape, dy).params["weight"]).any()


# --- Embedding


@pytest.mark.parametrize("lengths", [None, [2, 0, 1, 2]])
def test_embedding(lengths):
    x = np.array([[0, 2, 2, 4], [1, 0, 2, 2]])
    if lengths:
        x[past(2, lengths)] = -99
    check(Embedding(5, 3, **F64), [x], lengths=lengths)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4"])
def test_embedding_of_any_integers(dtype):
    part, x = Embedding(200, 3, **F64), np.array([[0, 2], [100, 127]])
    y, tape = part.forward(x.astype(dtype))
    np.testing.assert_array_equal(y, part(x.tolist()))
    np.testing.assert_array_equal(np.flatnonzero(part.backward(tape, y).params["weight"].any(axis=1)), [0, 2, 100, 127])
    assert part([]).shape == (0, 3) and part(np.empty((0, 4), dtype)).shape == (0, 4, 3)
    assert not part.backward(part.forward([])[1], np.empty((0, 3))).params["weight"].any()


def test_padding_has_no_gradient():
    part, x = Embedding(5, 3, padding_idx=2, **F64), np.array([0, 2, 4])
    assert not part.params["weight"][2].any()
    _, tape = part.forward(x)
    np.testing.assert_array_equal(part.backward(tape, np.ones((3, 3))).params["weight"][:, 0], [1, 0, 0, 0, 1])


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_embedding_against_torch(padding_idx):
    torch = pytest.importorskip("torch")
    part = Embedding(50, 8, padding_idx=padding_idx, rng=0)
    module = torch.nn.Embedding(50, 8, padding_idx=padding_idx)
    part.load_state_dict({name: p.detach().numpy() for name, p in module.named_parameters()})
    x = np.random.default_rng(0).integers(0, 50, (20, 16))
    y, tape = part.forward(x)
    right = module(torch.from_numpy(x))
    np.testing.assert_array_equal(y, right.detach())
    dy = values(*y.shape).astype(np.float32)
    right.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(part.backward(tape, dy).params["weight"], module.weight.grad, atol=1e-5)
    drawn = Embedding(100, 100, rng=0).params["weight"]
    assert abs(drawn.std() - 1) < 0.03 and abs(drawn.mean()) < 0.04  # 4 standard errors of 10,000 draws from N(0, 1)


def test_embeddings_gradient_is_exact_to_rounding():
    """One index in all of 100,000 places: a chain of float32 sums would be off by hundreds of roundings."""
    part, rng = Embedding(2, 1, rng=0), np.random.default_rng(1)
    dy = rng.random((100_000, 1), np.float32)
    found = part.backward(part.forward(np.zeros(100_000, int))[1], dy).params["weight"]
    np.testing.assert_array_equal(found, np.array([[dy.sum(dtype=np.longdouble)], [0]], np.float32))


def test_embedding_does_not_read_past_the_end():
    part, x = Embedding(5, 3, **F64), np.array([[1, 2], [3, 99], [-7, 1000]])
    y, tape = part.forward(x, lengths=[2, 1])
    assert not y[2].any() and not y[1, 1].any()
    dy = np.ones_like(y)
    dy[2], dy[1, 1] = np.nan, np.inf
    weight = part.backward(tape, dy).params["weight"]
    np.testing.assert_array_equal(weight[:, 0], [0, 1, 1, 1, 0])


# --- LastStep and Dropout


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_last_step(lengths, bidirectional):
    """A layer's final state is what its y has at those steps."""
    x = padded(6, 3, 4, lengths)
    lstm = fastrnn.LSTM(4, 3, bidirectional=bidirectional, **F64)
    h, (last, _) = lstm(x, lengths=lengths)
    part = LastStep(bidirectional=bidirectional)
    np.testing.assert_array_equal(part(h, lengths), np.concatenate(list(last), axis=1))
    check(part, [x], lengths=lengths)


def test_last_step_of_no_steps():
    part = LastStep(bidirectional=True)
    y, tape = part.forward(np.empty((0, 2, 4)))
    assert not y.any() and y.shape == (2, 4) and part.backward(tape, np.ones((2, 4))).x.shape == (0, 2, 4)


def test_dropout():
    part = Dropout(0.25, rng=3)
    x = np.ones((200, 100), np.float32)
    np.testing.assert_array_equal(part(x), x)
    y, tape = part.forward(x)
    assert abs((y == 0).mean() - 0.25) < 0.013  # 4 standard errors of 20,000 draws
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(part.backward(tape, x).x, y)
    assert part.forward(x)[0].tobytes() != y.tobytes()
    again = Dropout(0.25, rng=3)
    np.testing.assert_array_equal(again.forward(x)[0], y)
    for p, expected in ((0.0, x), (1.0, 0 * x)):
        part = Dropout(p)
        y, tape = part.forward(x)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(part.backward(tape, x).x, expected)


def test_dropout_state_is_its_masks():
    part, x = Dropout(0.5, rng=0), np.ones(50)
    before = part.rng.bit_generator.state
    y, _ = part.forward(x)
    part.rng.bit_generator.state = before
    np.testing.assert_array_equal(part.forward(x)[0], y)


@pytest.mark.parametrize("given", [np.int64, np.float16, bool, np.float32, np.float64, ">f8"])
def test_parts_without_a_dtype_of_their_own(given):
    """Whole numbers are not computed with as such: 1/(1 - p) is none."""
    expected = np.dtype(given).newbyteorder("=") if np.dtype(given) in (np.float32, np.float64) else np.float32
    x = np.ones((4, 3, 2), given)
    for part in (Dropout(0.25, rng=0), LastStep()):
        y, tape = part.forward(x)
        dy = np.full(y.shape, 0.5)
        dx = part.backward(tape, dy).x
        assert y.dtype == dx.dtype == part(x).dtype == expected and y.dtype.isnative
        assert np.abs(dx).max() == (0.5 if type(part) is LastStep else expected_type(expected, 0.5 / 0.75))
    assert Dropout(0.25, rng=0).forward(np.float32(1))[0].shape == ()


def expected_type(dtype, value):
    return np.dtype(dtype).type(value)


# --- attention


@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention_pooling(lengths):
    x = padded(6, 3, 4, lengths)
    part = AttentionPooling(4, attention_size=5, **F64)
    tape = check(part, [x], lengths=lengths)
    y, weights = part(x, lengths=lengths), tape.weights
    assert weights.shape == (6, 3)
    for b, T in enumerate(lengths or [6] * 3):
        assert not weights[T:, b].any()
        if not T:
            assert not y[b].any()
            continue
        scores = np.tanh(x[:T, b] @ part.params["weight"].T + part.params["bias"]) @ part.params["query"]
        right = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[:T, b], right, rtol=1e-12)
        np.testing.assert_allclose(y[b], right @ x[:T, b], rtol=1e-10)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sizes", [(4,), (4, 4, True), (3, 4), (5, 4)])
def test_dot_attention(sizes, lengths):
    options = {"general": True} if len(sizes) == 3 else {}
    part = DotAttention(*sizes[:2], **options, **F64)
    queries, keys = values(5, 3, sizes[0], seed=2), padded(6, 3, 4, lengths)
    tape = check(part, [queries, keys], lengths=lengths)
    y = part(queries, keys, lengths)
    assert tape.weights.shape == (5, 3, 6)
    weight = part.params["weight"] if part.general else np.eye(4)
    for b, T in enumerate(lengths or [6] * 3):
        assert not tape.weights[:, b, T:].any()
        if not T:
            assert not y[:, b].any()
            continue
        scores = queries[:, b] @ weight @ keys[:T, b].T
        right = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(tape.weights[:, b, :T], right, rtol=1e-10)
        np.testing.assert_allclose(y[:, b], right @ keys[:T, b], rtol=1e-10, atol=1e-12)


def test_attention_against_torch():
    torch = pytest.importorskip("torch")
    part = DotAttention(8, rng=0)
    queries, keys = (values(T, 3, 8, seed=T).astype(np.float32) for T in (5, 7))
    q, k = (torch.from_numpy(array).requires_grad_() for array in (queries, keys))
    mask = torch.from_numpy(~past(7, [7, 2, 4]).T[:, None])
    right = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), k.transpose(0, 1), attn_mask=mask, scale=1.0
    ).transpose(0, 1)  # fmt: skip
    y, tape = part.forward(queries, keys, [7, 2, 4])
    np.testing.assert_allclose(y, right.detach(), atol=2e-6)
    right.backward(torch.from_numpy(y))
    dq, dk = part.backward(tape, y).x
    np.testing.assert_allclose(dq, q.grad, atol=1e-5)
    np.testing.assert_allclose(dk, k.grad, atol=1e-5)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_attention_to_one_step_alone(scale):
    """Scores too large for exp are the whole weight of the largest."""
    part = DotAttention(1)
    y, tape = part.forward([[[scale]]], np.array([1, 3, 2], np.float32).reshape(3, 1, 1))
    np.testing.assert_array_equal(tape.weights.ravel(), [0, 1, 0])
    assert y == 3


@pytest.mark.parametrize("T", [0, 1])
def test_attention_to_nothing(T):
    lengths = None if T == 0 else [0, 0]
    for part, inputs, shape in (
        (AttentionPooling(3), [np.full((T, 2, 3), np.nan)], (2, 3)),
        (DotAttention(4, 3), [np.ones((5, 2, 4)), np.full((T, 2, 3), np.nan)], (5, 2, 3)),
    ):
        y, tape = part.forward(*inputs, lengths=lengths)
        assert y.shape == shape and not y.any()
        grads = part.backward(tape, np.full(shape, np.inf if T else 1))
        found = grads.x[1] if isinstance(grads.x, tuple) else grads.x
        assert found.shape == (T, 2, 3) and not found.any()


# --- all of them


PARTS = [
    (lambda **options: Linear(2, 3, **options), [(4, 2)]),
    (lambda **options: Embedding(4, 2, padding_idx=0, **options), None),
    (lambda **options: AttentionPooling(3, **options), [(5, 2, 3)]),
    (lambda **options: DotAttention(3, 4, **options), [(3, 2, 3), (5, 2, 4)]),
    (lambda **options: LastStep(bidirectional=True), [(5, 2, 4)]),
    (lambda **options: Dropout(0.3, rng=0), [(5, 2, 4)]),
]
IDS = ["Linear", "Embedding", "AttentionPooling", "DotAttention", "LastStep", "Dropout"]


def inputs_for(shapes, dtype=np.float32):
    return [np.array([[1, 2], [0, 3]])] if shapes is None else [values(*shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize(("make", "shapes"), PARTS, ids=IDS)
def test_copies(make, shapes):
    """Copies have arrays of their own and give the same bits; what a configuration makes is of the same shape."""
    made, inputs = make(rng=0), inputs_for(shapes)
    copies = [copy.deepcopy(made), *(pickle.loads(pickle.dumps(made, protocol)) for protocol in (2, 5))]
    y = made.forward(*inputs)[0]
    for again in copies:
        assert repr(again) == repr(made) and again.config == made.config
        np.testing.assert_array_equal(again.forward(*inputs)[0], y)
        for name, array in made.params.items():
            assert not np.shares_memory(again.params[name], array)
    again = type(made)(**made.config)
    assert {n: a.shape for n, a in again.params.items()} == {n: a.shape for n, a in made.params.items()}
    assert again.num_parameters == made.num_parameters == sum(array.size for array in made.params.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("make", "shapes"), PARTS, ids=IDS)
def test_dtypes_and_what_a_call_leaves_alone(make, shapes, dtype):
    part, inputs = make(rng=0, dtype=dtype), inputs_for(shapes, dtype)
    kept = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    y, tape = part.forward(*inputs)
    dy = np.ones(y.shape, dtype)
    grads = part.backward(tape, dy)
    found = [y, *(grads.x if isinstance(grads.x, tuple) else [grads.x]), *grads.params.values()]
    assert {array.dtype for array in found if array is not None} == {np.dtype(dtype)}
    for array, before in zip([*inputs, dy], [*kept, np.ones_like(dy)]):
        np.testing.assert_array_equal(array, before)
    again = part.backward(tape, dy)  # a tape is not used up
    for name, array in grads.params.items():
        np.testing.assert_array_equal(again.params[name], array)


@pytest.mark.parametrize(("make", "shapes"), PARTS, ids=IDS)
def test_tapes_belong_to_their_part(make, shapes):
    part, other = make(), make()
    y, tape = part.forward(*inputs_for(shapes))
    name = type(part).__name__
    with pytest.raises(ValueError, match=f"tape: expected one from this {name}, got one from another"):
        other.backward(tape, y)
    with pytest.raises(TypeError, match=r"tape: expected a \w+Tape, got NoneType"):
        part.backward(None, y)
    with pytest.raises(ValueError, match=r"dy: expected shape \("):
        part.backward(tape, np.ones((9, 9, 9, 9)))
    with pytest.raises(TypeError, match=f"a tape of {name} can be neither copied nor pickled"):
        copy.deepcopy(tape)
    assert repr(tape).endswith(f" of {name}>")


@pytest.mark.parametrize(("make", "shapes"), PARTS, ids=IDS)
def test_nan_goes_through_without_a_word(make, shapes):
    """As in the layers: NaN and infinity propagate as in the equations, and nothing warns."""
    part = make(rng=0)
    inputs = inputs_for(shapes)
    if shapes:
        inputs[-1][-1] = np.inf
    with np.errstate(all="raise"):
        y, tape = part.forward(*inputs)
        grads = part.backward(tape, np.full(y.shape, np.nan))
    found = [*(grads.x if isinstance(grads.x, tuple) else [grads.x]), *grads.params.values()]
    assert all(np.isnan(array).any() for array in found if array is not None)


def test_reprs_are_the_calls():
    assert repr(Linear(2, 3)) == "Linear(2, 3)"
    assert repr(Linear(2, 3, bias=False, dtype=np.float64)) == "Linear(2, 3, bias=False, dtype='float64')"
    assert repr(Embedding(4, 2, padding_idx=0)) == "Embedding(4, 2, padding_idx=0)"
    assert repr(AttentionPooling(3, 5)) == "AttentionPooling(3, attention_size=5)"
    assert repr(DotAttention(3, 4)) == "DotAttention(3, key_size=4, general=True)"
    assert repr(LastStep()) == "LastStep()" and repr(Dropout(0.3)) == "Dropout(p=0.3)"
    part = Linear(2, 3)
    grads = part.backward(part.forward(np.ones((4, 2)))[1], np.ones((4, 3)))
    assert repr(grads) == "PartGrads(x=(4, 2), params={weight: (3, 2), bias: (3,)})"


def test_attributes_that_would_replace_what_a_part_is():
    part = Linear(2, 3)
    for name in ("weight", "bias"):
        with pytest.raises(
            AttributeError, match=rf"cannot set '{name}' of 'Linear' object: assign to params\['{name}'\]"
        ):
            setattr(part, name, np.zeros(3))
    with pytest.raises(AttributeError, match="cannot set 'input_size' of 'Linear' object: it is fixed once made"):
        part.input_size = 7
    with pytest.raises(AttributeError, match="cannot set 'bias'"):
        Linear(2, 3, bias=False).bias = np.zeros(3)
    part.name = "head"
    assert part.name == "head" and part.bias is True
    part.params["bias"] -= np.ones(3, np.float32)
    part.params["bias"] = np.zeros(3)
    assert not part.params["bias"].any()
    for name, hint in (("weight", "the parameters are in params"), ("eval", "there is no mode to set")):
        with pytest.raises(AttributeError, match=f"'Linear' object has no attribute '{name}': .*{hint}"):
            getattr(part, name)
    with pytest.raises(
        AttributeError, match="'AttentionPooling' object has no attribute 'query': the parameters are in"
    ):
        _ = AttentionPooling(3).query


def test_a_part_of_ones_own():
    class Scale(Part):
        """y = s x."""

        def __init__(self, start=1.0):
            self.start = start
            super().__init__({"s": np.array([start])})

        @property
        def config(self):
            return {"start": self.start}

    part = Scale(2.0)
    assert repr(part) == "Scale(start=2.0)" and part.num_parameters == 1
    part.load_state_dict({"p.s": [3]}, prefix="p.")
    assert copy.deepcopy(part).params["s"] == [3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear(3, 0), ValueError, "output_size: expected an integer of at least 1"),
        (lambda: Linear(3, 2)(np.ones((2, 4))), ValueError, r"x: expected a last axis of 3, got shape \(2, 4\)"),
        (lambda: Linear(3, 2)("abc"), TypeError, "x: expected real numbers"),
        (lambda: Linear(3, 2, dtype=int), TypeError, "dtype: expected float32 or float64"),
        (
            lambda: Embedding(4, 2)(np.ones(3)),
            TypeError,
            "x: expected integers, the indices of rows, got dtype float64",
        ),
        (lambda: Embedding(4, 2)([True]), TypeError, "x: expected integers, the indices of rows, got dtype bool"),
        (lambda: Embedding(4, 2)([[1], [4]]), ValueError, r"x: expected indices from 0 to 3, got 4 at \(1, 0\)"),
        (lambda: Embedding(4, 2)([-1]), ValueError, "got -1 at"),
        (lambda: Embedding(4, 2)([1, 2], [1, 2]), ValueError, r"x: expected shape \(T, B\), got \(2,\)"),
        (lambda: Embedding(4, 2)([[1, 2]], [1, 2]), ValueError, "lengths: expected integers from 0 to T = 1, got 2"),
        (lambda: Embedding(4, 2, padding_idx=4), ValueError, "padding_idx: expected an index from 0 to 3, got 4"),
        (lambda: Embedding(4, 2, padding_idx=-1), ValueError, "padding_idx: expected an index from 0 to 3, got -1"),
        (lambda: Embedding(4, 2, padding_idx=1.0), TypeError, "padding_idx: expected an integer or None, got float"),
        (lambda: Dropout(1.5), ValueError, "p: expected a number between 0 and 1"),
        (lambda: Dropout(rng="x"), TypeError, "rng: expected None, a seed"),
        (lambda: LastStep()(np.ones((2, 3))), ValueError, r"x: expected shape \(T, B, F\), got \(2, 3\)"),
        (
            lambda: LastStep(bidirectional=True)(np.ones((2, 1, 3))),
            ValueError,
            "x: expected an even number of features",
        ),
        (lambda: AttentionPooling(3)(np.ones((2, 4, 3)), [2, 0, 1]), ValueError, r"lengths: expected shape \(4,\)"),
        (lambda: AttentionPooling(3)(np.ones((2, 4, 5))), ValueError, r"x: expected shape \(T, B, 3\)"),
        (lambda: DotAttention(3, 4, general=False), ValueError, "general: expected True where query_size 3"),
        (lambda: DotAttention(3)(np.ones((2, 2, 3)), np.ones((2, 1, 3))), ValueError, r"queries: .* \(S, 1, 3\)"),
        (lambda: DotAttention(3)(np.ones((2, 2, 3)), np.ones((2, 2, 4))), ValueError, r"keys: .* \(T, B, 3\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
