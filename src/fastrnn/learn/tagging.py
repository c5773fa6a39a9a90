"""Many to many, aligned: the class of every character of Python sources, as the tokenizer says: a highlighter.

Whether a quote opens a string or closes it, and what is a comment, depends on what came before; at the edge of a piece
also on what comes after. So the model reads in both directions; one that reads forward only is trained beside it.
"""

from __future__ import annotations

import keyword
import tokenize
from collections.abc import Iterator
from io import StringIO

import numpy as np

from ..train import Adam, Chain, CosineSchedule, Embedding, Linear, Sequences, cross_entropy, fit
from .options import Options, Result
from .text import alphabet_of, encode, sources

CLASSES = ("space", "name", "keyword", "number", "string", "comment", "operator")
PIECE = 1000  # characters
SIZES = {"both": 128, "forward": 192}  # units of each direction: about as many parameters


def classes_of(source: str) -> np.ndarray:
    """The class of each character, by index; raises tokenize.TokenError or SyntaxError for what is no Python."""
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    found = np.zeros(len(source), np.int64)
    for token in tokenize.generate_tokens(StringIO(source).readline):
        begin, end = (starts[min(line - 1, len(starts) - 1)] + column for line, column in (token.start, token.end))
        found[begin:end] = class_of(token)
    return found


def class_of(token: tokenize.TokenInfo) -> int:
    """The index of a token's class; what f-strings are cut into is string."""
    name = tokenize.tok_name[token.type]
    if name == "NAME":
        return CLASSES.index("keyword" if keyword.iskeyword(token.string) else "name")
    if "STRING" in name:
        return CLASSES.index("string")
    kinds = {"NUMBER": "number", "COMMENT": "comment", "OP": "operator"}
    return CLASSES.index(kinds.get(name, "space"))


def tagged(files: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The files that are Python, with the classes of their characters."""
    for source in files:
        if "\f" in source or "\r" in source:
            continue  # which end a line for one and not for the other
        try:
            yield source, classes_of(source)
        except (tokenize.TokenError, SyntaxError, IndentationError):
            continue


def pieces(files: list[tuple[str, np.ndarray]], alphabet: str) -> Sequences:
    """The files in pieces of PIECE characters."""
    x, y = [], []
    for source, classes in files:
        symbols = encode(source, alphabet)
        for begin in range(0, len(symbols), PIECE):
            x.append(symbols[begin : begin + PIECE])
            y.append(classes[begin : begin + PIECE])
    return Sequences(x, y, per_step=True)


def accuracy(model: Chain, data: Sequences) -> tuple[float, np.ndarray]:
    """The share of characters whose class is right, and how often each class (rows) was taken for each (columns)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for key in data.plan(64, None):
        batch = data.batch(key)
        assert batch is not None
        said = model(batch.x, lengths=batch.lengths).argmax(axis=2)
        T, B = said.shape
        valid = np.arange(T)[:, None] < (np.full(B, T) if batch.lengths is None else batch.lengths)
        np.add.at(counts, (batch.targets[valid], said[valid]), 1)
    return float(np.trace(counts) / counts.sum()), counts


def train(options: Options, cell: str, data: Sequences, symbols: int, direction: str) -> Chain:
    """A tagger that reads in both directions, or forward only."""
    both = direction == "both"
    size = 48 if options.quick else SIZES[direction]
    rnn = options.layer(cell, 32, size, bidirectional=both)
    model = Chain(
        emb=Embedding(symbols, 32, rng=options.seed), rnn=rnn,
        out=Linear(rnn.output_size, len(CLASSES), rng=options.seed),
    )  # fmt: skip
    epochs = options.epochs or (4 if options.quick else 2)
    fit(
        model, data, cross_entropy, Adam(model.params, lr=0.01 if options.quick else 0.004), rng=options.seed, clip=1.0,
        schedule=CosineSchedule(), **options.for_fit(f"{cell}-{direction}", epochs=epochs),
    )  # fmt: skip
    return model


def show(model: Chain, alphabet: str, line: str) -> str:
    """A line of code, and below it the first letter of each character's class."""
    said = model(encode(line, alphabet)[:, None])[:, 0].argmax(axis=1)
    return f"    {line}\n    {''.join(CLASSES[k][0] if k else ' ' for k in said)}"


def learn(options: Options) -> Result:
    """Train on nineteen files of twenty, test on the others; then words, whose class depends on their place."""
    cell = options.cell or "gru"
    files = list(tagged(sources(30 if options.quick else None)))
    order = np.random.default_rng(0).permutation(len(files))
    cut = max(1, len(files) // 20)
    training, test = [files[k] for k in order[cut:]], [files[k] for k in order[:cut]]
    alphabet = alphabet_of("".join(source for source, _ in training))
    data, held_out = pieces(training, alphabet), pieces(test, alphabet)
    models = {direction: train(options, cell, data, len(alphabet), direction) for direction in SIZES}
    reached = {direction: accuracy(model, held_out) for direction, model in models.items()}
    lines = [f"{'class':10}{'held-out characters':>20}{'right, both ways':>18}{'forward only':>14}"]
    for k, name in enumerate(CLASSES):
        counted, right, ahead = reached["both"][1][k].sum(), reached["both"][1][k, k], reached["forward"][1][k, k]
        lines.append(f"{name:10}{counted:20,}{right / max(counted, 1):18.2%}{ahead / max(counted, 1):14.2%}")
    lines += ["", show(models["both"], alphabet, "if x == '# no comment':  # it's one")]
    lines += ["", *words(options, cell)]
    figures = {"test_accuracy": reached["both"][0], "test_accuracy_one_direction": reached["forward"][0]}
    return Result(cell, figures, lines, {"model": models["both"], "forward": models["forward"]})


# --- words: the same word is a verb or a noun, by its place

PRONOUNS, DOINGS = ("I", "you", "we", "they"), ("work", "google", "study", "play", "talk", "walk", "rest", "shop")
TAGS = ("pronoun", "verb", "preposition", "noun")


def words(options: Options, cell: str) -> list[str]:
    """Two sentences of the same words, tagged by a model that never saw either."""
    shown = ("I work at google", "I google at work")
    vocabulary = (*PRONOUNS, "at", *DOINGS)
    made = [f"{who} {what} at {where}" for who in PRONOUNS for what in DOINGS for where in DOINGS if what != where]
    x = [[vocabulary.index(word) for word in sentence.split()] for sentence in made if sentence not in shown]
    model = Chain(
        Embedding(len(vocabulary), 8, rng=options.seed), options.layer(cell, 8, 8, bidirectional=True),
        Linear(16, len(TAGS), rng=options.seed),
    )  # fmt: skip
    data = Sequences(x, [[0, 1, 2, 3]] * len(x), per_step=True)
    fit(model, data, cross_entropy, Adam(model.params, lr=0.02), epochs=10, rng=options.seed, progress=False)
    found = []
    for sentence in shown:
        said = model(np.array([[vocabulary.index(word)] for word in sentence.split()]))[:, 0].argmax(axis=1)
        found.append("   ".join(f"{word}: {TAGS[k]}" for word, k in zip(sentence.split(), said)))
    return found
