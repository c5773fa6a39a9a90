"""torch's threads: how many a call may use, and the kernels on them.

torch's operations run on OpenMP's threads, which spin for milliseconds after each on the cores that fastrnn's own
threads would share with them. So the kernels run on OpenMP's in torch's modules, wherever torch is built with them.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from ..backends.base import Backend

own_threads = bool(os.environ.get("FASTRNN_NUM_THREADS"))  # read at import, as all that the environment says


def threads() -> int | None:
    """torch's number of threads; None, fastrnn's own, where the environment says it."""
    return None if own_threads else torch.get_num_threads()


@cache
def parallel() -> int:
    """The address of the function that runs others on OpenMP's threads; 0 where there is none to be found."""
    if not torch.backends.openmp.is_available():
        return 0
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            library = ctypes.CDLL(str(folder / name))  # loaded already: its OpenMP is that of its operations
            if not library.omp_get_dynamic():  # else it may give fewer threads from one region to the next
                return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
    return 0


class Hosted:
    """A block in which a backend's kernels run on torch's threads, in calls of this thread; `many` as of `threads`."""

    __slots__ = ("many", "set")

    def __init__(self, backend: Backend, many: int | None) -> None:
        self.many = many
        self.set = getattr(backend, "host_threads", None) if many is not None and many > 1 else None

    def __enter__(self) -> None:
        if self.set is not None:
            self.set(parallel(), self.many)

    def __exit__(self, *raised: object) -> None:
        if self.set is not None:
            self.set(0, 0)
