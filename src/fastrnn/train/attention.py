"""Attention over time: a learnt query that sums a sequence up, and a decoder's queries over an encoder's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from .counting import valid_steps
from .part import Part, PartGrads, PartTape, check_tape, gradient

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray


def only_valid(x: Array, valid: Array | None) -> Array:
    """`x` (T, B, n), zero where not `valid` (T, B)."""
    return x if valid is None else np.where(valid[..., None], x, x.dtype.type(0))


def softmax(scores: Array, valid: Array | None, axis: int) -> Array:
    """exp(scores) / Σ exp(scores) along an axis, zero where not `valid`, without overflow."""
    if valid is not None:
        scores = np.where(valid, scores, scores.dtype.type(-np.inf))
    e = np.exp(scores - scores.max(axis=axis, keepdims=True, initial=-np.inf))
    if valid is None:
        return e / e.sum(axis=axis, keepdims=True)
    e = np.where(valid, e, e.dtype.type(0))  # of nothing valid it was NaN: nothing is attended to then
    return e / np.where(valid.any(axis=axis, keepdims=True), e.sum(axis=axis, keepdims=True), e.dtype.type(1))


def softmax_backward(weights: Array, dweights: Array, axis: int) -> Array:
    """The gradient by the scores: w (dw - Σ w dw)."""
    return weights * (dweights - (weights * dweights).sum(axis=axis, keepdims=True))


@dataclass(eq=False, repr=False)
class PoolingTape(PartTape):
    x: Array  # zero past a row's length
    valid: Array | None  # (T, B)
    u: Array  # (T, B, attention_size): tanh(W x + b)
    weights: Array  # (T, B): the share of each step in y, zero past a row's length


class AttentionPooling(Part):
    """The sum of a sequence's steps, weighted by how well they answer a learnt query: x (T, B, I), y (B, I).

        u_t = tanh(W x_t + b)       w_t = softmax over t of (q · u_t)       y = Σ_t w_t x_t

    (Yang et al., Hierarchical attention networks, 2016.) Parameters weight (A, I), bias (A,), query (A,), A being
    attention_size, by default input_size; all from U(-1/√I, 1/√I), the query from U(-1/√A, 1/√A).
    `tape.weights` (T, B) shows what was attended to. Of a row of length 0, y is zero.
    Raises TypeError or ValueError that names the argument.

        >>> part = AttentionPooling(input_size=32, rng=0)
        >>> y, tape = part.forward(np.zeros((50, 2, 32)), lengths=[50, 20])  # y (2, 32), tape.weights (50, 2)
    """

    takes_lengths = True
    ends_time = True

    def __init__(
        self, input_size: int, attention_size: int | None = None, *, dtype: DTypeLike = np.float32, rng: Any = None
    ) -> None:
        self.input_size = I = checks.integer("input_size", input_size)
        self.attention_size = A = I if attention_size is None else checks.integer("attention_size", attention_size)
        self.dtype = checks.float_dtype(dtype)
        generator = checks.generator(rng)
        shapes = {"weight": ((A, I), 1 / sqrt(I)), "bias": ((A,), 1 / sqrt(I)), "query": ((A,), 1 / sqrt(A))}
        super().__init__({n: generator.uniform(-b, b, shape).astype(self.dtype) for n, (shape, b) in shapes.items()})

    @property
    def config(self) -> dict[str, Any]:
        return {"input_size": self.input_size, "attention_size": self.attention_size, "dtype": self.dtype.name}

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return y (B, I) of x (T, B, I), which is not read past a row's length."""
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, PoolingTape]:
        """Return (y, tape): as a call, and what `backward` needs."""
        given = checks.shaped("x", checks.real("x", x), ("T", "B", self.input_size))
        valid = valid_steps(lengths, *given.shape[:2])
        given, p = only_valid(checks.contiguous(given, self.dtype), valid), self._params
        with np.errstate(all="ignore"):
            u = np.tanh(given @ p["weight"].T + p["bias"])
            weights = softmax(u @ p["query"], valid, axis=0)
            return np.einsum("tb,tbi->bi", weights, given), PoolingTape(self, given, valid, u, weights)

    def backward(self, tape: PoolingTape, dy: ArrayLike) -> PartGrads:
        """Gradients by x, zero past a row's length, and by the parameters."""
        x, u, weights, p = check_tape(tape, PoolingTape, self).x, tape.u, tape.weights, self._params
        d = gradient("dy", dy, x.shape[1:], self.dtype)
        with np.errstate(all="ignore"):
            dscores = softmax_backward(weights, np.einsum("bi,tbi->tb", d, x), axis=0)
            da = dscores[..., None] * p["query"] * (1 - u * u)
            flat = da.reshape(-1, self.attention_size)
            grads = {
                "weight": flat.T @ x.reshape(-1, self.input_size),
                "bias": flat.sum(axis=0),
                "query": dscores.reshape(-1) @ u.reshape(-1, self.attention_size),
            }
            return PartGrads(only_valid(weights[..., None] * d + da @ p["weight"], tape.valid), grads)


