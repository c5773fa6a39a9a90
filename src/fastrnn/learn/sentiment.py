"""Many to one at two levels: words → sentences → documents, with attention, as in Yang et al. (2016).

A sentence's words are read in both directions and summed up by attention; what the sentences of a document say is read
in both directions again, and each sentence is judged in its context. Beside it a model judges each sentence alone.

--data takes files of columns separated by tabs: rating and text, or review, sentence, rating and text, where the
sentences of a review are in order. Without it, reviews are generated, some of whose
sentences mean nothing by themselves.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..train import (
    Adam,
    AttentionPooling,
    Batch,
    Dropout,
    Embedding,
    Linear,
    Model,
    Outcome,
    Sequences,
    binary_cross_entropy,
    fit,
)
from ..train.data import cut
from .options import Options, Result

CLEAR = 0.5  # a rating beyond it, in either direction, has a sign that people agree about
UNKNOWN, LONGEST = 0, 60  # the index of rare words; words of a sentence that are read

Document = list[tuple[str, float]]  # sentences and their ratings


class Judged(NamedTuple):
    """What a model says of the sentences of a batch."""

    logits: np.ndarray  # (S, B)
    valid: np.ndarray  # (S, B)
    attention: np.ndarray  # (words, sentences): the share of each word
    tapes: dict[str, Any]


def read(path: Path) -> list[Document]:
    """The documents of a file; a sentence alone is one of its own."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not {"rating", "text"} <= rows[0].keys():
        raise ValueError(f"--data: expected columns rating and text, separated by tabs, in {str(path)!r}")
    documents: dict[Any, Document] = {}
    for k, row in enumerate(rows):
        try:
            documents.setdefault(row.get("review", k), []).append((row["text"], float(row["rating"])))
        except (TypeError, ValueError):
            raise ValueError(f"--data: expected a number as rating in row {k + 2} of {str(path)!r}") from None
    return list(documents.values())


GOOD, BAD = ("good", "great", "lovely", "solid", "clever"), ("bad", "poor", "awful", "weak", "dull")
THINGS = ("the plot", "the screen", "the battery", "the price", "the sound", "the ending", "the lens", "the cast")
ECHOES = ("the same goes for {}", "{} is no different", "so is {}")


def generate(n: int, rng: np.random.Generator) -> list[Document]:
    """n reviews: a sentence says what it thinks, with "not" or without, or that the one before it holds here too."""

    def pick(words: Any) -> str:
        return words[rng.integers(len(words))]

    documents = []
    for _ in range(n):
        document: Document = []
        for k in range(int(rng.integers(2, 6))):
            if k and rng.random() < 0.4:
                document.append((pick(ECHOES).format(pick(THINGS)), document[-1][1]))
                continue
            sign, negated = rng.random() < 0.5, rng.random() < 0.3
            adjective = pick(GOOD if sign != negated else BAD)
            document.append((f"{pick(THINGS)} is {'not ' if negated else ''}{adjective}", 2.0 if sign else -2.0))
        documents.append(document)
    return documents


def words_of(sentence: str) -> list[str]:
    """Words in lower case, n't apart; and ! and ?, which say something too."""
    return re.findall(r"n't|[a-z]+(?=n't)|[a-z']+|[!?]", sentence.lower().replace("’", "'"))[:LONGEST] or ["?"]


class Documents:
    """Documents as `fit` takes them: x (words, sentences) of all in the batch, targets (S, B) of their signs."""

    carries = False

    def __init__(self, documents: list[Document], vocabulary: dict[str, int], alone: bool) -> None:
        if alone:
            documents = [[sentence] for document in documents for sentence in document]
        self.documents = documents
        self.ratings = [np.array([rating for _, rating in document]) for document in documents]
        self.words = [
            [np.array([vocabulary.get(word, UNKNOWN) for word in words_of(text)]) for text, _ in document]
            for document in documents
        ]
        sizes = [np.zeros(sum(map(len, sentences)), int) for sentences in self.words]
        self.order = Sequences(sizes, np.zeros(len(documents)))

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
        return self.order.plan(batch_size, rng)

    def batch(self, key: np.ndarray, part: int = 0, parts: int = 1) -> Batch | None:
        """The ratings of clear sentences; NaN for the others and for what a shorter document lacks."""
        rows = np.asarray(key)[cut(len(key), part, parts)]
        if not len(rows):
            return None
        S = max(len(self.words[row]) for row in rows)
        ratings = np.full((S, len(rows)), np.nan)
        for b, row in enumerate(rows):
            clear = np.abs(self.ratings[row]) > CLEAR
            ratings[: len(clear), b] = np.where(clear, self.ratings[row], np.nan)
        sentences = [words for row in rows for words in self.words[row]]
        lengths = np.array([len(words) for words in sentences])
        x = np.zeros((lengths.max(), len(sentences)), int)
        for k, words in enumerate(sentences):
            x[: len(words), k] = words
        return Batch(x, ratings, lengths, False, rows)

    def counts(self, key: np.ndarray) -> np.ndarray:
        """The number of sentences of each document."""
        return np.array([len(self.words[row]) for row in key])


