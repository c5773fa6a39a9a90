"""What compiles the functions of the Numba backend."""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from .cache import KernelCache

unsigned = np.uintp  # as an index it needs no check for negative values, which would keep loops from vectorising
inlined = register_jitable(forceinline=True)  # left to itself LLVM calls sigmoid, and cannot vectorise around calls


def jit(function, signature=None):
    """Compile for the signature, by default at first use; cached on disk where some directory for it is writable."""
    compiled = njit(nogil=True, error_model="numpy")(function)
    try:
        compiled._cache = KernelCache(function)
    except (RuntimeError, OSError):  # neither the package's directory nor the user's cache can be written
        pass
    if signature is not None:
        compiled.compile(signature)
        compiled.disable_compile()
    return compiled
