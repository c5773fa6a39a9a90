"""A file's bytes, mapped, and arrays that lie in it: what a file claims is compared with what it has."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Sequence

import numpy as np

from ..core import checks

Array = np.ndarray
MOST_AXES = 32  # the fewest that any NumPy allows
MOST_ELEMENTS = 2**62  # that an array may seem to have, beside an axis of none
SPREAD = 2**20  # elements that a view may have more than its storage: a number repeated


def map_file(path: str | os.PathLike[str]) -> Array:
    """The bytes of a regular file, (size,) uint8, read-only and mapped: nothing is read before it is looked at.

    Raises OSError where the file cannot be opened, ValueError where it is no regular file, or empty.
    """
    with open(path, "rb", opener=open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if not status.st_size:
            raise ValueError("it is empty")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, should it be a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def part(data: Array, start: int, size: int, what: str) -> Array:
    """The bytes from `start` on, or a ValueError that names what does not lie in the file."""
    if not (0 <= start and 0 <= size and start + size <= len(data)):
        place = f"{checks.digits(start)} to {checks.digits(start + size)}"
        raise ValueError(f"{what} is said to be at bytes {place} of {len(data)}")
    return data[start : start + size]


def read_shape(shape: object, what: str) -> tuple[int, ...]:
    """A shape that a file claims: few axes, none negative, and within what an array may have."""
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)):
        raise ValueError(f"the shape of {what} is no list of integers")
    if len(shape) > MOST_AXES:
        raise ValueError(f"{what} has {len(shape)} axes, of at most {MOST_AXES}")
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError(f"the shape of {what} is no list of integers of at least 0")
    if math.prod(size for size in shape if size) > MOST_ELEMENTS:
        raise ValueError(f"{what} has a shape that no array has")
    return tuple(shape)


def arrange(data: Array, dtype: np.dtype, shape: tuple[int, ...], what: str, fortran: bool = False) -> Array:
    """All of `data` as an array of this dtype and shape, without a copy; its size must be exactly that."""
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise ValueError(f"{what}, {dtype} {checks.show(shape)}, has {len(data)} bytes, not {checks.digits(size)}")
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def stride(
    data: Array, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: Sequence[int], what: str
) -> Array:
    """A view of `data`, offset and strides counted in elements, all of it within `data`."""
    held = len(data) // dtype.itemsize
    if len(strides) != len(shape) or any(type(step) is not int or step < 0 for step in strides) or offset < 0:
        raise ValueError(f"offset or strides of {what} are no integers of at least 0, one for each axis")
    if 0 in shape:
        return np.empty(shape, dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if last >= held:
        raise ValueError(f"{what} is said to reach element {checks.digits(last)} of a storage of {held}")
    if math.prod(shape) > max(held, SPREAD):
        raise ValueError(f"{what} repeats a storage of {held} elements {checks.digits(math.prod(shape))} times")
    elements = data[: held * dtype.itemsize].view(dtype)[offset:]
    # An axis of one is never stepped along, whatever stride the file gives it.
    steps = [step * dtype.itemsize if size > 1 else 0 for size, step in zip(shape, strides)]
    return np.lib.stride_tricks.as_strided(elements, shape, steps, writeable=False)
