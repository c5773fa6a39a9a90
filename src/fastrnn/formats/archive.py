"""Zip archives: the members' bytes where they lie in the mapped file, or inflated as they are asked for.

The format: PKWARE's APPNOTE.TXT; Python's zipfile reads the directory, and what it says is compared with the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from .source import part

Array = np.ndarray
LOCAL = struct.Struct("<4s5H3I2H")  # a member's own header, before its name
MOST_INFLATED = 1032  # bytes that deflate makes of one, at most
ENCRYPTED = 1


class Archive:
    """The members of a zip file by name."""

    def __init__(self, data: Array) -> None:
        """Raises ValueError for a directory that is damaged or that says what cannot be."""
        self.data = data
        try:
            with ZipFile(MappedFile(data)) as file:
                listed = file.infolist()
        except (BadZipFile, NotImplementedError, struct.error, OSError, OverflowError) as error:
            raise ValueError(f"its directory cannot be read: {error}") from error
        self.members = {member.filename: member for member in listed}
        if len(self.members) != len(listed):
            raise ValueError("its directory has a name twice")
        self.places = {member.filename: self.locate(member) for member in listed}
        reached, before = 0, ""
        for (begin, end), name in sorted((place, name) for name, place in self.places.items()):
            if begin < reached:
                raise ValueError(f"its members {before!r} and {name!r} lie over each other")
            reached, before = end, name

    def locate(self, member: ZipInfo) -> tuple[int, int]:
        """Where a member's bytes begin and end in the file."""
        what = f"the member {member.filename!r}"
        header = part(self.data, member.header_offset, LOCAL.size, what)
        signature, *_, name_size, extra_size = LOCAL.unpack(header.tobytes())
        if signature != b"PK\x03\x04":
            raise ValueError(f"{what} does not begin where it is said to")
        begin = member.header_offset + LOCAL.size + name_size + extra_size
        part(self.data, begin, member.compress_size, what)
        stored = member.compress_type == ZIP_STORED
        if (stored and member.file_size != member.compress_size) or member.file_size < 0:
            raise ValueError(f"{what} has two sizes")
        return begin, begin + member.compress_size

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def stored(self, name: str) -> bool:
        """Whether a member lies in the file as it is."""
        return self.members[name].compress_type == ZIP_STORED

    def size(self, name: str) -> int:
        """The bytes of a member, as its directory says."""
        return self.members[name].file_size

    def read(self, name: str, first: int | None = None) -> Array:
        """The bytes of a member, the `first` of them or all: a view of the file, or what inflating gives.

        Raises ValueError where they are not as many as the directory says.
        """
        if name not in self.members:
            raise ValueError(f"it has no member {name!r}")
        member = self.members[name]
        begin, end = self.places[name]
        found = self.data[begin:end]
        if member.flag_bits & ENCRYPTED:
            raise ValueError(f"the member {name!r} is encrypted")
        if member.compress_type == ZIP_STORED:
            return found if first is None else found[:first]
        if member.compress_type != ZIP_DEFLATED:
            raise ValueError(f"the member {name!r} is compressed by method {member.compress_type}, not deflated")
        if member.file_size > MOST_INFLATED * (len(found) + 1):
            raise ValueError(f"the member {name!r} of {len(found)} bytes is said to inflate to {member.file_size}")
        return inflate(found, name, member.file_size, first)


def inflate(found: Array, name: str, size: int, first: int | None) -> Array:
    """The bytes that a deflated member is made of, (size,), or the first of them."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    wanted = size if first is None else min(first, size)
    try:
        content = machine.decompress(found.data, wanted) if wanted else b""
        more = first is None and machine.decompress(machine.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"the member {name!r} cannot be inflated: {error}") from error
    if len(content) != wanted or more:
        raise ValueError(f"the member {name!r} does not inflate to {size} bytes")
    return np.frombuffer(content, np.uint8)


class MappedFile(io.RawIOBase):
    """A file's bytes for those who read files."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: len(self.data)}[whence]
        if base + offset < 0:
            raise OSError("a place before the file's beginning")
        self.at = base + offset
        return self.at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        found = self.data[self.at : self.at + len(buffer)]
        buffer[: len(found)] = found.data
        self.at += len(found)
        return len(found)

    def read(self, size: int | None = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.at + size
        found = self.data[self.at : end].tobytes()
        self.at += len(found)
        return found
