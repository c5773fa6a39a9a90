"""What a Keras file says of its model: config.json of a .keras archive, the attribute model_config of an .h5 file.

It is read as plain JSON. No class or function that it names is looked for. Files of weights alone have none.
"""

from __future__ import annotations

import json
from typing import Any

from .archive import Archive

LARGEST = 2**24  # bytes of JSON that are parsed; a layer takes about 1,500
CONFIG, METADATA, MODEL, VERSION = "config.json", "metadata.json", "model_config", "keras_version"

Configuration = dict[str, Any]


def of_archive(archive: Archive) -> Configuration | None:
    """The configuration in a .keras archive; ValueError for one that is no JSON object, or too large."""
    if CONFIG not in archive:
        return None
    metadata = parse(member(archive, METADATA), METADATA) if METADATA in archive else {}
    return described(parse(member(archive, CONFIG), CONFIG), metadata.get(VERSION))


def member(archive: Archive, name: str) -> bytes:
    limited(name, archive.size(name))
    return archive.read(name).tobytes()


def of_hdf5(h5py: Any, file: Any) -> Configuration | None:
    """The configuration in an open .h5 file; ValueError for one that is no JSON object, or too large."""
    content = attribute(h5py, file, MODEL)
    if content is None:
        return None
    version = attribute(h5py, file, VERSION)
    return described(parse(content, MODEL), None if version is None else version.decode(errors="replace"))


def attribute(h5py: Any, file: Any, name: str) -> bytes | None:
    """An attribute that is one string."""
    if name not in file.attrs:
        return None
    held = file.attrs.get_id(name)
    kind = h5py.check_string_dtype(held.dtype)
    if kind is None or held.shape != ():
        raise ValueError(f"its attribute {name!r} is no string")
    limited(name, kind.length or 0)
    value = file.attrs[name]
    content = value.encode(errors="surrogateescape") if isinstance(value, str) else bytes(value)
    limited(name, len(content))
    return content


def limited(name: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"its {name!r} of {size} bytes is larger than {LARGEST}")


def parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"its {name!r} is no JSON object")
    return found


def described(model: dict[str, Any], version: Any) -> Configuration:
    return {"keras_version": version if isinstance(version, str) else None, "model": model}
