"""What is measured: the lists of workloads, for `fastrnn bench` and for the suites in bench/.

Sizes are given as (T, B, I, H):

    T  time steps    B  rows of the batch    I  input_size    H  hidden_size
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .kinds import CELLS, KINDS, Kind

MODES = ("forward", "training")
MOST_ELEMENTS = 1 << 40  # of an array: terabytes


class Size(NamedTuple):
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @property
    def name(self) -> str | None:
        """Who has such sequences; None for a size that stands for nobody in particular."""
        return NAMES.get(self)


# fmt: off
GRID = tuple(Size(*size) for size in (
    (500, 1, 1, 16),                                                              # a streaming detector
    (100, 1, 64, 64), (100, 1, 128, 128), (100, 1, 256, 256), (100, 1, 512, 512), (50, 1, 1024, 1024),  # one sequence
    (100, 8, 48, 96), (100, 16, 64, 64), (60, 20, 100, 200),                      # small batches
    (100, 32, 128, 128), (100, 32, 256, 256), (50, 64, 512, 512), (25, 128, 1024, 1024),    # training
))
NAMES = {Size(*size): name for size, name in (
    ((20, 512, 8, 32), "sensor windows"),
    ((5, 2048, 16, 64), "many environments"),                                     # of a policy that learns
    ((128, 256, 32, 32), "rows of an image"),
    ((365, 64, 5, 64), "hydrology"),                                              # the days of a year
    ((60, 32, 1, 25), "forecasting"),
    ((40, 3200, 1, 40), "sampling a forecast"),
    ((160, 10, 40, 256), "speaker embedding"),
    ((200, 1, 512, 128), "a line of text"),
    ((30, 100, 300, 128), "sentences"),
    ((1000, 1, 1, 8), "an amplifier"),
)}
USERS = tuple(NAMES)
BATCHES = tuple(
    Size(20 if H < 1024 else 10, B, H, H) for H in (256, 512, 1024, 1536) for B in (2, 3, 4, 6, 8, 12, 16, 24)
)
# Sizes of layers and batches from DeepBench (Baidu Research): 1 to 4 rows are its inference, more its training. It has
# more time steps. The largest batches of its largest layers are left out, whose memory and time would outgrow the rest.
DEEPBENCH_STEPS = {512: 25, 1024: 25, 1536: 20, 1760: 20, 2048: 10, 2560: 10}  # of each hidden_size
DEEPBENCH_MOST_ROWS = {2048: 64, 2560: 32}
DEEPBENCH = tuple(
    Size(T, B, H, H)
    for H, T in DEEPBENCH_STEPS.items() for B in (1, 2, 4, 16, 32, 64, 128) if B <= DEEPBENCH_MOST_ROWS.get(H, 128)
)
DEFAULT = (*(Size(*size) for size in (
    (100, 1, 64, 64), (100, 1, 256, 256),
    (100, 16, 64, 64), (100, 32, 128, 128), (100, 32, 256, 256), (50, 64, 512, 512),
)), *USERS)
QUICK = tuple(Size(*size) for size in ((500, 1, 1, 16), (100, 1, 128, 128), (100, 16, 64, 64), (100, 32, 128, 128)))
# fmt: on
LISTS = {
    "default": DEFAULT,
    "quick": QUICK,
    "grid": GRID,
    "users": USERS,
    "batches": BATCHES,
    "deepbench": DEEPBENCH,
    "all": tuple(dict.fromkeys((*GRID, *USERS, *BATCHES, *DEEPBENCH))),  # DEFAULT and QUICK are among these
}


class Workload(NamedTuple):
    """One cell at one size; `forward` is inference, `training` is forward and backward."""

    cell: str
    size: Size
    mode: str

    def __str__(self) -> str:
        return f"{self.cell}-{self.mode}-{self.size}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.cell]

    @property
    def flops(self) -> int:
        """Floating-point operations of the gate products in one call, a multiply-add counted as two.

        They are the products by W_ih and by W_hh; of a scan that by W_ih alone. Training counts as three times
        forward: the gradients of inputs and of weights are a product each.
        """
        T, B, I, H = self.size
        forward = 2 * T * B * self.kind.gates * H * I + T * self.step_flops
        return forward if self.mode == "forward" else 3 * forward

    @property
    def step_flops(self) -> int:
        """Of these, those of one sequential product: one step of all rows with W_hh."""
        _, B, _, H = self.size
        return 2 * B * self.kind.gates * H * H if self.kind.recurrent else 0

    def recurrent_bytes(self, dtype: Any) -> int:
        """The size of W_hh; 0 for a scan."""
        return self.kind.gates * self.size.H**2 * np.dtype(dtype).itemsize if self.kind.recurrent else 0

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
    """Sizes from "T,B,I,H;T,B,I,H", each once; a name of LISTS stands for what is in it. ValueError for other text."""
    listed = (LISTS.get(part.strip()) or (parse_size(part),) for part in text.split(";"))
    return tuple(dict.fromkeys(chain.from_iterable(listed)))


def parse_size(text: str) -> Size:
    try:
        size = Size(*map(int, text.split(",")))
        if min(size) < 1:
            raise ValueError
    except (TypeError, ValueError):
        expected = f"four positive integers T,B,I,H or one of {', '.join(LISTS)}"
        raise ValueError(f"expected {expected}, got {text.strip()!r}") from None
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
    weights, inputs, gradients = np.random.default_rng(seed).spawn(3)
    T, B, I, H = workload.size
    layer = workload.kind.make(I, H, dtype, weights)
    x = inputs.standard_normal((T, B, I)).astype(dtype)
    dy = gradients.standard_normal((T, B, H)).astype(dtype)
    return Problem(workload, seed, layer, x, dy)
