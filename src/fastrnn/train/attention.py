"""Attention over time: a learnt query that sums a sequence up, and a decoder's queries over an encoder's outputs."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from .part import Part, PartGrads, gradient

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray


def valid_steps(lengths: ArrayLike | None, T: int, B: int) -> Array | None:
    """(T, B): whether each step is one of its row, None where all are; a row without a step is an error."""
    steps = checks.lengths(lengths, T, B, batched=True)
    if steps is None:
        if not T:
            raise ValueError("x: expected at least one step to attend to, got none")
        return None
    if B and not steps.min():
        raise ValueError("lengths: expected at least one step in each row to attend to, got a row of none")
    return np.arange(T)[:, None] < steps


def softmax(scores: Array, valid: Array | None, axis: int) -> Array:
    """exp(scores) / Σ exp(scores) along an axis, zero where not `valid`, without overflow."""
    if valid is not None:
        scores = np.where(valid, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax_backward(weights: Array, dweights: Array, axis: int) -> Array:
    """The gradient by the scores: w (dw - Σ w dw)."""
    return weights * (dweights - (weights * dweights).sum(axis=axis, keepdims=True))


class PoolingTape(NamedTuple):
    x: Array
    u: Array  # (T, B, attention_size): tanh(W x + b)
    weights: Array  # (T, B): the share of each step in y, zero past a row's length
    y: Array


class AttentionPooling(Part):
    """The sum of a sequence's steps, weighted by how well they answer a learnt query: x (T, B, I), y (B, I).

        u_t = tanh(W x_t + b)       w_t = softmax over t of (q · u_t)       y = Σ_t w_t x_t

    (Yang et al., Hierarchical attention networks, 2016.) Parameters weight (A, I), bias (A,), query (A,), A being
    attention_size, by default input_size; all from U(-1/√I, 1/√I), the query from U(-1/√A, 1/√A).
    `tape.weights` (T, B) shows what was attended to.
    """

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
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, PoolingTape]:
        """Return (y, tape)."""
        given = checks.shaped("x", checks.real("x", x), ("T", "B", self.input_size))
        valid = valid_steps(lengths, *given.shape[:2])
        given = checks.contiguous(given, self.dtype)
        if valid is not None:
            given = np.where(valid[..., None], given, self.dtype.type(0))
        p = self._params
        u = np.tanh(given @ p["weight"].T + p["bias"])
        weights = softmax(u @ p["query"], valid, axis=0)
        y = np.einsum("tb,tbi->bi", weights, given)
        return y, PoolingTape(given, u, weights, y)

    def backward(self, tape: PoolingTape, dy: ArrayLike) -> PartGrads:
        """Gradients by x, zero past a row's length, and by the parameters."""
        d = gradient("dy", dy, tape.y)
        x, u, weights, p = tape.x, tape.u, tape.weights, self._params
        dscores = softmax_backward(weights, np.einsum("bi,tbi->tb", d, x), axis=0)
        da = dscores[..., None] * p["query"] * (1 - u * u)
        flat = da.reshape(-1, self.attention_size)
        grads = {
            "weight": flat.T @ x.reshape(-1, self.input_size),
            "bias": flat.sum(axis=0),
            "query": np.einsum("tb,tba->a", dscores, u),
        }
        return PartGrads(weights[..., None] * d + da @ p["weight"], grads)


class DotTape(NamedTuple):
    queries: Array
    keys: Array
    projected: Array  # (B, T, Q): the keys as the queries meet them
    weights: Array  # (S, B, T): the share of each key in each context, zero past a row's length
    y: Array


class DotAttention(Part):
    """What each query of a decoder finds in an encoder's outputs: queries (S, B, Q), keys (T, B, K), y (S, B, K).

        score_st = q_s · k_t, or with general=True q_s · W k_t      y_s = Σ_t softmax over t of (score_st) k_t

    (Luong et al., Effective approaches to attention-based neural machine translation, 2015: "dot" and "general", which
    sizes that differ ask for.) Parameter, of general only: weight (Q, K), from U(-1/√K, 1/√K). `lengths` are the
    keys'. `tape.weights` (S, B, T) shows what was attended to.
    """

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
        return self.forward(queries, keys, lengths)[0]

    def forward(self, queries: ArrayLike, keys: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, DotTape]:
        """Return (y, tape)."""
        k = checks.shaped("keys", checks.real("keys", keys), ("T", "B", self.key_size))
        q = checks.shaped("queries", checks.real("queries", queries), ("S", k.shape[1], self.query_size))
        valid = valid_steps(lengths, *k.shape[:2])
        q, k = (checks.contiguous(array, self.dtype) for array in (q, k))
        if valid is not None:
            k = np.where(valid[..., None], k, self.dtype.type(0))
        projected = (k @ self._params["weight"].T if self.general else k).swapaxes(0, 1)
        scores = (q.swapaxes(0, 1) @ projected.swapaxes(1, 2)).swapaxes(0, 1)
        weights = softmax(scores, None if valid is None else valid.T[None], axis=2)
        y = (weights.swapaxes(0, 1) @ k.swapaxes(0, 1)).swapaxes(0, 1)
        return y, DotTape(q, k, projected, weights, y)

    def backward(self, tape: DotTape, dy: ArrayLike) -> PartGrads:
        """Gradients by (queries, keys), the keys' zero past a row's length, and by the weight."""
        d = gradient("dy", dy, tape.y).swapaxes(0, 1)  # (B, S, K), as all here
        q, k, weights = (array.swapaxes(0, 1) for array in (tape.queries, tape.keys, tape.weights))
        dscores = softmax_backward(weights, d @ k.swapaxes(1, 2), axis=2)
        dq = dscores @ tape.projected
        dprojected = dscores.swapaxes(1, 2) @ q
        dk = weights.swapaxes(1, 2) @ d
        grads = {}
        if self.general:
            flat = dprojected.reshape(-1, self.query_size)
            grads["weight"] = flat.T @ k.reshape(-1, self.key_size)
            dk = dk + dprojected @ self._params["weight"]
        else:
            dk = dk + dprojected
        return PartGrads((dq.swapaxes(0, 1), dk.swapaxes(0, 1)), grads)
