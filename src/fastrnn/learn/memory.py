"""Many to one, over long gaps: the adding problem and the copy task (Hochreiter & Schmidhuber 1997).

Adding: of T random numbers two are marked; the answer is their sum. Copying: ten symbols, then T blanks; the answer is
the ten symbols. A model has to keep what it saw, and to learn this its gradient has to come back over the whole gap:
the picture shows how much of it does. Gates begin open enough to keep for T steps what they hold; an RNN has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..console.palette import CELL_COLOURS
from ..flow import GradientFlow, gradient_flow
from ..train import Adam, Batch, Chain, CosineSchedule, LastStep, Linear, cross_entropy, evaluate, fit, mean_squared
from ..train.data import cut
from .options import Options, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYMBOLS, COPIED = 8, 10
ADDING_STEPS, COPYING_STEPS, SIZE = 2500, 1500, 64


class Adding:
    """Batches of the adding problem, drawn anew: x (T, B, 2), a number and its mark; targets (B, 1), the sum."""

    carries = False

    def __init__(self, T: int, batches: int, seed: int) -> None:
        self.T, self.batches, self.seed = T, batches, seed

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[tuple[int, int]]:
        """The seeds of an epoch's batches, and their rows."""
        first = self.seed if rng is None else int(rng.integers(1 << 40))
        return [(first + k, batch_size) for k in range(self.batches)]

    def batch(self, key: tuple[int, int], part: int = 0, parts: int = 1) -> Batch | None:
        (seed, B), rows = key, np.arange(key[1])[cut(key[1], part, parts)]
        if not len(rows):
            return None
        x, targets, *_, per_step, _ = self.draw(np.random.default_rng(seed), B, np.arange(B))
        here = np.s_[:, rows] if per_step else rows
        return Batch(np.ascontiguousarray(x[:, rows]), np.ascontiguousarray(targets[here]), None, per_step, rows)

    def draw(self, rng: np.random.Generator, B: int, rows: np.ndarray) -> Batch:
        """One number of each half is marked."""
        x = np.zeros((self.T, B, 2), np.float32)
        x[:, :, 0] = rng.uniform(0, 1, (self.T, B))
        half = self.T // 2
        for low, high in ((0, half), (half, self.T)):
            x[rng.integers(low, high, B), rows, 1] = 1
        return Batch(x, (x[:, :, 0] * x[:, :, 1]).sum(axis=0)[:, None], None, False, rows)


class Copying(Adding):
    """Batches of the copy task: symbols one-hot, (T + 20, B, 10); targets (T + 20, B), a blank but at the end."""

    def draw(self, rng: np.random.Generator, B: int, rows: np.ndarray) -> Batch:
        symbols, length = rng.integers(1, SYMBOLS + 1, (COPIED, B)), self.T + 2 * COPIED
        x, targets = np.zeros((length, B), int), np.zeros((length, B), int)
        x[:COPIED], x[-COPIED - 1], targets[-COPIED:] = symbols, SYMBOLS + 1, symbols
        return Batch(np.eye(SYMBOLS + 2, dtype=np.float32)[x], targets, None, True, rows)


def keeping(options: Options, cell: str, inputs: int, size: int, T: int) -> Any:
    """A layer whose gates begin so that they keep what they hold for up to T steps (Tallec & Ollivier 2018)."""
    layer = options.layer(cell, inputs, size)
    if cell == "rnn":
        return layer
    rng, H = np.random.default_rng(options.seed), size
    bias = np.log(rng.uniform(1, T - 1, H))
    gate = 1  # f of i, f, g, o; z of r, z, n
    layer.params["bias_ih_l0"][gate * H : (gate + 1) * H] = bias
    layer.params["bias_hh_l0"][gate * H : (gate + 1) * H] = 0
    if cell == "lstm":
        layer.params["bias_ih_l0"][:H] = -bias
        layer.params["bias_hh_l0"][:H] = 0
    return layer


def adding(options: Options, cell: str, T: int, steps: int, size: int) -> tuple[Chain, float, GradientFlow]:
    """A model that was trained to add, its error, and how gradients went back in it before."""
    rnn = keeping(options, cell, 2, size, T)
    model = Chain(rnn=rnn, last=LastStep(), out=Linear(size, 1, rng=options.seed))
    test = Adding(T, 4, 1 << 50)
    key = test.plan(1, None)[0]
    before = gradient_flow(rnn, test.draw(np.random.default_rng(key[0]), 1, np.arange(1)).x)
    fit(
        model, Adding(T, 100, options.seed), mean_squared, Adam(model.params, lr=0.01), steps=steps, batch_size=50,
        rng=options.seed, clip=1.0, schedule=CosineSchedule(), **options.for_fit(f"adding-{T}-{cell}"),
    )  # fmt: skip
    return model, evaluate(model, test, mean_squared), before


