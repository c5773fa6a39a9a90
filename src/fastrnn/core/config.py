"""The choice of backend and the number of threads: process-wide settings, one context variable, the environment.

FASTRNN_BACKEND forces a backend, FASTRNN_ISA caps the native one's instruction set and FASTRNN_NUM_THREADS sets the
number of threads; all are read at import, where a bad value is an error. Without FASTRNN_NUM_THREADS, OMP_NUM_THREADS
sets it, which whoever starts many processes sets to keep them apart: as OpenMP reads it, "4,2" being 4 threads, more
than there are CPUs if it says so; a bad value is passed over, since it is not ours.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias, cast

from .. import backends
from ..backends import BackendUnavailable
from ..backends.base import Backend
from . import checks, cpus

BackendName: TypeAlias = Literal["native", "numba", "numpy"]

MOST_THREADS = 1 << 16  # more than any machine has, few enough for the kernels' arithmetic

_in_context: ContextVar[Backend | None] = ContextVar("fastrnn_backend", default=None)
_backend: Backend | None = None  # as set
_threads: int | None = None
# Found out at first use, and kept apart: another thread may set them meanwhile.
_best_backend: Backend | None = None
_usable_cpus: int | None = None


def backend() -> Backend:
    """The backend in force: of the context, of the process, of the environment, or the best that works here."""
    return _in_context.get() or _backend or _best_backend or _choose()


def _choose() -> Backend:
    """Settle on the first backend that loads; one that is installed and does not load earns a warning."""
    global _best_backend
    for name in filter(backends.installed, backends.ENTRIES):
        try:
            _best_backend = best = backends.load(name)
            return best
        except BackendUnavailable as error:
            warnings.warn(f"fastrnn falls back to a slower backend; {error}", RuntimeWarning, stacklevel=4)
    raise AssertionError("the numpy backend always loads")


def available_backends() -> tuple[BackendName, ...]:
    """The names of the backends that can be used here, best first."""
    return cast(tuple[BackendName, ...], backends.available())


def get_backend() -> BackendName:
    """The name of the backend in force."""
    return cast(BackendName, backend().name)


def set_backend(name: BackendName) -> None:
    """Use a backend in the whole process, except within `use_backend`.

    Raises BackendUnavailable (an ImportError and a ValueError) for one that is unknown or cannot run here.
    """
    global _backend
    _backend = backends.load(name)


def use_backend(name: BackendName) -> AbstractContextManager[None]:
    """A context manager: use a backend in this thread or task within the block. Raises as `set_backend`.

    A thread started within the block uses it too where Python's threads inherit the context: free-threaded from 3.14.
    """
    return _use(backends.load(name))


@contextmanager
def _use(chosen: Backend) -> Iterator[None]:
    token = _in_context.set(chosen)
    try:
        yield
    finally:
        _in_context.reset(token)


def get_num_threads() -> int:
    """The number of threads a call may use; by default that of OMP_NUM_THREADS, or the usable CPUs.

    These are the CPUs of the affinity mask, within the cgroup quota.
    """
    return _threads or _usable_cpus or _count_cpus()


def _count_cpus() -> int:
    global _usable_cpus
    _usable_cpus = count = cpus.usable_cpus()
    return count


def set_num_threads(n: int) -> None:
    """Let every call in the process use up to n >= 1 threads. Results do not depend on it.

    `threadpoolctl.threadpool_limits` sets and restores it.
    """
    global _threads
    n = checks.integer("n", n)
    if n > MOST_THREADS:
        raise ValueError(f"n: expected at most {MOST_THREADS} threads, got {checks.digits(n)}")
    _threads = n


def limit_threads(n: int) -> None:
    """As `set_num_threads`; but the default is left unset, since who ends a limit sets what it found before."""
    global _threads
    set_num_threads(n)
    if n == (_usable_cpus or _count_cpus()):
        _threads = None


def is_thread_count(word: str) -> bool:
    return word.isdecimal() and len(word) <= len(str(MOST_THREADS)) and 1 <= int(word) <= MOST_THREADS


def _read_environment() -> None:
    global _backend, _threads
    if name := os.environ.get("FASTRNN_BACKEND"):
        _backend = backends.load(name, "FASTRNN_BACKEND")
    if level := os.environ.get("FASTRNN_ISA"):
        if "native" in backends.available():
            native: Any = backends.load("native")
            native.cap_level(level)
        elif level.lower() not in (known := [word for family in backends.FAMILIES for word in family]):
            raise ValueError(f"FASTRNN_ISA: expected one of {', '.join(known)}, got {level!r}")
    if word := os.environ.get("FASTRNN_NUM_THREADS"):
        if not is_thread_count(word):
            raise ValueError(f"FASTRNN_NUM_THREADS: expected a positive integer, got {word!r}")
        _threads = int(word)
    elif is_thread_count(word := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()):
        _threads = int(word)


_read_environment()
