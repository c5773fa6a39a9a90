"""Numbers of formats that NumPy does not have, widened to float32, which has all of their values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

Array = np.ndarray


def widen_bfloat16(bits: Array) -> Array:
    """float32 of the same sign, exponent and first seven bits of the fraction; bits (...) uint16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@cache
def table(exponent_bits: int, bias: int, rule: str) -> Array:
    """The values of a format of eight bits, (256,) float32.

    rule  "ieee": the largest exponent is of infinity and NaN; "fn": the largest code alone is NaN, there is no
          infinity; "fnuz": the code of -0 alone is NaN (Micikevicius et al. 2022; Noune et al. 2022, as in OCP's
          8-bit floating point specification and ONNX's)
    """
    codes = np.arange(256)
    fraction_bits = 7 - exponent_bits
    fraction = (codes & (2**fraction_bits - 1)) / 2**fraction_bits
    exponent = (codes >> fraction_bits) & (2**exponent_bits - 1)
    values = np.where(exponent > 0, 1 + fraction, 2 * fraction) * 2.0 ** (exponent - bias)
    values[codes > 127] *= -1
    if rule == "ieee":
        last = exponent == 2**exponent_bits - 1
        values[last] = np.where(fraction[last] > 0, np.nan, np.copysign(np.inf, values[last]))
    elif rule == "fn":
        values[[127, 255]] = np.nan
    else:
        values[128] = np.nan
    return values.astype(np.float32)


@cache
def powers() -> Array:
    """The values of eight bits that are an exponent alone, (256,) float32; 255 is NaN."""
    values = 2.0 ** (np.arange(256) - 127.0)
    values[255] = np.nan
    return values.astype(np.float32)


# By torch's names; what the bits are held in, and what makes float32 of them.
NARROW: dict[str, tuple[np.dtype, Callable[[Array], Array]]] = {
    "bfloat16": (np.dtype("<u2"), widen_bfloat16),
    "float8_e5m2": (np.dtype("u1"), lambda bits: table(5, 15, "ieee")[bits]),
    "float8_e4m3fn": (np.dtype("u1"), lambda bits: table(4, 7, "fn")[bits]),
    "float8_e5m2fnuz": (np.dtype("u1"), lambda bits: table(5, 16, "fnuz")[bits]),
    "float8_e4m3fnuz": (np.dtype("u1"), lambda bits: table(4, 8, "fnuz")[bits]),
    "float8_e8m0fnu": (np.dtype("u1"), lambda bits: powers()[bits]),
}
PLAIN = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool", "complex64", "complex128",
)  # fmt: skip


def held_in(name: str, big: bool = False) -> np.dtype | None:
    """The dtype in which a file holds numbers of the format `name`; None for one that is not known."""
    if name in NARROW:
        return NARROW[name][0].newbyteorder(">" if big else "<")
    return np.dtype(name).newbyteorder(">" if big else "<") if name in PLAIN else None


def widened(array: Array, name: str) -> Array:
    """The numbers that an array of the format `name` holds: the array itself where NumPy has the format."""
    return NARROW[name][1](array) if name in NARROW else array
