"""One to many: a scene, described by numbers → the sentence that describes it, a word at a time.

A scene has one or two things, each with a kind, a colour, a size and a place. All it is is one vector: the decoder's
first state is a linear function of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..train import Adam, Batch, CosineSchedule, Embedding, Linear, Model, Outcome, Sequences, cross_entropy, fit
from .options import Options, Result

KINDS = ("ball", "box", "cone", "ring", "star", "key")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SIDES = ("left of", "right of", "above", "below")
WORDS = ("\0", "\1", "a", "big", "small", *COLOURS, *KINDS, "left", "right", "of", "above", "below", "alone")
PAD, END = 0, 1


class Thing(NamedTuple):
    kind: int
    colour: int
    size: float  # above 0.5 is big
    x: float
    y: float


def describe(things: list[Thing]) -> str:
    """The sentence: how the second thing lies is said by the larger of their distances in x and y."""
    named = [f"a {'big' if t.size > 0.5 else 'small'} {COLOURS[t.colour]} {KINDS[t.kind]}" for t in things]
    if len(things) == 1:
        return f"{named[0]} alone"
    one, other = things
    across, up = one.x - other.x, one.y - other.y
    side = SIDES[1 if across > 0 else 0] if abs(across) > abs(up) else SIDES[2 if up > 0 else 3]
    return f"{named[0]} {side} {named[1]}"


def vector(things: list[Thing]) -> np.ndarray:
    """A scene's numbers: of each of two things one for its kind and its colour, its size and place; zeros for none."""
    found = []
    for k in range(2):
        if k < len(things):
            thing = things[k]
            place = [thing.size - 0.5, thing.x, thing.y, 1.0]
            found += [np.eye(len(KINDS))[thing.kind], np.eye(len(COLOURS))[thing.colour], place]
        else:
            found += [np.zeros(len(KINDS) + len(COLOURS) + 4)]
    return np.concatenate(found).astype(np.float32)


def scene(rng: np.random.Generator, pairs: float = 0.8) -> list[Thing]:
    """Two things, with the probability `pairs`, or one; sizes and places that a person could tell apart."""
    things = []
    for _ in range(1 + (rng.random() < pairs)):
        size = rng.choice([rng.uniform(0, 0.4), rng.uniform(0.6, 1)])
        things.append(
            Thing(int(rng.integers(len(KINDS))), int(rng.integers(len(COLOURS))), size, *rng.uniform(-1, 1, 2))
        )
    if len(things) == 2:
        across, up = things[0].x - things[1].x, things[0].y - things[1].y
        if abs(abs(across) - abs(up)) < 0.2 or max(abs(across), abs(up)) < 0.2:
            return scene(rng, pairs)
    return things


def state_of(model: Model, h: np.ndarray) -> Any:
    """The decoder's first state: h, of an LSTM with cells of zeros."""
    zero = model.decoder.zero_state(h.shape[0])
    return (h[None], zero[1]) if isinstance(zero, tuple) else h[None]


def objective(model: Model, batch: Batch, state: Any = None) -> Outcome:
    """The cross-entropy of a batch's sentences, and its gradients."""
    answers = batch.targets.T
    before = np.concatenate([np.full((1, answers.shape[1]), END), answers[:-1]])
    hidden, scene_tape = model.scene.forward(batch.x[0])
    h, first_tape = model.first.forward(np.maximum(hidden, 0))
    embedded, word_tape = model.words.forward(before)
    y, _, decoder_tape = model.decoder.forward(embedded, state_of(model, h))
    logits, out_tape = model.out.forward(y)
    loss, dlogits = cross_entropy(logits, answers, mask=answers != PAD)
    out = model.out.backward(out_tape, dlogits)
    decoder = model.decoder.backward(decoder_tape, out.x)
    dh = decoder.state[0] if isinstance(decoder.state, tuple) else decoder.state
    first = model.first.backward(first_tape, dh[0])
    scene = model.scene.backward(scene_tape, first.x * (hidden > 0))
    words = model.words.backward(word_tape, decoder.x)
    return Outcome(loss, model.gradients(scene=scene, first=first, words=words, decoder=decoder, out=out))


def say(model: Model, vectors: np.ndarray, longest: int) -> list[str]:
    """The likeliest word at each step."""
    state, symbols = state_of(model, model.first(np.maximum(model.scene(vectors), 0))), np.full(len(vectors), END)
    said: list[list[str]] = [[] for _ in vectors]
    open_rows = np.ones(len(vectors), bool)
    for _ in range(longest):
        y, state = model.decoder(model.words(symbols[None]), state)
        symbols = model.out(y)[0].argmax(axis=1)
        open_rows &= symbols > END
        for row in np.flatnonzero(open_rows):
            said[row].append(WORDS[symbols[row]])
    return [" ".join(words) for words in said]


def learn(options: Options) -> Result:
    """Train on scenes; test on others, whose sentences have to be right to the word."""
    cell = options.cell or "gru"
    rng = np.random.default_rng(options.seed)
    size, n, rate = (64, 3000, 0.01) if options.quick else (128, 20_000, 0.003)
    scenes = [scene(rng, 0.0 if options.quick else 0.8) for _ in range(n + 1000)]
    vectors, sentences = np.stack([vector(things) for things in scenes]), [describe(things) for things in scenes]
    longest = 1 + max(len(sentence.split()) for sentence in sentences)
    answers = np.full((len(scenes), longest), PAD)
    for row, sentence in zip(answers, sentences):
        symbols = [WORDS.index(word) for word in sentence.split()] + [END]
        row[: len(symbols)] = symbols
    seed = options.seed
    model = Model(
        scene=Linear(vectors.shape[1], 2 * size, rng=seed),
        first=Linear(2 * size, size, rng=seed),
        words=Embedding(len(WORDS), 32, rng=seed),
        decoder=options.layer(cell, 32, size),
        out=Linear(size, len(WORDS), rng=seed),
    )
    epochs = options.epochs or (30 if options.quick else 20)
    fit(
        model, Sequences(vectors[:n, None], answers[:n]), None, Adam(model.params, lr=rate), objective=objective,
        rng=seed, batch_size=64, clip=1.0, schedule=CosineSchedule(),
        **options.for_fit(cell, epochs=epochs),
    )  # fmt: skip
    said = say(model, vectors[n:], longest)
    right = [a == b for a, b in zip(said, sentences[n:])]
    lines = said[:6] + [f"wrong: {a}, not {b}" for a, b, ok in zip(said, sentences[n:], right) if not ok][:3]
    return Result(cell, {"exact": float(np.mean(right))}, lines, {"model": model})
