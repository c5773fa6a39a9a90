"""The figures for a terminal: cells side by side, as many as fit, one block per size, one table per mode."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil, exp, floor, log, log10
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .ceiling import Floor
from .kinds import KINDS
from .report import Report
from .runner import FAILED, Outcome, Result, longest_call
from .workloads import Size, workloads

TITLES = {
    "forward": "Forward: inference, frozen layers",
    "training": "Training: forward and backward, all gradients",
}
LABEL = 11  # columns for a competitor's name


def digits(value: float) -> str:
    """Three significant digits, at most two decimals: 0.12, 1.23, 12.3, 123."""
    value = float(f"{value:.3g}")
    decimals = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{min(max(decimals, 0), 2)}f}"


def si(value: float) -> str:
    """Three significant digits and a prefix: 1.23M, 45.6k, 789."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return digits(value / factor) + prefix
    return digits(value)


class Context(NamedTuple):
    """What a result is seen against: the leading competitor's on the same workload, and the least time there can be."""

    lead: Result | None
    floor: Floor | None


class Figure(NamedTuple):
    heading: str
    text: Callable[[Result, Context], str]


def share(result: Result, context: Context) -> str:
    if context.floor is None:
        return "—"
    percent = 100 * context.floor.seconds / result.timing.median
    return f"{percent:.{1 if percent < 9.95 else 0}f}%{'c' if context.floor.by_cache else 'f'}"


def spread(result: Result, context: Context) -> str:
    percent = 100 * result.timing.spread
    return f"{percent:.0f}" if percent < 99.5 else ">99"


def ratio(result: Result, context: Context) -> str:
    if context.lead is None:
        return "—"
    return digits(result.timing.median / context.lead.timing.median)


STEPS = Figure("step/s", lambda result, context: si(result.steps_per_s))
GFLOPS = Figure("GFLOP/s", lambda result, context: digits(result.flops / 1e9))
LIMIT = Figure("limit", share)
SEQUENCES = Figure("seq/s", lambda result, context: si(result.sequences_per_s))
SPREAD = Figure("±%", spread)
TIME = Figure("time", ratio)

Line = tuple[tuple[Figure, int], ...]  # figures and their widths
NARROW: Line = ((STEPS, 6), (LIMIT, 7), (TIME, 6))
WIDE: Line = ((STEPS, 6), (GFLOPS, 8), (LIMIT, 6), (SEQUENCES, 6), (SPREAD, 4), (TIME, 5))


class Layout(NamedTuple):
    line: Line
    gap: int = 1  # columns between cells

    @property
    def width(self) -> int:
        return sum(width for _, width in self.line)

    def grid(self, cells: Sequence[str]) -> Table:
        """An empty table of a competitor's name and one column per cell."""
        table = Table.grid(padding=0)
        table.add_column(width=LABEL, no_wrap=True)
        for _ in cells:
            table.add_column(width=self.gap + self.width, justify="right", no_wrap=True)
        return table

    def text(self, pieces: Callable[[Figure], str], style: str) -> Text:
        return Text("".join(f"{pieces(figure):>{width}}" for figure, width in self.line), style)


def choose_layout(columns: int, cells: int) -> Layout:
    """All figures where the terminal is wide enough, else the three that tell most."""
    room = (columns - LABEL) // cells
    layout = Layout(WIDE if room > Layout(WIDE).width else NARROW)
    return layout._replace(gap=min(max(room - layout.width, 1), 4))


