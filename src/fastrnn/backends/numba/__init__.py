"""The Numba backend, for machines without the native kernels: the same loops, compiled at run time.

cells        a cell's equation and its derivative
products     matrix products, over flat arrays
packing      weights into panels
loops        the steps of one direction
calls        the contract of base.py
scan         that of backends/scan.py
compiling, intrinsics, activations, cache: what these stand on
"""

from .calls import activate, backward, forward, name, pack
from .scan import linear, pack_linear, scan_backward, scan_forward

__all__ = ["activate", "backward", "forward", "linear", "name", "pack", "pack_linear", "scan_backward", "scan_forward"]
