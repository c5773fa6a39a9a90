"""Sequences in batches: of equal or nearly equal lengths, padded, in an order that a seed repeats.

`fit` asks data three things: the batches of an epoch, each as a key that means something to this data only; one batch,
or the part of it that a shard trains; and whether a batch begins where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..core import checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray

POOL = 50  # batches whose rows are sorted by length together: enough to be alike, few enough to differ by epoch


class Batch(NamedTuple):
    """Rows side by side, time first.

    x        (T, B, ...), padded with zeros past a row's length
    targets  (B, ...), one a row, or (T, B, ...), one a step
    lengths  (B,) int64, or None where all rows are T long
    per_step whether targets are one a step
    rows     (B,) int64: which of the data's they are
    """

    x: Array
    targets: Array
    lengths: Array | None
    per_step: bool
    rows: Array

    @property
    def num_targets(self) -> int:
        """How many targets a loss counts."""
        if not self.per_step:
            return len(self.rows)
        return len(self.x) * len(self.rows) if self.lengths is None else int(self.lengths.sum())


class Data(Protocol):
    """What `fit` trains on."""

    carries: bool  # whether a batch's state goes on into the next

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> Sequence[Any]:
        """The keys of an epoch's batches, shuffled by `rng` where the order is free; None leaves the order."""

    def batch(self, key: Any, part: int = 0, parts: int = 1) -> Batch | None:
        """Part number `part` of the rows of a batch, cut into `parts`; None for a part without rows."""


