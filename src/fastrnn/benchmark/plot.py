"""One picture of a run: throughput by size, cell and competitor, and what the character model made of it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter

from .charlm import Learned
from .report import Report
from .runner import Result
from .workloads import Size

COLOURS = {"native": "#c8102e", "numba": "#e69f00", "numpy": "#6e6e6e", "torch": "#0072b2", "onnxruntime": "#009e73"}
CELL_COLOURS = {"rnn": "#56b4e9", "lstm": "#7b3294", "gru": "#008837"}
MARKERS = {"native": "o", "numba": "D", "numpy": "s", "torch": "^", "onnxruntime": "v"}
GREY = "#555555"


def draw(report: Report) -> Figure:
    """GFLOP/s of every measurement: a column of panels per cell, a row per mode; below, the character model."""
    settings, learned = report.settings, report.learned
    heights = [len(settings.modes) * (0.8 + 0.3 * len(settings.sizes)) + 0.9] + [2.8] * bool(learned)
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_grid(parts[0], report)
    if learned:
        curves, speeds = parts[1].subplots(1, 2, width_ratios=(2, 1))
        curve_panel(curves, learned)
        speed_panel(speeds, learned)
    return figure


def draw_grid(figure: SubFigure, report: Report) -> None:
    settings = report.settings
    shape = len(settings.modes), len(settings.cells)
    axes = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        mode, cell = settings.modes[row], settings.cells[column]
        throughput_panel(axis, report, [r for r in report.outcome.results if r.workload[::2] == (cell, mode)])
        title(axis, f"{cell.upper()} {mode}")
        if column == 0:
            axis.set_ylabel("T, B, I, H")
        if row == len(axes) - 1:
            axis.set_xlabel("GFLOP/s")
    figure.suptitle(headline(report), fontsize=10, color=GREY)
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
    # Every competitor of the run is drawn, so that the first panel's legend serves all of them.
    for name in report.outcome.competitors:
        timed = [result for result in results if result.competitor == name]
        work = np.array([result.workload.flops / 1e9 for result in timed])
        fast, middle, slow = (work / [result.timing.percentile(p) for result in timed] for p in (25, 50, 75))
        places = [sizes.index(result.workload.size) for result in timed]
        spread = np.array([middle - slow, fast - middle])
        marker, colour = MARKERS.get(name, "o"), COLOURS.get(name, GREY)
        axis.errorbar(middle, places, xerr=spread, fmt=marker, color=colour, markersize=6, alpha=0.9, label=name)
    if report.outcome.peak is not None:
        axis.axvline(report.outcome.peak / 1e9, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="FMA peak")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(sizes)), [size_label(size) for size in sizes], fontsize=8)
    axis.set_ylim(len(sizes) - 0.5, -0.5)
    tidy(axis)


def size_label(size: Size) -> str:
    numbers = str(size).replace(",", ", ")
    return f"{size.name}   {numbers}" if size.name else numbers


def curve_panel(axis: Axes, learned: Sequence[Learned]) -> None:
    for run in learned:
        seconds, bits = zip(*run.curve, strict=True)
        label = f"{run.cell.upper()}: {run.bits_after:.2f} held out"
        axis.plot(seconds, bits, color=CELL_COLOURS[run.cell], label=label, linewidth=1.8)
    title(axis, "Character model while it trains")
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("bits per character")
    axis.legend(frameon=False, fontsize=8)
    tidy(axis)


def speed_panel(axis: Axes, learned: Sequence[Learned]) -> None:
    names, speeds = [run.cell.upper() for run in learned], [run.characters_per_s / 1e3 for run in learned]
    bars = axis.barh(names, speeds, color=[CELL_COLOURS[run.cell] for run in learned], height=0.55)
    axis.bar_label(bars, [f"{speed:,.1f}" for speed in speeds], padding=3, fontsize=8)
    axis.invert_yaxis()
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
