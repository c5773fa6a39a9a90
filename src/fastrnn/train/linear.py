"""Linear, Embedding, and the two parts without parameters that pick or drop: LastStep, Dropout."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..portable import portable
from .part import Part, PartGrads, gradient

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray


class LinearTape(NamedTuple):
    x: Array
    y: Array


class Linear(Part):
    """y = x Wᵀ + b over the last axis: x (..., input_size), y (..., output_size), as torch.nn.Linear.

    Parameters weight (output_size, input_size) and bias (output_size,), both from U(-1/√input_size, 1/√input_size).
    """

    def __init__(
        self, input_size: int, output_size: int, *, bias: bool = True, dtype: DTypeLike = np.float32, rng: Any = None
    ) -> None:
        self.input_size = checks.integer("input_size", input_size)
        self.output_size = checks.integer("output_size", output_size)
        self.bias, self.dtype = checks.flag("bias", bias), checks.float_dtype(dtype)
        generator, bound = checks.generator(rng), 1 / sqrt(self.input_size)
        shapes = {"weight": (self.output_size, self.input_size)} | ({"bias": (self.output_size,)} if self.bias else {})
        super().__init__({n: generator.uniform(-bound, bound, shape).astype(self.dtype) for n, shape in shapes.items()})

    @property
    def config(self) -> dict[str, Any]:
        return {
            "input_size": self.input_size,
            "output_size": self.output_size,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[Array, LinearTape]:
        """Return (y, tape). Raises ValueError for a wrong last axis."""
        given = checks.real("x", x)
        if given.shape[-1:] != (self.input_size,):
            raise ValueError(f"x: expected a last axis of {self.input_size}, got shape {checks.show(given.shape)}")
        given = checks.contiguous(given, self.dtype)
        flat = given.reshape(-1, self.input_size)
        with np.errstate(all="ignore"):  # padding may be anything
            y = flat @ self._params["weight"].T
            if self.bias:
                y += self._params["bias"]
        y = y.reshape(*given.shape[:-1], self.output_size)
        return y, LinearTape(given, y)

    def backward(self, tape: LinearTape, dy: ArrayLike) -> PartGrads:
        """Gradients by x, weight and bias. Rows of x whose dy is zero may hold anything, NaN included."""
        d = gradient("dy", dy, tape.y).reshape(-1, self.output_size)
        x = tape.x.reshape(-1, self.input_size)
        if not np.isfinite(np.vdot(x, x)):
            x = np.where(d.any(axis=1, keepdims=True), x, x.dtype.type(0))  # 0 · NaN would be NaN
        grads = {"weight": d.T @ x}
        if self.bias:
            grads["bias"] = d.sum(axis=0)
        return PartGrads((d @ self._params["weight"]).reshape(tape.x.shape), grads)


class EmbeddingTape(NamedTuple):
    indices: Array
    counted: Array | None  # which of them are read
    y: Array


class Embedding(Part):
    """A row of `weight` for every index: x integers (...), y (..., embedding_dim), as torch.nn.Embedding.

    weight (num_embeddings, embedding_dim) from N(0, 1); its row padding_idx is zero and gets no gradient. With
    `lengths` x is (T, B), and indices past a row's length are not read: y is zero there.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
    ) -> None:
        self.num_embeddings = checks.integer("num_embeddings", num_embeddings)
        self.embedding_dim = checks.integer("embedding_dim", embedding_dim)
        self.dtype, self.padding_idx = checks.float_dtype(dtype), padding_idx
        if padding_idx is not None and not 0 <= checks.integer("padding_idx", padding_idx + 1) - 1 < num_embeddings:
            raise ValueError(f"padding_idx: expected an index below {num_embeddings}, got {padding_idx}")
        weight = checks.generator(rng).standard_normal((self.num_embeddings, self.embedding_dim)).astype(self.dtype)
        if padding_idx is not None:
            weight[padding_idx] = 0
        super().__init__({"weight": weight})

    @property
    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "dtype": self.dtype.name,
        }

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, EmbeddingTape]:
        """Return (y, tape). Raises TypeError for what are no integers, ValueError for indices out of range."""
        indices = checks.real("x", x)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, the indices of rows, got dtype {indices.dtype}")
        counted = None
        if lengths is not None:
            checks.shaped("x", indices, ("T", "B"))
            steps: Any = checks.lengths(lengths, len(indices), indices.shape[1], batched=True)
            counted = np.arange(len(indices))[:, None] < steps
            indices = np.where(counted, indices, 0)
        outside = (indices < 0) | (indices >= self.num_embeddings)
        if outside.any():
            place = tuple(int(k) for k in np.argwhere(outside)[0])
            what = f"expected indices from 0 to {self.num_embeddings - 1}"
            raise ValueError(f"x: {what}, got {indices[place]} at {place}")
        y = self._params["weight"][indices]
        if counted is not None:
            y[~counted] = 0
        return y, EmbeddingTape(indices.copy(), counted, y)

    def backward(self, tape: EmbeddingTape, dy: ArrayLike) -> PartGrads:
        """The gradient of the weight: the sums of dy over the places of each index, in their order."""
        d = gradient("dy", dy, tape.y)
        keep = np.ones(tape.indices.shape, bool) if tape.counted is None else tape.counted.copy()
        if self.padding_idx is not None:
            keep &= tape.indices != self.padding_idx
        indices, rows = tape.indices[keep], d[keep]
        weight = np.zeros_like(self._params["weight"])
        if len(indices):
            order = np.argsort(indices, kind="stable")
            sorted_indices = indices[order]
            starts = np.flatnonzero(np.diff(sorted_indices, prepend=-1))
            weight[sorted_indices[starts]] = np.add.reduceat(rows[order], starts, axis=0)
        return PartGrads(None, {"weight": weight})


