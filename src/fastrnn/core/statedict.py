"""A layer's or cell's sizes, read off the names and shapes of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import checks
from .geometry import Array

LAYER_NAME = re.compile(r"((?:weight|bias)_(?:ih|hh)|weight_hr|peephole|alpha|norm)_l(\d+)(_reverse)?")
CELL_NAME = re.compile(r"(weight|bias)_(ih|hh)")


def read_arrays(mapping: Any, prefix: str) -> dict[str, Array]:
    """The entries of a state dict as arrays of real numbers, under names without the prefix."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"state_dict: expected a mapping of names to arrays, got {checks.kind(mapping)}")
    if not mapping:
        raise ValueError(f"state_dict: expected parameters{f' under {prefix!r}' if prefix else ''}, got none")
    return {name: checks.real(f"state_dict[{prefix + str(name)!r}]", array) for name, array in mapping.items()}


def read_sizes(
    arrays: Mapping[str, Array], gates: int, prefix: str, layers: bool, may_project: bool = False
) -> dict[str, Any]:
    """The arguments of the constructor of a layer, or a cell, that has these parameters.

    Raises ValueError for names that no such layer has, and for a first matrix that does not fit the cell; whether the
    others fit is for `load_state_dict` to say.
    """
    pattern, first = (LAYER_NAME, "weight_ih_l0") if layers else (CELL_NAME, "weight_ih")
    second = first.replace("ih", "hh")
    matches = {name: pattern.fullmatch(name) for name in arrays}
    projections = [name for name in arrays if name.startswith("weight_hr")]
    if strange := [
        prefix + n for n, match in matches.items() if match is None or (n in projections and not may_project)
    ]:
        raise ValueError(f"state_dict: expected names such as {prefix + first!r}, got {', '.join(map(repr, strange))}")
    for name in (first, second):
        if name not in arrays:
            raise ValueError(f"state_dict: expected an entry {prefix + name!r}, got {', '.join(map(repr, arrays))}")
    w_ih, w_hh = (
        checks.shaped(f"state_dict[{prefix + name!r}]", arrays[name], ("rows", columns))
        for name, columns in ((first, "input_size"), (second, "hidden_size"))
    )
    rows, width = w_hh.shape
    size = rows // gates if projections else width
    if rows != gates * size or len(w_ih) != rows:
        shapes = f"{checks.show(w_ih.shape)} and {checks.show(w_hh.shape)}"
        raise ValueError(f"state_dict: expected weights of {gates} hidden_size rows each, got the shapes {shapes}")
    if projections and width >= size:
        found_shape = f"got the shape {checks.show(w_hh.shape)}, and {prefix + projections[0]!r}"
        raise ValueError(f"state_dict[{prefix + second!r}]: expected fewer than {size} columns, {found_shape}")
    dtype = np.float64 if all(array.dtype == np.float64 for array in arrays.values()) else np.float32
    found: dict[str, Any] = {"input_size": w_ih.shape[1], "hidden_size": size, "dtype": dtype}
    found["bias"] = any(name.startswith("bias") for name in arrays)
    if projections:
        found["proj_size"] = width
    if layers:
        if any(name.startswith("peephole") for name in arrays):
            found["peephole"] = True
        if any(name.startswith("alpha") for name in arrays):
            found["train_alpha"] = True
        found["num_layers"] = 1 + max(int(match[2]) for match in matches.values() if match)
        found["bidirectional"] = any(match[3] for match in matches.values() if match)
    return found
