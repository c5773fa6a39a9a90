"""A progress bar on stderr, for long work; it needs rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def progress_bar(wanted: bool | None = None) -> Iterator[Callable[[str, float, float], None]]:
    """A bar, gone at the end; what it gives takes what is under way, how much is done, and of how much.

    It draws only when it is told something, never from a thread of its own while a measurement runs. `wanted` None is
    a bar where stderr is a terminal and rich is installed; with True its absence is an ImportError.
    """
    if wanted is False or (wanted is None and find_spec("rich") is None):
        yield lambda label, done, total: None
        return
    if find_spec("rich") is None:
        raise ImportError("progress: expected rich to be installed: pip install 'fastrnn[train]'")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    percent, label = TextColumn("{task.percentage:3.0f}%"), TextColumn("{task.description}")
    columns = BarColumn(24), percent, TimeElapsedColumn(), label
    console = Console(stderr=True)
    hidden = wanted is None and not console.is_terminal
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=hidden) as progress:
        task = progress.add_task("", total=None)

        def show(label: str, done: float, total: float) -> None:
            progress.update(task, description=label, completed=done, total=total, refresh=True)

        yield show
