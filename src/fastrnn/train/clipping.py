"""The norm of a gradient over all parameters, and gradients scaled to a norm that they may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import checks
from .optimisers import number

Array = np.ndarray


def norms_of(grads: Mapping[str, Array]) -> dict[str, float]:
    """The Euclidean norm of each gradient; the squares of large float32 arrays are summed without overflow."""
    found: dict[str, float] = {}
    for name, array in grads.items():
        square = float(np.vdot(array, array))
        if not 1e-30 < square < math.inf and array.size:  # too small or large for its dtype, or not finite
            wide = array.astype(np.float64)
            square = float(np.vdot(wide, wide))
        found[name] = math.sqrt(square) if square == square else math.nan
    return found


def clip_grad_norm(grads: Mapping[str, Any], max_norm: float) -> float:
    """Scale gradients in place so that their norm over all is at most `max_norm`; return what it was.

    As torch.nn.utils.clip_grad_norm_: times max_norm / (norm + 1e-6), if that is below 1 (Pascanu et al. 2013). Raises
    ValueError for a norm that is not finite, with the parameter and its gradient's norm named: nothing has changed.
    """
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads: expected a mapping of names to arrays, got {checks.kind(grads)}")
    limit = number("max_norm", max_norm, 0)
    norms = norms_of(grads)
    whole = math.hypot(*norms.values())
    if not math.isfinite(whole):
        name = next(name for name, norm in norms.items() if not math.isfinite(norm))
        raise ValueError(f"grads: expected finite gradients, got one of {name!r} whose norm is {norms[name]}")
    scale(grads, whole, limit)
    return whole


def scale(grads: Mapping[str, Array], norm: float, limit: float) -> None:
    """Scale gradients of this norm in place to at most the limit."""
    factor = limit / (norm + 1e-6)
    if factor < 1:
        for array in grads.values():
            array *= array.dtype.type(factor)