def cut(n: int, part: int, parts: int) -> slice:
    """Part number `part` of n things cut into `parts` whose sizes differ by one at most."""
    return slice(n * part // parts, n * (part + 1) // parts)


class Sequences:
    """Sequences of any lengths, each with a target, or one for each of its steps.

    x        N sequences (T_i, ...), a list or an array (N, T, ...), of numbers or of indices for an Embedding
    targets  N of them, an array (N, ...) or a list; with per_step N sequences as long as those of x
    lengths  (N,), for an array x whose rows are padded: NaN past them is harmless

    Floating-point x and targets become `dtype`; integers stay as they are.
    Raises ValueError for sequences and targets that do not belong together, TypeError for what are no real numbers.
    """

    carries = False

    def __init__(
        self,
        x: Sequence[ArrayLike] | Array,
        targets: Sequence[ArrayLike] | Array,
        *,
        lengths: ArrayLike | None = None,
        per_step: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        self.per_step, self.dtype = checks.flag("per_step", per_step), checks.float_dtype(dtype)
        self.x = self._rows("x", x)
        if not len(self.x):
            raise ValueError("x: expected at least one sequence, got none")
        self.lengths = self._read_lengths(lengths)
        if self.per_step:
            self.targets = self._rows("targets", targets)
        else:
            self.targets = self._number("targets", targets)
        if len(self.targets) != len(self.x):
            raise ValueError(f"targets: expected as many as sequences in x, {len(self.x)}, got {len(self.targets)}")
        if self.per_step:
            for k, (target, length) in enumerate(zip(self.targets, self.lengths)):
                if len(target) < length or (isinstance(self.targets, list) and len(target) != length):
                    raise ValueError(f"targets[{k}]: expected {length} steps, as in x[{k}], got {len(target)}")

    def _number(self, name: str, value: Any) -> Array:
        array = checks.real(name, value)
        return array.astype(self.dtype) if array.dtype.kind == "f" else array

    def _rows(self, name: str, value: Any) -> list[Array] | Array:
        """An array (N, T, ...), or the sequences one by one, whose shapes agree but for their lengths."""
        if isinstance(value, np.ndarray) and value.dtype != object:
            return checks.shaped(name, self._number(name, value), ("N", "T", *value.shape[2:]))
        found = [self._number(f"{name}[{k}]", sequence) for k, sequence in enumerate(value)]
        for k, sequence in enumerate(found):
            checks.shaped(f"{name}[{k}]", sequence, ("T", *found[0].shape[1:]))
            if sequence.dtype != found[0].dtype:
                found[k] = sequence.astype(np.result_type(*(other.dtype for other in found)))
        return found

    def _read_lengths(self, lengths: ArrayLike | None) -> Array:
        if isinstance(self.x, list):
            if lengths is not None:
                raise ValueError("lengths: expected None for a list of sequences, which have their own, got lengths")
            return np.array([len(sequence) for sequence in self.x], np.int64)
        N, T = self.x.shape[:2]
        given = checks.lengths(lengths, T, N, batched=True)
        return np.full(N, T, np.int64) if given is None else given

    def __len__(self) -> int:
        return len(self.x)

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[Array]:
        """Rows of like lengths together, the batches in random order; without rng, in the data's own order."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        if rng is not None:
            pool = POOL * batch_size
            pools = [order[k : k + pool] for k in range(0, len(order), pool)]
            order = np.concatenate([rows[np.argsort(self.lengths[rows], kind="stable")] for rows in pools])
        batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
        if rng is not None:
            batches = [batches[k] for k in rng.permutation(len(batches))]
        return batches

    def batch(self, key: Array, part: int = 0, parts: int = 1) -> Batch | None:
        rows = key[cut(len(key), part, parts)]
        if not len(rows):
            return None
        lengths = self.lengths[rows]
        T = int(lengths.max())
        targets = self._padded(self.targets, rows, lengths, T) if self.per_step else self.targets[rows]
        x = self._padded(self.x, rows, lengths, T)
        return Batch(x, targets, None if (lengths == T).all() else lengths, self.per_step, rows)

    def _padded(self, sequences: list[Array] | Array, rows: Array, lengths: Array, T: int) -> Array:
        """The sequences of some rows side by side, (T, B, ...), zero past their ends."""
        if isinstance(sequences, np.ndarray) and (lengths == T).all():
            return np.ascontiguousarray(sequences[rows, :T].swapaxes(0, 1))
        first = sequences[int(rows[0])]
        out = np.zeros((T, len(rows), *first.shape[1:]), first.dtype)
        for k, (row, length) in enumerate(zip(rows, lengths)):
            out[:length, k] = sequences[row][:length]
        return out


class Stream:
    """Long sequences side by side, trained on in pieces whose state goes on: truncated backpropagation through time.

    x (T, B, ...) and targets (T, B, ...), one a step; a batch is the next `steps` steps of all rows. What is left over
    at the end and shorter is left out.
    """

    carries = True

    def __init__(self, x: ArrayLike, targets: ArrayLike, steps: int) -> None:
        self.steps = checks.integer("steps", steps)
        self.x, self.targets = checks.real("x", x), checks.real("targets", targets)
        checks.shaped("x", self.x, ("T", "B", *self.x.shape[2:]))
        checks.shaped("targets", self.targets, (*self.x.shape[:2], *self.targets.shape[2:]))
        if len(self.x) < self.steps:
            raise ValueError(f"steps: expected at most the T = {len(self.x)} of x, got {self.steps}")

    @classmethod
    def next_items(cls, items: ArrayLike, rows: int, steps: int) -> Stream:
        """A stream whose targets are the items that follow: a long sequence (N, ...) cut into `rows` parallel ones."""
        array = checks.real("items", items)
        T = (len(array) - 1) // checks.integer("rows", rows)
        if T < checks.integer("steps", steps):
            raise ValueError(f"items: expected more than rows · steps = {rows * steps}, got {len(array)}")
        x, targets = (
            np.ascontiguousarray(part.reshape(rows, T, *array.shape[1:]).swapaxes(0, 1))
            for part in (array[: rows * T], array[1 : rows * T + 1])
        )
        return cls(x, targets, steps)

    def __len__(self) -> int:
        return len(self.x) // self.steps

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> range:
        """Pieces one after the other: their order is not free, and their rows are those of the stream."""
        return range(len(self))

    def batch(self, key: int, part: int = 0, parts: int = 1) -> Batch | None:
        steps = slice(key * self.steps, (key + 1) * self.steps)
        rows = np.arange(self.x.shape[1])[cut(self.x.shape[1], part, parts)]
        if not len(rows):
            return None
        here = slice(rows[0], rows[-1] + 1)
        x, targets = (np.ascontiguousarray(array[steps, here]) for array in (self.x, self.targets))
        return Batch(x, targets, None, True, rows)


def batches(data: Data, batch_size: int = 32, *, rng: Any = None) -> Iterator[Batch]:
    """The batches of one epoch, shuffled by `rng` (a seed or Generator); without it in the data's own order."""
    generator = None if rng is None else checks.generator(rng)
    for key in data.plan(checks.integer("batch_size", batch_size), generator):
        batch = data.batch(key)
        if batch is not None:
            yield batch
