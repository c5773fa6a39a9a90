"""The way between torch's packed sequences, longest row first, and (T, B, n) with lengths."""

from __future__ import annotations

import numpy as np

from ..core.geometry import Array


class Packing:
    """Where the rows of packed data belong. `batch_sizes` (T,): how many rows have each step."""

    def __init__(self, batch_sizes: Array) -> None:
        rows = int(batch_sizes[0])
        self.valid = np.arange(rows) < batch_sizes[:, None]  # (T, B)
        self.lengths = self.valid.sum(axis=0)

    def spread(self, data: Array) -> Array:
        """(T, B, n), past a row's end whatever was in memory: the kernels do not read there."""
        found = np.empty((*self.valid.shape, data.shape[-1]), data.dtype)
        found[self.valid] = data
        return found

    def pack(self, steps: Array) -> Array:
        return steps[self.valid]
