"""Many to one: handwritten digits, 8 × 8 pixels, read from top to bottom, a row at a time."""

from __future__ import annotations

import numpy as np

from ..train import Adam, Chain, CosineSchedule, LastStep, Linear, Sequences, cross_entropy, fit
from .options import Options, Result, need

CHOICES = ((64, 0.005), (128, 0.005), (128, 0.01))  # (hidden_size, learning rate)


def load() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bundled digits: (1797, 8, 8) rows of pixels from 0 to 1, and (1797,) digits."""
    need("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def accuracy(model: Chain, x: np.ndarray, digits: np.ndarray) -> float:
    """The share of digits that are the model's likeliest."""
    return float((model(x.swapaxes(0, 1)).argmax(axis=1) == digits).mean())


def learn(options: Options) -> Result:
    """Choose the size and the rate on a validation split, train with the best on both, test on a fifth held out."""
    cell = options.cell or "gru"
    x, digits = load()
    order = np.random.default_rng(options.seed).permutation(len(x))
    test, validation, training = np.split(order, [len(x) // 5, len(x) * 2 // 5])
    epochs = options.epochs or (8 if options.quick else 40)

    def train(rows: np.ndarray, size: int, rate: float) -> Chain:
        rnn = options.layer(cell, 8, size, bidirectional=True)
        model = Chain(rnn=rnn, last=LastStep(bidirectional=True), out=Linear(2 * size, 10, rng=options.seed))
        fit(
            model, Sequences(x[rows], digits[rows]), cross_entropy, Adam(model.params, lr=rate), rng=options.seed,
            schedule=CosineSchedule(), clip=1.0, **options.for_fit(f"{cell}-{size}-{len(rows)}", epochs=epochs),
        )  # fmt: skip
        return model

    found = []
    for size, rate in CHOICES[:1] if options.quick else CHOICES:
        found.append((accuracy(train(training, size, rate), x[validation], digits[validation]), size, rate))
    reached, size, rate = max(found, key=lambda choice: choice[0])
    model = train(np.concatenate([validation, training]), size, rate)
    figures = {"test_accuracy": accuracy(model, x[test], digits[test]), "validation_accuracy": reached}
    lines = [
        f"hidden size {size:4}, learning rate {rate}: {100 * a:.1f} % of the validation" for a, size, rate in found
    ]
    return Result(cell, figures, lines, {"model": model})
