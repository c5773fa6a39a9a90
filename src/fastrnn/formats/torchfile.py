"""Files of torch.save and torch.jit.save: zip archives, and the older format, read without running what they say.

Of a pickle only the opcodes of plain containers are run, and only tensors are known to it (`pickles`, `tensors`).
The formats: torch/serialization.py and torch/csrc/jit/serialization/pickler.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import checks
from .archive import Archive
from .arrays import Entry
from .pickles import Machine
from .source import part
from .tensors import Collection, Storage, find, itemsize, names_budget, storage_dtype

Array = np.ndarray
MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # the older format's first pickle: an integer
Found = tuple[str, dict[str, Entry], list[str]]


def is_torch(archive: Archive) -> bool:
    return main_pickle(archive) is not None


def main_pickle(archive: Archive) -> str | None:
    """The member that describes the file's object."""
    return next((name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")), None)


def read_zip(archive: Archive) -> Found:
    """The format, tensors and what else there is in an archive of torch.save or torch.jit.save."""
    main = main_pickle(archive)
    assert main is not None
    root = main.removesuffix("data.pkl")
    scripted = f"{root}constants.pkl" in archive
    budget = names_budget(archive.size(main))
    found = Collection(budget)
    found.gather(unpickle(archive, main, f"{root}data/"))
    if scripted:
        found.gather(unpickle(archive, f"{root}constants.pkl", f"{root}constants/"), "constants")
    return "TorchScript" if scripted else "torch", found.entries, found.left_out


def unpickle(archive: Archive, member: str, folder: str) -> Any:
    """The containers that a member describes, with their storages in a folder of the archive."""
    order = f"{member.rpartition('/')[0]}/byteorder".removeprefix("/")
    big = order in archive and archive.read(order).tobytes() == b"big"
    storages: dict[tuple[str, str | None], Storage] = {}

    def load(key: Any) -> Storage:
        kind, size, name = read_reference(key)
        if (name, kind) not in storages:
            content = archive.read(folder + name)
            if size * itemsize(kind) > len(content):
                elements = checks.digits(size)
                raise ValueError(f"its storage {name!r} of {len(content)} bytes is said to have {elements} elements")
            storages[name, kind] = Storage(kind, size, big, content)
        return storages[name, kind]

    return Machine(archive.read(member), find, load).run()


def read_reference(key: Any) -> tuple[str | None, int, str]:
    """The dtype, size and name of a storage to which a pickle refers."""
    if type(key) is not tuple or len(key) < 5 or key[0] != "storage":
        what = repr(key[0])[:40] if type(key) is tuple and key and isinstance(key[0], str) else checks.kind(key)
        raise ValueError(f"its pickle refers to {what}, which is no storage of tensors; state_dict() has tensors alone")
    if not isinstance(key[2], str) or type(key[4]) is not int or key[4] < 0:
        raise ValueError("its pickle refers to a storage by other things than name and size")
    return storage_dtype(key[1]), key[4], key[2]


# --- the format before torch 1.6


def is_old(data: Array) -> bool:
    return len(data) > 2 and data[0] == 0x80 and data[2 : 2 + len(MAGIC)].tobytes() == MAGIC


def read_old(data: Array) -> Found:
    """The tensors of a file of torch.save as it was before 1.6: pickles in a row, and the storages behind them."""
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, str, int]] = []
    machine = Machine(data, find, reference_reader(storages, views))
    machine.run()  # the magic number
    version, system = machine.run(), machine.run()
    if version != 1001 or type(system) is not dict:
        raise ValueError("its protocol is not 1001, torch's only one of this format")
    big = system.get("little_endian") is False
    root = machine.run()
    keys = machine.run()
    if type(keys) is not list or {*map(str, keys)} != storages.keys() or len(keys) != len(storages):
        raise ValueError("its list of storages is not that of its tensors")
    at = machine.at
    for key in map(str, keys):
        storage = storages[key]
        count = int.from_bytes(part(data, at, 8, "a storage").tobytes(), "big" if big else "little")
        size = count * itemsize(storage.dtype)
        storage.data, storage.big = part(data, at + 8, size, f"the storage {key!r}"), big
        at += 8 + size
    for storage, key, offset in views:
        whole = storages[key].data
        assert whole is not None
        width = itemsize(storage.dtype)
        storage.data, storage.big = part(whole, offset * width, storage.size * width, f"the storage {key!r}"), big
    found = Collection(names_budget(machine.at))
    found.gather(root)
    return "torch", found.entries, found.left_out


def reference_reader(storages: dict[str, Storage], views: list[tuple[Storage, str, int]]) -> Callable[[Any], Storage]:
    """What makes storages of the older format's references, whose bytes come later."""

    def load(key: Any) -> Storage:
        kind, size, name = read_reference(key)
        root = storages.setdefault(name, Storage(kind, size, False))
        if root.dtype != kind:
            raise ValueError(f"its storage {name!r} has two dtypes")
        view = key[5] if len(key) > 5 else None
        if view is None:
            return root
        if not (type(view) is tuple and len(view) == 3 and all(type(n) is int and n >= 0 for n in view[1:])):
            raise ValueError(f"its view of the storage {name!r} is no offset and size")
        storage = Storage(kind, view[2], False)
        views.append((storage, name, view[1]))
        return storage

    return load


def is_pickle(data: Array) -> bool:
    """Whether a file begins as pickles of the protocols 2 to 5 do."""
    return len(data) > 2 and data[0] == 0x80 and 2 <= data[1] <= 5


def read_pickle(data: Array) -> Found:
    """The arrays of a pickle of plain containers and NumPy's arrays of numbers."""
    machine = Machine(data, find)
    found = Collection(names_budget(len(data)))
    found.gather(machine.run())
    return "pickle", found.entries, found.left_out
