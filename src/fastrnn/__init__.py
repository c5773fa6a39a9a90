"""Recurrent layers for NumPy, forward and backward, at the speed limit of the CPU."""

from ._version import __version__
from .backends import BackendUnavailable
from .cells import GRUCell, LSTMCell, RNNCell
from .config import available_backends, get_backend, get_num_threads, set_backend, set_num_threads, use_backend
from .files import load, save
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
from .layers import GRU, LSTM, RNN, Layer
from .showconfig import show_config
from .tape import CellGrads, Grads, Tape
from .threadpools import register_when_imported as _register_when_imported

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BackendUnavailable",
    "CellGrads",
    "FrozenCell",
    "FrozenLayer",
    "GRUCell",
    "Grads",
    "LSTMCell",
    "Layer",
    "RNNCell",
    "Tape",
    "__version__",
    "available_backends",
    "get_backend",
    "get_num_threads",
    "gru_cell",
    "gru_cell_backward",
    "gru_cell_forward",
    "load",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_cell_forward",
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
    "use_backend",
]


def __dir__() -> list[str]:
    return __all__


_register_when_imported()
