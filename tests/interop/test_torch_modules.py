"""fastrnn.torch's modules against torch's own: results, gradients, files, errors; and which way a call goes."""

import copy
import importlib
import io
import itertools
import pickle
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastrnn.torch  # noqa: E402
from fastrnn.torch import kernels, short  # noqa: E402

LENGTHS = torch.tensor([3, 7, 1, 5, 2])
T, B, I, H = 7, 5, 3, 4


@pytest.fixture
def computed(monkeypatch):
    """The names of torch's functions that were computed by fastrnn, and those that were left to torch."""
    ways = {True: [], False: []}

    def counted(file, name):
        function = getattr(file, name)

        def count(asked, *args):
            found = function(asked, *args)
            if found is not None or name == "compute":  # the others leave what they do not compute to it
                ways[found is not None].append(getattr(asked, "mode", type(asked).__name__))
            return found

        monkeypatch.setattr(file, name, count)

    counted(kernels, "compute")
    counted(short, "layer_at_once")
    counted(short, "cell_at_once")
    return ways


def pair(kind, *sizes, **options):
    """torch's module, and fastrnn's with the same parameters."""
    options = {"dtype": torch.float64} | options
    torch.manual_seed(0)
    theirs, ours = getattr(torch.nn, kind)(*sizes, **options), getattr(fastrnn.torch, kind)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def flat(values):
    """All tensors in what a module returns."""
    if isinstance(values, torch.nn.utils.rnn.PackedSequence):
        return [values.data]
    return [values] if isinstance(values, torch.Tensor) else [t for value in values for t in flat(value)]


def everything(module, x, hx, packed=False, dropout_seed=3):
    """Results, and the gradients of a loss by the input, the state and the parameters."""
    x = x.clone().requires_grad_()
    states = [part.clone().requires_grad_() for part in flat(hx)] if hx is not None else []
    state = None if hx is None else tuple(states) if isinstance(hx, tuple) else states[0]
    given = x
    if packed:
        first = getattr(module, "batch_first", False)
        given = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, first, enforce_sorted=False)
    torch.manual_seed(dropout_seed)
    found = flat(module(given, state))
    weights = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).reshape(t.shape) for t in found]
    sum((t * w).sum() for t, w in zip(found, weights)).backward()
    return [*found, x.grad, *(part.grad for part in states), *(p.grad for p in module.parameters())]


def assert_same(theirs, ours, x, hx=None, packed=False, rtol=1e-10):
    for left, right in zip(everything(theirs, x, hx, packed), everything(ours, x, hx, packed), strict=True):
        torch.testing.assert_close(right, left, rtol=rtol, atol=rtol)
    torch.manual_seed(3)
    with torch.no_grad():
        expected = flat(theirs(x, hx))
        torch.manual_seed(3)
        for left, right in zip(expected, flat(ours(x, hx)), strict=True):
            torch.testing.assert_close(right, left, rtol=rtol, atol=rtol)


def state_for(module, rows=(B,)):
    """An initial state, drawn."""
    runs = module.num_layers * (1 + module.bidirectional)
    widths = [module.proj_size or H, H] if isinstance(module, torch.nn.LSTM) else [H]
    parts = tuple(torch.randn(runs, *rows, width, dtype=torch.float64) for width in widths)
    return parts if len(parts) == 2 else parts[0]


@pytest.mark.parametrize("layout", ["time", "batch", "packed", "packed batch", "unbatched"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_as_torch(kind, layout, computed):
    for bidirectional, bias, layers, with_state in itertools.product((False, True), (True, False), (1, 2), (0, 1)):
        first = layout.endswith("batch")
        theirs, ours = pair(kind, I, H, layers, bidirectional=bidirectional, bias=bias, batch_first=first)
        shape = (T, I) if layout == "unbatched" else (B, T, I) if first else (T, B, I)
        rows = () if layout == "unbatched" else (B,)
        x = torch.randn(shape, dtype=torch.float64)
        assert_same(theirs, ours, x, state_for(theirs, rows) if with_state else None, layout.startswith("packed"))
    assert len(computed[True]) == 32 and not computed[False]


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"bias": False}, {"num_layers": 3}], ids=str)
def test_projection(options):
    theirs, ours = pair("LSTM", I, H, proj_size=2, **options)
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert_same(theirs, ours, x, state_for(theirs))
    assert_same(theirs, ours, x, None, packed=True)


def test_relu_and_single_precision():
    theirs, ours = pair("RNN", I, H, nonlinearity="relu")
    assert_same(theirs, ours, torch.randn(T, B, I, dtype=torch.float64))
    theirs, ours = pair("GRU", I, H, 2, dtype=torch.float32)
    assert_same(theirs, ours, torch.randn(T, B, I), rtol=1e-5)


@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_draws_torchs_masks(kind, layout):
    theirs, ours = pair(kind, I, H, 3, dropout=0.4, bidirectional=True, batch_first=layout == "batch")
    x = torch.randn((B, T, I) if layout == "batch" else (T, B, I), dtype=torch.float64)
    assert_same(theirs, ours, x, packed=layout == "packed")
    for module in theirs, ours:
        module.eval()
    assert_same(theirs, ours, x)


