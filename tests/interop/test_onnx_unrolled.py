"""Recurrences that torch's newer exporter writes out step by step, read by from_onnx: torch's numbers, or why not."""

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")  # which the exporter needs

from fastrnn.onnx import from_onnx  # noqa: E402

T, B, I, H = 5, 2, 3, 4


class Stepped(torch.nn.Module):
    """A cell in a loop over time, to and fro, from a state of zeros or its own."""

    def __init__(self, cell, backwards=False, start=None):
        super().__init__()
        self.cell, self.backwards = cell, backwards
        self.register_buffer("start", start)

    def forward(self, x):
        h, found = self.start, []
        for t in reversed(range(len(x))) if self.backwards else range(len(x)):
            h = self.cell(x[t], h)
            found.append(h[0] if isinstance(h, tuple) else h)
        return torch.stack(found[::-1] if self.backwards else found)


class Changed(torch.nn.RNNCell):
    """No cell of anybody's."""

    def forward(self, x, h=None):
        return super().forward(x, h) * 0.9


def exported(module, x):
    return torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False).model_proto


CASES = {
    "RNN": lambda: torch.nn.RNN(I, H),
    "RNN relu, batch first": lambda: torch.nn.RNN(I, H, nonlinearity="relu", batch_first=True),
    "RNN of two layers": lambda: torch.nn.RNN(I, H, 2),
    "RNNCell": lambda: Stepped(torch.nn.RNNCell(I, H)),
    "GRUCell": lambda: Stepped(torch.nn.GRUCell(I, H)),
    "LSTMCell": lambda: Stepped(torch.nn.LSTMCell(I, H)),
    "LSTMCell without biases": lambda: Stepped(torch.nn.LSTMCell(I, H, bias=False)),
    "GRUCell backwards": lambda: Stepped(torch.nn.GRUCell(I, H), backwards=True),
}


@pytest.mark.parametrize("case", CASES)
def test_torchs_numbers(case):
    torch.manual_seed(0)
    module, x = CASES[case](), torch.randn(T, B, I)
    first = "batch first" in case
    given = x.swapaxes(0, 1) if first else x
    found = from_onnx(exported(module, given))  # whose x, where first, is what the graph transposes
    assert len(found) == (2 if "two" in case else 1) and not found.skipped
    y = x.numpy()
    for layer in found.values():  # of a stack the first layer first
        y, _ = layer(y)
    expected = module(given)
    expected = expected[0] if isinstance(expected, tuple) else expected
    expected = expected.swapaxes(0, 1) if first else expected
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-6)
    assert all(node.operator == "unrolled" for node in found.nodes.values())


@pytest.mark.parametrize(
    "module, why",
    [
        (lambda: Stepped(torch.nn.RNNCell(I, H), start=torch.ones(B, H)), "state of zeros"),
        (lambda: Stepped(Changed(I, H)), "no activation|n - z n"),
    ],
)
def test_what_is_not_read_says_why(module, why):
    torch.manual_seed(0)
    found = from_onnx(exported(module(), torch.randn(T, B, I)))
    assert not len(found) and len(found.skipped) == 1
    (reason,) = found.skipped.values()
    assert reason.startswith("unrolled: ") and re.search(why, reason)