def groups(cells: Sequence[str], columns: int) -> list[Sequence[str]]:
    """The cells of one table each: about as many in all of them, and no more than a terminal is wide enough for."""
    count = ceil(len(cells) / max((columns - LABEL) // (1 + Layout(NARROW).width), 1))
    size = ceil(len(cells) / count)
    return [cells[k : k + size] for k in range(0, len(cells), size)]


def header(report: Report) -> Iterator[RenderableType]:
    """Where and with what the figures are made."""
    machine, threads = report.machine, report.settings.threads
    level = machine["instruction_set"] or "no native backend"
    what = (machine["cpu"], level, plural(threads, "thread"), str(report.settings.dtype))
    yield Text(", ".join(map(str, what)), "bold")
    blas = machine["blas_threads"]
    own = "" if blas == threads else f" (its BLAS on {'its own' if blas is None else blas} threads)"
    software = f"fastrnn {machine['fastrnn']}, NumPy {machine['numpy']}{own}, Python {machine['python']}"
    peers = "".join(f", {name} {version}" for name, version in report.versions.items())
    yield Text(f"{software} on {machine['system']}{peers}", "dim")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def grid_tables(report: Report, columns: int) -> Iterator[RenderableType]:
    """What the columns mean, then one table per mode, and what is missing."""
    yield Text()
    parts = groups(report.settings.cells, columns)
    layout = choose_layout(columns, len(parts[0]))
    yield from legend(report, layout)
    for mode in report.settings.modes:
        for cells in parts:
            yield Text()
            yield from mode_table(report, mode, cells, layout)
    yield from missing(report)


def mode_table(report: Report, mode: str, cells: Sequence[str], layout: Layout) -> Iterator[RenderableType]:
    yield Text(TITLES[mode], "bold")
    header = layout.grid(cells)
    header.add_row("", *(Text(KINDS[cell].title.center(layout.width), "bold cyan") for cell in cells))
    header.add_row("", *(layout.text(lambda figure: figure.heading, "dim") for _ in cells))
    yield header
    for size in report.settings.sizes:
        yield Text(size_line(size), "yellow")
        yield size_block(report, size, cells, mode, layout)
    means = mean_block(report.outcome, cells, mode, layout)
    if means.row_count:
        lead = report.outcome.competitors[0]
        yield Text(f"all sizes: geometric mean of the time as a multiple of {lead}'s", "yellow")
        yield means


def size_line(size: Size) -> str:
    return f"T={size.T} B={size.B} I={size.I} H={size.H}" + (f"  {size.name}" if size.name else "")


def size_block(report: Report, size: Size, cells: Sequence[str], mode: str, layout: Layout) -> Table:
    """A row per competitor that has one of the cells; the fastest of each cell is bold."""
    outcome = report.outcome
    columns = list(workloads([size], cells, [mode]))
    found = {(r.competitor, r.workload): r for r in outcome.results if r.workload in columns}
    gaps = {(gap.competitor, gap.workload): gap.reason for gap in outcome.left_out if gap.workload in columns}
    present = {name for name, _ in (*found, *gaps)}
    table = layout.grid(cells)
    for competitor in filter(present.__contains__, outcome.competitors):
        row = [Text(competitor)]
        for workload in columns:
            result = found.get((competitor, workload))
            if result is None:
                row.append(gap_text(gaps.get((competitor, workload), "—")))
                continue
            rivals = [rival for (_, other), rival in found.items() if other == workload]
            fastest = min(rivals, key=lambda rival: rival.timing.median)
            context = Context(found.get((outcome.competitors[0], workload)), report.floor(workload))
            row.append(figures(result, context, layout, "bold green" if result is fastest else ""))
        table.add_row(*row)
    return table


def gap_text(reason: str) -> Text:
    """The reason, or of one that the legend gives whole, its first word."""
    alarming = reason.startswith(("wrong", FAILED))
    return Text(reason.partition(":")[0], "bold red" if alarming else "dim")


def figures(result: Result, context: Context, layout: Layout, style: str) -> Text:
    return layout.text(lambda figure: figure.text(result, context), style)


def mean_block(outcome: Outcome, cells: Sequence[str], mode: str, layout: Layout) -> Table:
    """For each competitor and cell, over the sizes that both it and the leader were measured at."""
    leader, *others = outcome.competitors
    results = [result for result in outcome.results if result.workload.mode == mode]
    lead = {result.workload: result.timing.median for result in results if result.competitor == leader}
    table = layout.grid(cells)
    for competitor in others:
        own = [r for r in results if r.competitor == competitor and r.workload in lead and r.workload.cell in cells]
        if not own:
            continue
        row = [Text(competitor)]
        for cell in cells:
            logs = [log(r.timing.median / lead[r.workload]) for r in own if r.workload.cell == cell]
            row.append(Text(f"×{digits(exp(sum(logs) / len(logs)))}" if logs else "—"))
        table.add_row(*row)
    return table


def legend(report: Report, layout: Layout) -> Iterator[RenderableType]:
    """What the columns mean."""
    lead = report.outcome.competitors[0]
    words = {
        STEPS: "step/s: time steps of all rows.",
        GFLOPS: "GFLOP/s: of the gate products, training three times forward.",
        SEQUENCES: "seq/s: whole sequences.",
        SPREAD: "±%: half the interquartile range; the rest are medians.",
        TIME: f"time: as a multiple of {lead}'s.",
    }
    yield Text(" ".join(words[figure] for figure, _ in layout.line if figure in words), "dim")
    yield Text(limit_legend(report.outcome, plural(report.settings.threads, "thread")), "dim")


def missing(report: Report) -> Iterator[RenderableType]:
    """What was not measured, and why."""
    outcome = report.outcome
    lead = outcome.competitors[0]
    reasons = [gap.reason for gap in outcome.left_out]
    if any(reason.endswith("a call") for reason in reasons):
        limit = longest_call(report.settings.seconds)
        yield Text(f"s a call: longer than {limit:.3g} s, not measured (--seconds gives more time).", "dim")
    if any(reason.startswith("wrong") for reason in reasons):
        yield Text(f"wrong: not what {lead} computes, not measured.", "bold red")
    for failure in dict.fromkeys(f"{gap.competitor} {gap.reason}" for gap in outcome.left_out):
        if FAILED in failure:
            yield Text(failure, "bold red")


def limit_legend(outcome: Outcome, threads: str) -> str:
    if outcome.peak is None:
        return "limit: not measured, it needs the native backend."
    text = (
        f"limit: the least time possible as a share of the time taken, by the FMA peak, on {threads} "
        f"{digits(outcome.peak / 1e9)} GFLOP/s (f)"
    )
    if not outcome.bandwidths:  # of scans alone
        return f"{text}."
    slowest, fastest = (digits(f(outcome.bandwidths.values()) / 1e9) for f in (min, max))
    rates = slowest if slowest == fastest else f"{slowest} to {fastest}"
    return (
        f"{text}, or, where a step waits longer for W_hh than for its FMAs, by how fast the caches give it, "
        f"{rates} GB/s (c)."
    )


def model_tables(report: Report) -> Iterator[RenderableType]:
    """The character model: what each cell made of the same seconds."""
    recipe, learned = report.recipe, report.learned
    if recipe is None or not learned:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("cell", "parameters", "steps", "characters/s", "bits before", "bits reached"):
        table.add_column(heading, justify="left" if heading == "cell" else "right", no_wrap=True)
    best = min(learned, key=lambda run: run.bits_after)
    for run in learned:
        before, after = f"{run.bits_before:.3f}", f"{run.bits_after:.3f}"
        numbers = (f"{run.parameters:,}", f"{run.steps:,}", f"{run.characters_per_s:,.0f}", before, after)
        table.add_row(Text(KINDS[run.cell].title, "bold cyan"), *numbers, style="bold green" if run is best else "")
    seconds = max(run.seconds for run in learned)
    yield Text()
    yield Text(f"Next character: {seconds:.1f} s of training per cell on {report.corpus}", "bold")
    yield table
    yield Text(
        f"Hidden size {recipe.hidden_size}, {recipe.streams} streams × {recipe.steps} characters a step; same seed, "
        "batches and optimiser. Bits per character of text held out of training.",
        "dim",
    )
