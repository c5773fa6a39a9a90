"""The reference: the equations in NumPy (cells.py), written to be read, and the loop over time (loops.py).

It defines what is right.
"""

from .cells import EQUATIONS
from .functions import sigmoid
from .loops import backward, forward, pack

name = "numpy"

__all__ = ["EQUATIONS", "backward", "forward", "name", "pack", "sigmoid"]
