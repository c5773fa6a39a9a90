"""The way between torch's packed sequences, longest row first, and (T, B, n) with lengths."""

from __future__ import annotations

import numpy as np

from ..core.geometry import Array


class Packing:
    """Where the rows of packed data belong. `batch_sizes` (T,): how many rows have each step."""

    def __init__(self, batch_sizes: Array) -> None:
        self.shape = len(batch_sizes), int(batch_sizes[0])  # (T, B)
        valid = np.arange(self.shape[1]) < batch_sizes[:, None]
        self.lengths = valid.sum(axis=0)
        self.places = np.flatnonzero(valid)  # of each packed step among all T·B

    def spread(self, data: Array) -> Array:
        """(T, B, n), past a row's end whatever was in memory: the kernels do not read there."""
        found = np.empty((*self.shape, data.shape[-1]), data.dtype)
        found.reshape(-1, data.shape[-1])[self.places] = data
        return found

    def pack(self, steps: Array) -> Array:
        return steps.reshape(-1, steps.shape[-1]).take(self.places, axis=0)
