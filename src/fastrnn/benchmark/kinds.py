"""What can be measured: every layer of the package, and every option that changes a cell's arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fastrnn

from ..layer import Layer
from ..spec import Cell


@dataclass(frozen=True)
class Kind:
    """A layer's class and the arguments of its constructor.

    title    as tables and pictures name it
    corner   whether a derivative jumps somewhere: there rounding decides between two gradients
    """

    title: str
    layer: Any  # the class, a Layer
    options: Mapping[str, Any] = field(default_factory=dict)
    corner: bool = False

    def make(self, input_size: int, hidden_size: int, dtype: Any, rng: Any) -> Layer:
        return self.layer(input_size, hidden_size, dtype=dtype, rng=rng, **self.options)

    @cached_property
    def cell(self) -> Cell:
        return self.make(1, 1, "float32", 0)._spec.cell

    @property
    def gates(self) -> int:
        return len(self.cell.gates)

    @property
    def recurrent(self) -> bool:
        """Whether a step has a product by W_hh; a scan has none."""
        return bool(self.cell.phases)


FUNCTIONS = ("hard_sigmoid", "softsign", "softsign")

KINDS = {
    "rnn": Kind("RNN", fastrnn.RNN),
    "lstm": Kind("LSTM", fastrnn.LSTM),
    "gru": Kind("GRU", fastrnn.GRU),
    "rnn_relu": Kind("RNN relu", fastrnn.RNN, {"nonlinearity": "relu"}, corner=True),
    "leaky": Kind("Leaky RNN", fastrnn.LeakyRNN),
    "leaky_relu": Kind("Leaky RNN relu", fastrnn.LeakyRNN, {"nonlinearity": "relu"}, corner=True),
    "lstm_peephole": Kind("LSTM peephole", fastrnn.LSTM, {"peephole": True}),
    "lstm_coupled": Kind("LSTM coupled", fastrnn.LSTM, {"coupled": True}),
    "lstm_clip": Kind("LSTM clip", fastrnn.LSTM, {"clip": 3.0}, corner=True),
    "lstm_activations": Kind("LSTM activations", fastrnn.LSTM, {"activations": FUNCTIONS}, corner=True),
    "lstm_zoneout": Kind("LSTM zoneout", fastrnn.LSTM, {"zoneout": 0.1}),
    "gru_reset_first": Kind("GRU reset first", fastrnn.GRU, {"reset": "before"}),
    "lstm_norm": Kind("LSTM normalised", fastrnn.LSTM, {"layer_norm": True}),
    "gru_norm": Kind("GRU normalised", fastrnn.GRU, {"layer_norm": "gate", "norm_eps": 1e-3}),
    "mingru": Kind("MinGRU", fastrnn.MinGRU),
    "minlstm": Kind("MinLSTM", fastrnn.MinLSTM),
    "indrnn": Kind("IndRNN", fastrnn.IndRNN, corner=True),
}
CELLS = ("rnn", "lstm", "gru")  # that are measured unless others are asked for