def copying(options: Options, cell: str, T: int, steps: int, size: int) -> tuple[Chain, float]:
    """A model that was trained to copy, and the share of symbols that it gives back."""
    model = Chain(rnn=keeping(options, cell, SYMBOLS + 2, size, T), out=Linear(size, SYMBOLS + 2, rng=options.seed))
    fit(
        model, Copying(T, 100, options.seed), cross_entropy, Adam(model.params, lr=0.01), steps=steps, batch_size=50,
        rng=options.seed, clip=1.0, schedule=CosineSchedule(), **options.for_fit(f"copying-{T}-{cell}"),
    )  # fmt: skip
    batch = Copying(T, 1, 0).draw(np.random.default_rng(1 << 50), 200, np.arange(200))
    answers = model(batch.x)[-COPIED:].argmax(axis=2)
    return model, float((answers == batch.targets[-COPIED:]).mean())


def learn(options: Options) -> Result:
    """Train each cell, or one, on both problems at three lengths."""
    lengths = (30,) if options.quick else (100, 400, 1000)
    adding_steps, copying_steps, size = (800, 800, 48) if options.quick else (ADDING_STEPS, COPYING_STEPS, SIZE)
    cells = (options.cell,) if options.cell else ("rnn", "lstm", "gru")
    found: dict[str, dict[str, float]] = {}
    flows: dict[str, GradientFlow] = {}
    parts: dict[str, Chain] = {}
    for cell in cells:
        found[cell] = {}
        for T in lengths:
            parts[f"adding_{cell}_{T}"], error, flow = adding(options, cell, T, adding_steps, size)
            parts[f"copying_{cell}_{T}"], share = copying(options, cell, T, copying_steps, size)
            found[cell] |= {f"mse_{T}": error, f"copy_accuracy_{T}": share}
            if T == lengths[min(1, len(lengths) - 1)]:
                flows[cell] = flow
    names = list(next(iter(found.values())))
    lines = [f"{'':6}" + "".join(f"{name:>20}" for name in names)]
    lines += [
        f"{cell.upper():6}" + "".join(f"{figures[name]:20.5f}" for name in names) for cell, figures in found.items()
    ]
    lines.append("Always to answer 1 has an MSE of 0.167; to guess symbols copies 0.125 of them.")
    cell = options.cell or "gru"
    figures = dict(found[cell])
    if not options.cell:
        figures |= {
            f"{other}_{name}": value for other in cells for name, value in found[other].items() if other != cell
        }

    def draw(figure: Figure) -> None:
        draw_memory(figure, found, flows)

    return Result(cell, figures, lines, parts, draw)


def draw_memory(figure: Figure, found: dict[str, dict[str, float]], flows: dict[str, GradientFlow]) -> None:
    """The errors by length, and beside them how much of a gradient came back before anything was learnt."""
    errors, back = figure.subplots(1, 2)
    for cell, figures in found.items():
        points = [(int(name[4:]), value) for name, value in figures.items() if name.startswith("mse_")]
        errors.plot(*zip(*points), "o-", color=CELL_COLOURS[cell], label=cell.upper())
        norms = flows[cell].log10_state_to_state[::-1]
        back.plot(np.arange(len(norms)), norms, color=CELL_COLOURS[cell], label=cell.upper())
    errors.axhline(1 / 6, color="#555555", linestyle=":", linewidth=1)
    errors.set_yscale("log")
    errors.set_xlabel("length T of the adding problem")
    errors.set_title("Mean squared error (dotted: the answer 1)", loc="left", fontweight="bold")
    back.set_xlabel("steps back in time, before training")
    back.set_title("log10 of the norm of ∂h_T/∂h_(T-k)", loc="left", fontweight="bold")
    back.axhline(-7, color="#555555", linestyle=":", linewidth=1)
    back.text(0, -7, " below: lost in float32", fontsize=8, color="#555555", va="top")
    back.set_ylim(bottom=max(back.get_ylim()[0], -60))
    for axis in (errors, back):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
