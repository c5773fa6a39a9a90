"""The native backend: fused C kernels, compiled once per instruction-set level, behind a thin Cython module."""

import numpy as np

from .. import FAMILIES
from .._native import (
    CellStep,
    Shortcut,
    activate,
    backward,
    compiler,
    fma_peak,
    forward,
    hoisted_terms,
    host_threads,
    level,
    levels,
    linear,
    pack,
    pack_linear,
    read_bandwidth,
    scan_backward,
    scan_forward,
    schedule,
    set_level,
    update,
)

name = "native"

__all__ = [
    "Shortcut",
    "activate",
    "backward",
    "cell_step",
    "compiler",
    "fma_peak",
    "forward",
    "hoisted_terms",
    "host_threads",
    "level",
    "levels",
    "linear",
    "name",
    "pack",
    "pack_linear",
    "read_bandwidth",
    "scan_backward",
    "scan_forward",
    "schedule",
    "set_level",
    "update",
]


def cap_level(word: str) -> None:
    """Use the best level of this machine that is not above `word`, the value of FASTRNN_ISA."""
    available = levels()
    family = next(family for family in FAMILIES if available[0] in family)
    if word.lower() not in family:
        raise ValueError(f"FASTRNN_ISA: expected one of {', '.join(family)}, got {word!r}")
    allowed = family[: family.index(word.lower()) + 1]
    set_level(next(candidate for candidate in available if candidate in allowed))


if not levels():
    raise ImportError("fastrnn's native kernels need SSE4.2 and POPCNT (x86-64-v2), which this CPU lacks")

cell_step = CellStep(np.ndarray, np.empty, (np.dtype(np.float32), np.dtype(np.float64)))
