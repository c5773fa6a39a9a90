"""Everything a run needs to go on with the same bits: parameters, optimiser, generators, place, carried state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files import read, write

CHECKPOINT = "checkpoint.1"

Array = np.ndarray


def flatten(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """A tree of dicts, tuples and lists as JSON has it, its arrays moved to `arrays` under names of their own."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {"dict": {key: flatten(part, f"{name}.{key}", arrays) for key, part in value.items()}}
    if isinstance(value, (tuple, list)):
        items = [flatten(part, f"{name}.{k}", arrays) for k, part in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    return value.item() if isinstance(value, np.generic) else value


def unflatten(tree: Any, arrays: Mapping[str, Array]) -> Any:
    """What `flatten` was given; its arrays are those of `arrays`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind == "array":
        return arrays[inner]
    if kind == "dict":
        return {key: unflatten(part, arrays) for key, part in inner.items()}
    items = [unflatten(part, arrays) for part in inner]
    return tuple(items) if kind == "tuple" else items


def save_checkpoint(path: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
    """Write a tree of arrays, numbers and words; the old file stays until the new one is whole."""
    arrays: dict[str, Array] = {}
    tree = flatten(run, "run", arrays)
    write(path, arrays, {"kind": CHECKPOINT, "run": tree})


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tree that `save_checkpoint` wrote.

    Raises ValueError for a file that is truncated or of another kind, OSError for one that cannot be read.
    """
    arrays, metadata = read(path)
    if metadata.get("kind") != CHECKPOINT:
        raise ValueError(f"checkpoint: expected a file that fit wrote, got another, {str(path)!r}")
    try:
        return unflatten(metadata["run"], arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint: expected a whole file that fit wrote, got {str(path)!r}: {error}") from error
