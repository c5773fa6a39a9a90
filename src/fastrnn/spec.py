"""What tells the recurrent cells apart, for the code that treats them alike."""

from typing import NamedTuple

import numpy as np


class Cell(NamedTuple):
    """The shape of a cell's arithmetic; its equations live in each backend."""

    name: str
    gates: int  # rows of weight_ih and weight_hh per hidden unit
    states: int  # 1: the state is h; 2: it is (h, c)
    keeps: tuple[str, ...] = ()  # what a tape has of each hidden unit, row and step, beside x and y

    @property
    def saved(self) -> int:
        return len(self.keeps)


RNN_TANH = Cell("rnn_tanh", gates=1, states=1)
RNN_RELU = Cell("rnn_relu", gates=1, states=1)
LSTM = Cell("lstm", gates=4, states=2, keeps=("i", "f", "g", "o", "c"))  # its gates are the first four
GRU = Cell("gru", gates=3, states=1, keeps=("r", "z", "n", "hn"))  # its gates, and W_hn h + b_hn

CELLS = {cell.name: cell for cell in (RNN_TANH, RNN_RELU, LSTM, GRU)}


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or their gradients."""

    w_ih: np.ndarray  # (gates·H, I)
    w_hh: np.ndarray  # (gates·H, H)
    b_ih: np.ndarray | None = None  # (gates·H,)
    b_hh: np.ndarray | None = None  # (gates·H,)
