"""Single steps for a terminal: a table per cell says how many times faster than NumPy code fastrnn takes them."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import geometric_mean

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .kinds import KINDS
from .steps import StepResult
from .table import digits

ROWS = {  # of (mode, contender)
    ("forward", "NumPy"): "NumPy, µs",
    ("forward", "function"): "function",
    ("forward", "cell"): "cell",
    ("forward", "frozen step"): "frozen step",
    ("forward", "layer"): "layer",
    ("training", "NumPy"): "NumPy, forward + backward, µs",
    ("training", "function"): "forward + backward",
}
BATCH, LABEL, FIGURE = 6, 30, 7  # columns
LEGEND = (
    "Above 1 fastrnn is faster. NumPy's rows: µs a call, the median. mean: geometric. input_size is H. function: "
    "lstm_cell on bare arrays; cell: an LSTMCell; frozen step: the same frozen; layer: an LSTM on a sequence of one "
    "step; forward + backward: lstm_cell_forward and lstm_cell_backward, all gradients; the other cells likewise."
)


def step_tables(steps: Sequence[StepResult]) -> Iterator[RenderableType]:
    """A table per cell, then one of the means over cells and hidden sizes; nothing of no steps."""
    if not steps:
        return
    yield Text()
    yield Text(f"One step from NumPy code, one thread: NumPy's time over fastrnn's ({steps[0].backend})", "bold")
    cells = list(dict.fromkeys(step.cell for step in steps))
    for cell in cells:
        yield cell_table(cell, [step for step in steps if step.cell == cell])
    yield Text("all cells and hidden sizes: geometric mean", "yellow")
    yield mean_table(steps)
    yield Text()
    yield Text(LEGEND, "dim")
    if any(step.timing is None for step in steps):
        yield Text("wrong: not what the NumPy code computes, not measured.", "bold red")


def cell_table(cell: str, steps: Sequence[StepResult]) -> Table:
    """A row per batch and contender, a column per hidden size."""
    hidden_sizes = list(dict.fromkeys(step.H for step in steps))
    table = empty_table([*(f"H={H}" for H in hidden_sizes), "mean"], KINDS[cell].title)
    found = {(step.B, step.mode, step.contender, step.H): step for step in steps}
    for B in dict.fromkeys(step.B for step in steps):
        for (mode, contender), label in ROWS.items():
            row = [found.get((B, mode, contender, H)) for H in hidden_sizes]
            first = (mode, contender) == next(iter(ROWS))
            summary = Text() if contender == "NumPy" else mean(row)
            table.add_row(Text(f"B={B}" if first else "", "yellow"), label, *map(figure, row), summary)
    return table


def mean_table(steps: Sequence[StepResult]) -> Table:
    """A row per contender, a column per batch."""
    batches = list(dict.fromkeys(step.B for step in steps))
    table = empty_table([f"B={B}" for B in batches])
    for (mode, contender), label in ROWS.items():
        if contender != "NumPy":
            own = [step for step in steps if (step.mode, step.contender) == (mode, contender)]
            table.add_row("", label, *(mean(step for step in own if step.B == B) for B in batches))
    return table


def empty_table(headings: Sequence[str], title: str = "") -> Table:
    table = Table.grid(padding=0)
    table.add_column(width=BATCH, no_wrap=True)
    table.add_column(width=LABEL, no_wrap=True)
    for _ in headings:
        table.add_column(width=FIGURE, justify="right", no_wrap=True)
    table.add_row(Text(title, "bold cyan"), "", *(Text(heading, "dim") for heading in headings))
    return table


def figure(step: StepResult | None) -> Text:
    """NumPy's own time in µs, another's ratio to it."""
    if step is None:
        return Text("—")
    if step.ratio is None:
        return Text("wrong", "bold red")
    if step.contender == "NumPy":
        return Text(digits(1e6 * step.by_hand.median), "dim")
    return ratio(step.ratio)


def mean(steps: Iterable[StepResult | None]) -> Text:
    """The geometric mean of the ratios there are."""
    ratios = [step.ratio for step in steps if step is not None and step.ratio is not None]
    return ratio(geometric_mean(ratios)) if ratios else Text("—")


def ratio(value: float) -> Text:
    return Text(digits(value), "green" if value > 1 else "")
