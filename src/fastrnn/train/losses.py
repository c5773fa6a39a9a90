"""Losses: plain functions that return the loss, a float, and its gradient by their first argument.

Each is the mean over the elements that count: those before a row's end (`lengths`) that the mask has (`mask`). The
others are read neither in the first argument nor in the targets, so NaN or a class out of range is harmless there, and
their gradient is exactly zero. With `total`, the sum is divided by that number instead of the number of the counted:
the shards of a batch, each divided by `counted` of the whole batch, add up to the batch, and one of them may be empty.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from .counting import divisor, place, spread, validity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray

EMPTY = "mask, lengths: expected at least one element that counts, got none"


def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    weight: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """Cross-entropy of softmax(logits) against class indices, as torch.nn.functional.cross_entropy has it.

    logits           (..., C) float32 or float64, such as (T, B, C)
    targets          (...) integers from 0 to C - 1
    mask             (...) bool, or of its leading axes: which elements count
    lengths          (B,) integers, for logits (T, B, C): how many steps of each row count
    label_smoothing  the share s of each target that is spread evenly over the classes (Szegedy et al. 2016)
    ignore_index     a target whose elements do not count
    weight           (C,) a weight for each class
    total            what the sum is divided by; default: how many elements count, with `weight` their targets' weights

    With q = (1 - s) w_target [c = target] + s w_c / C the loss of an element is -Σ_c q_c log softmax(logits)_c, and its
    gradient (Σ q) softmax(logits) - q. Returns (loss, dlogits), dlogits in logits' shape and dtype. Raises ValueError
    where nothing counts, and for a target that is no class, with its place.
    """
    array = floats("logits", logits)
    if array.shape[-1:] in ((), (0,)):
        raise ValueError(f"logits: expected shape (..., C) of at least one class, got {checks.show(array.shape)}")
    shape, C = array.shape[:-1], array.shape[-1]
    labels = integers("targets", targets, shape)
    smoothing = checks.probability("label_smoothing", label_smoothing)
    weights = None if weight is None else read_weights(weight, C)
    valid = validity(shape, mask, lengths)
    if ignore_index is not None:
        heeded = labels != read_ignored(ignore_index)
        valid = heeded if valid is None else heeded & valid.reshape(valid.shape + (1,) * (heeded.ndim - valid.ndim))
    taken = array if valid is None else array[valid]
    chosen = labels if valid is None else labels[valid]
    if chosen.size and not (0 <= chosen.min() and chosen.max() < C):
        where = place((chosen < 0) | (chosen >= C), valid, shape)
        raise ValueError(f"targets: expected classes from 0 to C - 1 = {C - 1}, got {labels[where]} at {where}")
    chosen = chosen.reshape(-1).astype(np.intp, copy=False)
    of_target = np.ones(chosen.size) if weights is None else weights[chosen]
    by = divisor(total, of_target.sum(), EMPTY if weights is None else f"{EMPTY}, or only classes of weight 0")
    with np.errstate(all="ignore"):
        loss, drows = soft_rows(taken.reshape(-1, C), chosen, of_target, weights, smoothing, by)
    return loss, spread(drows.reshape(taken.shape), valid, array.shape)


def soft_rows(
    rows: Array, targets: Array, of_target: Array, weights: Array | None, smoothing: float, by: float
) -> tuple[float, Array]:
    """The summed cross-entropy of logits (N, C) divided by `by`, and its gradient.

    of_target (N,) has the weights of the targets, weights (C,) those of the classes, None for ones, both in float64.
    """
    N, C = rows.shape
    each = np.arange(N)
    z = rows - rows.max(axis=1, keepdims=True)
    sharp = (1 - smoothing) * of_target  # what q has at the target, apart from what is spread
    dots = sharp * z[each, targets]  # Σ_c q_c z_c
    mass = sharp  # Σ_c q_c
    flat = None
    if smoothing:
        flat = np.full(C, smoothing / C) if weights is None else weights * (smoothing / C)
        dots = dots + (z * flat.astype(rows.dtype)).sum(axis=1)
        mass = sharp + flat.sum()
    e = np.exp(z, out=z)
    sums = e.sum(axis=1, dtype=np.float64)
    loss = float((mass * np.log(sums) - dots).sum() / by)
    e *= (mass / sums / by).astype(rows.dtype)[:, None]
    if flat is not None:
        e -= (flat / by).astype(rows.dtype)
    e[each, targets] -= (sharp / by).astype(rows.dtype)
    return loss, e


def binary_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """Cross-entropy of sigmoid(logits) against probabilities, as torch's binary_cross_entropy_with_logits.

    logits   any shape, such as (T, B) or (T, B, F), float32 or float64
    targets  of that shape, from 0 to 1
    mask     bool, of that shape or of its leading axes: which elements count
    lengths  (B,) integers, for logits (T, B, ...): how many steps of each row count
    total    what the sum is divided by; default: how many elements count

    The loss of an element is -t log σ(x) - (1 - t) log σ(-x) = max(x, 0) - x t + log(1 + exp(-|x|)), its gradient
    σ(x) - t. Returns (loss, dlogits), dlogits in logits' shape and dtype. Raises ValueError where nothing counts, and
    for a target outside 0 to 1, with its place.
    """
    array, given, valid = read("logits", logits, targets, mask, lengths)
    chosen = given if valid is None else given[valid]
    wrong = ~((chosen >= 0) & (chosen <= 1))
    if wrong.any():
        where = place(wrong, valid, array.shape)
        raise ValueError(f"targets: expected numbers from 0 to 1, got {given[where]} at {where}")
    return mean(array, given, valid, total, logistic)


def logistic(x: Array, t: Array) -> tuple[Array, Array]:
    """The binary cross-entropy of each logit, and its gradient."""
    e = np.exp(-np.abs(x))
    values = np.maximum(x, 0) - x * t + np.log1p(e)
    large, small = 1 / (1 + e), e / (1 + e)  # σ(|x|), σ(-|x|)
    # σ(x) - t would lose its digits where σ(x) is near t = 1
    slopes = np.where(x >= 0, large, small) * (1 - t) - np.where(x >= 0, small, large) * t
    return values, slopes


def mean_squared(
    y: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """The mean of (y - targets)², as torch.nn.functional.mse_loss.

    y        any shape, such as (T, B) or (T, B, F), float32 or float64
    targets  real numbers of exactly that shape
    mask     bool, of that shape or of its leading axes: which elements count
    lengths  (B,) integers, for y (T, B, ...): how many steps of each row count
    total    what the sum is divided by; default: how many elements count

    Returns (loss, dy), dy in y's shape and dtype. Raises ValueError where nothing counts.
    """
    return mean(*read("y", y, targets, mask, lengths), total, square)


def square(y: Array, t: Array) -> tuple[Array, Array]:
    """The squared error of each element, and its gradient."""
    d = y - t
    return d * d, 2 * d


def huber(
    y: ArrayLike,
    targets: ArrayLike,
    delta: float = 1.0,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    total: float | None = None,
) -> tuple[float, Array]:
    """The mean of Huber's loss (1964), as torch.nn.functional.huber_loss: d² / 2 where |d| ≤ delta, else
    delta (|d| - delta / 2), of the errors d = y - targets.

    y        any shape, such as (T, B) or (T, B, F), float32 or float64
    targets  real numbers of exactly that shape
    delta    above 0, in the unit of y: where the loss turns from a parabola into a line
    mask     bool, of that shape or of its leading axes: which elements count
    lengths  (B,) integers, for y (T, B, ...): how many steps of each row count
    total    what the sum is divided by; default: how many elements count

    Returns (loss, dy), dy in y's shape and dtype. Raises ValueError where nothing counts.
    """
    bend = checks.positive("delta", delta)

    def bent(y: Array, t: Array) -> tuple[Array, Array]:
        d = y - t
        slopes = np.clip(d, -bend, bend)
        return slopes * (d - slopes / 2), slopes  # d·d/2 within, delta·(|d| - delta/2) beyond

    return mean(*read("y", y, targets, mask, lengths), total, bent)


# --- what the losses share


def mean(
    array: Array,
    targets: Array,
    valid: Array | None,
    total: float | None,
    formula: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[float, Array]:
    """The mean of a loss of single elements over those that count, and its gradient."""
    y, t = (array, targets) if valid is None else (array[valid], targets[valid])
    by = divisor(total, y.size, EMPTY)
    with np.errstate(all="ignore"):
        values, slopes = formula(y, t.astype(y.dtype, copy=False))
        loss = float(values.sum(dtype=np.float64) / by)
        return loss, spread(np.asarray(slopes / by, array.dtype), valid, array.shape)


def read(
    name: str, value: ArrayLike, targets: ArrayLike, mask: ArrayLike | None, lengths: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """What a loss of single elements is given, and which of them count."""
    array = floats(name, value)
    given = checks.shaped("targets", checks.real("targets", targets), array.shape)
    return array, given, validity(array.shape, mask, lengths)


def floats(name: str, value: ArrayLike) -> Array:
    """An array of float32 or float64, which is what the gradient will be."""
    array = checks.real(name, value)
    return array.astype(checks.float_dtype(array.dtype.newbyteorder("="), name), copy=False)


def integers(name: str, value: ArrayLike, shape: checks.Shape) -> Array:
    """An array of integers of `shape`."""
    array = checks.real(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    return checks.shaped(name, array, shape)


def read_weights(weight: ArrayLike, C: int) -> Array:
    """The weights of the classes, in float64."""
    weights = checks.shaped("weight", checks.real("weight", weight), (C,)).astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        c = int(np.argmax(wrong))
        raise ValueError(f"weight: expected finite numbers of at least 0, got {weights[c]} at {c}")
    return weights


def read_ignored(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index: expected an integer or None, got {checks.kind(value)}") from None
