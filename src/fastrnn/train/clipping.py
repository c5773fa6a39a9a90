"""Gradients of bounded norm, against steps that throw a model far away where its gradient explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..core import checks

Array = np.ndarray

BLOCK = 32768  # elements squared in float64 at a time


def clip_grad_norm(grads: Mapping[str, Array], max_norm: float) -> float:
    """Scale gradients in place so that their norm is at most `max_norm`; return the norm that they had.

    The norm is that of all gradients as one vector, summed in float64; they are multiplied by
    max_norm / (norm + 1e-6) where that is below 1, as torch.nn.utils.clip_grad_norm_ does (Pascanu et al. 2013). An
    infinite max_norm measures without scaling.

    grads  a mapping of names to writable float32 or float64 arrays

    Raises ValueError for a norm that is not finite, naming the first gradient with such a norm; then nothing has
    changed.
    """
    limit = checks.number("max_norm", max_norm)
    if not limit >= 0:
        raise ValueError(f"max_norm: expected a number of at least 0, got {limit}")
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads: expected a mapping of names to arrays, got {checks.kind(grads)}")
    found = {name: read_gradient(f"grads[{name!r}]", array) for name, array in grads.items()}
    norms = {name: norm_of(array) for name, array in found.items()}
    norm = math.hypot(*norms.values())
    if not math.isfinite(norm):
        name = next(
            (name for name, each in norms.items() if not math.isfinite(each)), max(norms, key=norms.__getitem__)
        )
        raise ValueError(f"grads: expected a finite norm, got {norm}; that of {name!r} is {norms[name]}")
    factor = limit / (norm + 1e-6)
    if factor < 1:
        for array in found.values():
            array *= factor
    return norm


def norm_of(array: Array) -> float:
    """The Euclidean norm of an array, summed in float64 in an order that is the same on any number of threads."""
    flat = array.ravel()
    squares = np.empty(min(BLOCK, flat.size))
    total = 0.0
    with np.errstate(all="ignore"):
        for begin in range(0, flat.size, BLOCK):
            block = flat[begin : begin + BLOCK]
            part = np.multiply(block, block, out=squares[: block.size], dtype=np.float64)
            total += float(part.sum())
    return math.sqrt(total)


def read_gradient(label: str, array: Array) -> Array:
    """An array that may be scaled in place."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{label}: expected an array, got {checks.kind(array)}")
    return checks.output(label, array, array.shape, checks.float_dtype(array.dtype, label), contiguous=False)
