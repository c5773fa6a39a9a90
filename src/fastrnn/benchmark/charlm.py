"""What throughput buys: one next-character model, trained with each cell for the same few seconds.

Embedding -> fastrnn layer -> linear -> softmax, by truncated backpropagation through time with the state carried from
batch to batch.
"""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ..train import Adam, Chain, Embedding, Linear, clip_grad_norm, cross_entropy
from .kinds import KINDS
from .text import Batch, Corpus, batches


class Recipe(NamedTuple):
    """Everything that is the same for all cells."""

    hidden_size: int = 256
    embedding_size: int = 64
    steps: int = 64  # T
    streams: int = 32  # B
    learning_rate: float = 4e-3
    clip: float = 1.0  # largest norm of the gradient of all parameters
    seed: int = 0
    dtype: Any = np.float32


def make(cell: str, vocabulary: int, recipe: Recipe) -> Chain:
    """A model of the next character after each character."""
    rng, dtype = np.random.default_rng(recipe.seed), recipe.dtype
    return Chain(
        embedding=Embedding(vocabulary, recipe.embedding_size, dtype=dtype, rng=rng),
        layer=KINDS[cell].make(recipe.embedding_size, recipe.hidden_size, dtype, rng),
        out=Linear(recipe.hidden_size, vocabulary, dtype=dtype, rng=rng),
    )


def gradients_of(model: Chain, batch: Batch, state: Any) -> tuple[float, dict[str, np.ndarray], Any]:
    """Mean loss in nats, its gradient by every parameter, and the state to carry on."""
    y, tape = model.forward(batch.inputs, state)
    loss, dy = cross_entropy(y, batch.targets)
    return loss, model.backward(tape, dy).params, tape.state


class Learned(NamedTuple):
    """What one cell reached. Bits are per character; `curve` is (seconds, bits, characters seen) of training."""

    cell: str
    parameters: int
    steps: int
    characters: int
    seconds: float
    bits_before: float  # on the held-out text
    bits_after: float
    curve: list[tuple[float, float, float]]

    @property
    def characters_per_s(self) -> float:
        return self.characters / self.seconds


def learn_all(
    cells: Sequence[str], corpus: Corpus, recipe: Recipe, seconds: float, progress: Callable[[str, float, float], None]
) -> Iterator[Learned]:
    """Train with each cell in turn; `progress` gets what is under way and the seconds trained, of how many."""
    for done, cell in enumerate(cells):

        def show(trained: float, bits: float, done: int = done, cell: str = cell) -> None:
            label = f"{KINDS[cell].title} character model: {bits:.2f} bits per character"
            progress(label, done * seconds + min(trained, seconds), len(cells) * seconds)

        yield learn(cell, corpus, recipe, seconds, show)


def learn(
    cell: str, corpus: Corpus, recipe: Recipe, seconds: float, progress: Callable[[float, float], None]
) -> Learned:
    """Train for so many seconds, evaluation not counted; `progress` gets the seconds trained and the bits reached."""
    model = make(cell, len(corpus.characters), recipe)
    gradients_of(model, next(forever(corpus.training, recipe)), None)  # warms up; changes nothing
    before = bits_held_out(model, corpus, recipe)
    optimiser = Adam(model.params, recipe.learning_rate, betas=(0.9, 0.99))
    trained, shown, steps, state, history = 0.0, 0.0, 0, None, []
    for batch in forever(corpus.training, recipe):
        start = perf_counter()
        loss, gradients, state = gradients_of(model, batch, None if batch.starts else state)
        clip_grad_norm(gradients, recipe.clip)
        optimiser.step(gradients)
        trained, steps = trained + perf_counter() - start, steps + 1
        history.append((trained, bits(loss), steps * recipe.steps * recipe.streams))
        if trained > shown + 0.1:
            progress(trained, history[-1][1])
            shown = trained
        if trained >= seconds:
            break
    characters = steps * recipe.steps * recipe.streams
    after = bits_held_out(model, corpus, recipe)
    return Learned(cell, model.num_parameters, steps, characters, trained, before, after, smoothed(history))


def forever(tokens: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
    """The batches of the training text, again and again: the same for every cell."""
    while True:
        yield from batches(tokens, recipe.steps, recipe.streams)


def bits(nats: float) -> float:
    return nats / float(np.log(2))


def bits_held_out(model: Chain, corpus: Corpus, recipe: Recipe) -> float:
    """Bits per character on the held-out text, at most 100,000 characters of it."""
    state, losses = None, []
    for batch in batches(corpus.held_out[:100_000], min(recipe.steps, 16), 16):
        y, state = model.run(batch.inputs, state)
        losses.append(cross_entropy(y, batch.targets)[0])
    return bits(float(np.mean(losses)))


def smoothed(history: list[tuple[float, float, int]], points: int = 60) -> list[tuple[float, float, float]]:
    """The means of `points` consecutive stretches."""
    stretches = np.array_split(np.array(history), min(points, len(history)))
    return [tuple(stretch.mean(axis=0).tolist()) for stretch in stretches]
