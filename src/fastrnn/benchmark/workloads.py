"""What is measured: the one list of workloads, for `fastrnn bench` and for the suites in bench/.

Sizes are given as (T, B, I, H):

    T  time steps    B  rows of the batch    I  input_size    H  hidden_size
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..spec import CELLS as SPECS

CELLS = ("rnn", "lstm", "gru")
MODES = ("forward", "training")
MOST_ELEMENTS = 1 << 40  # of an array: terabytes
GATES = {"rnn": SPECS["rnn_tanh"].gates, "lstm": SPECS["lstm"].gates, "gru": SPECS["gru"].gates}


class Size(NamedTuple):
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


# fmt: off
GRID = tuple(Size(*size) for size in (
    (500, 1, 1, 16),                                                              # a streaming detector
    (100, 1, 64, 64), (100, 1, 128, 128), (100, 1, 256, 256), (100, 1, 512, 512), (50, 1, 1024, 1024),  # one sequence
    (100, 8, 48, 96), (100, 16, 64, 64), (60, 20, 100, 200),                      # small batches
    (100, 32, 128, 128), (100, 32, 256, 256), (50, 64, 512, 512), (25, 128, 1024, 1024),    # training
))
DEFAULT = tuple(Size(*size) for size in (
    (500, 1, 1, 16), (100, 1, 64, 64), (100, 1, 256, 256), (100, 16, 64, 64), (60, 20, 100, 200),
    (100, 32, 128, 128), (100, 32, 256, 256), (50, 64, 512, 512),
))
QUICK = tuple(Size(*size) for size in ((500, 1, 1, 16), (100, 1, 128, 128), (100, 16, 64, 64), (100, 32, 128, 128)))
# fmt: on


class Workload(NamedTuple):
    """One cell at one size; `forward` is inference, `training` is forward and backward."""

    cell: str
    size: Size
    mode: str

    def __str__(self) -> str:
        return f"{self.cell}-{self.mode}-{self.size}"

    @property
    def flops(self) -> int:
        """Floating-point operations of the two gate products in one call, a multiply-add counted as two.

        Training counts as three times forward: the gradients of inputs and of weights are a product each.
        """
        T, B, I, H = self.size
        forward = 2 * T * B * GATES[self.cell] * H * (I + H)
        return forward if self.mode == "forward" else 3 * forward

    @property
    def step_flops(self) -> int:
        """Of these, those of one sequential product: one step of all rows with W_hh."""
        _, B, _, H = self.size
        return 2 * B * GATES[self.cell] * H * H

    def recurrent_bytes(self, dtype: Any) -> int:
        """The size of W_hh."""
        return GATES[self.cell] * self.size.H**2 * np.dtype(dtype).itemsize

    @property
    def steps(self) -> int:
        """Time steps of one call, over all rows."""
        return self.size.T * self.size.B


def workloads(
    sizes: Iterable[Size] = DEFAULT, cells: Sequence[str] = CELLS, modes: Sequence[str] = MODES
) -> Iterator[Workload]:
    """The grid: by size, then mode, with the cells side by side."""
    return (Workload(cell, size, mode) for size in sizes for mode in modes for cell in cells)


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Sizes from "T,B,I,H;T,B,I,H"; the words "all", "default" and "quick" name the lists above. Else ValueError."""
    named = {"all": GRID, "default": DEFAULT, "quick": QUICK}
    return named[text] if text in named else tuple(dict.fromkeys(map(parse_size, text.split(";"))))


def parse_size(text: str) -> Size:
    try:
        size = Size(*map(int, text.split(",")))
        if min(size) < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"expected four positive integers T,B,I,H, got {text.strip()!r}") from None
    T, B, I, H = size
    if (I + H) * max(T * B, H) > MOST_ELEMENTS:
        raise ValueError(f"expected sizes of arrays that a machine can hold, got {text.strip()!r}")
    return size


class Problem(NamedTuple):
    """A workload with its data: a mutable layer, an input and the gradient of the loss by the output."""

    workload: Workload
    seed: int
    layer: Any
    x: np.ndarray  # (T, B, I)
    dy: np.ndarray  # (T, B, H)

    def head(self, T: int) -> "Problem":
        """The same with the first T time steps: what `problem` makes of a workload of T steps."""
        workload = self.workload._replace(size=self.workload.size._replace(T=T))
        return self._replace(workload=workload, x=self.x[:T], dy=self.dy[:T])


def problem(workload: Workload, dtype: Any = np.float32, seed: int = 0) -> Problem:
    """The data of a workload: standard normal x and dy, initial weights, the same for the same seed in any process."""
    import fastrnn

    layers = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}
    weights, inputs, gradients = np.random.default_rng(seed).spawn(3)
    T, B, I, H = workload.size
    layer = layers[workload.cell](I, H, dtype=dtype, rng=weights)
    x = inputs.standard_normal((T, B, I)).astype(dtype)
    dy = gradients.standard_normal((T, B, H)).astype(dtype)
    return Problem(workload, seed, layer, x, dy)
