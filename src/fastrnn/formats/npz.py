"""NumPy's .npz: a zip archive of .npy members. Objects, which would need pickle, are refused.

The format: numpy.lib.format's docstring.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import numpy as np

from .archive import Archive
from .arrays import Entry, add, refused
from .source import arrange, read_shape

Array = np.ndarray
MAGIC = b"\x93NUMPY"
LONGEST = 10_000  # bytes of a header, which is most often a hundred
PLAIN = re.compile(r"[<>|=]?[biufcSUmMV]\d{1,9}(\[\w+\])?")  # dtypes of numbers, texts, times and bare bytes


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
    """An array, whose claims are compared with the size of its member."""
    header, start = read_header(archive.read(member, LONGEST + 12), member)
    shape, fortran = read_shape(header["shape"], repr(member)), bool(header["fortran_order"])
    described = header["descr"]
    if not isinstance(described, str) or not PLAIN.fullmatch(described):
        return refused(str(described)[:40], shape, f"its elements are {str(described)[:40]!r}, which are not made")
    try:
        dtype = np.dtype(described)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{member!r} has a dtype that NumPy has not: {error}") from error
    size = archive.size(member) - start
    if dtype.itemsize == 0 or size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{member!r} has {size} bytes of an array {dtype} {shape}")
    return Entry(str(dtype), shape, lambda: arrange(archive.read(member)[start:], dtype, shape, repr(member), fortran))


def read_header(content: Array, member: str) -> tuple[dict[str, Any], int]:
    """What the head of a .npy file says, and where its numbers begin."""
    start = content.tobytes()
    if not start.startswith(MAGIC) or len(start) < 12 or start[6] not in (1, 2, 3):
        raise ValueError(f"{member!r} does not begin as a .npy file")
    begin = 10 if start[6] == 1 else 12
    end = begin + int.from_bytes(start[8:begin], "little")
    if end > len(start):
        raise ValueError(f"{member!r} has no whole header of at most {LONGEST} bytes")
    try:
        # Python 2 wrote integers with an L on some systems.
        header = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", start[begin:end].decode("utf-8").strip()))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{member!r} has a header that is no dict of plain values") from None
    if not isinstance(header, dict) or not {"descr", "fortran_order", "shape"} <= header.keys():
        raise ValueError(f"{member!r} has a header without descr, fortran_order or shape")
    return header, end
