"""The command `fastrnn learn`: its options, and what it prints and writes."""

from __future__ import annotations

import argparse
import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..console.arguments import UsageError, folder, natural_number, picture, positive_number, readable, writable
from ..core import blas
from . import TASKS
from .options import Options, Result, Stopwatch

CELLS = ("rnn", "lstm", "gru")


def add_parser(commands: Any) -> None:
    """Add `learn` to the command line."""
    parser = commands.add_parser(
        "learn",
        help="train one of the classic sequence models",
        description="Train one of the classic sequence models and say how well it does on data it has not seen. "
        "Without a task, lists them. Needs: pip install 'fastrnn[learn]'",
        epilog="Each task is a short script in fastrnn/learn, to be read and changed.",
    )
    add = parser.add_argument
    add("task", nargs="?", choices=TASKS, metavar="TASK", help=f"of {', '.join(TASKS)}")
    add("--cell", choices=CELLS, help="default: the task's own")
    add("--seed", type=natural_number, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add("--seconds", type=positive_number, metavar="S", help="train each model for at most so long")
    add("--epochs", type=natural_number, metavar="N", help="train for at most so many passes over the data")
    add("--data", type=readable, metavar="FILE", help="spelling, sentiment: data of your own")
    add("--text", type=readable, metavar="FILE", help="text: a text of your own")
    add("--quick", action="store_true", help="a small model and little data: seconds")
    add("--plot", type=picture, metavar="FILE.png", help="draw what was learnt")
    add("--save", type=writable, metavar="FILE", help="write the model, for fastrnn.load")
    add("--checkpoint", type=folder, metavar="FOLDER", help="keep the state of training there, and go on from it")
    add("--json", type=writable, metavar="FILE", help="write the figures")
    parser.set_defaults(command=learn)


def learn(options: argparse.Namespace) -> int:
    """Train, print the figures, write the files."""
    if options.task is None:
        print(listing())
        return 0
    if options.plot is not None and not TASKS[options.task].picture:
        drawn = [name for name, task in TASKS.items() if task.picture]
        raise UsageError(f"argument --plot: expected a task that has a picture, of {', '.join(drawn)}")
    files = options.save is not None or options.checkpoint is not None
    needed = ["matplotlib"] * (options.plot is not None) + ["safetensors"] * files
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: pip install 'fastrnn[learn]'")
    names = ("cell", "seed", "seconds", "epochs", "data", "text", "quick")
    watch = Stopwatch()
    comm = ranks()
    task = import_module(f"{__package__}.{options.task}")
    asked = {name: getattr(options, name) for name in names}
    try:
        if options.checkpoint is not None:
            options.checkpoint.mkdir(parents=True, exist_ok=True)
        # More threads of the BLAS would spin on fastrnn's cores: a backward of `text` took 121 ms instead of 69.
        with blas.limited_to(1):
            result: Result = task.learn(Options(**asked, comm=comm, checkpoints=options.checkpoint))
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        raise UsageError(str(error)) from error
    if comm is not None and comm.Get_rank():
        return 0
    seconds = watch.seconds()
    print("\n".join([*result.lines, ""] if result.lines else []), end="")
    print(f"{options.task}, {result.cell}, seed {options.seed}: {seconds:.1f} s")
    for name, value in result.figures.items():
        print(f"  {name:24} {value:.4g}")
    write(options, result, seconds)
    return 0


def ranks() -> Any:
    """The communicator of all that mpiexec has started; None for a program that runs alone."""
    if not any(int(os.environ.get(name, "1")) > 1 for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        return None
    if find_spec("mpi4py") is None:
        raise UsageError("mpi4py not installed: pip install 'fastrnn[mpi]'")
    from mpi4py import MPI

    return MPI.COMM_WORLD


def listing() -> str:
    """The tasks, one a line."""
    wide = max(map(len, TASKS)), max(len(task.shape) for task in TASKS.values())
    lines = [f"  {name:{wide[0]}}  {task.shape:{wide[1]}}  {task.shows}" for name, task in TASKS.items()]
    return "\n".join(["fastrnn learn TASK:", "", *lines])


def write(options: argparse.Namespace, result: Result, seconds: float) -> None:
    """Write the files that are asked for."""
    if options.json is not None:
        found = {"task": options.task, "cell": result.cell, "seed": options.seed, "seconds": seconds}
        options.json.write_text(json.dumps(found | {"figures": dict(result.figures)}, indent=2) + "\n")
    if options.save is not None:
        from ..files import save

        save(options.save, **result.parts)
    if options.plot is not None:
        draw(options.plot, result)
    for path in filter(None, (options.json, options.save, options.plot)):
        print(f"wrote {path}")


def draw(path: Path, result: Result) -> None:
    """Draw the task's picture, if it has one."""
    from matplotlib.figure import Figure

    assert result.draw is not None  # as TASKS says
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    result.draw(figure)
    figure.savefig(path, dpi=130)
