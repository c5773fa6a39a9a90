"""Recurrent layers for NumPy, forward and backward, at the speed limit of the CPU."""

from importlib import import_module as _import_module
from typing import Any as _Any

from ._version import __version__
from .backends import BackendUnavailable
from .cells import GRUCell, LSTMCell, RNNCell
from .core.config import available_backends, get_backend, get_num_threads, set_backend, set_num_threads, use_backend
from .core.showconfig import show_config
from .core.tape import CellGrads, Grads, Tape
from .core.threadpools import register_when_imported as _register_when_imported
from .frozen import FrozenCell, FrozenLayer
from .functional import (
    gru_cell,
    gru_cell_backward,
    gru_cell_forward,
    lstm_cell,
    lstm_cell_backward,
    lstm_cell_forward,
    rnn_relu_cell,
    rnn_relu_cell_backward,
    rnn_relu_cell_forward,
    rnn_tanh_cell,
    rnn_tanh_cell_backward,
    rnn_tanh_cell_forward,
)
from .layer import Layer
from .layers import GRU, LSTM, RNN, LeakyRNN
from .recurrence import (
    RecurrenceGrads,
    RecurrenceTape,
    linear_recurrence,
    linear_recurrence_backward,
    linear_recurrence_forward,
)
from .scans import FrozenScan, IndRNN, MinGRU, MinLSTM

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BackendUnavailable",
    "CellGrads",
    "FrozenCell",
    "FrozenLayer",
    "FrozenScan",
    "GRUCell",
    "Grads",
    "IndRNN",
    "LSTMCell",
    "Layer",
    "LeakyRNN",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "RecurrenceGrads",
    "RecurrenceTape",
    "Tape",
    "__version__",
    "available_backends",
    "find_layers",
    "flow",
    "get_backend",
    "get_num_threads",
    "gru_cell",
    "gru_cell_backward",
    "gru_cell_forward",
    "linear_recurrence",
    "linear_recurrence_backward",
    "linear_recurrence_forward",
    "load",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "read",
    "rnn_relu_cell",
    "rnn_relu_cell_backward",
    "rnn_relu_cell_forward",
    "rnn_tanh_cell",
    "rnn_tanh_cell_backward",
    "rnn_tanh_cell_forward",
    "save",
    "set_backend",
    "set_num_threads",
    "show_config",
    "train",
    "use_backend",
]


def __getattr__(name: str) -> _Any:
    """Import what is beside the layers when it is asked for."""
    if name in ("equinox", "flax", "flow", "keras", "onnx", "sklearn", "torch", "train"):
        return _import_module(f"{__name__}.{name}")
    functions = {"find_layers": "weights.find", "load": "files", "read": "formats", "save": "files"}
    if name in functions:
        return getattr(_import_module(f"{__name__}.{functions[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


_register_when_imported()