class LastStepTape(NamedTuple):
    shape: tuple[int, ...]
    last: Array  # (B,): the last valid step of each row, -1 for none
    dtype: np.dtype


class LastStep(Part):
    """The output at each row's last valid step: x (T, B, F), y (B, F); zeros for a row of length 0.

    With bidirectional=True the second half of the features is taken at step 0, where the reverse direction ends.
    """

    def __init__(self, *, bidirectional: bool = False) -> None:
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        super().__init__({})

    @property
    def config(self) -> dict[str, Any]:
        return {"bidirectional": self.bidirectional}

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, LastStepTape]:
        """Return (y, tape)."""
        given = checks.shaped("x", checks.real("x", x), ("T", "B", "F"))
        T, B, F = given.shape
        if self.bidirectional and F % 2:
            raise ValueError(f"x: expected an even number of features, half of them a direction's, got {F}")
        steps = checks.lengths(lengths, T, B, batched=True)
        last = np.full(B, T - 1) if steps is None else steps - 1
        tape = LastStepTape(given.shape, last, given.dtype)
        y = np.zeros((B, F), given.dtype)
        for features, step in self._pieces(tape):
            rows = np.flatnonzero(last >= 0)
            y[rows, features] = given[step[rows], rows, features]
        return y, tape

    def _pieces(self, tape: LastStepTape) -> list[tuple[slice, Array]]:
        """The features of each direction, and where it ends."""
        F = tape.shape[2]
        if not self.bidirectional:
            return [(slice(F), tape.last)]
        return [(slice(F // 2), tape.last), (slice(F // 2, F), np.zeros_like(tape.last))]

    def backward(self, tape: LastStepTape, dy: ArrayLike) -> PartGrads:
        """The gradient by x: dy at those steps, zero elsewhere."""
        d = gradient("dy", dy, np.empty((tape.shape[1], tape.shape[2]), tape.dtype))
        dx = np.zeros(tape.shape, tape.dtype)
        rows = np.flatnonzero(tape.last >= 0)
        for features, step in self._pieces(tape):
            dx[step[rows], rows, features] = d[rows, features]
        return PartGrads(dx, {})


class Dropout(Part):
    """In `forward` each element is zero with probability p, the others are scaled by 1/(1 - p); a call changes nothing.

    The masks are drawn from `rng` (Srivastava et al. 2014, scaled as in torch.nn.Dropout).
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        self.p = checks.probability("p", p)
        self._rng = portable(checks.generator(rng))
        super().__init__({})

    @property
    def rng(self) -> np.random.Generator:
        """The Generator of the masks."""
        return self._rng.generator

    @property
    def config(self) -> dict[str, Any]:
        return {"p": self.p}

    def __call__(self, x: ArrayLike) -> Array:
        return checks.real("x", x)

    def forward(self, x: ArrayLike) -> tuple[Array, Array | None]:
        """Return (y, tape)."""
        given = checks.real("x", x)
        if not self.p:
            return given, None
        scale = 0.0 if self.p == 1 else 1 / (1 - self.p)
        mask = (self.rng.random(given.shape, np.float32) >= self.p).astype(given.dtype) * given.dtype.type(scale)
        with np.errstate(all="ignore"):
            return given * mask, mask

    def backward(self, tape: Array | None, dy: ArrayLike) -> PartGrads:
        """The gradient by x: dy through the same mask."""
        d = checks.real("dy", dy)
        if tape is None:
            return PartGrads(d, {})
        return PartGrads(gradient("dy", d, tape) * tape, {})
