"""torch's own database of module inputs and error inputs, and what its tests of recurrent modules ask, of fastrnn's."""

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which torch's database imports

import fastrnn.torch  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

MODULES = {m.name.removeprefix("nn."): m for m in module_db if m.name.startswith(("nn.RNN", "nn.LSTM", "nn.GRU"))}
SAMPLES = [(name, training) for name in MODULES for training in (True, False)]


def tensors(values):
    """All tensors in arguments or results, packed sequences being tuples."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [t for value in values or () for t in tensors(value)] if isinstance(values, (tuple, list)) else []


def asked(name, dtype, training=True, errors=False):
    module = MODULES[name]
    function = module.module_error_inputs_func if errors else module.module_inputs_func
    return function(module, device="cpu", dtype=dtype, requires_grad=True, training=training)


def results(module, arguments, keywords):
    """What a module gives, and its gradients by all that it was given."""
    given = [t for t in tensors([*arguments, *keywords.values()]) if t.requires_grad and t.is_leaf]
    for t in [*given, *module.parameters()]:
        t.grad = None
    found = tensors(module(*arguments, **keywords))
    sum(t.sin().sum() for t in found if t.requires_grad).backward()
    return [*found, *[t.grad.clone() for t in [*given, *module.parameters()] if t.grad is not None]]


@pytest.mark.parametrize("name, training", SAMPLES)
def test_torchs_module_inputs(name, training):
    for sample in asked(name, torch.float64, training):
        how, what = sample.constructor_input, sample.forward_input
        theirs = getattr(torch.nn, name)(*how.args, dtype=torch.float64, **how.kwargs).train(training)
        ours = getattr(fastrnn.torch, name)(*how.args, dtype=torch.float64, **how.kwargs).train(training)
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
        assert fastrnn.torch.explain(ours).startswith("fastrnn")
        expected, found = (results(module, what.args, what.kwargs) for module in (theirs, ours))
        for left, right in zip(expected, found, strict=True):
            torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODULES)
def test_torchs_error_inputs(name):
    tried = 0
    for sample in asked(name, torch.float32, errors=True):
        how, what = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        if what is None:  # an error of the constructor
            with pytest.raises(sample.error_type, match=sample.error_regex):
                getattr(fastrnn.torch, name)(*how.args, **how.kwargs)
        else:
            ours = getattr(fastrnn.torch, name)(*how.args, **how.kwargs)
            with pytest.raises(sample.error_type, match=sample.error_regex):
                ours(*what.args, **what.kwargs)
        tried += 1
    assert tried >= 4


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_backward_twice_over_a_graph_that_is_kept(name):
    rnn = getattr(fastrnn.torch, name)(3, 4, 2, dtype=torch.float64)
    y = rnn(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum()
    y.backward(retain_graph=True)
    once = [p.grad.clone() for p in rnn.parameters()]
    y.backward()
    for p, grad in zip(rnn.parameters(), once):
        torch.testing.assert_close(p.grad, 2 * grad, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_weights_that_are_computed(name):
    """weight_norm: weights are no parameters then, and gradients go through them."""
    torch.manual_seed(0)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    found = []
    for module in torch.nn, fastrnn.torch:
        torch.manual_seed(1)
        rnn = getattr(module, name)(3, 4, dtype=torch.float64)
        torch.nn.utils.parametrizations.weight_norm(rnn, "weight_hh_l0")
        rnn(x)[0].square().sum().backward()
        found.append([p.grad for p in rnn.parameters()])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_parameters_of_a_functional_call(name):
    rnn = getattr(fastrnn.torch, name)(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    other = {key: (value.detach() / 2).requires_grad_() for key, value in rnn.named_parameters()}
    y = torch.func.functional_call(rnn, other, (x,))[0]
    gradients = torch.autograd.grad(y.sum(), list(other.values()))
    with torch.no_grad():
        without = torch.func.functional_call(rnn, other, (x,))[0]
        for p in rnn.parameters():
            p.mul_(0.5)
    expected = rnn(x)[0]
    assert torch.equal(y, expected) and torch.equal(without, expected)
    for left, right in zip(torch.autograd.grad(expected.sum(), list(rnn.parameters())), gradients):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_strided_inputs_and_states(name):
    theirs = getattr(torch.nn, name)(3, 4, 2, dtype=torch.float64)
    ours = fastrnn.torch.accelerate(getattr(torch.nn, name)(3, 4, 2, dtype=torch.float64))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 2, 7, dtype=torch.float64).permute(2, 1, 0)
    h = torch.randn(4, 2, 2, dtype=torch.float64).permute(2, 1, 0)
    state = (h, h.flip(0)) if name == "LSTM" else h
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for left, right in zip(tensors(theirs(x, state)), tensors(ours(x, state)), strict=True):
                torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-12)


def test_no_rows_and_no_steps_are_torchs():
    for name in "RNN", "LSTM", "GRU":
        theirs, ours = getattr(torch.nn, name)(3, 4), getattr(fastrnn.torch, name)(3, 4)
        assert ours(torch.zeros(5, 0, 3))[0].shape == theirs(torch.zeros(5, 0, 3))[0].shape == (5, 0, 4)
        for module in theirs, ours:
            with pytest.raises(RuntimeError, match="sequence length"):
                module(torch.zeros(0, 2, 3))
        cell = getattr(fastrnn.torch, name + "Cell")(3, 0)
        state = (torch.zeros(2, 0),) * 2 if name == "LSTM" else torch.zeros(2, 0)
        assert tensors(cell(torch.zeros(2, 3), state))[0].shape == (2, 0)