@dataclass(eq=False, repr=False)
class DotTape(PartTape):
    queries: Array
    keys: Array  # zero past a row's length
    valid: Array | None  # (T, B)
    projected: Array  # (S, B, K): the queries as they meet the keys
    weights: Array  # (S, B, T): the share of each key in each context, zero past a row's length


class DotAttention(Part):
    """What each query of a decoder finds in an encoder's outputs: queries (S, B, Q), keys (T, B, K), y (S, B, K).

        score_st = q_s · k_t, or with general=True q_s · W k_t      y_s = Σ_t softmax over t of (score_st) k_t

    (Luong et al., Effective approaches to attention-based neural machine translation, 2015: "dot" and "general", which
    sizes that differ ask for.) Parameter, of general only: weight (Q, K), from U(-1/√K, 1/√K). `lengths` are the
    keys', which past them are not read; of a row without keys y is zero. `tape.weights` (S, B, T) shows what was
    attended to. Raises TypeError or ValueError that names the argument.

        >>> part = DotAttention(query_size=32, key_size=64, rng=0)
        >>> context, tape = part.forward(np.zeros((9, 2, 32)), np.zeros((50, 2, 64)), lengths=[50, 20])  # (9, 2, 64)
        >>> dqueries, dkeys = part.backward(tape, context).x
    """

    takes_lengths = True

    def __init__(
        self,
        query_size: int,
        key_size: int | None = None,
        *,
        general: bool | None = None,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self.query_size = Q = checks.integer("query_size", query_size)
        self.key_size = K = Q if key_size is None else checks.integer("key_size", key_size)
        self.general = Q != K if general is None else checks.flag("general", general)
        self.dtype = checks.float_dtype(dtype)
        if Q != K and not self.general:
            raise ValueError(f"general: expected True where query_size {Q} and key_size {K} differ, got False")
        bound, generator = 1 / sqrt(K), checks.generator(rng)
        weight = generator.uniform(-bound, bound, (Q, K)).astype(self.dtype)
        super().__init__({"weight": weight} if self.general else {})

    @property
    def config(self) -> dict[str, Any]:
        sizes = {"query_size": self.query_size, "key_size": self.key_size}
        return sizes | {"general": self.general, "dtype": self.dtype.name}

    def __call__(self, queries: ArrayLike, keys: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return y (S, B, K) of queries (S, B, Q), which are read whole, and keys (T, B, K)."""
        return self.forward(queries, keys, lengths)[0]

    def forward(self, queries: ArrayLike, keys: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, DotTape]:
        """Return (y, tape): as a call, and what `backward` needs."""
        k = checks.shaped("keys", checks.real("keys", keys), ("T", "B", self.key_size))
        q = checks.shaped("queries", checks.real("queries", queries), ("S", k.shape[1], self.query_size))
        valid = valid_steps(lengths, *k.shape[:2])
        q, k = checks.contiguous(q, self.dtype), only_valid(checks.contiguous(k, self.dtype), valid)
        with np.errstate(all="ignore"):
            # The queries, not the keys, meet the weight: a decoder at its work has one of them for many keys.
            projected = q @ self._params["weight"] if self.general else q
            scores = projected.swapaxes(0, 1) @ k.transpose(1, 2, 0)  # (B, S, T)
            weights = softmax(scores, None if valid is None else valid.T[:, None], axis=2)
            y = by_time(weights @ k.swapaxes(0, 1))
        return y, DotTape(self, q, k, valid, projected, weights.swapaxes(0, 1))

    def backward(self, tape: DotTape, dy: ArrayLike) -> PartGrads:
        """Gradients by (queries, keys), the keys' zero past a row's length, and by the weight."""
        S, B, _ = check_tape(tape, DotTape, self).queries.shape
        d = gradient("dy", dy, (S, B, self.key_size), self.dtype).swapaxes(0, 1)
        k, weights = tape.keys.swapaxes(0, 1), tape.weights.swapaxes(0, 1)  # (B, ...), as all here
        grads = {}
        with np.errstate(all="ignore"):
            dscores = softmax_backward(weights, d @ k.swapaxes(1, 2), axis=2)
            dk = by_time(weights.swapaxes(1, 2) @ d + dscores.swapaxes(1, 2) @ tape.projected.swapaxes(0, 1))
            dq = dprojected = by_time(dscores @ k)
            if self.general:
                grads["weight"] = tape.queries.reshape(-1, self.query_size).T @ dprojected.reshape(-1, self.key_size)
                dq = dprojected @ self._params["weight"].T
        return PartGrads((dq, only_valid(dk, tape.valid)), grads)


def by_time(array: Array) -> Array:
    """(B, T, n) as (T, B, n)."""
    return np.ascontiguousarray(array.swapaxes(0, 1))
