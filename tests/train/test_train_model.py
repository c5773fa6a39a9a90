"""Models and chains: gradients through all parts against central differences, names, states, copies, bad input."""

import copy
import json
import pickle

import numpy as np
import pytest
from differences import F64, differences, padded, past, values

import fastrnn
from fastrnn.files import rebuild
from fastrnn.train import (
    AttentionPooling,
    Chain,
    DotAttention,
    Dropout,
    Embedding,
    LastStep,
    Linear,
    Model,
    Part,
    PartGrads,
)

LSTM, GRU, RNN = fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN

CHAINS = {
    "tagger": lambda: Chain(Embedding(6, 3, **F64), LSTM(3, 4, **F64), Linear(4, 5, **F64)),
    "classifier": lambda: Chain(
        LSTM(3, 4, bidirectional=True, **F64), LastStep(bidirectional=True), Linear(8, 2, **F64)
    ),
    "deep": lambda: Chain(
        emb=Embedding(6, 3, **F64),
        rnn=GRU(3, 4, num_layers=2, dropout=0.2, **F64),
        pool=AttentionPooling(4, **F64),
        out=Linear(4, 2, **F64),
    ),
    "nested": lambda: Chain(
        inner=Chain(RNN(3, 4, **F64), Linear(4, 3, **F64)), last=LastStep(), out=Linear(3, 1, **F64)
    ),
    "projected": lambda: Chain(Linear(3, 4, **F64), Dropout(0.3, rng=0), GRU(4, 2, **F64), Linear(2, 2, **F64)),
}
INDICES = ("tagger", "deep")


def forward_loss(chain, x, dy, **options):
    """A function of nothing: the sum of y dy, dy's NaN apart, always with the dropout masks that come next now."""
    before = {name: rng.bit_generator.state for name, rng in chain.generators.items()}
    counted = np.isfinite(dy)

    def loss():
        for name, rng in chain.generators.items():
            rng.bit_generator.state = before[name]
        return chain.forward(x, **options)[0][counted] @ dy[counted]

    return loss


