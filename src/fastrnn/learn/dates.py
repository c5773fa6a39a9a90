"""Many to many, delayed: dates as people write them → ISO 8601, a letter at a time, with attention."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from ..train import Adam, CosineSchedule, Sequences, fit
from . import translator
from .options import Options, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST, DAYS = date(1940, 1, 1), 40_000
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SOURCE = " ,.0123456789abcdefghijklmnopqrstuvwxyz"
ANSWER = "\0\1-0123456789"  # PAD, END


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th …"""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th") if day // 10 != 1 else "th"
    return f"{day}{ending}"


def written(day: date, rng: np.random.Generator) -> str:
    """A date as someone might write it."""
    month, number, year = MONTHS[day.month - 1], day.day, day.year
    month = month if rng.random() < 0.6 else month[:3]
    name = WEEKDAYS[day.weekday()]
    forms = (
        f"{number} {month} {year}",
        f"{month} {number}, {year}",
        f"{month} {ordinal(number)} {year}",
        f"the {ordinal(number)} of {month}, {year}",
        f"{name}, {number} {month} {year}",
        f"{name[:3]} {month} {number} {year}",
        f"{number}. {month} {year}",
        f"{year} {month} {number:02d}",
        f"{number:02d}.{day.month:02d}.{year}",
        f"{ordinal(number)} {month} {year}",
    )
    return forms[rng.integers(len(forms))].lower()


def generate(n: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """n written dates, and the same in ISO 8601."""
    days = [FIRST + timedelta(int(k)) for k in rng.integers(0, DAYS, n)]
    return [written(day, rng) for day in days], [day.isoformat() for day in days]


def indices(text: str, alphabet: str) -> np.ndarray:
    return np.array([alphabet.index(letter) for letter in text])


def learn(options: Options) -> Result:
    """Train on generated dates; test on those of other days, which it has seen in no form."""
    cell = options.cell or "gru"
    rng = np.random.default_rng(options.seed)
    size, n = (64, 3000) if options.quick else (128, 12_000)
    sources, answers = generate(n + 1000, rng)
    held_out = set(answers[n:])
    kept = [k for k in range(n) if answers[k] not in held_out]
    x = [indices(source, SOURCE) for source in sources]
    y = np.stack([indices(answer + "\1", ANSWER) for answer in answers])
    model = translator.make(options, cell, len(SOURCE), len(ANSWER), size)
    epochs = options.epochs or (6 if options.quick else 12)
    fit(
        model, Sequences([x[k] for k in kept], y[kept]), None, Adam(model.params, lr=0.005),
        objective=translator.objective, rng=options.seed, batch_size=64, clip=1.0, schedule=CosineSchedule(),
        **options.for_fit(cell, epochs=epochs),
    )  # fmt: skip
    test = Sequences(x[n:], np.arange(1000))
    batch = test.batch(np.arange(1000))
    assert batch is not None
    found, attention = translator.greedy(model, batch.x, batch.lengths, len(ANSWER))
    said = ["".join(ANSWER[symbol] for symbol in answer) for answer in found]
    right = [a == b for a, b in zip(said, answers[n:])]
    lines = [f"{source:32} → {answer}" for source, answer in list(zip(sources[n:], said))[:8]]
    lines += [f"wrong: {s:25} → {a}, not {b}" for s, a, b, ok in zip(sources[n:], said, answers[n:], right) if not ok][
        :3
    ]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        source, answer = sources[n], said[0] + "·"
        axis.imshow(attention[: len(answer), 0, : len(source)], cmap="Greys", aspect="auto")
        axis.set_xticks(range(len(source)), list(source), fontfamily="monospace")
        axis.set_yticks(range(len(answer)), list(answer), fontfamily="monospace")
        axis.set_title("Where the decoder looks while it writes", loc="left", fontweight="bold")

    return Result(cell, {"exact": float(np.mean(right))}, lines, {"model": model}, draw)
