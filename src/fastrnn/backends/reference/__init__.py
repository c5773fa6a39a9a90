"""The reference: the equations in NumPy (cells.py), written to be read, and the loop over time (loops.py).

It defines what is right.
"""

from .cells import EQUATIONS
from .functions import sigmoid
from .loops import backward, forward, pack
from .scan import linear, pack_linear, scan_backward, scan_forward

name = "numpy"

__all__ = [
    "EQUATIONS",
    "backward",
    "forward",
    "linear",
    "name",
    "pack",
    "pack_linear",
    "scan_backward",
    "scan_forward",
    "sigmoid",
]
