"""Masks of units that `forward` draws for each pass: recurrent dropout and zoneout.

T  time steps     B  rows     D  directions     H  hidden_size
"""

from __future__ import annotations

import numpy as np

from ..backends.base import Steps
from .geometry import Array, LayerSpec


def draws(spec: LayerSpec) -> bool:
    """Whether a layer of this spec draws any."""
    return bool(spec.recurrent_dropout or zoneout(spec))


def zoneout(spec: LayerSpec) -> tuple[float, ...]:
    """The probabilities of each part of the state, () for none."""
    return () if spec.cell.options is None else spec.cell.options.zoneout


def draw(spec: LayerSpec, steps: Steps, rng: np.random.Generator, T: int, B: int) -> Steps:
    """The steps of a layer's pass with its masks, drawn in this order: of recurrent dropout, of zoneout of h, of c.

    What is drawn are float32 numbers from 0 to 1, (T, B, D·H), of masks that stay for a sequence (1, B, D·H); those
    below the probability drop a unit, or keep its state. Those of recurrent dropout stay for a sequence, those of
    zoneout for a step, unless mask_per says otherwise.
    """
    if not draws(spec):
        return steps

    def mask(p: float, per: str, size: int, below: float, else_: float) -> Array:
        """(T, B, size) of two values, the first with probability p."""
        numbers = rng.random((T if (spec.mask_per or per) == "step" else 1, B, size), np.float32)
        found = np.where(numbers < p, spec.dtype.type(below), spec.dtype.type(else_))
        return np.broadcast_to(found, (T, B, size))

    p, drop = spec.recurrent_dropout, None
    if p:
        drop = mask(p, "sequence", spec.output_size, 0, 1 / (1 - p))
    sizes = spec.output_size, spec.directions * spec.hidden_size
    keep = [mask(p, "step", size, 1, 0) if p else None for p, size in zip(zoneout(spec), sizes)]
    return steps._replace(drop=drop, keep=[*keep, None, None][:2])
