"""fastrnn.torch under torch.compile, torch.export and torch.fx: one operator, the same numbers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch._dynamo.config  # noqa: E402, F811

import fastrnn.torch  # noqa: E402
from fastrnn.torch import operator  # noqa: E402

T, B, I, H = 6, 3, 4, 5


@pytest.fixture(autouse=True)
def allow_rnn():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


class Model(torch.nn.Module):
    """A recurrent module with operations around it, which say what they were given."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.out = rnn, torch.nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 2, dtype=torch.float64)

    def forward(self, x, *state):
        y, after = self.rnn(torch.tanh(x), *state)
        after = after if isinstance(after, tuple) else (after,)
        return self.out(y).sin(), *[part * 2 for part in after]


def gradients(model, *inputs):
    given = [t.clone().requires_grad_() for t in inputs]
    torch.manual_seed(5)
    found = model(*given)
    sum(part.square().sum() for part in found).backward()
    result = [*found, *[t.grad for t in given], *[p.grad.clone() for p in model.parameters()]]
    model.zero_grad()
    return [t.detach() for t in result]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_one_graph_the_same_numbers(kind, options):
    model = Model(getattr(fastrnn.torch, kind)(I, H, dtype=torch.float64, **options))
    x = torch.randn(T, B, I, dtype=torch.float64)
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    torch.compile(model, backend=keep, fullgraph=True)(x)
    assert sum("fastrnn" in name and "record" in name for name in graphs[0]) == 1 and len(graphs) == 1
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for expected, found in zip(gradients(model, x), gradients(compiled, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with torch.no_grad():
        for expected, found in zip(model(x), compiled(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_dropout_projection_state_and_frozen_inputs():
    rnn = fastrnn.torch.LSTM(I, H, 3, dropout=0.5, proj_size=2, dtype=torch.float64)
    model = Model(rnn)
    model.out = torch.nn.Linear(2, 2, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    state = tuple(torch.randn(3, B, width, dtype=torch.float64, requires_grad=True) for width in (2, H))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for call in model, compiled:
        torch.manual_seed(1)
        y, *_ = call(x, state)  # x takes no gradient
        found = torch.autograd.grad(y.sum(), [*state, *rnn.parameters()])
        results.append([y.detach(), *found])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(model(x, state)[0], model(x, state)[0])  # masks are drawn anew


def test_resets_and_cells():
    rnn = fastrnn.torch.GRU(I, H, dtype=torch.float64)
    x, resets = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.3
    assert resets.any()
    compiled = torch.compile(lambda x, resets: rnn(x, resets=resets)[0], backend="aot_eager", fullgraph=True)
    expected, found = rnn(x, resets=resets)[0], compiled(x, resets)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    cell = fastrnn.torch.LSTMCell(I, H, dtype=torch.float64)
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    for expected, found in zip(cell(x[0]), compiled(x[0]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_packed_sequences():
    rnn = fastrnn.torch.LSTM(I, H, 2, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([T, 4, 2]))
    state = tuple(torch.zeros(2, B, H, dtype=torch.float64) for _ in range(2))
    compiled = torch.compile(rnn, backend="aot_eager")
    results = []
    for call in rnn, compiled:
        y, _ = call(packed, state)
        results.append([y.data.detach(), *torch.autograd.grad(y.data.square().sum(), list(rnn.parameters()))])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_operators_are_what_they_say():
    """torch's own checks of a custom operator: schema, gradients, fake results."""
    rnn = torch.nn.LSTM(I, H, 2, batch_first=True)
    state = [torch.zeros(2, B, H, requires_grad=True) for _ in range(2)]
    arguments = (torch.randn(B, T, I, requires_grad=True), None, None, state, list(rnn.parameters()))
    asked = ("lstm", True, 2, 0.0, False, True)
    torch.library.opcheck(operator.record, (*arguments, *asked))
    with torch.no_grad():
        plain = [t.detach() for t in state], [p.detach() for p in rnn.parameters()]
        torch.library.opcheck(operator.infer, (arguments[0].detach(), None, None, *plain, *asked))


def test_bfloat16_and_exports_are_torchs():
    rnn = fastrnn.torch.LSTM(I, H).bfloat16()
    x = torch.randn(T, B, I, dtype=torch.bfloat16)
    compiled = torch.compile(rnn, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], rnn(x)[0])
    rnn = fastrnn.torch.GRU(I, H)
    program = torch.export.export(rnn, (torch.randn(T, B, I),))
    assert "fastrnn" not in str(program.graph)  # others can load it
    x = torch.randn(T, B, I)
    torch.testing.assert_close(program.module()(x)[0], rnn(x)[0])


def test_symbolic_tracing_leaves_modules_whole():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fastrnn.torch.LSTM(I, H)

        def forward(self, x):
            y, (h, c) = self.rnn(x)
            return y + h + c

    model = Two()
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["rnn"]
    x = torch.randn(T, B, I)
    np.testing.assert_array_equal(traced(x).detach(), model(x).detach())
