"""What a task is asked for, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}


@dataclass(frozen=True)
class Options:
    """The command's options; None leaves a choice to the task.

    cell      "rnn", "lstm" or "gru"
    seed      of all that is drawn: parameters, order, generated data
    seconds   of training at most
    epochs    of training at most
    data      a file of the task's data (spelling, sentiment)
    text      a text file (text)
    quick     a small model and little data: seconds
    progress  a bar on stderr, as `fit` takes it
    comm      the ranks that train together, as `fit` takes it
    checkpoints  a folder for the checkpoints of the task's runs, from which they go on
    """

    cell: str | None = None
    seed: int = 0
    seconds: float | None = None
    epochs: int | None = None
    data: Path | None = None
    text: Path | None = None
    quick: bool = False
    progress: bool | None = None
    comm: Any = None
    checkpoints: Path | None = None

    def for_fit(self, name: str, *, seconds: float | None = None, epochs: int | None = None) -> dict[str, Any]:
        """Arguments of `fit` for the run of this name: limits, asked for or the task's; ranks, checkpoint, bar."""
        if self.seconds is not None or self.epochs is not None:
            seconds, epochs = self.seconds, self.epochs
        file = None if self.checkpoints is None else self.checkpoints / f"{name}.safetensors"
        given = {"seconds": seconds, "epochs": epochs, "comm": self.comm, "checkpoint": file, "progress": self.progress}
        return {name: value for name, value in given.items() if value is not None}

    def layer(self, cell: str, *sizes: int, **options: Any) -> Any:
        """A recurrent layer of this kind, drawn from the seed."""
        return CELLS[cell](*sizes, rng=np.random.default_rng((self.seed, *sizes)), **options)


@dataclass
class Result:
    """What a task found.

    figures  the numbers of the JSON, by the names that `fastrnn learn`'s help gives
    lines    what the terminal shows below them, one line of text each
    parts    what --save writes, as for fastrnn.save
    draw     draws the picture of --plot into an empty figure, or None
    """

    cell: str
    figures: Mapping[str, float]
    lines: list[str] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[Figure], None] | None = None


def need(module: str, package: str) -> None:
    """An ImportError that names the extra, where a library that a task needs is not there."""
    if find_spec(module) is None:
        raise ImportError(f"{package} not installed: pip install 'fastrnn[learn]'")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.start
