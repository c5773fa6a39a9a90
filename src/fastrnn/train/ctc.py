"""Connectionist temporal classification: the loss of label sequences that are shorter than their input, not aligned.

Graves, Fernández, Gomez & Schmidhuber, Connectionist temporal classification (2006). An alignment names a class, or the
blank, for every step of the input; its labels are what is left once runs of a class are one and blanks are dropped. The
loss is -log of the summed probability of all alignments with the targets' labels, by the forward-backward algorithm in
log space and float64.

Sizes: T steps, B rows, C classes with the blank, S labels of the longest target, U = 2 S + 1 states: a label sequence
with a blank before, between and after its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..core import checks
from .counting import divisor, read_lengths
from .losses import floats, integers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray
Reduction = Literal["mean", "sum"]


class Labels(NamedTuple):
    """Targets as states: what a path through them may emit, and where it may go.

    lengths  (B,) the labels of each row
    emitted  (B, U) the class of each state, as its place in a step's (B, C) log-probabilities, flat
    skips    (B, U) bool: whether a path may enter the state from two states before, over a blank
    last     (B, U) bool: whether a path may end in the state
    """

    lengths: Array
    emitted: Array
    skips: Array
    last: Array


def ctc(
    logits: ArrayLike,
    targets: ArrayLike | Sequence[ArrayLike],
    *,
    lengths: ArrayLike | None = None,
    target_lengths: ArrayLike | None = None,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
    total: float | None = None,
) -> tuple[float, Array]:
    """The CTC loss of softmax(logits), as torch.nn.functional.ctc_loss of their log_softmax.

    logits          (T, B, C) float32 or float64
    targets         (B, S) integers from 0 to C - 1 without the blank; or a list of B label sequences of any lengths
    lengths         (B,) integers: how many steps of each row are valid; what lies past them is not read
    target_lengths  (B,) integers: how many labels of each row of (B, S) targets; default: all, of a list each one's own
    blank           the class that stands for no label
    reduction       "mean": each row's loss is divided by the number of its labels (at least 1), their sum by `total`,
                    which is B by default; "sum": the sum of the rows' losses, divided by `total` only where it is given
    zero_infinity   whether a row that no alignment fits counts as 0, with a gradient of zero

    A row with too few steps for its labels has the loss inf and, as in torch, a gradient of NaN. Returns
    (loss, dlogits), dlogits in logits' shape and dtype, zero past a row's length. Raises ValueError for a target that
    is the blank or no class, with its place.
    """
    array = checks.shaped("logits", floats("logits", logits), ("T", "B", "C"))
    T, B, C = array.shape
    blank = read_blank(blank, C)
    labels = read_labels(targets, target_lengths, B, C, blank)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    zero_infinity = checks.flag("zero_infinity", zero_infinity)
    valid = read_lengths((T, B), lengths)
    valid = np.ones((T, B), np.bool_) if valid is None else valid
    by = divisor(total, B if reduction == "mean" else 1, "logits: expected at least one row, got none")
    with np.errstate(all="ignore"):
        log_p = log_softmax(array)
        losses, occupancy = forward_backward(log_p, labels, valid)
        shares = (1 / np.maximum(labels.lengths, 1) if reduction == "mean" else np.ones(B)) / by
        gradient = np.exp(log_p, out=log_p)
        gradient -= occupancy
        gradient *= shares[:, None]
        impossible = np.isposinf(losses)
        gradient[:, impossible] = 0 if zero_infinity else np.nan
        gradient[~valid] = 0
        if zero_infinity:
            losses[impossible] = 0
        return float((losses * shares).sum()), gradient.astype(array.dtype, copy=False)


def ctc_greedy(logits: ArrayLike, lengths: ArrayLike | None = None, blank: int = 0) -> list[list[int]]:
    """The labels of each row's best path: the likeliest class of every step, runs made one, blanks dropped.

    logits (T, B, C), or their probabilities, or logarithms of them; lengths (B,), the valid steps of each row. Graves
    et al. (2006), best path decoding. A label sequence with many alignments may be likelier than the best path's.
    """
    array = checks.shaped("logits", checks.real("logits", logits), ("T", "B", "C"))
    T, B, C = array.shape
    blank = read_blank(blank, C)
    valid = read_lengths((T, B), lengths)
    best = array.argmax(axis=2)
    begins = np.ones((T, B), np.bool_)
    begins[1:] = best[1:] != best[:-1]
    kept = begins & (best != blank)
    if valid is not None:
        kept &= valid
    return [best[kept[:, b], b].tolist() for b in range(B)]


# --- the sum over alignments


def forward_backward(log_p: Array, labels: Labels, valid: Array) -> tuple[Array, Array]:
    """-log of the summed probability of each row's alignments, (B,), and how likely one of them names each class at
    each step, (T, B, C), which means nothing past a row's end.

    log_p (T, B, C) float64, the classes' log-probabilities; valid (T, B).
    """
    alpha = forward(log_p, labels, valid)
    final = np.where(labels.last, alpha[-1] if len(alpha) else without_steps(labels), -np.inf)
    highest = final.max(axis=1)
    offset = np.where(np.isinf(highest), 0, highest)  # -inf - -inf is not wanted
    log_total = offset + np.log(np.exp(final - offset[:, None]).sum(axis=1))
    return -log_total, posteriors(log_p, alpha, log_total, labels, valid)


def without_steps(labels: Labels) -> Array:
    """α (B, U) of rows that have no step: it explains a target without labels, with probability 1, and no other."""
    return np.where((labels.lengths == 0)[:, None] & labels.last, 0.0, -np.inf)


def forward(log_p: Array, labels: Labels, valid: Array) -> Array:
    """α (T, B, U): log of the summed probability of the paths that are in a state after a step, its own emission too.

    Past a row's end α stays what it was there.
    """
    alpha = np.empty((len(log_p), *labels.emitted.shape))
    before = without_steps(labels)
    entered = np.full(before.shape, -np.inf)
    entered[:, :2] = 0  # a path begins in the first blank or the first label
    for t, step in enumerate(log_p):
        if t:
            entered = log_sum(before, shifted(before, 1), np.where(labels.skips, shifted(before, 2), -np.inf))
        alpha[t] = np.where(valid[t][:, None], entered + step.take(labels.emitted), before)
        before = alpha[t]
    return alpha


def posteriors(log_p: Array, alpha: Array, log_total: Array, labels: Labels, valid: Array) -> Array:
    """(T, B, C): the probability that an alignment with the targets names a class at a step.

    β, which is not kept, is log of the summed probability of what follows a state, without its own emission.
    """
    T, B, C = log_p.shape
    occupancy = np.empty((T, B, C))
    beta = end = np.where(labels.last, 0.0, -np.inf)
    for t in reversed(range(T)):
        if t + 1 < T:
            after = beta + log_p[t + 1].take(labels.emitted)  # from entering a state at t + 1 on
            skipped = shifted(np.where(labels.skips, after, -np.inf), -2)
            beta = np.where(valid[t + 1][:, None], log_sum(after, shifted(after, -1), skipped), end)
        gamma = np.exp(alpha[t] + beta - log_total[:, None])
        occupancy[t] = np.bincount(labels.emitted.ravel(), gamma.ravel(), B * C).reshape(B, C)
    return occupancy


def log_softmax(logits: Array) -> Array:
    """log softmax over the last axis, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=2, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=2, keepdims=True))
    return z