@pytest.mark.parametrize("lengths", [None, [4, 1, 3], [0, 4, 2]])
@pytest.mark.parametrize("name", CHAINS)
def test_chain_gradients(name, lengths):
    """Dropout included; neither x, nor dy, nor indices are read past a row's length."""
    chain = CHAINS[name]()
    x = np.random.default_rng(0).integers(0, 6, (4, 3)) if name in INDICES else padded(4, 3, 3, lengths)
    if lengths and name in INDICES:
        x[past(4, lengths)] = 1000
    dy = values(*chain(x, lengths=lengths).shape, seed=9)
    if lengths and dy.ndim == 3:
        dy[past(4, lengths)] = np.nan
    loss = forward_loss(chain, x, dy, lengths=lengths)
    y, tape = chain.forward(x, lengths=lengths)
    grads = chain.backward(tape, dy)
    if name in INDICES:
        assert grads.x is None
    else:
        np.testing.assert_allclose(grads.x, differences(loss, x), atol=1e-8)
        assert not lengths or not grads.x[past(4, lengths)].any()
    assert list(grads.params) == list(chain.params)
    for key, array in chain.params.items():
        expected = differences(loss, array)
        assert np.abs(expected).max() > 1e-5, f"{key}: nothing to compare"
        np.testing.assert_allclose(grads.params[key], expected, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", CHAINS)
def test_chain_is_its_parts_in_a_row(name):
    """Without lengths, the parts called by hand give the same bits; a call draws no masks."""
    chain = CHAINS[name]()
    x = np.random.default_rng(0).integers(0, 6, (4, 3)) if name in INDICES else values(4, 3, 3)
    y = x
    for part in chain.parts.values():
        y = part(y)
        y = y[0] if isinstance(y, tuple) else y
    before = {name: rng.bit_generator.state for name, rng in chain.generators.items()}
    np.testing.assert_array_equal(chain(x), y)
    np.testing.assert_array_equal(chain.run(x)[0], y)
    assert {name: rng.bit_generator.state for name, rng in chain.generators.items()} == before


def test_rows_of_a_batch_do_not_meet():
    """A padded batch gives each row what it gives alone, without padding."""
    for name, chain in CHAINS.items():
        chain, lengths = chain(), [4, 1, 3]
        x = np.random.default_rng(0).integers(0, 6, (4, 3)) if name in INDICES else padded(4, 3, 3, lengths)
        y = chain(x, lengths=lengths)
        for b, T in enumerate(lengths):
            alone = chain(x[:T, b : b + 1])
            np.testing.assert_allclose(y[:T, b : b + 1] if y.ndim == 3 else y[b : b + 1], alone, rtol=1e-12, atol=1e-14)


def test_lengths_end_with_time():
    """What follows a part that ends time is not told of lengths: there are no steps to count."""
    seen = []

    class Watch(Part):
        takes_lengths = True

        def __init__(self):
            super().__init__({})

        @property
        def config(self):
            return {}

        def __call__(self, x, lengths=None):
            return self.forward(x, lengths)[0]

        def forward(self, x, lengths=None):
            seen.append(lengths)
            return x, None

        def backward(self, tape, dy):
            return PartGrads(dy, {})

    chain = Chain(Watch(), Chain(Watch(), LastStep()), Linear(3, 2, **F64))
    for call in (chain, chain.run, chain.forward):
        seen.clear()
        call(values(4, 2, 3), lengths=[4, 2])
        assert [lengths.tolist() for lengths in seen] == [[4, 2], [4, 2]]
    assert chain.ends_time and not Chain(Linear(2, 2)).ends_time


# --- states


def carrying():
    return Chain(rnn=LSTM(3, 4, **F64), more=Chain(GRU(4, 2, **F64)), out=Linear(2, 2, **F64))


def test_chain_carries_states():
    """Two pieces, the state carried, are the whole; gradients go back through it."""
    chain, x = carrying(), values(6, 2, 3)
    whole, after = chain.run(x)
    first, middle = chain.run(x[:2])
    second, last = chain.run(x[2:], middle)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_array_equal(last["more"]["0"], after["more"]["0"])
    y, tape = chain.forward(x)
    np.testing.assert_array_equal(tape.state["rnn"][1], after["rnn"][1])
    right = chain.backward(tape, y)
    y1, tape1 = chain.forward(x[:2])
    y2, tape2 = chain.forward(x[2:], tape1.state)
    grads2 = chain.backward(tape2, y2)
    grads1 = chain.backward(tape1, y1, grads2.state)
    assert list(grads1.state) == ["rnn", "more"]
    np.testing.assert_allclose(np.concatenate([grads1.x, grads2.x]), right.x, atol=1e-14)
    for key in right.params:
        np.testing.assert_allclose(grads1.params[key] + grads2.params[key], right.params[key], atol=1e-12)


def test_initial_states_and_their_gradients():
    chain, x = carrying(), values(3, 2, 3)
    state = {"rnn": (values(1, 2, 4, seed=2), values(1, 2, 4, seed=3)), "more": {"0": values(1, 2, 2, seed=4)}}
    dy, dc, dh = values(3, 2, 2, seed=5), values(1, 2, 4, seed=6), values(1, 2, 2, seed=7)

    def loss():
        y, after = chain.run(x, state)
        return (y * dy).sum() + (after["rnn"][1] * dc).sum() + (after["more"]["0"] * dh).sum()

    tape = chain.forward(x, state)[1]
    grads = chain.backward(tape, dy, {"rnn": (None, dc), "more": {"0": dh}})
    for found, array in zip(
        [grads.x, *grads.state["rnn"], grads.state["more"]["0"]], [x, *state["rnn"], state["more"]["0"]]
    ):
        np.testing.assert_allclose(found, differences(loss, array), atol=1e-8)


@pytest.mark.parametrize("which", ["rnn", "more"])
def test_a_loss_of_a_final_state_alone(which):
    """What comes after that layer has gradients of zero, the layer after it by its initial state, too."""
    chain, x = carrying(), values(3, 2, 3)
    d = values(1, 2, 4 if which == "rnn" else 2, seed=5)
    dstate = {"rnn": (d, None)} if which == "rnn" else {"more": {"0": d}}

    def loss():
        after = chain.run(x)[1]
        return ((after["rnn"][0] if which == "rnn" else after["more"]["0"]) * d).sum()

    grads = chain.backward(chain.forward(x)[1], None, dstate)
    np.testing.assert_allclose(grads.x, differences(loss, x), atol=1e-8)
    assert list(grads.params) == list(chain.params)
    for key, array in chain.params.items():
        np.testing.assert_allclose(grads.params[key], differences(loss, array), atol=1e-7, err_msg=key)
    assert not grads.params["out.weight"].any() and grads.params["rnn.weight_ih_l0"].any()
    assert grads.state["more"]["0"].any() == (which == "more")


# --- parameters


def test_model_params_and_gradients():
    model = Model(rnn=GRU(2, 3, rng=0), inner=Chain(Linear(3, 4, rng=1)), drop=Dropout(0.1))
    names = [*(f"rnn.{name}" for name in model.rnn.params), "inner.0.weight", "inner.0.bias"]
    assert list(model.params) == names
    assert model.params["rnn.bias_ih_l0"] is model.rnn.params["bias_ih_l0"]
    assert model.params["inner.0.bias"] is model.inner.parts["0"].params["bias"]
    assert model.num_parameters == sum(array.size for array in model.params.values()) == 9 * 5 + 18 + 16
    model.params["inner.0.bias"] -= np.ones(4, np.float32)
    model.params["inner.0.weight"] = np.zeros((4, 3))
    assert not model.inner.params["0.weight"].any()
    with pytest.raises(ValueError, match="params: expected one of rnn.weight_ih_l0"):
        model.params["x"] = 1
    grads = {name: np.ones_like(array) for name, array in model.rnn.params.items()}
    inner = {"0.weight": np.ones((4, 3)), "0.bias": np.ones(4)}
    assert list(model.gradients(rnn=grads, inner=inner)) == names
    found = model.gradients(rnn=grads, inner=PartGrads(None, inner), drop=PartGrads(None, {}))
    assert list(found) == names and found["inner.0.bias"] is inner["0.bias"]
    with pytest.raises(ValueError, match="inner: expected the gradients of this part, got none"):
        model.gradients(rnn=grads)
    with pytest.raises(ValueError, match="rnn, inner: expected the gradients of this part, got none"):
        model.gradients()
    with pytest.raises(ValueError, match="rnn: expected exactly .* weight_ih_l0 is missing"):
        model.gradients(rnn={}, inner={})
    with pytest.raises(ValueError, match="other: expected a part among rnn, inner, drop"):
        model.gradients(rnn=grads, inner=inner, other={})
    with pytest.raises(TypeError, match="inner: expected a mapping of names to arrays, got ndarray"):
        model.gradients(rnn=grads, inner=np.ones(3))


def test_training_a_model_by_hand():
    """The way a newcomer goes: the gradients, named, from which the parameters are changed in place."""
    model = Model(rnn=fastrnn.LSTMCell(3, 4, **F64), out=Linear(4, 1, **F64))
    x = values(8, 3)
    target, losses = np.sin(x[:, :1]), []
    for _ in range(100):
        (h, _), tape = model.rnn.forward(x)
        y, out_tape = model.out.forward(h)
        losses.append(((y - target) ** 2).mean())
        out = model.out.backward(out_tape, 2 * (y - target) / y.size)
        for name, g in model.gradients(rnn=model.rnn.backward(tape, dh=out.x), out=out).items():
            model.params[name] -= 0.5 * g
    assert losses[-1] < 0.5 * losses[0]


def test_a_parameter_made_read_only():
    model = Model(a=Linear(2, 3, rng=0))
    model.a.params["weight"].flags.writeable = False
    given = {name: array + 1 for name, array in model.state_dict().items()}
    before = model.state_dict()
    with pytest.raises(ValueError, match="expected a writable array to load into"):
        model.load_state_dict(given)
    np.testing.assert_array_equal(model.params["a.bias"], before["a.bias"])


def test_model_state_dict():
    one, other = (
        Model(a=Linear(2, 3, rng=seed), b=Chain(Embedding(4, 2, rng=seed), LSTM(2, 2, rng=seed))) for seed in (0, 1)
    )
    given = {f"net.{name}": array for name, array in one.state_dict().items()} | {"x": np.ones(1)}
    other.load_state_dict(given, "net.")
    for name, array in one.params.items():
        np.testing.assert_array_equal(other.params[name], array)
        assert not np.shares_memory(given[f"net.{name}"], array)
    before = other.state_dict()
    given["net.b.0.weight"] = np.zeros((4, 3))
    given["net.a.weight"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"state_dict\['net.b.0.weight'\]: expected shape \(4, 2\), got \(4, 3\)"):
        other.load_state_dict(given, "net.")
    for name, array in before.items():
        np.testing.assert_array_equal(other.params[name], array)
    with pytest.raises(ValueError, match="state_dict: expected exactly .*; a.weight is missing"):
        other.load_state_dict({})


# --- what a model is


def test_generators():
    rng = np.random.default_rng(0)
    model = Model(a=LSTM(2, 3, num_layers=2, dropout=0.5, rng=rng), b=LSTM(2, 3), c=Chain(Dropout(0.5, rng=rng)))
    assert list(model.generators) == ["a", "c.0"]
    assert all(generator is rng for generator in model.generators.values())


@pytest.mark.parametrize("name", CHAINS)
def test_config_rebuilds(name):
    chain = CHAINS[name]()
    config = json.loads(json.dumps(chain.config))
    again = rebuild("Chain", config)
    assert again.config == chain.config and repr(again) == repr(chain)
    again.load_state_dict(chain.state_dict())
    x = np.ones((4, 3), int) if name in INDICES else values(4, 3, 3)
    np.testing.assert_array_equal(again(x), chain(x))


@pytest.mark.parametrize("name", CHAINS)
def test_copies(name):
    """Copies have parameters of their own, one array each, and draw the same masks; a shallow copy shares them."""
    chain = CHAINS[name]()
    x = np.ones((4, 3), int) if name in INDICES else values(4, 3, 3)
    copies = [copy.deepcopy(chain), *(pickle.loads(pickle.dumps(chain, protocol)) for protocol in (2, 5))]
    y = chain.forward(x)[0]
    for again in copies:
        assert repr(again) == repr(chain) and list(again.params) == list(chain.params)
        np.testing.assert_array_equal(again.forward(x)[0], y)
        for key, array in chain.params.items():
            assert not np.shares_memory(again.params[key], array)
            part, _, inner = key.partition(".")
            assert again.params[key] is again.parts[part].params[inner]
        for array in again.params.values():
            array[...] = 0
        assert not again(x).any()  # the parts' arrays, no others, are what is computed with
    shallow = copy.copy(chain)
    key = next(iter(chain.params))
    assert np.shares_memory(shallow.params[key], chain.params[key])


def test_pickles_hold_each_parameter_once():
    model = Model(a=Linear(100, 100, rng=0))
    assert len(pickle.dumps(Chain(inner=Chain(model.a)))) < 1.2 * model.num_parameters * 4


def test_repr_is_a_tree():
    chain = Chain(Embedding(4, 2), Chain(a=LSTM(2, 3), b=Linear(3, 4, bias=False)))
    assert repr(chain).splitlines() == [
        "Chain(",
        "  (0): Embedding(4, 2)",
        "  (1): Chain(",
        "    (a): LSTM(2, 3)",
        "    (b): Linear(3, 4, bias=False)",
        "  )",
        ")",
    ]
    assert repr(Model()) == "Model()"


def test_attributes_are_parts():
    model = Model(rnn=LSTM(2, 3), out=Linear(3, 1))
    assert model.rnn is model.parts["rnn"] and {"rnn", "out", "params"} <= set(dir(model))
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'b'; its parts are rnn, out"):
        _ = model.b
    with pytest.raises(AttributeError, match="no attribute 'eval': .*there is no mode to set; its parts are rnn, out"):
        model.eval()
    with pytest.raises(AttributeError, match="cannot set 'rnn' of 'Model' object: its parts are fixed once made"):
        model.rnn = LSTM(2, 3)
    model.note = "kept"
    assert model.note == "kept" and copy.deepcopy(model).note == "kept"


def test_a_subclass_says_how_parts_are_put_together():
    class Tagger(Model):
        __slots__ = ("extra",)

        def __init__(self, size):
            super().__init__(rnn=GRU(2, size, rng=0), out=Linear(size, 2, rng=0))
            self.extra = size

        def __call__(self, x):
            return self.out(self.rnn(x)[0])

    model, x = Tagger(3), np.ones((4, 1, 2), np.float32)
    again = copy.deepcopy(model)
    assert again.extra == 3
    np.testing.assert_array_equal(again(x), model(x))


def shared():
    layer = Linear(2, 2)
    return layer, copy.copy(layer)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Model(a=3), TypeError, "a: expected a layer, cell, part or model, got int"),
        (lambda: Model(params=Linear(1, 1)), ValueError, "parts: expected names that a model does not use itself"),
        (lambda: Model(**{"a.b": Linear(1, 1)}), ValueError, "parts: expected names .* got 'a.b'"),
        (
            lambda: Chain(*[Linear(2, 2)] * 2),
            ValueError,
            "1: expected a part of its own, got one that shares .* with 0",
        ),
        (lambda: Chain(*shared()), ValueError, "1: expected a part of its own"),
        (lambda: Chain(Linear(1, 1), **{"0": Linear(1, 1)}), ValueError, "parts: expected other names .* got '0'"),
        (
            lambda: Chain(fastrnn.LSTMCell(2, 3)),
            TypeError,
            "0: expected a layer, a Chain, or a part of one input, got LS",
        ),
        (lambda: Chain(DotAttention(3)), TypeError, "0: expected a layer, a Chain, or a part of one input, got Dot"),
        (
            lambda: Chain(Model(a=Linear(2, 2))),
            TypeError,
            "0: expected a layer, a Chain, or a part of one input, got M",
        ),
        (lambda: Chain(rnn=LSTM(2, 3, batch_first=True)), ValueError, "rnn: expected a layer with time first"),
        (lambda: Chain(LastStep(), LSTM(2, 3)), ValueError, "1: expected a part that knows nothing of time after 0"),
        (lambda: Chain(Chain(LastStep()), Chain(LSTM(2, 3))), ValueError, "1: .* after 0, got Chain"),
        (lambda: carrying().run(values(6, 2, 3), {"out": 1}), ValueError, "state: .* among rnn, more, got 'out'"),
        (lambda: carrying().run(values(6, 2, 3), values(3)), TypeError, "state: expected a mapping of parts to states"),
        (lambda: carrying()(values(6, 2, 3), lengths=[7, 1]), ValueError, "lengths: expected integers from 0 to T = 6"),
        (lambda: Chain(Linear(3, 2))(values(6, 2, 3), lengths=[1]), ValueError, r"lengths: expected shape \(2,\)"),
        (lambda: Chain(Linear(3, 2))(values(3), lengths=[1]), ValueError, r"x: expected \(T, B, ...\) with lengths"),
        (lambda: backward(dy=np.ones((6, 2, 3))), ValueError, r"dy: expected shape \(6, 2, 2\), got \(6, 2, 3\)"),
        (lambda: backward(), ValueError, "dy, dstate: expected at least one gradient, got None"),
        (lambda: backward(dstate={"rnn": None}), ValueError, "dy, dstate: expected at least one gradient, got None"),
        (lambda: backward(dstate={"x": None}), ValueError, "dstate: expected names among rnn, more, got 'x'"),
        (lambda: carrying().backward(carrying().forward(values(6, 2, 3))[1], 1), ValueError, "tape: .* from another"),
        (lambda: carrying().backward({}, 1), TypeError, "tape: expected a ChainTape, got dict"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def backward(**options):
    chain = carrying()
    return chain.backward(chain.forward(values(6, 2, 3))[1], **options)
