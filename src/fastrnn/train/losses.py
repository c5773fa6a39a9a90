"""Losses: each returns (loss, gradient by its first argument); the loss is the mean over what is counted.

    mask     booleans, shaped as the targets of a loss: what counts
    lengths  (B,), of targets (T, B) or (T, B, F): the valid steps of each row, what lies past them does not count
    total    what the sum is divided by instead of the number counted: so that parts of a batch, each with the whole
             batch's, add up to its loss and gradient

What does not count is never read, be it NaN or out of range, and its gradient is zero. Nothing counted, without a
`total`, is a ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from .optimisers import number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray


def floating(name: str, value: ArrayLike) -> Array:
    """`value` as float32 or float64."""
    array = checks.real(name, value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def counted(shape: tuple[int, ...], mask: ArrayLike | None = None, lengths: ArrayLike | None = None) -> Array | None:
    """Which targets of this shape count; None for all."""
    keep = None
    if mask is not None:
        keep = checks.shaped("mask", checks.real("mask", mask), shape)
        if keep.dtype != bool:
            raise TypeError(f"mask: expected booleans, got dtype {keep.dtype}")
    if lengths is not None:
        if len(shape) < 2:
            raise ValueError(f"lengths: expected None for targets without time, of shape {checks.show(shape)}")
        steps: Any = checks.lengths(lengths, shape[0], shape[1], batched=True)
        valid = (np.arange(shape[0])[:, None] < steps).reshape(shape[:2] + (1,) * (len(shape) - 2))
        keep = np.broadcast_to(valid, shape) if keep is None else keep & valid
    return keep


def divisor(count: int, total: float | None) -> float:
    """What a sum over `count` targets is divided by."""
    if total is not None:
        return number("total", total, np.finfo(float).tiny)
    if not count:
        raise ValueError("targets: expected at least one that counts, got none")
    return count


def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    total: float | None = None,
) -> tuple[float, Array]:
    """-log softmax(logits) at the target, the mean over targets: logits (..., C), targets integers (...) below C.

    With label smoothing s the target has the probability 1 - s + s/C and every other class s/C (Szegedy et al. 2016),
    as in torch.nn.functional.cross_entropy. Returns (loss, dlogits).
    """
    v = floating("logits", logits)
    if not v.ndim or not v.shape[-1]:
        raise ValueError(f"logits: expected a last axis over classes, got shape {checks.show(v.shape)}")
    given = checks.shaped("targets", checks.real("targets", targets), v.shape[:-1])
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"targets: expected integers, the indices of classes, got dtype {given.dtype}")
    smoothing = checks.probability("label_smoothing", label_smoothing)
    C, keep = v.shape[-1], counted(given.shape, mask, lengths)
    rows = v.reshape(-1, C) if keep is None else v[keep]
    classes = given.reshape(-1) if keep is None else given[keep]
    wrong = (classes < 0) | (classes >= C)
    if wrong.any():
        raise ValueError(f"targets: expected classes from 0 to {C - 1}, got {classes[wrong][0]}")
    n = divisor(len(rows), total)
    with np.errstate(all="ignore"):
        shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
        e = np.exp(shifted)
        sums = e.sum(axis=1, keepdims=True)
        log_p = shifted - np.log(sums)
        places = np.arange(len(rows)), classes
        losses = -(1 - smoothing) * log_p[places]
        if smoothing:
            losses = losses - smoothing * log_p.mean(axis=1)
        gradient = e / sums
    gradient[places] -= 1 - smoothing
    if smoothing:
        gradient -= smoothing / C
    gradient /= n
    return float(losses.sum(dtype=np.float64) / n), spread(gradient, v.shape, keep)


def spread(values: Array, shape: tuple[int, ...], keep: Array | None) -> Array:
    """The gradient of what counts, at its places among zeros."""
    if keep is None:
        return values.reshape(shape)
    out = np.zeros(shape, values.dtype)
    out[keep] = values
    return out


def read_pair(name: str, y: ArrayLike, targets: ArrayLike, mask: Any, lengths: Any) -> tuple[Array, Array, Any, Any]:
    """What counts of two arrays of one shape; that shape, and which it is."""
    v = floating(name, y)
    given = checks.shaped("targets", checks.real("targets", targets), v.shape)
    keep = counted(v.shape, mask, lengths)
    if keep is None:
        return v.reshape(-1), given.reshape(-1).astype(v.dtype), v.shape, None
    return v[keep], given[keep].astype(v.dtype), v.shape, keep


def binary_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """-t log σ(v) - (1 - t) log(1 - σ(v)), the mean over logits v and targets t from 0 to 1 of one shape.

    As torch.nn.functional.binary_cross_entropy_with_logits. Returns (loss, dlogits).
    """
    v, t, shape, keep = read_pair("logits", logits, targets, mask, lengths)
    outside = ~((t >= 0) & (t <= 1))
    if outside.any():
        raise ValueError(f"targets: expected numbers from 0 to 1, got {t[outside][0]}")
    n = divisor(v.size, total)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(v))
        losses = np.maximum(v, 0) - v * t + np.log1p(e)
        sigmoid = np.where(v < 0, e, 1) / (1 + e)
        gradient = (sigmoid - t) / v.dtype.type(n)
    return float(losses.sum(dtype=np.float64) / n), spread(gradient, shape, keep)


def mean_squared(
    y: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """(y - t)², the mean over the elements of arrays of one shape. Returns (loss, dy)."""
    v, t, shape, keep = read_pair("y", y, targets, mask, lengths)
    n = divisor(v.size, total)
    with np.errstate(all="ignore"):
        off = v - t
        loss = float(np.square(off).sum(dtype=np.float64) / n)
        return loss, spread(off * v.dtype.type(2 / n), shape, keep)


def huber(
    y: ArrayLike,
    targets: ArrayLike,
    delta: float = 1.0,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """(y - t)²/2 up to |y - t| = delta, delta (|y - t| - delta/2) beyond it (Huber 1964); the mean over elements.

    As torch.nn.functional.huber_loss. Returns (loss, dy).
    """
    limit = number("delta", delta, np.finfo(float).tiny)
    v, t, shape, keep = read_pair("y", y, targets, mask, lengths)
    n = divisor(v.size, total)
    with np.errstate(all="ignore"):
        off = v - t
        far = np.abs(off)
        losses = np.where(far <= limit, off * off / 2, limit * (far - limit / 2))
        gradient = np.clip(off, -limit, limit) / v.dtype.type(n)
    return float(losses.sum(dtype=np.float64) / n), spread(gradient.astype(v.dtype, copy=False), shape, keep)
