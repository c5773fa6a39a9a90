"""One picture of a run: throughput by size, cell and competitor, and what the character model made of it."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, FuncFormatter

from ..console.palette import CELL_COLOURS, CELL_DASHES
from .charlm import Learned
from .kinds import KINDS
from .report import Report
from .runner import Result
from .workloads import Size

COLOURS = {"native": "#c8102e", "numba": "#e69f00", "numpy": "#6e6e6e", "torch": "#0072b2", "onnxruntime": "#009e73"}
MARKERS = {"native": "o", "numba": "D", "numpy": "s", "torch": "^", "onnxruntime": "v"}
CEILING_COLOURS = {False: "#222222", True: "#b07aa1"}  # by whether the caches bind
GREY = "#555555"
MOST_COLUMNS = 5  # of panels side by side; the picture is wider with more than the usual three


def draw(report: Report) -> Figure:
    """GFLOP/s of every measurement: a panel per cell, rows of them per mode; below, the character model."""
    settings, learned = report.settings, report.learned
    rows = panel_rows(settings.cells)
    heights = [len(settings.modes) * len(rows) * (0.8 + 0.3 * len(settings.sizes)) + 0.9]
    if learned:
        heights.append(2.8 + 0.25 * max(len(learned) - 3, 0))
    figure = Figure(figsize=(11 * max(len(rows[0]) / 3, 1), sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_grid(parts[0], report, rows)
    if learned:
        by_seconds, by_characters, speeds = parts[1].subplots(1, 3, width_ratios=(3, 3, 2))
        curve_panel(by_seconds, learned, 0, "seconds of training")
        curve_panel(by_characters, learned, 2, "characters seen")
        by_characters.xaxis.set_major_formatter(EngFormatter())
        title(by_seconds, "Character model: text it trains on")
        title(by_characters, "by characters; ● text held out")
        speed_panel(speeds, learned)
    return figure


def panel_rows(cells: Sequence[str]) -> list[Sequence[str]]:
    """The cells of each row of panels, about as many in all of them."""
    columns = ceil(len(cells) / ceil(len(cells) / MOST_COLUMNS))
    return [cells[k : k + columns] for k in range(0, len(cells), columns)]


def draw_grid(figure: SubFigure, report: Report, rows: Sequence[Sequence[str]]) -> None:
    modes = report.settings.modes
    axes = figure.subplots(len(modes) * len(rows), len(rows[0]), sharex=True, sharey=True, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        mode, cells = modes[row // len(rows)], rows[row % len(rows)]
        if column >= len(cells):
            axis.remove()
            continue
        cell = cells[column]
        throughput_panel(axis, report, [r for r in report.outcome.results if r.workload[::2] == (cell, mode)])
        title(axis, f"{KINDS[cell].title} {mode}")
        if column == 0:
            axis.set_ylabel("T, B, I, H")
        if row == len(axes) - 1 or column >= len(rows[(row + 1) % len(rows)]):  # nothing is below it
            axis.set_xlabel("GFLOP/s")
            axis.tick_params(which="both", labelbottom=True)
    figure.suptitle(headline(report), fontsize=10, color=GREY)
    others = f"×: the fastest other's time as a multiple of {report.outcome.competitors[0]}'s"
    figure.text(0.995, 0.0, others, fontsize=8, color=GREY, ha="right", va="bottom")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1), frameon=False)


def headline(report: Report) -> str:
    machine, settings = report.machine, report.settings
    parts = [f"fastrnn {machine['fastrnn']}", machine["cpu"], machine["instruction_set"]]
    parts += [f"{settings.threads} threads" if settings.threads > 1 else "1 thread", str(settings.dtype)]
    return "  ·  ".join(str(part) for part in parts if part)


def throughput_panel(axis: Axes, report: Report, results: Sequence[Result]) -> None:
    """Medians as dots and quartiles as bars, one line of the panel per size, on a logarithmic scale."""
    sizes = report.settings.sizes
    # Every competitor that was measured is drawn, so that the first panel's legend serves all of them.
    measured = {result.competitor for result in report.outcome.results}
    for name in filter(measured.__contains__, report.outcome.competitors):
        timed = [result for result in results if result.competitor == name]
        work = np.array([result.workload.flops / 1e9 for result in timed])
        fast, middle, slow = (work / [result.timing.percentile(p) for result in timed] for p in (25, 50, 75))
        places = [sizes.index(result.workload.size) for result in timed]
        spread = np.array([middle - slow, fast - middle])
        marker, colour = MARKERS.get(name, "o"), COLOURS.get(name, GREY)
        axis.errorbar(middle, places, xerr=spread, fmt=marker, color=colour, markersize=6, alpha=0.9, label=name)
    for by_cache, label in ((False, "ceiling: FMA peak"), (True, "ceiling: the caches' rate")):
        ceilings = [(gflops, place) for gflops, place, cache in ceilings_of(report, results) if cache is by_cache]
        x, y = zip(*ceilings) if ceilings else ((), ())
        axis.plot(x, y, "|", color=CEILING_COLOURS[by_cache], markersize=17, markeredgewidth=2, label=label)
    ratio_column(axis, report, results)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(sizes)), [size_label(size) for size in sizes], fontsize=8)
    axis.set_ylim(len(sizes) - 0.5, -0.5)
    tidy(axis)


def ceilings_of(report: Report, results: Sequence[Result]) -> list[tuple[float, int, bool]]:
    """Of each size the GFLOP/s at its ceiling, its place, and whether the caches are what binds there."""
    found: dict[int, tuple[float, int, bool]] = {}
    for workload in {result.workload for result in results}:
        floor, place = report.floor(workload), report.settings.sizes.index(workload.size)
        if floor is not None:
            found[place] = workload.flops / floor.seconds / 1e9, place, floor.by_cache
    return [found[place] for place in sorted(found)]


def ratio_column(axis: Axes, report: Report, results: Sequence[Result]) -> None:
    """Beside each row, how many times longer the fastest competitor takes than the first, in its colour."""
    first, *others = report.outcome.competitors
    beside = axis.get_yaxis_transform()
    for place, size in enumerate(report.settings.sizes):
        times = {r.competitor: r.timing.median for r in results if r.workload.size == size}
        rivals = [name for name in others if name in times]
        if first in times and rivals:
            best = min(rivals, key=lambda name: times[name])
            text, colour = f"×{times[best] / times[first]:.2f}", COLOURS.get(best, GREY)
            axis.text(1.01, place, text, color=colour, fontsize=7, va="center", transform=beside)


def size_label(size: Size) -> str:
    numbers = str(size).replace(",", ", ")
    return f"{size.name}   {numbers}" if size.name else numbers


def curve_panel(axis: Axes, learned: Sequence[Learned], column: int, label: str) -> None:
    """The training text's bits, smoothed, against a column of the curve; a dot for the text held out."""
    for run in learned:
        points = list(zip(*run.curve, strict=True))
        name = f"{KINDS[run.cell].title}: {run.bits_after:.2f} held out"
        colour, dashes = CELL_COLOURS[run.cell], CELL_DASHES.get(run.cell, "-")
        axis.plot(points[column], points[1], color=colour, linestyle=dashes, label=name, linewidth=1.8)
        axis.plot(points[column][-1], run.bits_after, "o", color=colour, markersize=5)
    low, high = axis.dataLim.intervaly
    worst = 1.2 * max(run.bits_before for run in learned)
    if high > worst:  # what goes astray at first would flatten all the rest
        axis.set_ylim(low - 0.05 * (worst - low), worst)
    axis.set_xlabel(label)
    axis.set_ylabel("bits per character")
    axis.legend(frameon=False, fontsize=8)
    tidy(axis)


def speed_panel(axis: Axes, learned: Sequence[Learned]) -> None:
    names, speeds = [KINDS[run.cell].title for run in learned], [run.characters_per_s / 1e3 for run in learned]
    bars = axis.barh(names, speeds, color=[CELL_COLOURS[run.cell] for run in learned], height=0.55)
    axis.bar_label(bars, [f"{speed:,.1f}" for speed in speeds], padding=3, fontsize=8)
    axis.set_ylim(max(len(learned), 3) - 0.5, -0.5)  # one bar alone is no wider than one of three
    axis.margins(x=0.15)
    title(axis, "Thousand characters a second")
    tidy(axis)
    axis.grid(False, axis="y")


def title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, fontweight="bold", loc="left")


def tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
