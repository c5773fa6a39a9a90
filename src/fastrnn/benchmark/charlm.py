"""What throughput buys: one next-character model, trained with each cell for the same few seconds.

Embedding -> fastrnn layer -> linear -> softmax, by truncated backpropagation through time with the state carried from
batch to batch. All but the layer is NumPy.

    T  characters of a batch's piece    V  vocabulary    H  hidden_size
    B  parallel streams                 E  embedding size
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from .text import Batch, Corpus, batches

Parameters = dict[str, np.ndarray]


class Recipe(NamedTuple):
    """Everything that is the same for the three cells."""

    hidden_size: int = 256
    embedding_size: int = 64
    steps: int = 64  # T
    streams: int = 32  # B
    learning_rate: float = 4e-3
    clip: float = 1.0  # largest norm of the gradient of all parameters
    seed: int = 0
    dtype: Any = np.float32


class CharModel:
    """Logits of the next character after each character."""

    def __init__(self, cell: str, vocabulary: int, recipe: Recipe):
        rng = np.random.default_rng(recipe.seed)
        E, H, dtype = recipe.embedding_size, recipe.hidden_size, recipe.dtype
        layers = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}
        self.embedding = rng.standard_normal((vocabulary, E)).astype(dtype)
        self.weight = rng.uniform(-1, 1, (vocabulary, H)).astype(dtype) / np.sqrt(H, dtype=dtype)
        self.bias = np.zeros(vocabulary, dtype)
        self.layer = layers[cell](E, H, dtype=dtype, rng=rng)

    @property
    def params(self) -> Parameters:
        return {"embedding": self.embedding, "weight": self.weight, "bias": self.bias, **self.layer.params}

    def loss_and_gradients(self, inputs: np.ndarray, targets: np.ndarray, state: Any) -> tuple[float, Parameters, Any]:
        """Mean loss in nats over (T, B) targets, its gradient by every parameter, and the state to carry on."""
        y, state, tape = self.layer.forward(self.embedding[inputs], state)
        rows = y.reshape(-1, y.shape[-1])
        loss, dlogits = cross_entropy(rows @ self.weight.T + self.bias, targets.ravel())
        through = self.layer.backward(tape, (dlogits @ self.weight).reshape(y.shape))
        one_hot = np.zeros((len(self.embedding), inputs.size), y.dtype)
        one_hot[inputs.ravel(), np.arange(inputs.size)] = 1
        own = {
            "embedding": one_hot @ through.x.reshape(inputs.size, -1),
            "weight": dlogits.T @ rows,
            "bias": dlogits.sum(axis=0),
        }
        return loss, {**own, **through.params}, state

    def loss(self, tokens: np.ndarray, streams: int, steps: int) -> float:
        """Mean loss in nats over a whole text, nothing kept for a gradient."""
        served, state, losses = self.layer.freeze(), None, []
        for batch in batches(tokens, steps, streams):
            y, state = served(self.embedding[batch.inputs], state)
            logits = y.reshape(-1, y.shape[-1]) @ self.weight.T + self.bias
            losses.append(cross_entropy(logits, batch.targets.ravel())[0])
        return float(np.mean(losses))


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of -log softmax(logits)[target] over N rows, and its gradient (N, V), which takes the place of `logits`."""
    rows = np.arange(len(logits))
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[rows, targets]
    p = np.exp(logits, out=logits)
    total = p.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - chosen))
    p /= total
    p[rows, targets] -= 1
    p /= len(p)
    return loss, p


def clip(gradients: Mapping[str, np.ndarray], largest: float) -> None:
    """Scale all gradients by one factor, in place, so that their common norm is at most `largest`."""
    norm = np.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    if norm > largest:
        for g in gradients.values():
            g *= largest / norm


class Adam:
    """Kingma & Ba, Adam: a method for stochastic optimization (2015), algorithm 1, in place."""

    def __init__(self, params: Parameters, rate: float, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-8):
        self.params, self.rate, self.beta1, self.beta2, self.eps = params, rate, beta1, beta2, eps
        self.m = {name: np.zeros_like(p) for name, p in params.items()}
        self.v = {name: np.zeros_like(p) for name, p in params.items()}
        self.t = 0

    def step(self, gradients: Mapping[str, np.ndarray]) -> None:
        self.t += 1
        rate = self.rate * np.sqrt(1 - self.beta2**self.t) / (1 - self.beta1**self.t)
        for name, p in self.params.items():
            g, m, v = gradients[name], self.m[name], self.v[name]
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            p -= float(rate) * m / (np.sqrt(v) + self.eps)


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
            label = f"{cell.upper()} character model: {bits:.2f} bits per character"
            progress(label, done * seconds + min(trained, seconds), len(cells) * seconds)

        yield learn(cell, corpus, recipe, seconds, show)


def learn(
    cell: str, corpus: Corpus, recipe: Recipe, seconds: float, progress: Callable[[float, float], None]
) -> Learned:
    """Train for so many seconds, evaluation not counted; `progress` gets the seconds trained and the bits reached."""
    model = CharModel(cell, len(corpus.characters), recipe)
    first = next(forever(corpus.training, recipe))
    model.loss_and_gradients(first.inputs, first.targets, None)  # warms up; changes nothing
    before = bits_held_out(model, corpus, recipe)
    optimiser = Adam(model.params, recipe.learning_rate)
    trained, shown, steps, state, history = 0.0, 0.0, 0, None, []
    for batch in forever(corpus.training, recipe):
        start = perf_counter()
        loss, gradients, state = model.loss_and_gradients(batch.inputs, batch.targets, None if batch.starts else state)
        clip(gradients, recipe.clip)
        optimiser.step(gradients)
        trained, steps = trained + perf_counter() - start, steps + 1
        history.append((trained, bits(loss), steps * recipe.steps * recipe.streams))
        if trained > shown + 0.1:
            progress(trained, history[-1][1])
            shown = trained
        if trained >= seconds:
            break
    parameters = sum(p.size for p in model.params.values())
    characters = steps * recipe.steps * recipe.streams
    after = bits_held_out(model, corpus, recipe)
    return Learned(cell, parameters, steps, characters, trained, before, after, smoothed(history))


def forever(tokens: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
    """The batches of the training text, again and again: the same for every cell."""
    while True:
        yield from batches(tokens, recipe.steps, recipe.streams)


def bits(nats: float) -> float:
    return nats / float(np.log(2))


def bits_held_out(model: CharModel, corpus: Corpus, recipe: Recipe) -> float:
    """Bits per character on the held-out text, at most 100,000 characters of it."""
    return bits(model.loss(corpus.held_out[:100_000], streams=16, steps=min(recipe.steps, 16)))


def smoothed(history: list[tuple[float, float, int]], points: int = 60) -> list[tuple[float, float, float]]:
    """The means of `points` consecutive stretches."""
    stretches = np.array_split(np.array(history), min(points, len(history)))
    return [tuple(stretch.mean(axis=0).tolist()) for stretch in stretches]
