"""An encoder and a decoder with attention between them (Bahdanau et al. 2015, Luong et al. 2015), for symbols.

    x        (T, B) the source's symbols        targets  (B, S) the answer's, ended by END, then padded with PAD

The encoder reads in both directions; where it ends, the decoder begins. At each step the decoder sees the symbol before
(the right one while it learns, its own when it answers), attends to the encoder's outputs and gives the next symbol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..train import Batch, DotAttention, Embedding, Linear, Model, Outcome, cross_entropy
from .options import Options

PAD, END = 0, 1  # the first two symbols of an answer's alphabet; END also begins it

Array = np.ndarray


def make(options: Options, cell: str, source: int, target: int, size: int, width: int = 32) -> Model:
    """A translator from an alphabet of `source` symbols into one of `target`; `size` is even."""
    seed = options.seed
    return Model(
        source=Embedding(source, width, rng=seed),
        encoder=options.layer(cell, width, size // 2, bidirectional=True),
        target=Embedding(target, width, rng=seed + 1),
        decoder=options.layer(cell, width, size),
        attention=DotAttention(size, general=True, rng=seed),
        out=Linear(2 * size, target, rng=seed),
    )


def join(state: Any) -> Any:
    """The encoder's final state, (2, B, size/2), as the decoder's first, (1, B, size)."""
    if isinstance(state, tuple):
        return tuple(map(join, state))
    return np.concatenate([state[0], state[1]], axis=1)[None]


def part(dstate: Any) -> Any:
    """The gradient by what `join` gave as that by what it was given."""
    if isinstance(dstate, tuple):
        return tuple(map(part, dstate))
    return np.ascontiguousarray(np.stack(np.split(dstate[0], 2, axis=1)))


def objective(model: Model, batch: Batch, state: Any = None) -> Outcome:
    """The cross-entropy of a batch's answers, and its gradients."""
    answers = batch.targets.T
    before = np.concatenate([np.full((1, answers.shape[1]), END), answers[:-1]])
    embedded, source_tape = model.source.forward(batch.x, batch.lengths)
    keys, after, encoder_tape = model.encoder.forward(embedded, lengths=batch.lengths)
    asked, target_tape = model.target.forward(before)
    y, _, decoder_tape = model.decoder.forward(asked, join(after))
    context, attention_tape = model.attention.forward(y, keys, batch.lengths)
    logits, out_tape = model.out.forward(np.concatenate([y, context], axis=2))
    loss, dlogits = cross_entropy(logits, answers, mask=answers != PAD)

    out = model.out.backward(out_tape, dlogits)
    dy, dcontext = np.split(out.x, 2, axis=2)
    attention = model.attention.backward(attention_tape, dcontext)
    dqueries, dkeys = attention.x
    decoder = model.decoder.backward(decoder_tape, dy + dqueries)
    encoder = model.encoder.backward(encoder_tape, dkeys, part(decoder.state))
    found = {"out": out, "attention": attention, "decoder": decoder, "encoder": encoder}
    found["target"] = model.target.backward(target_tape, decoder.x)
    found["source"] = model.source.backward(source_tape, encoder.x)
    return Outcome(loss, model.gradients(**found))


class Decoding:
    """A decoder at work: where it is in the answers of a batch of sources."""

    def __init__(self, model: Model, x: Array, lengths: Array | None) -> None:
        self.model, self.lengths = model, lengths
        self.keys, after = model.encoder(model.source(x, lengths), lengths=lengths)
        self.state = join(after)

    def step(self, symbols: Array) -> tuple[Array, Array]:
        """The log-probabilities (B, target) of the next symbols after these, (B,), and the attention (B, T)."""
        model = self.model
        y, self.state = model.decoder(model.target(symbols[None]), self.state)
        context, tape = model.attention.forward(y, self.keys, self.lengths)
        logits = model.out(np.concatenate([y, context], axis=2))[0]
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), tape.weights[0]

    def take(self, rows: Array) -> None:
        """Go on with these rows, of which some may be the same."""
        state = self.state
        self.state = tuple(p[:, rows] for p in state) if isinstance(state, tuple) else state[:, rows]
        self.keys = self.keys[:, rows]
        self.lengths = None if self.lengths is None else self.lengths[rows]


def beam(model: Model, x: Array, lengths: Array | None, longest: int, width: int) -> list[list[int]]:
    """The likeliest answers that `width` candidates for each source find, their END left out."""
    decoding, B = Decoding(model, x, lengths), x.shape[1]
    decoding.take(np.repeat(np.arange(B), width))
    scores = np.tile(np.where(np.arange(width) == 0, 0.0, -np.inf), (B, 1))  # one candidate to begin with
    symbols, ended = np.full(B * width, END), np.zeros((B, width), bool)
    answers = np.full((B, width, longest), PAD)
    for t in range(longest):
        log_p, _ = decoding.step(symbols)
        log_p = log_p.reshape(B, width, -1).astype(np.float64)
        log_p[..., PAD] = -np.inf
        log_p[ended] = -np.inf
        log_p[ended, PAD] = 0.0  # what has ended goes on unchanged
        total = (scores[..., None] + log_p).reshape(B, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :width]
        scores = np.take_along_axis(total, best, axis=1)
        parent, symbol = np.divmod(best, log_p.shape[2])
        answers = np.take_along_axis(answers, parent[..., None], axis=1)
        ended = np.take_along_axis(ended, parent, axis=1) | (symbol <= END)
        answers[..., t] = symbol
        if ended.all():
            break
        decoding.take((np.arange(B)[:, None] * width + parent).reshape(-1))
        symbols = symbol.reshape(-1)
    return [[int(symbol) for symbol in answer if symbol > END] for answer in answers[:, 0]]


def greedy(model: Model, x: Array, lengths: Array | None, longest: int) -> tuple[list[list[int]], Array]:
    """The likeliest symbol at each step: each source's answer without its END, and the attention (S, B, T)."""
    decoding, B = Decoding(model, x, lengths), x.shape[1]
    symbols, open_rows = np.full(B, END), np.ones(B, bool)
    answers: list[list[int]] = [[] for _ in range(B)]
    attention = []
    for _ in range(longest):
        log_p, weights = decoding.step(symbols)
        symbols = log_p.argmax(axis=1)
        attention.append(weights)
        open_rows &= symbols > END
        for row in np.flatnonzero(open_rows):
            answers[row].append(int(symbols[row]))
        if not open_rows.any():
            break
    return answers, np.stack(attention)
