"""The contract between the layers and a backend.

A backend is a module with the four names of `Backend`. It computes one layer in one or two directions over a whole
sequence, on bare arrays that its caller has checked; stacking, dropout, `batch_first` and every error message are
written once, above it. A single step is a sequence of length one; a backend that has a class `Shortcut` and a
`cell_step`, as the native one does, runs layers and a cell's step a shorter way where arguments need no conversion.

    T  time steps            I  input_size      D  directions, 1 or 2
    B  rows of the batch     H  hidden_size     S  len(cell.saved)
    P  features of h: H, but for a layer that projects

Whatever is an input is never written; `dtype` is float32 or float64 and the same in all arrays of a call.

A pass forward is a `Run`; what its gradients are made of and go to are `Given` and `Wanted`.

Steps at or past a row's length: y is zero there, dx is zero there, and x and dy are not read there. A row of length 0
ends in its initial state, whose gradient is dstate, and adds nothing to those of the parameters.

NaN and infinity go where the reference's equations take them. Denormal numbers count as zero in the native backend,
operands and results alike; the others compute with them, though Numba's sigmoid is zero where it would be denormal.
The caller's floating-point mode is as before after any call.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..spec import Cell, Weights

State = tuple[np.ndarray, ...]  # (h,) or (h, c), (D, B, P) and (D, B, H), C-contiguous


class Steps(NamedTuple):
    """Which steps the rows have, and what becomes of their states before a step."""

    lengths: np.ndarray | None = None  # (B,) int64: valid steps of each row, 0..T; None for T in all rows
    resets: np.ndarray | None = None  # (D, T, B) bool, C-contiguous: the state is zero before that step; None for never
    noise: np.ndarray | None = None  # (T, B, D·H), features contiguous: added to a cell's only pre-activation
    # (T, B, H) or, where h is projected, (T, B, 1) alone; features contiguous: multiplies h and c before that step
    scale: np.ndarray | None = None
    # Masks of units, each (T, B, D·H), features contiguous. The recurrent product takes h times `drop`. `keep`, of h
    # and of c, is for cells with zoneout: 1 where a unit keeps what the step took of it, 0 elsewhere. None stands for
    # the share that the cell's options say; from it only cells that save values go backward.
    drop: np.ndarray | None = None
    keep: Sequence[np.ndarray | None] = (None, None)


class Span(NamedTuple):
    """A part of a run to which `backward` goes, where the run is cut; the parts that were visited last come first.

    All else is of the whole run, but for `saved`; the arrays of Wanted.dstate go from part to part as they are left.
    Where two directions are cut, the step visited T // 2 begins a part.
    """

    first: int  # the visited steps first .. last - 1
    last: int
    held: list[Any]  # the backend's own, from part to part; empty before the first

    def start(self, T: int, reverse: bool) -> int:
        """Which step, in time, `saved` begins with; the last part of a forward direction has none there, -1."""
        return T - self.last if reverse else self.first - 1


class Run(NamedTuple):
    """One layer's pass forward."""

    x: np.ndarray  # (T, B, I): features contiguous; time and row strides arbitrary, zero and negative included
    state: State  # the initial one
    steps: Steps
    reverse: tuple[bool, ...]  # of each direction: visits the steps from a row's last valid one to step 0
    y: np.ndarray  # (T, B, D·P): output h, strides as of x; written by forward
    # (D, T, B, S, H), C-contiguous, written for backward; unwritten past a row's end. Of a span its steps and, for c
    # alone, the one visited before, in the order of time: (D, last - first + 1, B, S, H).
    saved: np.ndarray | None
    span: Span | None = None  # for backward


class Given(NamedTuple):
    """The gradients of the loss by what a run gave; None, also for a part of dstate, for zero."""

    dy: np.ndarray | None  # as y
    dstate: tuple[np.ndarray | None, ...]  # of the final state, as state


class Wanted(NamedTuple):
    """Where the gradients go. Those of the parameters and the scale are added to what is there, all others written.

    What is there in the parameters' counts as zero where they are `fresh`.
    """

    dx: np.ndarray | None  # (T, B, I), strides as of x; None: not wanted
    dstate: State  # of the initial state
    dweights: Sequence[Weights]  # C-contiguous; biases None where those of the weights are
    # Of the state after each step, (D, T, B, P) and (D, T, B, H), C-contiguous: of h, dy included, and of c as h does
    # not depend on it. Unwritten past a row's end.
    dsteps: State | None = None
    # (D, T, B, H), C-contiguous: of the scale, if there is one; by features of h and units of c
    dscale: np.ndarray | None = None
    fresh: bool = False  # the parameters' gradients hold nothing yet; of a run that is not cut

    def clear(self) -> None:
        """Zero the parameters' gradients if they are fresh: for a backend that adds to them in any case."""
        if self.fresh:
            zero(self.dweights)


def zero(directions: Sequence[Weights]) -> None:
    """Zero the arrays of some directions."""
    for direction in directions:
        for array in direction:
            if array is not None:
                array.fill(0)


class Backend(Protocol):
    """T, B, I and H are at least 1 in every call."""

    name: str

    def pack(self, cell: Cell, weights: Sequence[Weights], threads: int, steps: int | None = None) -> Any:
        """Arrange the weights of D directions, each C-contiguous, for `forward`.

        `steps`, where it is known, is how many they serve: for few a backend may read them as they are.
        The result may refer to the arrays of `weights`: they stay unchanged while it is in use.
        """

    def forward(self, packed: Any, run: Run, after: State, threads: int) -> None:
        """Fill y, saved unless it is None, and `after`: each row's state after its last valid step.

        The arrays of `after` may be those of the initial state.
        """

    def backward(
        self, cell: Cell, weights: Sequence[Weights], run: Run, given: Given, wanted: Wanted, threads: int
    ) -> None:
        """Fill and add to what is wanted, from the run as forward left it."""
