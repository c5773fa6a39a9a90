"""The contract between the layers and a backend.

A backend is a module with the four names of `Backend`. It computes one layer in one or two directions over a whole
sequence, on bare arrays that its caller has checked; stacking, dropout, `batch_first` and every error message are
written once, above it. A single step is a sequence of length one; a backend that has a class `Shortcut` and a
`cell_step`, as the native one does, runs layers and a cell's step a shorter way where arguments need no conversion.

    T  time steps            I  input_size      D  directions, 1 or 2; the second runs backward in time
    B  rows of the batch     H  hidden_size     S  len(cell.saved)

Whatever is an input is never written; `dtype` is float32 or float64 and the same in all arrays of a call.

    x          (T, B, I)        features contiguous; time and row strides arbitrary (zero and negative included)
    y          (T, B, D·H)      output h; features contiguous, time and row strides arbitrary
    state      (h,) or (h, c)   initial state, each (D, B, H), C-contiguous
    out_state  as state         final state, of each row's last valid step; may be the very arrays of `state`
    lengths    (B,) int64       valid steps of each row, 0..T, or None for T in all rows
    saved      (D, T, B, S, H)  C-contiguous, written by forward for backward; steps past a row's end stay unwritten

Steps at or past a row's length: y is zero there, dx is zero there, and x and dy are not read there. A row of length 0
ends in its initial state, whose gradient is dstate, and adds nothing to those of the parameters.

NaN and infinity go where the reference's equations take them. Denormal numbers count as zero in the native backend,
operands and results alike; the others compute with them, though Numba's sigmoid is zero where it would be denormal.
The caller's floating-point mode is as before after any call.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..spec import Cell, Weights

State = tuple[np.ndarray, ...]


class Backend(Protocol):
    """T, B, I and H are at least 1 in every call."""

    name: str

    def pack(self, cell: Cell, weights: Sequence[Weights], threads: int, steps: int | None = None) -> Any:
        """Arrange the weights of D directions, each C-contiguous, for `forward`.

        `steps`, where it is known, is how many they serve: for few a backend may read them as they are.
        The result may refer to the arrays of `weights`: they stay unchanged while it is in use.
        """

    def forward(
        self,
        packed: Any,
        x: np.ndarray,
        state: State,
        lengths: np.ndarray | None,
        y: np.ndarray,
        out_state: State,
        saved: np.ndarray | None,
        threads: int,
    ) -> None:
        """Fill y and out_state; fill `saved` unless it is None."""

    def backward(
        self,
        cell: Cell,
        weights: Sequence[Weights],
        x: np.ndarray,
        y: np.ndarray,
        state: State,
        lengths: np.ndarray | None,
        saved: np.ndarray | None,
        dy: np.ndarray | None,
        dstate: tuple[np.ndarray | None, ...],
        dx: np.ndarray,
        dstate0: State,
        dweights: Sequence[Weights],
        threads: int,
        dsteps: State | None = None,
    ) -> None:
        """Fill dx and dstate0 (the gradient of `state`); *add* the parameters' gradients into `dweights`.

        x, y, state, lengths and saved are those of the forward call. dy is laid out as y, dx as x (contiguous
        features), dstate as state; dy and each part of dstate may be None for zero. The arrays of `dweights` are
        C-contiguous; its biases are None where those of `weights` are.
        dsteps, each part (D, T, B, H) and C-contiguous, takes the gradient of the state after each step: of h, dy
        included, and of c as h does not depend on it; it stays unwritten past a row's end.
        """
