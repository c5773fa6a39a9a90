"""One to many: a model of characters, and text that it writes (Graves 2013, Karpathy 2015).

It reads Python's own standard library, or a text of yours, in any language: characters, not bytes. Whole files are held
out, of a single text its last twentieth.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..console.palette import CELL_COLOURS
from ..train import (
    Adam,
    Chain,
    CosineSchedule,
    Embedding,
    History,
    Linear,
    Stream,
    WarmUp,
    cross_entropy,
    evaluate,
    fit,
)
from .options import Options, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"rnn": 448, "lstm": 352, "gru": 384}
RATES = {"rnn": 0.001, "lstm": 0.005, "gru": 0.004}
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__"}
UNKNOWN = "\ufffd"  # what stands for the characters that training has not seen
LEAST = 10_000  # characters that a text must have
ROWS, STEPS = 64, 50
WARM_UP = 100  # steps, without which the first at such rates undo more than they learn


def sources(most: int | None = None) -> list[str]:
    """The standard library's sources, in order of their paths, the first `most` of them."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts)]
    return [path.read_text("utf-8", errors="replace") for path in paths[:most]]


def split(options: Options) -> tuple[str, str]:
    """The text to train on, and the text held out: a twentieth of the files, or the end of the text that was given."""
    if options.text is None:
        files = sources(20 if options.quick else None)
        held_out = set(np.random.default_rng(0).permutation(len(files))[: max(1, len(files) // 20)].tolist())
        return "".join(f for k, f in enumerate(files) if k not in held_out), "".join(files[k] for k in sorted(held_out))
    text = options.text.read_text("utf-8", errors="replace")
    if len(text) < LEAST:
        raise ValueError(f"--text: expected at least {LEAST:,} characters, got {len(text):,}")
    return text[: -(len(text) // 20)], text[-(len(text) // 20) :]


def alphabet_of(text: str) -> str:
    """The characters that occur at least ten times, and one for all others."""
    codes, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
    return UNKNOWN + "".join(chr(code) for code in codes[counts >= 10] if chr(code) != UNKNOWN)


def encode(text: str, alphabet: str) -> np.ndarray:
    """The indices of characters in an alphabet, 0 for those that are not there."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    return np.where(known[order][places] == codes, order[places], 0)


def write(model: Chain, alphabet: str, begin: str, length: int, temperature: float, seed: int) -> str:
    """Text that the model goes on with, each character drawn from its probabilities to the power 1/temperature."""
    rng = np.random.default_rng(seed)
    logits, state = model.run(encode(begin, alphabet)[:, None])
    said = []
    for _ in range(length):
        v = logits[-1, 0].astype(np.float64) / temperature
        v[0] = -np.inf  # the unknown character
        p = np.exp(v - v.max())
        said.append(int(rng.choice(len(p), p=p / p.sum())))
        logits, state = model.run(np.array([[said[-1]]]), state)
    return begin + "".join(alphabet[k] for k in said)


def train(options: Options, cell: str, training: np.ndarray, symbols: int) -> tuple[Chain, History]:
    """A model of one cell, trained for ten minutes, or as long as the options say."""
    size, rows = (96, 32) if options.quick else (SIZES[cell], ROWS)
    rnn = options.layer(cell, 64, size)
    model = Chain(emb=Embedding(symbols, 64, rng=options.seed), rnn=rnn, out=Linear(size, symbols, rng=options.seed))
    history = fit(
        model, Stream.next_items(training, rows, STEPS), cross_entropy,
        Adam(model.params, lr=0.01 if options.quick else RATES[cell]), rng=options.seed, clip=1.0,
        schedule=WarmUp(WARM_UP, CosineSchedule(least=0.02)),
        **options.for_fit(cell, seconds=None if options.quick else 570, epochs=1 if options.quick else None),
    )  # fmt: skip
    return model, history


def learn(options: Options) -> Result:
    """Train one cell, or all three on the same text, and let one write."""
    text, held_out = split(options)
    alphabet = alphabet_of(text)
    training, test = encode(text, alphabet), encode(held_out, alphabet)
    cells = (options.cell,) if options.cell else ("rnn", "lstm", "gru")
    models, histories, bits = {}, {}, {}
    for cell in cells:
        models[cell], histories[cell] = train(options, cell, training, len(alphabet))
        rows = max(1, min(16, len(test) // (4 * STEPS)))
        loss = evaluate(models[cell], Stream.next_items(test, rows, STEPS), cross_entropy)
        bits[cell] = loss / float(np.log(2))
    told = options.cell or "gru"  # whose figure stands first, and who writes: not chosen by the text held out
    figures = {"bits_per_character": bits[told]} | {f"{cell}_bits_per_character": bits[cell] for cell in cells}
    lines = [f"{'cell':6}{'parameters':>12}{'characters/s':>14}{'bits per character, held out':>30}"]
    for cell, model in models.items():
        history = histories[cell]
        rate = history.steps * STEPS * (32 if options.quick else ROWS) / history.seconds
        lines.append(f"{cell.upper():6}{model.num_parameters:12,}{rate:14,.0f}{bits[cell]:30.3f}")
    for temperature in (0.5, 0.8):
        said = write(models[told], alphabet, "def ", 300, temperature, options.seed)
        lines += ["", f"{told.upper()} at temperature {temperature}:", *(f"    {line}" for line in said.splitlines())]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for cell, history in histories.items():
            stretches = np.array_split(np.array(history.losses) / np.log(2), min(200, history.steps))
            curve = [stretch.mean() for stretch in stretches]
            seconds = np.linspace(0, history.seconds, len(curve))
            label = f"{cell.upper()}: {bits[cell]:.2f} held out"
            axis.plot(seconds, curve, color=CELL_COLOURS[cell], label=label)
        axis.set_ylim(top=4)
        axis.set_xlabel("seconds of training")
        axis.set_title("Bits per character of the text it trains on", loc="left", fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)

    return Result(told, figures, lines, {"model": models[told]}, draw)
