"""The machine a benchmark runs on: its name, its peaks, and the threads of NumPy's BLAS."""

import ctypes
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn

from .. import backends


def describe() -> dict[str, str | int | None]:
    """What a reader of the figures must know of machine and software."""
    return {
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "instruction_set": instruction_set(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas_threads": blas_threads(),
        "fastrnn": fastrnn.__version__,
    }


def cpu_model() -> str:
    """The processor's name as its maker gives it, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def native() -> Any:
    """The native backend's module; None where it does not run."""
    try:
        return backends.load("native")
    except backends.BackendUnavailable:
        return None


def instruction_set() -> str | None:
    """The level of the native kernels; None without them."""
    module = native()
    return None if module is None else module.level()


def fma_peak(dtype: np.dtype, threads: int, seconds: float = 0.05) -> float | None:
    """The most flop/s that fused multiply-adds reach here, by the native backend's own loop; None without it."""
    module = native()
    return None if module is None else module.fma_peak(dtype, threads, seconds)


def read_bandwidth(size: int, threads: int, seconds: float = 0.05) -> float | None:
    """The most bytes/s at which threads read `size` bytes again and again, each its part; None without the backend."""
    module = native()
    return None if module is None else module.read_bandwidth(size, threads, seconds)


def blas_threads() -> int | None:
    """The threads of NumPy's matrix products where its BLAS is OpenBLAS; None where it cannot be asked."""
    get, _ = openblas()
    return None if get is None else get()


@contextmanager
def threads_everywhere(threads: int) -> Iterator[None]:
    """So many threads for fastrnn and, where it can be told, for NumPy's BLAS; as before afterwards."""
    before, blas_before = fastrnn.get_num_threads(), blas_threads()
    try:
        fastrnn.set_num_threads(threads)
        set_blas_threads(threads)
        yield
    finally:
        fastrnn.set_num_threads(before)
        set_blas_threads(blas_before)


def set_blas_threads(threads: int | None) -> None:
    _, assign = openblas()
    if assign is not None and threads is not None:
        assign(ctypes.c_int(threads))


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
