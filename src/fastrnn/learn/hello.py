"""One to one: a vanilla RNN that reads "hell" and says "ello", a letter at a time (Karpathy 2015)."""

from __future__ import annotations

import numpy as np

from ..train import Adam, Chain, Linear, Sequences, cross_entropy, fit
from .options import Options, Result

WORD = "hello"


def learn(options: Options) -> Result:
    """Train on the word's letters, each to be answered by the next."""
    cell = options.cell or "rnn"
    letters = sorted(set(WORD))
    indices = np.array([letters.index(letter) for letter in WORD])
    one_hot = np.eye(len(letters))[indices[:-1]]
    data = Sequences([one_hot], [indices[1:]], per_step=True)
    model = Chain(rnn=options.layer(cell, len(letters), 8), out=Linear(8, len(letters), rng=options.seed))
    fit(
        model, data, cross_entropy, Adam(model.params, lr=0.05), rng=options.seed,
        **options.for_fit(cell, epochs=200),
    )  # fmt: skip
    said = model(one_hot[:, None])[:, 0].argmax(-1)
    answer = "".join(letters[k] for k in said)
    lines = [f"{WORD[: k + 1]!r} → {answer[k]!r}" for k in range(len(answer))]
    return Result(cell, {"exact": float(answer == WORD[1:])}, lines, {"model": model})
