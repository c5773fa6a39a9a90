"""HDF5, as Keras writes its weights (.h5, .weights.h5, and .keras, a zip archive with one), read by h5py.

Links to other files, datasets spread over other files and links in a circle are refused.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from ..core import checks
from . import kerasjson
from .archive import Archive, MappedFile
from .arrays import Entry, add, number_entry, refused
from .kerasjson import Configuration
from .narrow import NARROW, widened
from .source import read_shape

Array = np.ndarray
SIGNATURE = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"  # the member of a .keras archive
DEEPEST = 50  # groups within each other
MOST_INFLATED = 1032  # bytes that a filter may make of one: deflate's most


def is_hdf5(data: Array) -> bool:
    """Whether the signature is at the beginning, or behind a block of another's, of 512 bytes times a power of two."""
    at = 0
    while at < len(data):
        if data[at : at + 8].tobytes() == SIGNATURE:
            return True
        at = 2 * at or 512
    return False


def is_keras(archive: Archive) -> bool:
    return WEIGHTS in archive


def read_keras(archive: Archive) -> tuple[dict[str, Entry], Configuration | None]:
    """The weights of a .keras archive, and what it says of the model."""
    return read(archive.read(WEIGHTS))[0], kerasjson.of_archive(archive)


def read(data: Array) -> tuple[dict[str, Entry], Configuration | None]:
    """The datasets of a file by their paths, and what it says of the model; raises ImportError without h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras files need h5py: pip install 'fastrnn[keras]'") from error
    try:
        file = h5py.File(io.BufferedReader(MappedFile(data)), "r")
        entries: dict[str, Entry] = {}
        walk(h5py, file, "", entries, set(), len(data))
        configuration = kerasjson.of_hdf5(h5py, file)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"h5py cannot read it: {error}") from error
    return entries, configuration


def walk(h5py: Any, group: Any, prefix: str, entries: dict[str, Entry], seen: set[int], size: int) -> None:
    """Add the datasets of a group and of those within it."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen or prefix.count("/") > DEEPEST:
        raise ValueError(f"its group {prefix!r} is within itself, or within more than {DEEPEST}")
    seen.add(address)
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"its entry {prefix + key!r} is a link to another place")
        item = group[key]
        if isinstance(item, h5py.Group):
            walk(h5py, item, f"{prefix}{key}/", entries, seen, size)
        elif isinstance(item, h5py.Dataset):
            add(entries, prefix + key, read_dataset(item, prefix + key, size))


def read_dataset(dataset: Any, name: str, size: int) -> Entry:
    """A dataset, whose claims are compared with what it has in the file."""
    if dataset.shape is None:
        return refused("empty", (), "it is an empty dataset")
    shape = read_shape(tuple(map(int, dataset.shape)), repr(name))
    if dataset.external or dataset.is_virtual:
        return refused(str(dataset.dtype), shape, "its numbers are in another file")
    dtype = dataset.dtype
    claimed = dtype.itemsize * math.prod(shape)
    stored = min(int(dataset.id.get_storage_size()), size)
    needed = max(claimed, dtype.itemsize * math.prod(dataset.chunks)) if claimed and dataset.chunks else claimed
    if needed > stored * (MOST_INFLATED if dataset.chunks else 1):
        raise ValueError(f"{name!r}, {dtype} {checks.show(shape)}, has {stored} bytes in the file")

    def make() -> Array:
        try:
            return np.asarray(dataset[()])
        except (OSError, RuntimeError, TypeError) as error:
            raise ValueError(f"h5py cannot read it: {error}") from error

    known = dataset.attrs.get("dtype") if dtype.kind == "V" else None
    if isinstance(known, str) and known in NARROW and dtype.itemsize == NARROW[known][0].itemsize:
        return Entry(known, shape, lambda: widened(make().view(NARROW[known][0]), known))
    return number_entry(make, dtype, shape)
