"""Where float32 gives out on the way back in time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.geometry import Array

FLOAT32 = np.finfo(np.float32)


class Float32Limits(NamedTuple):
    """At how many steps back from the last a norm first leaves what float32 can do; None where it does not.

    resolution       it is below eps (1.2e-7) of the largest norm on the way there: added to that, it is rounded away
    smallest_normal  it is below 1.2e-38: every element is, and the kernels count such numbers as zero
    overflow         it is above 3.4e38
    """

    resolution: int | None
    smallest_normal: int | None
    overflow: int | None


def float32_limits(log10_norms: Array) -> Float32Limits:
    """The limits of norms (T,) in log10, computed in float64; steps after the last that has a gradient do not count."""
    back = log10_norms[::-1]
    reached = np.flatnonzero(back > -np.inf)
    begin = int(reached[0]) if len(reached) else len(back)
    back = back[begin:]

    def first(hits: Array) -> int | None:
        return begin + int(np.argmax(hits)) if hits.any() else None

    return Float32Limits(
        first(back < np.maximum.accumulate(back) + np.log10(FLOAT32.eps)),
        first(back < np.log10(FLOAT32.smallest_normal)),
        first(back > np.log10(FLOAT32.max)),
    )
