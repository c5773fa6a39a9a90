"""The least time that a workload can take on a machine, by two ceilings: its FMA peak and how fast its caches are read.

A step needs the one before it, so the sequential products, h W_hh forward and its transpose backward, read W_hh anew at
every step, once for all rows of the batch. The other products take rows of many steps at a time: only FMAs bind them.
"""

from typing import Any, NamedTuple

from .workloads import Workload


class Floor(NamedTuple):
    """The least time of one call, and whether in its sequential part reading W_hh takes longer than the FMAs."""

    seconds: float
    by_cache: bool


def floor(workload: Workload, dtype: Any, peak: float, bandwidth: float) -> Floor:
    """`peak` in flop/s, `bandwidth` in bytes/s, as all threads together read what W_hh takes again and again.

    forward    x W_ih on FMAs, then T times the longer of h W_hh on FMAs and of reading W_hh
    backward   dx, dW_ih and dW_hh on FMAs, and T times the longer of dh on FMAs and of reading W_hh
    """
    steps = workload.size.T * (1 if workload.mode == "forward" else 2)
    fma, read = workload.step_flops / peak, workload.recurrent_bytes(dtype) / bandwidth
    others = (workload.flops - steps * workload.step_flops) / peak
    return Floor(others + steps * max(fma, read), read > fma)
