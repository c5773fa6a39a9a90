"""Which elements of a batch a loss counts: those before a row's end, and those that a mask has."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..core import checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray


def counted(shape: Sequence[int], mask: ArrayLike | None = None, lengths: ArrayLike | None = None) -> int:
    """How many elements a loss of this shape counts: what a loss's `total` is where it is not given.

    shape    of the losses: (T, B) for cross_entropy of logits (T, B, C), y's own for mean_squared
    mask     bool, of `shape` or of its leading axes: which elements count; None for all
    lengths  (B,) integers, for a shape of (T, B, ...): how many steps of each row count

    The losses and gradients of a batch's shards, each divided by the count of the whole batch, add up to those of the
    batch.
    """
    sizes = read_shape(shape)
    valid = validity(sizes, mask, lengths)
    return prod(sizes) if valid is None else int(np.count_nonzero(valid)) * prod(sizes[valid.ndim :])


def read_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape as plain integers."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(f"shape: expected a tuple of integers, got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"shape: expected integers of at least 0, got {checks.show(sizes)}")
    return sizes


def validity(shape: tuple[int, ...], mask: ArrayLike | None, lengths: ArrayLike | None) -> Array | None:
    """Which elements count, by the leading axes of `shape`; None where all do."""
    chosen, steps = read_mask(shape, mask), read_lengths(shape, lengths)
    if chosen is None or steps is None:
        return steps if chosen is None else chosen
    if chosen.ndim == 1:
        return chosen[:, None] & steps
    return chosen & steps.reshape(steps.shape + (1,) * (chosen.ndim - 2))


def read_mask(shape: tuple[int, ...], mask: ArrayLike | None) -> Array | None:
    """A mask over the leading axes of `shape`."""
    if mask is None:
        return None
    array = checks.real("mask", mask)
    if array.dtype != np.bool_:
        raise TypeError(f"mask: expected booleans, got dtype {array.dtype}")
    return checks.shaped("mask", array, shape, *(shape[:n] for n in range(len(shape) - 1, 0, -1)))


def read_lengths(shape: tuple[int, ...], lengths: ArrayLike | None) -> Array | None:
    """(T, B): whether each step is one of its row's."""
    if lengths is not None and len(shape) < 2:
        raise ValueError(
            f"lengths: expected None for losses of shape {checks.show(shape)}, not (T, B, ...), got lengths"
        )
    return None if lengths is None else valid_steps(lengths, shape[0], shape[1])


def valid_steps(lengths: ArrayLike | None, T: int, B: int) -> Array | None:
    """(T, B): whether each step is one of its row, None where all are."""
    steps = checks.lengths(lengths, T, B, batched=True)
    return None if steps is None else np.arange(T)[:, None] < steps


def spread(values: Array, valid: Array | None, shape: tuple[int, ...]) -> Array:
    """What was computed for the elements that count, in its places; zero in the others."""
    if valid is None:
        return values
    whole = np.zeros(shape, values.dtype)
    whole[valid] = values
    return whole


def place(wrong: Array, valid: Array | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where the first element is of those that are `wrong` among the counted."""
    return tuple(np.argwhere(spread(wrong, valid, shape))[0].tolist())


def divisor(total: float | None, count: float, empty: str) -> float:
    """What a sum of losses is divided by: `total`, else `count`, which has to be above zero."""
    if total is not None:
        return checks.positive("total", total)
    if not count > 0:
        raise ValueError(empty)
    return float(count)
