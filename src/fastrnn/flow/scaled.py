"""Products of hundreds of Jacobians, which a float64 cannot hold: mantissas with an exponent of their own."""

from __future__ import annotations

import math

import numpy as np

from ..core.geometry import Array

LOG10_2 = math.log10(2)


class Scaled:
    """An array times a power of two, scaled so that its largest magnitude is between ½ and 1; or zero.

    Scaling by powers of two rounds nothing.
    """

    __slots__ = ("exponent", "mantissa")

    def __init__(self, mantissa: Array, exponent: int = 0) -> None:
        largest = np.abs(mantissa).max(initial=0)
        shift = int(np.frexp(largest)[1]) if largest else 0
        self.mantissa = np.ldexp(mantissa, -shift)
        self.exponent = exponent + shift

    def times(self, matrix: Array) -> Scaled:
        """The product with a matrix on the right."""
        return Scaled(self.mantissa @ matrix, self.exponent)

    def plus(self, array: Array) -> Scaled:
        other = Scaled(array)
        if not other.mantissa.any():
            return self
        if not self.mantissa.any():
            return other
        exponent = max(self.exponent, other.exponent)
        mine, its = (np.ldexp(part.mantissa, part.exponent - exponent) for part in (self, other))
        return Scaled(mine + its, exponent)

    def log10(self, value: Array | np.floating) -> Array:
        """log10 of a magnitude of the mantissa's, such as a norm, with the exponent; -inf for zero."""
        with np.errstate(divide="ignore"):
            return np.log10(value) + self.exponent * LOG10_2


def grow(q: Array, jacobian: Array) -> tuple[Array, Array]:
    """One step of the QR method: the directions after a Jacobian, orthonormal, and the log of each one's growth.

    q (n, k) has orthonormal columns. Benettin et al., Lyapunov characteristic exponents for smooth dynamical systems
    (1980); Geist et al., Comparison of different methods for computing Lyapunov exponents (1990).
    """
    q, r = np.linalg.qr(jacobian @ q)
    with np.errstate(divide="ignore"):
        return q, np.log(np.abs(np.diag(r)))
