"""A batch's gradient as a sum of shards in a fixed order: the same bits on any number of machines.

A batch is cut into a fixed number of shards, a power of two. Each one's gradient is computed on its own, and the shards
are added in a binary tree: 0 + 1, 2 + 3, then (0 + 1) + (2 + 3), and so on. R ranks, a power of two, hold as many
neighbouring shards each, which are a subtree; the levels above it are exchanged in pairs, and a + b is b + a.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..core import checks
from .data import Data
from .objective import Objective

Array = np.ndarray


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


class Shards:
    """The shards of this rank, and how the sums of all come together."""

    def __init__(self, count: int, comm: Any = None) -> None:
        self.count, self.comm = checks.integer("shards", count), comm
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        if not is_power_of_two(self.count):
            raise ValueError(f"shards: expected a power of two, got {self.count}")
        if not is_power_of_two(self.size) or self.size > self.count:
            raise ValueError(f"comm: expected a power of two of ranks, at most shards={self.count}, got {self.size}")
        held = self.count // self.size
        self.mine = range(self.rank * held, (self.rank + 1) * held)
        self.interrupted = False  # this rank, by Ctrl-C
        self.stopping = False  # any rank, as all of them learn in the same step

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within the block the ranks end together: on Ctrl-C after the same step, on an error at once.

        A rank that fails says so on stderr and takes the others down, which would wait for it forever.
        """
        if self.size == 1:
            yield
            return
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._interrupt) if main else None
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            sys.stderr.write(f"fastrnn: rank {self.rank} of {self.size} failed\n{traceback.format_exc()}")
            sys.stderr.flush()
            self.comm.Abort(1)
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    def _interrupt(self, *caught: Any) -> None:
        self.interrupted = True

    def gradients(
        self, model: Any, data: Data, key: Any, objective: Objective, states: Sequence[Any]
    ) -> tuple[float, dict[str, Array], list[Any]]:
        """The batch's loss, gradients and the states to carry on, of this rank's shards."""
        parts = [data.batch(key, shard, self.count) for shard in self.mine]
        counts = np.zeros(self.count + 1)
        counts[self.mine.start : self.mine.stop] = [0 if part is None else part.num_targets for part in parts]
        counts[self.count] = self.interrupted
        *counted, interrupted = self._whole(counts)
        total, self.stopping = float(sum(counted)), bool(interrupted)
        sums: list[tuple[float, dict[str, Array]]] = []
        after: list[Any] = []
        for part, state in zip(parts, states):
            if part is None:
                sums.append((0.0, {name: np.zeros_like(array) for name, array in model.params.items()}))
                after.append(None)
                continue
            outcome = objective(model, part, state)
            weight = part.num_targets / total
            sums.append((outcome.loss * weight, scaled(outcome.grads, weight)))
            after.append(outcome.state)
        while len(sums) > 1:
            sums = [add(left, right) for left, right in zip(sums[::2], sums[1::2])]
        loss, grads = self._exchange(*sums[0])
        return loss, grads, after

    def _whole(self, counts: Array) -> Array:
        """The counts of all ranks' shards: integers, whose sum has no rounding."""
        if self.size > 1:
            whole = np.empty_like(counts)
            self.comm.Allreduce(counts, whole)
            return whole
        return counts

    def _exchange(self, loss: float, grads: dict[str, Array]) -> tuple[float, dict[str, Array]]:
        """The tree's levels above a rank's own: each rank and its partner send each other their sums."""
        if self.size == 1:
            return loss, grads
        sums = [np.array([loss])] + [array.ravel() for array in grads.values()]
        by_dtype = {dtype: [array for array in sums if array.dtype == dtype] for dtype in {a.dtype for a in sums}}
        flat = {
            dtype: np.concatenate(arrays) for dtype, arrays in sorted(by_dtype.items(), key=lambda item: item[0].str)
        }
        distance = 1
        while distance < self.size:
            partner = self.rank ^ distance
            for dtype, mine in flat.items():
                theirs = np.empty_like(mine)
                self.comm.Sendrecv(mine, partner, recvbuf=theirs, source=partner)
                flat[dtype] = mine + theirs
            distance *= 2
        at = dict.fromkeys(flat, 0)
        whole: list[Array] = []
        for array in sums:
            start = at[array.dtype]
            at[array.dtype] = start + array.size
            whole.append(flat[array.dtype][start : start + array.size])
        found = {name: part.reshape(array.shape) for part, (name, array) in zip(whole[1:], grads.items())}
        return float(whole[0][0]), found

    def agree(self, value: Any) -> Any:
        """The first rank's value, where each rank may have come to another: by its clock."""
        return value if self.size == 1 else self.comm.bcast(value)

    def gather(self, states: Sequence[Any]) -> list[Any]:
        """The carried states of all shards, for a checkpoint."""
        if self.size == 1:
            return list(states)
        return [state for held in self.comm.allgather(list(states)) for state in held]


def scaled(grads: Mapping[str, Array], weight: float) -> dict[str, Array]:
    """Gradients times a shard's share of the batch."""
    if weight == 1:
        return dict(grads)
    return {name: array * array.dtype.type(weight) for name, array in grads.items()}


def add(left: tuple[float, dict[str, Array]], right: tuple[float, dict[str, Array]]) -> tuple[float, dict[str, Array]]:
    for name, array in left[1].items():
        array += right[1][name]
    return left[0] + right[0], left[1]
