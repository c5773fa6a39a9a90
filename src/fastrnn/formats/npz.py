"""NumPy's .npz: a zip archive of .npy members. Objects, which would need pickle, are refused.

The format: numpy.lib.format's docstring.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .archive import Archive
from .arrays import Entry, add, number_entry, refused
from .source import arrange, read_shape

Array = np.ndarray
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LONGEST = 2**14  # bytes of a member that a header may take: NumPy writes a few hundred, and reads 10,000


def is_npz(archive: Archive) -> bool:
    return any(name.endswith(".npy") for name in archive.members)


def read(archive: Archive) -> dict[str, Entry]:
    """The arrays of an archive; a deflated one is inflated whenever it is asked for."""
    entries: dict[str, Entry] = {}
    for member in archive.members:
        if not member.endswith(".npy"):
            raise ValueError(f"its member {member!r} is no .npy file")
        add(entries, member.removesuffix(".npy"), read_member(archive, member))
    return entries


def read_member(archive: Archive, member: str) -> Entry:
    shape, fortran, dtype, start = read_header(archive.read(member, LONGEST), member)
    if dtype.hasobject:
        return refused(str(dtype), shape, "it holds Python objects, which are not made")
    size = archive.size(member) - start
    if size != dtype.itemsize * int(np.prod([*map(int, shape), 1], dtype=object)):
        raise ValueError(f"{member!r} has {size} bytes of an array {dtype} {shape}")

    def make() -> Array:
        return arrange(archive.read(member)[start:], dtype, shape, repr(member), fortran)

    return number_entry(make, dtype, shape)


def read_header(start: Array, member: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """The shape, order and dtype of a .npy file, and where its numbers begin."""
    file = io.BytesIO(start.tobytes())
    try:
        version: Any = npy.read_magic(file)
        # The third version is the second with names in UTF-8, which dtypes of plain numbers have none of.
        shape, fortran, dtype = HEADERS[(2, 0) if version == (3, 0) else version](file)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"{member!r} has no header of a .npy file: {error}") from None
    if dtype.itemsize == 0:
        raise ValueError(f"{member!r} has elements of no bytes")
    return read_shape(shape, repr(member)), bool(fortran), dtype, file.tell()
