"""torch's recurrent modules, computed by fastrnn: subclasses with the same constructors, parameters and files.

A module's `forward` is torch's own, of the version that is installed, so its checks, its errors and its ways with
packed sequences are; but the functions that it calls are those of kernels.py.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch

from . import calls, names, short


def with_kernels(forward: Any) -> Any:
    """The same function, whose name `_VF` means kernels.py."""
    return FunctionType(forward.__code__, vars(names), forward.__name__, forward.__defaults__, forward.__closure__)


class Recurrent(torch.nn.Module):
    """What the modules share. A module that torch scripts is torch's again: its scripts know no other kernels."""

    _torch_class: type[torch.nn.Module]

    def __prepare_scriptable__(self) -> torch.nn.Module:
        module = self._torch_class.__new__(self._torch_class)
        module.__dict__.update(self.__dict__)
        return module


class Layer(Recurrent):
    _torch_forward: Any

    def forward(self, input: Any, hx: Any = None, *, resets: torch.Tensor | None = None) -> Any:
        """As torch's module. resets: (T, B) booleans, laid out as the input: the state is zeros before those steps.

        Raises NotImplementedError for resets where torch would have to compute, ValueError with a packed sequence.
        """
        if isinstance(input, torch.fx.Proxy):  # symbolic tracing, which leaves torch's own modules whole
            arguments = {} if resets is None else {"resets": resets}
            tracer: Any = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input, hx), arguments)
        if resets is None:
            found = None if torch.compiler.is_compiling() else short.layer_at_once(self, input, hx)
            return self._torch_forward(input, hx) if found is None else found
        if isinstance(input, torch.nn.utils.rnn.PackedSequence):
            raise ValueError("resets: expected None with a packed sequence")
        given = resets if input.dim() == 3 else resets.unsqueeze(0 if self.batch_first else 1)
        return calls.resets.during(given, self._torch_forward, input, hx)


class Cell(Recurrent):
    _torch_forward: Any
    _mode: str

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's module."""
        found = None if torch.compiler.is_compiling() else short.cell_at_once(self, input, hx)
        return self._torch_forward(input, hx) if found is None else found


class RNN(Layer, torch.nn.RNN):
    """torch.nn.RNN on fastrnn."""

    _torch_class = torch.nn.RNN
    _torch_forward = with_kernels(torch.nn.RNN.forward)


class LSTM(Layer, torch.nn.LSTM):
    """torch.nn.LSTM on fastrnn."""

    _torch_class = torch.nn.LSTM
    _torch_forward = with_kernels(torch.nn.LSTM.forward)


class GRU(Layer, torch.nn.GRU):
    """torch.nn.GRU on fastrnn."""

    _torch_class = torch.nn.GRU
    _torch_forward = with_kernels(torch.nn.GRU.forward)


class RNNCell(Cell, torch.nn.RNNCell):
    """torch.nn.RNNCell on fastrnn."""

    _torch_class = torch.nn.RNNCell
    _torch_forward = with_kernels(torch.nn.RNNCell.forward)

    @property
    def _mode(self) -> str:  # type: ignore[override]
        return f"rnn_{self.nonlinearity}"


class LSTMCell(Cell, torch.nn.LSTMCell):
    """torch.nn.LSTMCell on fastrnn."""

    _torch_class = torch.nn.LSTMCell
    _torch_forward = with_kernels(torch.nn.LSTMCell.forward)
    _mode = "lstm"


class GRUCell(Cell, torch.nn.GRUCell):
    """torch.nn.GRUCell on fastrnn."""

    _torch_class = torch.nn.GRUCell
    _torch_forward = with_kernels(torch.nn.GRUCell.forward)
    _mode = "gru"


KINDS: tuple[type[Recurrent], ...] = (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)
