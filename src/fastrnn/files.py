"""Trained parts in a file: arrays as safetensors, the configuration beside them. Nothing in a file is ever executed.

fastrnn.save("model.safetensors", model=chain)
chain = fastrnn.load("model.safetensors")["model"]
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._version import __version__
from .core import checks

KEY = "fastrnn"  # the only one of a file's metadata, whose order would differ from one writing to the next
PARTS = "parts.1"  # the kind of a file of `save`; the number is that of the layout

Array = np.ndarray


def save(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write layers, cells, parts or models, by the names they are given, to one safetensors file.

    The file is written beside `path` and then renamed: whatever goes wrong, the old one stays. Needs safetensors.
    Raises TypeError for what is no part of fastrnn, OSError where the file cannot be written.
    """
    if not parts:
        raise TypeError("parts: expected at least one part by name, got none")
    kinds = known_kinds()
    described: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for name, part in parts.items():
        if kinds.get(type(part).__name__) is not type(part):
            raise TypeError(f"{name}: expected a layer, cell, part or model of fastrnn, got {checks.kind(part)}")
        described[name] = [type(part).__name__, part.config]
        arrays |= {f"{name}.{key}": array for key, array in part.params.items()}
    write(path, arrays, {"kind": PARTS, "version": __version__, "parts": described})


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Rebuild the parts of a file that `save` wrote, by name.

    Raises ValueError for a file that is truncated or of another kind, OSError for one that cannot be read.
    """
    arrays, metadata = read(path)
    if metadata.get("kind") != PARTS:
        raise ValueError(f"path: expected a file of fastrnn.save, got another safetensors file, {str(path)!r}")
    try:
        parts = {name: rebuild(kind, config) for name, (kind, config) in metadata["parts"].items()}
        for name, part in parts.items():
            part.load_state_dict(arrays, prefix=f"{name}.")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"path: expected a whole file of fastrnn.save, got {str(path)!r}: {error}") from error
    return parts


def known_kinds() -> dict[str, Any]:
    """The classes that files may name."""
    from . import cells, layers, scans, train

    found: list[Any] = [layers.RNN, layers.LSTM, layers.GRU, layers.LeakyRNN]
    found += [cells.RNNCell, cells.LSTMCell, cells.GRUCell]
    found += [scans.MinGRU, scans.MinLSTM, scans.IndRNN]
    found += train.KINDS
    return {kind.__name__: kind for kind in found}


def rebuild(kind: str, config: Mapping[str, Any]) -> Any:
    """A part of this kind and configuration; those of a model are rebuilt first."""
    kinds = known_kinds()
    if kind not in kinds:
        raise ValueError(f"expected a kind among {', '.join(kinds)}, got {kind!r}")
    if "parts" in config:
        return kinds[kind](**{name: rebuild(*described) for name, described in config["parts"].items()})
    return kinds[kind](**config)


# --- any safetensors file


def safetensors() -> Any:
    """The library, or an ImportError that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("files need safetensors: pip install 'fastrnn[train]'") from error
    return safetensors


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file beside `path` and rename it, once the system has it on the disk."""
    target = Path(path)
    library = safetensors()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = library.numpy.save(contiguous, {KEY: json.dumps(metadata)})
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~current_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def current_umask() -> int:
    """The permissions that new files are not given: mkstemp gives its own none but the owner's."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and our metadata of a safetensors file; of another's file none."""
    library = safetensors()
    with open(path, "rb"):  # an OSError of Python's own, with the path
        pass
    try:
        with library.safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata if type(metadata) is dict else {}
    except (library.SafetensorError, ValueError) as error:
        raise ValueError(f"path: expected a safetensors file, got {str(path)!r}: {error}") from error
