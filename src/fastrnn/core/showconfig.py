"""What this installation computes with, on this machine, as it is set now."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import backends
from .._version import __version__
from . import config


class Config(Mapping[str, Any]):
    """A read-only mapping that shows itself as a table."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{key.replace('_', ' '):<{width}}  {self._show(value)}" for key, value in self.items())

    @staticmethod
    def _show(value: Any) -> str:
        if isinstance(value, tuple):
            return ", ".join(map(str, value)) or "none"
        return "none" if value is None else str(value)


def show_config() -> Config:
    """The versions, backend, instruction set, threads and compiler in use: a read-only mapping, printable as a table.

    instruction_set, instruction_sets (best first) and compiler are those of
    the native backend, None or () where it is not available;
    unavailable_backends says why.
    """
    names = backends.available()
    native: Any = backends.load("native") if "native" in names else None
    return Config(
        {
            "version": __version__,
            "backend": config.get_backend(),
            "available_backends": names,
            "unavailable_backends": backends.unavailable(),
            "instruction_set": native and native.level(),
            "instruction_sets": tuple(native.levels()) if native else (),
            "threads": config.get_num_threads(),
            "compiler": native and native.compiler(),
            "numpy": np.__version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": f"{sys.platform} {platform.machine()}",
        }
    )
