"""The command `fastrnn flow`."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastrnn

from ..console.arguments import UsageError, natural_number, picture, positive_integer, writable
from ..core.blas import threads_everywhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .models import Study, Subject

HIDDEN, STEPS_BACK = 128, 200


def add_parser(commands: Any) -> None:
    """Add `flow` to the commands."""
    parser = commands.add_parser(
        "flow",
        help="show how gradients vanish or explode over time in RNN, LSTM and GRU",
        description="Follow the gradient back in time, exactly, through RNN, LSTM and GRU as they are initialised and "
        "with biases that keep their gates open, or through the layers of a file: norms, Lyapunov exponents, products "
        "of forget gates, saturation, and where float32 gives out. Needs: pip install 'fastrnn[bench]'",
    )
    add = parser.add_argument
    add("--T", type=positive_integer, default=STEPS_BACK, metavar="T", help="steps back (default: %(default)s)")
    add("--hidden", type=positive_integer, metavar="H", help=f"hidden_size (default: {HIDDEN})")
    add("--seed", type=natural_number, default=0, metavar="N", help="of weights and input (default: %(default)s)")
    add("--load", metavar="FILE", help="look at the recurrent layers of a file of fastrnn.save instead")
    add("--plot", type=picture, metavar="FILE.png", help="draw the figure")
    add("--json", type=writable, metavar="FILE", help="write every figure as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Look at the layers, print the table and write the files that are asked for."""
    needed = ["rich"] + ["matplotlib"] * (options.plot is not None)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: pip install 'fastrnn[bench]'")
    from rich.console import Console

    from .table import flow_table

    if options.load is not None and options.hidden is not None:
        raise UsageError("argument --hidden: expected none beside --load, whose layers have sizes of their own")
    studies = study_all(subjects(options), options.T, options.seed)
    console = Console(highlight=False, markup=False)
    for part in flow_table(studies, options.T):
        console.print(part)
    problems = write(studies, options)
    for path in filter(None, (options.json, options.plot)):
        if path not in problems:
            console.print(f"wrote {path}", style="dim", soft_wrap=True)
    return 2 if problems else 0


def subjects(options: argparse.Namespace) -> list[Subject]:
    from .models import classic, found_in

    if options.load is None:
        return classic(options.hidden or HIDDEN, options.seed)
    try:
        found = found_in(fastrnn.load(options.load))
    except (OSError, ValueError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"argument --load: expected a file of fastrnn.save, got {options.load!r}: {reason}") from error
    if not found:
        raise UsageError(f"argument --load: expected a file with an RNN, LSTM or GRU, got {options.load!r}")
    return found


def study_all(chosen: Sequence[Subject], steps_back: int, seed: int) -> list[Study]:
    """Look at each layer on a thread of its own: their matrices are too small for a BLAS to divide with profit."""
    from .models import study

    workers = fastrnn.get_num_threads()
    with threads_everywhere(1), ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(copy_context().run, study, subject, steps_back, seed) for subject in chosen]
        try:
            return [task.result() for task in tasks]
        except ValueError as error:  # of a layer of a file: NaN in it, or an overflow
            raise UsageError(str(error)) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def write(studies: Sequence[Study], options: argparse.Namespace) -> list[Path]:
    """Write the files, each on its own; return those that could not be written, having said why."""
    problems = []
    for path, writer in ((options.json, write_json), (options.plot, write_picture)):
        if path is not None:
            try:
                writer(studies, path, options)
            except Exception as error:  # drawing has many ways to fail, and the other file must not be lost with it
                reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                print(f"fastrnn flow: error: cannot write {str(path)!r}: {reason}", file=sys.stderr)
                problems.append(path)
    return problems


def write_json(studies: Sequence[Study], path: Path, options: argparse.Namespace) -> None:
    from .table import to_document

    path.write_text(json.dumps(to_document(studies, options.T, options.seed), allow_nan=False) + "\n")


def write_picture(studies: Sequence[Study], path: Path, options: argparse.Namespace) -> None:
    from .figure import draw
    from .models import CAPTION

    caption = "standard normal input"
    if options.load is None:
        caption = f"hidden size {options.hidden or HIDDEN}, {caption};   {CAPTION}"
    draw(studies, caption).savefig(path, dpi=150)
