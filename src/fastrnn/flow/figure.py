"""One picture: what is left of a gradient, going back in time, and why. Made for a projector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..core.geometry import Array
from .analysis import RESOLVED
from .limits import FLOAT32
from .models import Study

# Blue, purple and green of different lightness, which colour-blind readers tell apart; the dashes tell layers of one
# cell apart.
COLOURS = {"rnn": "#0072b2", "lstm": "#7b3294", "gru": "#118846"}
DASHES: tuple[Any, ...] = ((0, (1, 1.2)), (0, (5, 1.5)), "-", (0, (6, 1.5, 1, 1.5)))
GREY, PALE = "#4d4d4d", "#efefef"
TEXTBOOK = (0.9, 1.1)
SMALL, NORMAL = 12.5, 14.5  # points
LEADING = 1.3  # from one line of text to the next, in its size
LEADER = {"arrowstyle": "-", "linewidth": 0.9, "linestyle": ":", "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 1}
BAND = (10, 50, 90)  # percentiles of the units
SPAN = 50  # steps, of the products whose spectra are shown
ROOM = 6  # decades below 1 that are shown of the spectra of one step


class Line(NamedTuple):
    name: str
    colour: str
    dashes: Any
    study: Study


class End(NamedTuple):
    """Where a line ends, and its name."""

    x: float
    y: float
    name: str
    colour: str


def draw(studies: Sequence[Study], caption: str = "") -> Figure:
    """Norms over the steps back and, below, the products of forget gates; beside them, spectra of one step and many."""
    lines = styled(studies)
    gated = [line for line in lines if line.study.flow.log10_forget_products is not None]
    figure = Figure(figsize=(17, 9.6), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1, wspace=0.04, hspace=0.04))
    figure.suptitle(caption, fontsize=SMALL, color=GREY)
    columns = figure.add_gridspec(1, 2, width_ratios=(1.6, 1))
    left = columns[0].subgridspec(2 if gated else 1, 1, height_ratios=(2.1, 1) if gated else None)
    right = columns[1].subgridspec(2, 1)
    norms = figure.add_subplot(left[0])
    norm_panel(norms, lines)
    if gated:
        product_panel(figure.add_subplot(left[1], sharex=norms), gated)
    step_panel(figure.add_subplot(right[0]), lines)
    span_panel(figure.add_subplot(right[1]), lines)
    return figure


def styled(studies: Sequence[Study]) -> list[Line]:
    """A colour for each cell, and dashes in turn for the layers of one."""
    count = dict.fromkeys(COLOURS, 0)
    lines = []
    for study in studies:
        family = study.flow.cell.partition("_")[0]
        same = [other for other in studies if other.flow.cell.partition("_")[0] == family]
        shift = max(0, len(DASHES) - 1 - len(same))  # the last of few is drawn solid
        lines.append(Line(study.subject.name, COLOURS[family], DASHES[(count[family] + shift) % len(DASHES)], study))
        count[family] += 1
    return lines


# --- the panels; the vertical axes are of log10, since the numbers may be smaller than any float


def norm_panel(axis: Axes, lines: Sequence[Line]) -> None:
    title(axis, "What is left of a gradient, k steps back: the norm of $\\partial h_T / \\partial h_{T-k}$")
    T = max(len(line.study.flow.state_to_state) for line in lines) - 1
    ends = []
    for line in lines:
        back = line.study.flow.log10_state_to_state[::-1]
        ends.append(plot(axis, line, np.arange(len(back)), back, width=2.6))
    for factor in TEXTBOOK:
        end = T * np.log10(factor)
        axis.plot([0, T], [0, end], color=GREY, linewidth=1.3, zorder=2)
        ends.append(End(T, end, f"${factor}^k$", GREY))
    axis.set_xlim(0, T)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top)
    float32_lines(axis, T, bottom)
    label_ends(axis, ends)
    axis.set_xlabel("k, steps back in time", fontsize=NORMAL)
    decades(axis)


def float32_lines(axis: Axes, T: int, bottom: float) -> None:
    """Where float32 rounds a gradient away beside one of 1, and where it has only zero."""
    smallest, eps = np.log10(FLOAT32.smallest_normal), np.log10(FLOAT32.eps)
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "color": GREY, "zorder": 2}
    for level in (eps, smallest):
        if level > bottom:
            axis.axhline(level, color=GREY, linestyle=(0, (1, 2.5)), linewidth=1.3, zorder=1)
    if eps > bottom:
        axis.annotate("float32: lost beside 1", (T, eps), (-6, 4), ha="right", **text)
    if smallest > bottom:
        axis.annotate("float32: zero", (0, smallest), (6, -5), va="top", **text)
        axis.axhspan(bottom, smallest, color=PALE, zorder=0)


def product_panel(axis: Axes, lines: Sequence[Line]) -> None:
    title(axis, "What the forget or update gates alone leave: $\\prod f$, $\\prod z$ (median, 80 % of the units)")
    T = max(len(line.study.flow.state_to_state) for line in lines) - 1
    ends = []
    for line in lines:
        products = line.study.flow.log10_forget_products
        assert products is not None
        low, middle, high = (finite(band[::-1]) for band in np.percentile(products, BAND, axis=1))
        back = np.arange(len(low))
        axis.fill_between(back, low, high, color=line.colour, alpha=0.15, linewidth=0)
        ends.append(plot(axis, line, back, middle, width=4.5 if line.study.flow.cell == "lstm" else 2))
    axis.set_xlim(0, T)
    axis.set_ylim(*axis.get_ylim())
    label_ends(axis, ends)
    axis.set_xlabel("k, steps back in time", fontsize=NORMAL)
    decades(axis)


def step_panel(axis: Axes, lines: Sequence[Line]) -> None:
    def median(line: Line) -> Array:
        with np.errstate(divide="ignore"):
            return np.median(np.log10(line.study.flow.step_state_singular_values), axis=0)

    both = any(line.study.flow.cell == "lstm" for line in lines)
    title(axis, "One step: singular values" + " (LSTM: of h and c)" * both)
    spectrum_panel(axis, lines, median, least=-ROOM)
    axis.set_xlabel("share of the directions, largest first", fontsize=NORMAL)


def span_panel(axis: Axes, lines: Sequence[Line]) -> None:
    k = min(SPAN, *(len(line.study.flow.state_to_state) - 1 for line in lines))
    title(axis, f"{k} steps: singular values of $\\partial h_T / \\partial h_{{T-{k}}}$")
    spectrum_panel(axis, lines, lambda line: line.study.flow.log10_product_singular_values[-1 - k], least=-np.inf)
    resolved = f"$10^{{{np.log10(RESOLVED):.0f}}}$"
    axis.set_xlabel(f"share of the directions, to {resolved} of the largest", fontsize=NORMAL)


def spectrum_panel(axis: Axes, lines: Sequence[Line], values: Callable[[Line], Array], least: float) -> None:
    """Singular values, largest first, over the share of directions that have no smaller one."""
    ends = []
    for line in lines:
        spectrum = values(line)
        ends.append(plot(axis, line, (np.arange(len(spectrum)) + 0.5) / len(spectrum), spectrum, least=least))
    axis.axhline(0, color=GREY, linewidth=1)
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, least), top)
    axis.set_xlim(0, 1)
    label_ends(axis, ends)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    decades(axis)


# --- labels and axes


def finite(values: Array) -> Array:
    """What can be drawn: NaN for infinities."""
    return np.where(np.isfinite(values), values, np.nan)


def plot(axis: Axes, line: Line, x: Array, y: Array, width: float = 2.2, least: float = -np.inf) -> End:
    """Draw a line, and say where it ends: at the last finite value that is not below `least`."""
    axis.plot(x, finite(y), color=line.colour, linestyle=line.dashes, linewidth=width, zorder=3)
    seen = np.flatnonzero(np.isfinite(y) & (y >= least))
    at = seen[-1] if len(seen) else 0
    return End(float(x[at]), float(y[at]) if len(seen) else 0.0, line.name, line.colour)


def label_ends(axis: Axes, ends: Sequence[End]) -> None:
    """Name lines beside the right of their panel, moved apart as far as the text needs."""
    bottom, top = axis.get_ylim()
    height = axis.get_position().height * axis.figure.get_figheight()  # type: ignore[union-attr]
    gap = (top - bottom) * LEADING * SMALL / 72 / height
    wanted = [min(max(end.y, bottom), top) for end in ends]
    for end, y, place in zip(ends, wanted, spread(wanted, gap, bottom, top - gap / 2)):
        axis.annotate(
            end.name,
            (end.x, y),
            (1.04, (place - bottom) / (top - bottom)),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            color=end.colour,
            annotation_clip=False,
            arrowprops=LEADER | {"color": end.colour},
        )


def spread(wanted: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Places at least `gap` apart, as near to those wanted as groups that are moved together can be."""
    groups: list[list[int]] = []
    for index in np.argsort(wanted, kind="stable"):
        groups.append([int(index)])
        while len(groups) > 1 and start(groups[-1], wanted, gap, bottom, top) < gap + gap * (
            len(groups[-2]) - 1
        ) + start(groups[-2], wanted, gap, bottom, top):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [0.0] * len(wanted)
    for group in groups:
        first = start(group, wanted, gap, bottom, top)
        for offset, index in enumerate(group):
            placed[index] = first + offset * gap
    return placed


def start(group: Sequence[int], wanted: Sequence[float], gap: float, bottom: float, top: float) -> float:
    """The lowest place of a group whose middle is where its members want to be, on average, but within the axis."""
    length = (len(group) - 1) * gap
    middle = sum(wanted[index] for index in group) / len(group)
    return max(bottom, min(middle - length / 2, top - length))


def decades(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{value:.0f}}}$" if value else "1"))
    axis.tick_params(labelsize=SMALL)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)


def title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=NORMAL, fontweight="bold", loc="left")