def log_sum(a: Array, b: Array, c: Array) -> Array:
    """log(exp a + exp b + exp c), where all may be -inf."""
    highest = np.maximum(np.maximum(a, b), c)
    offset = np.where(np.isneginf(highest), 0, highest)
    return offset + np.log(np.exp(a - offset) + np.exp(b - offset) + np.exp(c - offset))


def shifted(states: Array, n: int) -> Array:
    """states (B, U) moved by n places to higher states, -inf where nothing comes from."""
    moved = np.full(states.shape, -np.inf)
    if n > 0:
        moved[:, n:] = states[:, :-n]
    else:
        moved[:, :n] = states[:, -n:]
    return moved


# --- arguments


def read_blank(blank: Any, C: int) -> int:
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)):
        raise TypeError(f"blank: expected an integer, got {checks.kind(blank)}")
    if not 0 <= blank < C:
        raise ValueError(f"blank: expected a class from 0 to C - 1 = {C - 1}, got {blank}")
    return int(blank)


def read_labels(targets: Any, target_lengths: Any, B: int, C: int, blank: int) -> Labels:
    """Check the targets, and lay out their states."""
    if target_lengths is None and isinstance(targets, (list, tuple)):
        padded, lengths = padded_labels(targets, B)
    else:
        padded = integers("targets", targets, (B, "S"))
        lengths = label_counts(target_lengths, padded.shape[1], B)
    padded = padded[:, : int(lengths.max(initial=0))]
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    wrong = inside & ((padded < 0) | (padded >= C) | (padded == blank))
    if wrong.any():
        b, s = np.argwhere(wrong)[0].tolist()
        expected = f"classes from 0 to C - 1 = {C - 1} without the blank {blank}"
        raise ValueError(f"targets: expected {expected}, got {padded[b, s]} at {(b, s)}")
    emitted = np.full((B, 2 * padded.shape[1] + 1), blank, np.intp)
    emitted[:, 1::2] = np.where(inside, padded, blank)
    skips = np.zeros(emitted.shape, np.bool_)
    skips[:, 3::2] = emitted[:, 3::2] != emitted[:, 1:-2:2]
    state = np.arange(emitted.shape[1])
    last = (state == 2 * lengths[:, None]) | (state == 2 * lengths[:, None] - 1)
    return Labels(lengths, emitted + C * np.arange(B)[:, None], skips, last)


def padded_labels(targets: Sequence[Any], B: int) -> tuple[Array, Array]:
    """A list of label sequences as an array (B, S), and their lengths."""
    if len(targets) != B:
        raise ValueError(f"targets: expected {B} label sequences, one for each row, got {len(targets)}")
    none = np.zeros(0, np.int64)  # of an empty list NumPy makes floats
    given = [none if isinstance(row, (list, tuple)) and not row else row for row in targets]
    rows = [integers(f"targets[{b}]", row, ("S",)) for b, row in enumerate(given)]
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.zeros((B, int(lengths.max(initial=0))), np.int64)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    return padded, lengths


def label_counts(target_lengths: Any, S: int, B: int) -> Array:
    """(B,) int64: the labels of each row."""
    if target_lengths is None:
        return np.full(B, S, np.int64)
    counts = integers("target_lengths", target_lengths, (B,))
    wrong = (counts < 0) | (counts > S)
    if wrong.any():
        b = int(np.argmax(wrong))
        raise ValueError(f"target_lengths: expected integers from 0 to S = {S}, got {counts[b]} for row {b}")
    return counts.astype(np.int64)
