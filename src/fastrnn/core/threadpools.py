"""The number of threads for threadpoolctl: its `threadpool_limits` holds for fastrnn, its `threadpool_info` shows it.

threadpoolctl asks nobody for libraries it does not know: they register, once it is imported. It need not be installed,
and importing it sets a variable of the environment, so fastrnn does not: a finder on `sys.meta_path` waits for whoever
imports it later, finds it by the others' means, registers, and is gone.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from .. import backends
from .._version import __version__
from ..backends import BackendUnavailable
from . import config

NAME = "threadpoolctl"


def register_when_imported() -> None:
    """Register with threadpoolctl, now if it is imported, or is the command that runs; else when it is imported."""
    if sys.modules.get(NAME) is not None:
        register(import_module(NAME))  # which waits where another thread is about to import it
        return
    if getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", None) == NAME:
        register(sys.modules["__main__"])
    sys.meta_path.insert(0, Finder())


def register(threadpoolctl: Any) -> None:
    """Make the native backend's library known; without it no call uses threads.

    threadpoolctl looks for libraries that are loaded when a limit begins, so the backend is loaded here.
    """
    if not hasattr(threadpoolctl, "register"):  # before 3.2
        return
    try:
        native: Any = backends.load("native")
    except BackendUnavailable:  # which the choice of a backend reports
        return

    class Controller(threadpoolctl.LibController):
        user_api = internal_api = "fastrnn"
        filename_prefixes = ("_native.",)
        check_symbols = ("fr_forward",)  # others may have a library of that name

        def get_num_threads(self) -> int:
            return config.get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            config.limit_threads(num_threads)

        def get_version(self) -> str:
            return __version__

        def set_additional_attributes(self) -> None:
            self.instruction_set = native.level()

    threadpoolctl.register(Controller)


class Finder:
    """Finds threadpoolctl as the other finders do."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != NAME:
            return None
        for finder in [other for other in sys.meta_path if other is not self and hasattr(other, "find_spec")]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class Loader:
    """A loader that registers what another one has loaded, and leaves no trace in it."""

    def __init__(self, loader: Any, finder: Finder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)  # type: ignore[arg-type]
        register(module)