@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(kind, options, computed):
    theirs, ours = pair(kind, I, H, **options)
    for rows in (B,), ():
        x = torch.randn(*rows, I, dtype=torch.float64)
        h = torch.randn(*rows, H, dtype=torch.float64)
        for hx in None, (h, h + 1) if kind == "LSTMCell" else h:
            assert_same(theirs, ours, x, hx)
    assert len(computed[True]) == 8 and not computed[False]


def test_gradcheck_and_no_gradients_of_gradients():
    for kind in "RNN", "LSTM", "GRU":
        _, ours = pair(kind, I, H, 2, bidirectional=True)
        x = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *_, rnn=ours: flat(rnn(x)), (x, *ours.parameters()))
        (gradient,) = torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="gradients of gradients are not computed"):
            gradient.square().sum().backward()


def test_what_the_gradient_needs_may_not_be_changed():
    _, ours = pair("GRU", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for change in lambda y: y.mul_(2), lambda y: ours.weight_hh_l0.mul_(2):
        y, _ = ours(x)
        with torch.no_grad():
            change(y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_resets():
    _, ours = pair("LSTM", I, H, batch_first=True)
    x, resets = torch.randn(B, T, I, dtype=torch.float64), torch.zeros(B, T, dtype=torch.bool)
    resets[1, 3] = resets[4, 0] = True
    state = state_for(ours)
    y, _ = ours(x, state, resets=resets)
    expected, _ = ours(x, state)
    again, _ = ours(x[1:2, 3:])
    torch.testing.assert_close(y[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(y[1, 3:], again[0], rtol=0, atol=0)
    torch.testing.assert_close(y[1, :3], expected[1, :3], rtol=0, atol=0)
    torch.testing.assert_close(y[4], ours(x[4:])[0][0], rtol=0, atol=0)
    assert torch.equal(ours(x[0], resets=resets[1])[0][3:], ours(x[0, 3:])[0])
    with pytest.raises(ValueError, match="resets: expected None with a packed sequence"):
        ours(torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, True, False), resets=resets)
    with pytest.raises(NotImplementedError, match="resets: expected None where torch computes"):
        ours.half()(x.half(), resets=resets)


def test_weights_are_seen_as_they_are():
    theirs, ours = pair("GRU", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for module in theirs, ours:
        with torch.no_grad():
            module.bias_hh_l0[H : 2 * H] = 3
        module.weight_ih_l0.data.mul_(0.5)
        module.weight_hh_l0 = torch.nn.Parameter(torch.linspace(-1, 1, 3 * H * H, dtype=torch.float64).view(3 * H, H))
    assert_same(theirs, ours, x)


def test_files_copies_and_names():
    _, ours = pair("LSTM", I, H, 2, dropout=0.1)
    ours.eval()
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected = ours(x)[0]
    assert repr(ours) == "LSTM(3, 4, num_layers=2, dropout=0.1)"
    saved = io.BytesIO()
    torch.save(ours, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    for other in copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded:
        assert type(other) is fastrnn.torch.LSTM
        assert torch.equal(other(x)[0], expected)
    seen = []
    ours.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    ours(x)
    assert torch.equal(seen[0], expected)


def test_a_model_is_swapped_in_place_and_back():
    class Own(torch.nn.GRU):
        pass

    rnn = torch.nn.LSTM(I, H, batch_first=True)
    model = torch.nn.ModuleDict({"rnn": rnn, "cell": torch.nn.GRUCell(I, H), "own": Own(I, H)})
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(B, T, I)
    before = rnn(x)[0]
    assert fastrnn.torch.accelerate(model) is model and model["rnn"] is rnn
    assert [type(module) for module in model.values()] == [fastrnn.torch.LSTM, fastrnn.torch.GRUCell, Own]
    torch.testing.assert_close(rnn(x)[0], before)
    rnn(x)[0].sum().backward()
    optimiser.step()
    assert not torch.allclose(rnn(x)[0], before)
    fastrnn.torch.restore(model)
    assert [type(module) for module in model.values()] == [torch.nn.LSTM, torch.nn.GRUCell, Own]
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        fastrnn.torch.accelerate([rnn])


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*a Python boolean")
def test_what_is_left_to_torch(computed):
    _, ours = pair("LSTM", I, H, dtype=torch.float32)
    x = torch.randn(T, B, I)
    assert fastrnn.torch.explain(ours) == "fastrnn: float32 on the CPU"
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x)[0].dtype is torch.bfloat16
        assert fastrnn.torch.explain(ours) == "torch: autocast is enabled"
    assert ours.to("meta")(x.to("meta"))[0].is_meta
    assert fastrnn.torch.explain(ours) == "torch: a tensor is on meta"
    half = fastrnn.torch.GRU(I, H).bfloat16()
    assert half(x.bfloat16())[0].dtype is torch.bfloat16
    assert fastrnn.torch.explain(half) == "torch: torch.bfloat16 is neither float32 nor float64"
    own = fastrnn.torch.GRU(I, H)
    outer = torch.func.jacrev(lambda x: own(x)[0].sum())(x)  # a transform of torch's own differentiates
    assert outer.shape == x.shape
    assert computed == {True: [], False: ["lstm", "lstm", "gru", "gru"]}
    traced = torch.jit.trace(own, x)
    torch.testing.assert_close(traced(x)[0], own(x)[0])
    assert isinstance(torch.jit.script(own), torch.jit.ScriptModule)
    assert fastrnn.torch.explain(torch.nn.GRU(1, 1)).startswith("torch: this is torch.nn.GRU; accelerate(model)")
    assert fastrnn.torch.explain(torch.nn.Linear(1, 1)) == "torch: Linear is no recurrent module of fastrnn.torch"


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_errors_are_torchs(kind):
    theirs, ours = pair(kind, I, H)
    cell = kind.endswith("Cell")
    h = torch.zeros(*(() if cell else (1,)), B, H + 1, dtype=torch.float64)
    given = torch.zeros(*(() if cell else (T,)), B, I, dtype=torch.float64)
    states = (h, h) if kind.startswith("LSTM") else h
    for args in (given[..., :2],), (given[None, None],), (given, states), (given.float(),):
        found = []
        for module in theirs, ours:
            with pytest.raises((RuntimeError, ValueError)) as caught:
                module(*args)
            found.append((type(caught.value), str(caught.value)))
        assert found[0] == found[1]


def test_without_torch_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fastrnn.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"fastrnn.torch needs torch: pip install 'fastrnn\[torch\]'"):
        importlib.import_module("fastrnn.torch")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_hundred_steps_of_training(kind):
    """A model of characters: embedding, layer, linear; the losses of both to 1e-5."""
    text = np.frombuffer((__doc__ * 40).encode(), np.uint8) % 64
    losses = []
    for package in torch.nn, fastrnn.torch:
        torch.manual_seed(0)
        embedding, rnn = torch.nn.Embedding(64, 16), getattr(package, kind)(16, 32, 2, dropout=0.1)
        linear = torch.nn.Linear(32, 64)
        parameters = [*embedding.parameters(), *rnn.parameters(), *linear.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=1e-3)
        rng, found = np.random.default_rng(0), []
        for _ in range(100):
            begins = rng.integers(0, len(text) - 21, 8)
            chunk = torch.from_numpy(np.stack([text[k : k + 21] for k in begins], axis=1).astype(np.int64))
            logits = linear(rnn(embedding(chunk[:-1]))[0])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            found.append(loss.item())
        losses.append(found)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[1][-1] < 0.95 * losses[1][0]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_the_short_way_sees_what_has_changed(kind, computed):
    """Without gradients views of the parameters are kept from call to call: their memory, shape or dtype may change."""
    theirs, ours = pair(kind, 4, 4, dtype=torch.float32)
    short_ways = 0

    def same():
        nonlocal short_ways
        dtype = next(ours.parameters()).dtype
        x = torch.randn(B, 4, dtype=dtype) if kind.endswith("Cell") else torch.randn(1, B, 4, dtype=dtype)
        h = torch.randn_like(x)
        hx = (h, h + 1) if kind.startswith("LSTM") else h
        with torch.no_grad():
            for left, right in zip(flat(theirs(x, hx)), flat(ours(x, hx)), strict=True):
                torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
        short_ways += 1

    def both(change):
        for module in theirs, ours:
            change(module, next(name for name, _ in module.named_parameters() if name.startswith("weight_hh")))
        same()

    same()
    with torch.no_grad():
        both(lambda module, name: getattr(module, name).mul_(0.5))
        both(lambda module, name: getattr(module, name)[1:].fill_(0.25))
    both(lambda module, name: setattr(getattr(module, name), "data", getattr(module, name).data * 3))
    both(lambda module, name: setattr(module, name, torch.nn.Parameter(getattr(module, name).detach() - 1)))
    both(lambda module, name: setattr(getattr(module, name), "data", getattr(module, name).data.t().contiguous().t()))
    both(lambda module, name: module.double())
    both(lambda module, name: module.load_state_dict({k: v * 2 for k, v in module.state_dict().items()}))
    assert len(computed[True]) == short_ways and not computed[False]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_unwanted_gradient_changes_no_other(kind, everywhere):
    """Without the gradient by x the others have the same bits, in several chunks of time and on every backend."""
    for sizes in (20, 70, 65), (3, 2, 40):
        _, ours = pair(kind, sizes[1], sizes[2], 2, bidirectional=True, dtype=torch.float32)
        x = torch.randn(40, sizes[0], sizes[1])
        results = []
        for wanted in True, False:
            x.requires_grad_(wanted)
            ours(x)[0].square().sum().backward()
            results.append([p.grad for p in ours.parameters()])
            ours.zero_grad()
        for left, right in zip(*results, strict=True):
            assert left.abs().max() > 0 and torch.equal(left, right)
