"""The machine a benchmark runs on: its name, its peaks, and the threads of NumPy's BLAS."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn

from .. import backends
from ..core import blas


def describe() -> dict[str, str | int | None]:
    """What a reader of the figures must know of machine and software."""
    return {
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "instruction_set": instruction_set(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas_threads": blas.threads(),
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
