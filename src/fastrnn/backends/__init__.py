"""The registry of backends: names in order of preference, each a module that is imported when first asked for."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from .base import Backend


class BackendUnavailable(ImportError, ValueError):
    """The backend is unknown, or cannot run here; the message says why."""


class Entry(NamedTuple):
    load: Callable[[], Any]  # imports the module
    needs: str  # the module without which the backend is not installed


# Statements, not names put together at run time, because what bundles programs follows only those.


def import_native() -> Any:
    from . import native

    return native


def import_numba() -> Any:
    from . import numba

    return numba


def import_reference() -> Any:
    from . import reference

    return reference


ENTRIES = {
    "native": Entry(import_native, needs=f"{__name__}._native"),
    "numba": Entry(import_numba, needs="numba"),
    "numpy": Entry(import_reference, needs="numpy"),
}
# Every instruction-set level of the native backend, per machine family, from the least to the best.
FAMILIES = (("x86-64-v2", "x86-64-v3", "x86-64-v4"), ("neon",))
_loaded: dict[str, Backend] = {}


def installed(name: str) -> bool:
    """Whether the files of a known backend are there; it may still fail to import."""
    try:
        return name in _loaded or find_spec(ENTRIES[name].needs) is not None
    except (ImportError, ValueError):  # left out of a bundled program; loaded, but never from a file
        return False


def load(name: str, argument: str = "backend") -> Backend:
    """The module of a backend; `argument` is what the message of a BackendUnavailable names."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a name, got {type(name).__name__}")
    if name not in ENTRIES:
        raise BackendUnavailable(f"{argument}: expected one of {', '.join(map(repr, ENTRIES))}, got {name!r}")
    if name not in _loaded:
        if not installed(name):
            raise BackendUnavailable(f"{argument}: {name!r} is not installed (no module {ENTRIES[name].needs})")
        try:
            _loaded[name] = ENTRIES[name].load()
        except Exception as error:  # whatever a module that is broken here raises, the others still work
            raise BackendUnavailable(f"{argument}: {name!r} cannot be loaded: {error}") from error
    return _loaded[name]


def available() -> tuple[str, ...]:
    """The names of the backends that can be used here, best first.

    The native module is imported to know; Numba, which takes long to import, only has to be installed.
    """
    return tuple(name for name in ENTRIES if installed(name) and (name != "native" or _loads(name)))


def unavailable() -> tuple[str, ...]:
    """Why each of the other backends cannot be used here."""
    reasons = []
    for name in ENTRIES.keys() - available():
        try:
            load(name)
        except BackendUnavailable as error:
            reasons.append(str(error).removeprefix("backend: "))
    return tuple(sorted(reasons))


def _loads(name: str) -> bool:
    try:
        load(name)
    except BackendUnavailable:
        return False
    return True
