"""The command `fastrnn`: info, bench and verify; learn, flow and inspect have a file each of their own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import fastrnn

from .benchmark.kinds import CELLS, KINDS
from .console.arguments import UsageError, names, picture, positive_number, seconds_or_none, thread_count, writable
from .console.plaintext import any_encoding
from .console.progress import progress_bar
from .core.config import BackendName
from .flow.command import add_parser as add_flow
from .learn.command import add_parser as add_learn
from .weights.command import add_parser as add_inspect

if TYPE_CHECKING:
    from rich.console import Console

    from .benchmark.charlm import Learned
    from .benchmark.report import Report
    from .benchmark.text import Corpus
    from .verify import Finding

PEERS = ("torch", "onnxruntime", "openvino", "jax")
# Widths for `verify`.
CELL = {"load": 8, "forward": 13, "backward": 13, "threads": 9, "batch": 8, "chunks": 8, "sigmoid": 13, "tanh": 13}
INTERRUPTED, NO_READER = 130, 141  # exit codes, as a shell gives them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 if `verify` found a fault, 2 for a request that cannot be met."""
    with any_encoding():
        options = build_parser().parse_args(arguments)
        try:
            code = options.command(options)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # whoever read the output has enough: `fastrnn info | head -1`
            with suppress(OSError):  # of a stream without a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
            return NO_READER
        except UsageError as error:
            print(f"fastrnn {options.name}: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"fastrnn {options.name}: interrupted", file=sys.stderr)
            return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastrnn", description="Recurrent layers for NumPy, at the speed of the CPU.")
    parser.add_argument("--version", action="version", version=f"fastrnn {fastrnn.__version__}")
    parser.set_defaults(command=lambda options: show_help(parser))
    commands = parser.add_subparsers(dest="name", metavar="COMMAND")

    command = commands.add_parser("info", help="say version, backend, instruction set, threads and compiler")
    command.set_defaults(command=info)

    command = commands.add_parser(
        "verify",
        help="check every backend and instruction set against the reference on this machine",
        description="Compare every available backend, at every instruction-set level, with the reference in higher "
        "precision, and check that results do not depend on threads, batch or chunks. Exit code 1 on a failure.",
    )
    backends = fastrnn.available_backends()
    command.add_argument("--backend", type=names(backends), metavar="NAME[,NAME]", help="only these")
    command.set_defaults(command=verify)

    add_bench(commands)
    add_learn(commands)
    add_flow(commands)
    add_inspect(commands)
    return parser


def show_help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def add_bench(commands: Any) -> None:
    bench_parser = commands.add_parser(
        "bench",
        help="measure RNN against LSTM against GRU, or other cells, then train a character model with each",
        description="Measure the throughput of RNN, LSTM and GRU, or of the cells that --cell names, forward and "
        "training, on every available backend, and one step of RNN, LSTM and GRU against the same step written in "
        "NumPy, then train the same next-character model with each cell for a few seconds. "
        "Needs: pip install 'fastrnn[bench]'",
        epilog='Sizes are "T,B,I,H": time steps, rows of the batch, input_size, hidden_size. The lists: users, the '
        "shapes of real programs; batches, 2 to 24 rows; deepbench, DeepBench's layers; grid, from one small sequence "
        "to a large batch; default, some of that and users. "
        "Figures of a busy machine mean little; competitors are measured in turns, so ratios mean more.",
    )
    add = bench_parser.add_argument
    add("--quick", action="store_true", help="a small grid and short measurements: under a minute")
    add("--threads", type=thread_count, metavar="N", help="threads (default: the usable CPUs)")
    backends = fastrnn.available_backends()
    add("--backend", type=names(backends), metavar="NAME[,NAME]", help=f"of {', '.join(backends)}; default: all")
    cell = f"of {', '.join(KINDS)}, or all; default: {','.join(CELLS)}"
    add("--cell", type=cells, default=CELLS, metavar="NAME[,NAME]", help=cell)
    lists = "default, quick, grid, users, batches, deepbench, all: names of lists, which may stand among sizes"
    add("--sizes", type=sizes, metavar="T,B,I,H;…", help=lists)
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    peers = f"of {', '.join(PEERS)}: measured too, with the cells that they have"
    add("--peers", type=names(PEERS), default=(), metavar="NAME[,NAME]", help=peers)
    add("--seconds", type=positive_number, metavar="S", help="for one measurement (default: 0.3; quick: 0.1)")
    add("--no-steps", dest="steps", action="store_false", help="leave out single steps against NumPy code")
    add("--text", metavar="FILE", help="text for the character model (default: the Python standard library)")
    training = "training of the character model per cell, 0 for none (default: 10; quick: 1.5)"
    add("--model-seconds", type=seconds_or_none, metavar="S", help=training)
    add("--json", type=writable, metavar="FILE", help="write every figure as JSON")
    plot = "draw the figures (without a name: %(const)s)"
    add("--plot", type=picture, nargs="?", const="fastrnn-bench.png", metavar="FILE.png", help=plot)
    bench_parser.set_defaults(command=bench)


def cells(text: str) -> tuple[str, ...]:
    given = names((*KINDS, "all"))(text)
    return tuple(KINDS) if "all" in given else given


def sizes(text: str) -> tuple:
    from .benchmark.workloads import parse_sizes

    try:
        return parse_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- the commands


def info(options: argparse.Namespace) -> int:
    print(fastrnn.show_config())
    return 0


def verify(options: argparse.Namespace) -> int:
    """One line per backend, level and dtype, written as the checks come in; below it, what failed."""
    from .ulps import can_judge
    from .verify import ACTIVATIONS, CHECKS
    from .verify import verify as findings

    print("forward, backward: the worst error against the reference in higher precision, of")
    print("what is allowed there, in eps of the largest magnitude in the array. threads,")
    print("batch, chunks: whether results are the same bits on any number of threads, in")
    print("any batch and in pieces.")
    print_header(CHECKS)
    failures, layers = 0, True
    found_so_far = findings(options.backend or fastrnn.available_backends())
    for key, group in groupby(found_so_far, lambda found: (*found[:3], found.check in ACTIVATIONS)):
        if layers and key[3]:
            print("\nsigmoid, tanh: the worst error found, of what is guaranteed, in units in the")
            print("last place, where input and result are normal numbers.")
            if not can_judge("float64"):
                print("Not of float64: this machine's long double has no more digits to judge it by.")
            print_header(ACTIVATIONS)
            layers = False
        failures += print_findings(key[:3], group)
    print()
    print(f"checks failed: {failures}" if failures else "all checks passed")
    return 1 if failures else 0


START = "{:8} {:10} {:8}".format


def print_header(checks: Sequence[str]) -> None:
    print()
    print(START("backend", "level", "dtype"), *(f"{check:>{CELL[check]}}" for check in checks), sep="")


def print_findings(key: Sequence[str], group: Iterable[Finding]) -> int:
    """A line of the findings about one backend, level and dtype; returns how many of them are failures."""
    print(START(*(word or "-" for word in key)), end="", flush=True)
    faults = []
    for found in group:
        value = "same" if found.ok else "FAILED"
        if found.error is not None:
            size = ".2f" if found.error < 1000 else ".0e"
            value = f"{found.error:{size}} of {found.allowed:.0f}"
        print(f"{value:>{CELL[found.check]}}", end="", flush=True)
        faults += [] if found.ok else [f"FAILED {found.check}: {found.where}"]
    print("".join(f"\n    {fault}" for fault in faults))
    return len(faults)


def bench(options: argparse.Namespace) -> int:
    needed = ["rich"] + ["matplotlib"] * (options.plot is not None)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: pip install 'fastrnn[bench]'")
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    report: Any = None
    problems: list[Path] = []
    try:
        for report in measure(options, console):  # noqa: B007 - the last one is the whole
            pass
    finally:  # what took minutes to measure outlives whatever ended it
        if report is not None and (report.outcome.results or report.outcome.left_out):
            problems = save(report, options)
            print_report(report, console)
            for path in filter(None, (options.json, options.plot)):
                if path not in problems:
                    console.print(f"wrote {path}", style="dim", soft_wrap=True)
    return 2 if problems else 0


def print_report(report: Report, console: Console) -> None:
    from .benchmark import table
    from .benchmark.step_tables import step_tables

    for part in (*table.grid_tables(report, console.width), *step_tables(report.steps), *table.model_tables(report)):
        console.print(part)


def save(report: Report, options: argparse.Namespace) -> list[Path]:
    """Write the files that are asked for, each on its own; return those that could not be written, having said why."""
    problems = []
    for path, write in ((options.json, write_json), (options.plot, write_picture)):
        if path is not None:
            try:
                write(report, path)
            except Exception as error:  # drawing has many ways to fail, and the other file must not be lost with it
                reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                print(f"fastrnn bench: error: cannot write {str(path)!r}: {reason}", file=sys.stderr)
                problems.append(path)
    return problems


def write_json(report: Report, path: Path) -> None:
    from .benchmark.report import to_json

    path.write_text(to_json(report) + "\n")


def write_picture(report: Report, path: Path) -> None:
    from .benchmark.plot import draw

    draw(report).savefig(path, dpi=130)


def measure(options: argparse.Namespace, console: Console) -> Iterator[Report]:
    """Measure what the options ask for, with a progress bar on stderr; yield the report as far as it has come.

    What has been yielded goes on to fill while the next part is measured.
    """
    import numpy as np

    from .benchmark import machine, steps, table, workloads
    from .benchmark.charlm import Recipe, learn_all
    from .benchmark.peers import load_backends, running_peers
    from .benchmark.report import Report
    from .benchmark.runner import Settings, empty_outcome, run_grid
    from .core import blas

    quick = options.quick
    chosen = options.sizes or (workloads.QUICK if quick else workloads.DEFAULT)
    threads = options.threads or fastrnn.get_num_threads()
    seconds = options.seconds or (0.1 if quick else 0.3)
    settings = Settings(chosen, options.cell, workloads.MODES, np.dtype(options.dtype), threads, seconds)
    model_seconds = options.model_seconds if options.model_seconds is not None else (1.5 if quick else 10.0)
    shapes = steps.QUICK if quick else steps.SHAPES
    recipe = Recipe(hidden_size=128 if quick else 256, dtype=settings.dtype)
    corpus = read_corpus(options.text) if model_seconds else None

    ours, missing = load_backends(options.backend or fastrnn.available_backends())
    if not ours:
        raise UsageError(f"argument --backend: {missing[0].reason}")
    backend = cast(BackendName, ours[0].name)
    with blas.threads_everywhere(threads):
        with running_peers(options.peers, threads, settings.dtype) as (peers, absent):
            versions = {peer.name: peer.version() for peer in peers}
            single_steps: list[steps.StepResult] = []
            report = Report(machine.describe(), versions, settings, empty_outcome(), steps=single_steps)
            absences = (f"{name} is left out: {reason}" for name, reason in missing + absent)
            for line in (*table.header(report), *absences):
                console.print(line)
            yield report
            with progress_bar() as show:
                run_grid(settings, [*ours, *peers], show, report.outcome)
        by_hand = tuple(cell for cell in options.cell if cell in steps.BY_HAND)
        if options.steps and not by_hand:
            console.print(f"no single steps: there is NumPy code for {', '.join(steps.BY_HAND)}", style="dim")
        elif options.steps:
            asked = steps.StepSettings(by_hand, shapes, settings.dtype, backend, seconds / 4)
            with progress_bar() as show:
                steps.run_steps(asked, show, single_steps)
        if corpus is not None:
            learned: list[Learned] = []
            yield report._replace(corpus=corpus.name, recipe=recipe, learned=learned)
            with progress_bar() as show, fastrnn.use_backend(backend):
                learned.extend(learn_all(settings.cells, corpus, recipe, model_seconds, show))


def read_corpus(path: str | None) -> Corpus:
    from .benchmark.text import load_corpus

    try:
        return load_corpus(path)
    except OSError as error:
        raise UsageError(f"argument --text: expected a readable file, got {path!r}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"argument --text: {error}") from error
