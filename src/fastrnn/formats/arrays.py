"""The arrays of a file by name, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core import checks

Array = np.ndarray


class Entry(NamedTuple):
    """An array of a file: what the file calls its numbers, its shape, and what makes it, which may raise ValueError."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]


def refused(dtype: str, shape: tuple[int, ...], reason: str) -> Entry:
    """An array that is there and cannot be read."""

    def refuse() -> Array:
        raise ValueError(reason)

    return Entry(dtype, shape, refuse)


class Arrays(Mapping[str, Array]):
    """A read-only mapping of names to the arrays of a file, each made when it is asked for.

    Where a file holds numbers as NumPy has them, its arrays are read-only views of the mapped file: nothing is read
    before it is looked at, and the file must stay as it is as long as they are used. bfloat16 and the formats of eight
    bits are float32. An array that cannot be read is a ValueError that names it when it is asked for.

    format         what kind of file it is: "safetensors", "npz", "torch", "TorchScript", "pickle", "ONNX" or "Keras"
    shapes         names to shapes, for which no array is made
    dtypes         names to what the file calls their numbers, such as "bfloat16"
    left_out       the names of what is there beside arrays, such as a number of epochs
    nodes          of an ONNX model: the recurrent nodes, each with op_type, name, inputs (names of arrays)
                   and attributes
    configuration  of a Keras file with its model: {"keras_version": …, "model": …}, its JSON; elsewhere None
    """

    def __init__(
        self,
        path: str,
        format: str,
        entries: Mapping[str, Entry],
        left_out: Sequence[str] = (),
        nodes: Sequence[Any] = (),
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._entries = dict(entries)
        self.format = format
        self.shapes = {name: entry.shape for name, entry in entries.items()}
        self.dtypes = {name: entry.dtype for name, entry in entries.items()}
        self.left_out = tuple(left_out)
        self.nodes = tuple(nodes)
        self.configuration = configuration

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        try:
            array = entry.make()
        except ValueError as error:
            raise ValueError(f"path: expected an array {name!r} in {self._path!r}: {error}") from error
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"<{len(self)} arrays of {self._path!r}, {self.format}>"


def add(entries: dict[str, Entry], name: str, entry: Entry) -> None:
    """Add an array under a name that no other has."""
    if name in entries:
        raise ValueError(f"two arrays have the name {name!r}")
    entries[name] = entry


def number_entry(make: Callable[[], Array], dtype: np.dtype, shape: tuple[int, ...]) -> Entry:
    """An array of a dtype of NumPy's; Python's objects, which only pickle makes, are refused."""
    if dtype.hasobject:
        return refused(str(dtype), shape, f"it holds Python objects, {checks.show(shape)}, which are not made")
    return Entry(str(dtype), shape, make)
