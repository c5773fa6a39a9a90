"""The threads of NumPy's matrix products where its BLAS is OpenBLAS.

Its threads spin after each product, for 25 to 105 ms as measured, and take turns meanwhile with those of fastrnn.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import config


def threads() -> int | None:
    """How many there are; None where the BLAS cannot be asked."""
    get, _ = openblas()
    return None if get is None else get()


@contextmanager
def limited_to(n: int) -> Iterator[None]:
    """So many threads, where the BLAS can be told; as before afterwards."""
    get, assign = openblas()
    if get is None:
        yield
        return
    before = get()
    try:
        assign(ctypes.c_int(n))
        yield
    finally:
        assign(ctypes.c_int(before))


@contextmanager
def threads_everywhere(threads: int) -> Iterator[None]:
    """So many threads for fastrnn and, where it can be told, for NumPy's BLAS; as before afterwards."""
    before = config.get_num_threads()
    try:
        config.set_num_threads(threads)
        with limited_to(threads):
            yield
    finally:
        config.set_num_threads(before)


def openblas() -> tuple[Any, Any]:
    """The functions that get and set the threads of NumPy's OpenBLAS; None for each if NumPy has another BLAS."""
    try:
        core = np._core if hasattr(np, "_core") else np.core  # as NumPy 2 and 1 call it
        library = ctypes.CDLL(core._multiarray_umath.__file__)  # linked with the BLAS: finds its symbols too
    except (AttributeError, OSError):
        return None, None
    for name in ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads"):
        if hasattr(library, name.format("get")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None, None