def make(options: Options, cell: str, words: int, size: int) -> Model:
    """Both levels, with dropout between them: the data are few."""
    seed = options.seed
    return Model(
        embedding=Embedding(words, 2 * size, rng=seed),
        drop_words=Dropout(0.5, rng=seed),
        words=options.layer(cell, 2 * size, size, bidirectional=True),
        attention=AttentionPooling(2 * size, rng=seed),
        drop_sentences=Dropout(0.5, rng=seed),
        sentences=options.layer(cell, 2 * size, size // 2, bidirectional=True),
        out=Linear(3 * size, 1, rng=seed),
    )


def judge(model: Model, batch: Batch, counts: np.ndarray, trains: bool) -> Judged:
    """The logit of each sentence's being positive."""
    tapes: dict[str, Any] = {}

    def run(name: str, *arguments: Any) -> Any:
        part = getattr(model, name)
        if not trains:
            found = part(*arguments)
            return found[0] if isinstance(found, tuple) else found
        y, *_, tapes[name] = part.forward(*arguments)
        return y

    e = run("drop_words", run("embedding", batch.x, batch.lengths))
    h = model.words.forward(e, lengths=batch.lengths)
    tapes["words"] = h[2]
    pooled, tapes["attention"] = model.attention.forward(h[0], batch.lengths)
    pooled = run("drop_sentences", pooled)
    valid = np.arange(counts.max())[:, None] < counts
    inner = np.zeros((*valid.shape, pooled.shape[1]), pooled.dtype)
    inner.swapaxes(0, 1)[valid.T] = pooled  # sentences come document by document
    read = model.sentences.forward(inner, lengths=counts)
    tapes["sentences"] = read[2]
    logits = run("out", np.concatenate([inner, read[0]], axis=2))[..., 0]
    return Judged(logits, valid, tapes["attention"].weights, tapes)


def objective_of(data: Documents) -> Any:
    """The objective of training on these documents."""

    def objective(model: Model, batch: Batch, state: Any) -> Outcome:
        found = judge(model, batch, data.counts(batch.rows), trains=True)
        clear = ~np.isnan(batch.targets)
        loss, d = binary_cross_entropy(found.logits, batch.targets > 0, mask=clear, total=max(int(clear.sum()), 1))
        tapes = found.tapes
        out = model.out.backward(tapes["out"], d[..., None])
        size = model.attention.input_size
        dinner, dread = out.x[..., :size], out.x[..., size:]
        sentences = model.sentences.backward(tapes["sentences"], dread)
        dpooled = (dinner + sentences.x).swapaxes(0, 1)[found.valid.T]
        attention = model.attention.backward(
            tapes["attention"], model.drop_sentences.backward(tapes["drop_sentences"], dpooled).x
        )
        words = model.words.backward(tapes["words"], attention.x)
        embedding = model.embedding.backward(
            tapes["embedding"], model.drop_words.backward(tapes["drop_words"], words.x).x
        )
        parts = {"embedding": embedding, "words": words, "attention": attention, "sentences": sentences, "out": out}
        return Outcome(loss, model.gradients(**parts))

    return objective


def accuracy(model: Model, data: Documents) -> float:
    """The share of clear sentences whose sign is right."""
    right = count = 0
    for key in data.plan(64, None):
        batch = data.batch(key)
        assert batch is not None
        clear = ~np.isnan(batch.targets)
        logits = judge(model, batch, data.counts(key), trains=False).logits
        right += int(((logits > 0) == (batch.targets > 0))[clear].sum())
        count += int(clear.sum())
    return right / max(count, 1)


def train(options: Options, cell: str, splits: list[list[Document]], alone: bool) -> tuple[Model, Documents, float]:
    """A model that was trained until the validation no longer got better; the test data, and its accuracy on them."""
    counts = Counter(word for document in splits[0] for text, _ in document for word in words_of(text))
    vocabulary = {word: k for k, word in enumerate(["", *(w for w, n in sorted(counts.items()) if n > 1)])}
    training, validation, test = (Documents(split, vocabulary, alone) for split in splits)
    model = make(options, cell, len(vocabulary), 32 if options.quick else 64)
    fit(
        model, training, None, Adam(model.params, lr=0.003), objective=objective_of(training), rng=options.seed,
        batch_size=32 if alone else 16, clip=1.0, validation=lambda model: 1 - accuracy(model, validation), patience=4,
        **options.for_fit(f"{cell}-{'alone' if alone else 'context'}", epochs=6 if options.quick else 20),
    )  # fmt: skip
    return model, test, accuracy(model, test)


def learn(options: Options) -> Result:
    """Train with the context, where there is any, and without; a fifth of the documents is held out."""
    cell = options.cell or "gru"
    rng = np.random.default_rng(options.seed)
    documents = read(options.data) if options.data else generate(400 if options.quick else 1500, rng)
    order = rng.permutation(len(documents))
    test, validation, training = np.split(order, [len(order) // 5, len(order) * 3 // 10])
    splits = [[documents[k] for k in part] for part in (training, validation, test)]
    context = any(len(document) > 1 for document in documents)
    model, data, alone = train(options, cell, splits, alone=True)
    figures = {"test_accuracy": alone}
    if context:
        model, data, reached = train(options, cell, splits, alone=False)
        figures = {"test_accuracy": reached, "test_accuracy_without_context": alone}
    clear = [rating for document in splits[2] for _, rating in document if abs(rating) > CLEAR]
    positive = sum(rating > 0 for rating in clear) / max(len(clear), 1)
    figures["majority"] = max(positive, 1 - positive)
    return Result(cell, figures, examples(model, data), {"model": model})


def examples(model: Model, data: Documents) -> list[str]:
    """A few sentences, the likelihood that each is positive, and the words that were attended to most, in capitals."""
    lines = []
    for row in range(min(3, len(data.documents))):
        batch = data.batch(np.array([row]))
        assert batch is not None
        found = judge(model, batch, data.counts(np.array([row])), trains=False)
        for k, (text, _) in enumerate(data.documents[row][:4]):
            words = words_of(text)
            share = found.attention[: len(words), k] * len(words)
            shown = " ".join(word.upper() if s > 1.5 else word for word, s in zip(words, share))
            lines.append(f"{1 / (1 + np.exp(-found.logits[k, 0])):5.0%}  {shown}")
        lines.append("")
    return lines
