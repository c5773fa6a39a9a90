"""Named arrays as a search for layers looks at them: names, shapes and dtypes, without making an array."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .kerasconfig import Configured

SEPARATORS = "./"
LONGEST = 1000  # characters of a name that is looked at: patterns take time that grows with its square


class Given:
    """The arrays by name, looked at no more than needed."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self.shapes = getattr(mapping, "shapes", None)
        self.dtypes = getattr(mapping, "dtypes", {})
        self.nodes = getattr(mapping, "nodes", ())
        self.configured = Configured(getattr(mapping, "configuration", None))
        self.mapping = mapping if self.shapes is not None else flat(mapping)
        self.names = [name for name in self.mapping if isinstance(name, str) and len(name) <= LONGEST]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shapes[name] if self.shapes is not None else np.shape(self.mapping[name]))

    def quantised(self, names: Any) -> str | None:
        """Say of an array that holds other numbers than floats, as those of quantised layers do."""
        for name in names:
            dtype = str(self.dtypes[name] if self.dtypes else getattr(self.mapping[name], "dtype", "float64"))
            if "float" not in dtype:
                return f"{name!r} holds {dtype}, as a quantised layer does"
        return None

    def groups(self, pattern: re.Pattern[str]) -> dict[str, dict[Any, str]]:
        """The names that match, by the pattern's first group and then by the others."""
        found: dict[str, dict[Any, str]] = {}
        for name in self.names:
            if (match := pattern.fullmatch(name)) is not None and not name.startswith("optimizer"):
                prefix, *key = match.groups()
                found.setdefault(prefix, {})[tuple(key) if len(key) > 1 else key[0]] = name
        return found


def flat(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The arrays of mappings within each other, by names with slashes."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def short(prefix: str) -> str:
    """What the names of a layer's arrays have in common, without separators around it."""
    return prefix.lstrip(SEPARATORS).rstrip(SEPARATORS + "_")
