"""What tells the recurrent cells apart, for the code that treats them alike."""

from typing import NamedTuple

import numpy as np


class Cell(NamedTuple):
    """The shape of a cell's arithmetic; its equations live in each backend."""

    name: str
    gates: int  # rows of weight_ih and weight_hh per hidden unit
    states: int  # 1: the state is h; 2: it is (h, c)
    saved: int  # values a tape keeps per hidden unit, row and step, beside x and y


RNN_TANH = Cell("rnn_tanh", gates=1, states=1, saved=0)
RNN_RELU = Cell("rnn_relu", gates=1, states=1, saved=0)
LSTM = Cell("lstm", gates=4, states=2, saved=5)  # gates i, f, g, o; saved i, f, g, o, c
GRU = Cell("gru", gates=3, states=1, saved=4)  # gates r, z, n; saved r, z, n, W_hn h + b_hn

CELLS = {cell.name: cell for cell in (RNN_TANH, RNN_RELU, LSTM, GRU)}


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or their gradients."""

    w_ih: np.ndarray  # (gates·H, I)
    w_hh: np.ndarray  # (gates·H, H)
    b_ih: np.ndarray | None = None  # (gates·H,)
    b_hh: np.ndarray | None = None  # (gates·H,)
