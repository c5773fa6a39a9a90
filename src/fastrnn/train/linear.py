"""Linear, Embedding, and the two parts without parameters that pick or drop: LastStep, Dropout."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.portable import portable
from ..core.stack import drop
from .counting import valid_steps
from .part import Part, PartGrads, PartTape, check_tape, floating, gradient

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray


@dataclass(eq=False, repr=False)
class LinearTape(PartTape):
    x: Array


class Linear(Part):
    """y = x Wᵀ + b over the last axis: x (..., input_size), y (..., output_size), as torch.nn.Linear.

    Parameters weight (output_size, input_size) and bias (output_size,), both from U(-1/√input_size, 1/√input_size).
    Raises TypeError or ValueError that names the argument.

        >>> part = Linear(input_size=32, output_size=10, rng=0)
        >>> y, tape = part.forward(np.zeros((50, 16, 32)))  # y (50, 16, 10)
        >>> grads = part.backward(tape, y)  # grads.x, grads.params["weight"], grads.params["bias"]
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
        """Return y (..., output_size) of x (..., input_size). Raises ValueError for a wrong last axis."""
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[Array, LinearTape]:
        """Return (y, tape): as a call, and what `backward` needs."""
        given = checks.real("x", x)
        if given.shape[-1:] != (self.input_size,):
            raise ValueError(f"x: expected a last axis of {self.input_size}, got shape {checks.show(given.shape)}")
        given = checks.contiguous(given, self.dtype)
        with np.errstate(all="ignore"):  # padding may be anything
            y = given.reshape(-1, self.input_size) @ self._params["weight"].T
            if self.bias:
                y += self._params["bias"]
        return y.reshape(*given.shape[:-1], self.output_size), LinearTape(self, given)

    def backward(self, tape: LinearTape, dy: ArrayLike) -> PartGrads:
        """Gradients by x, weight and bias. Rows of x whose dy is zero may hold anything, NaN included."""
        x = check_tape(tape, LinearTape, self).x
        d = gradient("dy", dy, (*x.shape[:-1], self.output_size), self.dtype).reshape(-1, self.output_size)
        flat = x.reshape(-1, self.input_size)
        if not np.isfinite(np.vdot(flat, flat)):
            flat = np.where(d.any(axis=1, keepdims=True), flat, self.dtype.type(0))  # 0 · NaN would be NaN
        with np.errstate(all="ignore"):
            grads = {"weight": d.T @ flat}
            if self.bias:
                grads["bias"] = d.sum(axis=0)
            return PartGrads((d @ self._params["weight"]).reshape(x.shape), grads)


@dataclass(eq=False, repr=False)
class EmbeddingTape(PartTape):
    indices: Array  # 0 where they are not read
    counted: Array | None  # which of them are read


class Embedding(Part):
    """A row of `weight` for every index: x integers (...), y (..., embedding_dim), as torch.nn.Embedding.

    weight (num_embeddings, embedding_dim) from N(0, 1); its row padding_idx is zero and gets no gradient. With
    `lengths` x is (T, B), and indices past a row's length are not read: y is zero there.
    Raises TypeError or ValueError that names the argument.

        >>> part = Embedding(num_embeddings=100, embedding_dim=16, rng=0)
        >>> y = part([[3, 1], [4, 1]])  # (2, 2, 16)
    """

    takes_lengths = True

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
        self.padding_idx = None if padding_idx is None else self._index("padding_idx", padding_idx)
        self.dtype = checks.float_dtype(dtype)
        weight = checks.generator(rng).standard_normal((self.num_embeddings, self.embedding_dim)).astype(self.dtype)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        super().__init__({"weight": weight})

    def _index(self, name: str, value: Any) -> int:
        """One index, not counted from the end."""
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}: expected an integer or None, got {checks.kind(value)}")
        if not 0 <= value < self.num_embeddings:
            raise ValueError(f"{name}: expected an index from 0 to {self.num_embeddings - 1}, got {value}")
        return int(value)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "dtype": self.dtype.name,
        }

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return y (..., embedding_dim) of the indices x (...).

        Raises TypeError for what are no integers, ValueError for indices out of range.
        """
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, EmbeddingTape]:
        """Return (y, tape): as a call, and what `backward` needs."""
        indices = checks.real("x", x)
        if indices.dtype.kind not in "iu" and not (indices.size == 0 and isinstance(x, (list, tuple))):
            raise TypeError(f"x: expected integers, the indices of rows, got dtype {indices.dtype}")
        counted = None if lengths is None else valid_steps(lengths, *checks.shaped("x", indices, ("T", "B")).shape)
        if counted is not None:
            indices = np.where(counted, indices, indices.dtype.type(0))
        outside = (indices < 0) | (indices >= self.num_embeddings)
        if outside.any():
            place = tuple(int(k) for k in np.argwhere(outside)[0])
            what = f"expected indices from 0 to {self.num_embeddings - 1}"
            raise ValueError(f"x: {what}, got {indices[place]} at {place}")
        indices = indices.astype(np.intp)
        y = self._params["weight"][indices]
        if counted is not None:
            y[~counted] = 0
        return y, EmbeddingTape(self, indices, counted)

    def backward(self, tape: EmbeddingTape, dy: ArrayLike) -> PartGrads:
        """The gradient of the weight: for each index the sum of dy over its places, in float64."""
        indices, read = check_tape(tape, EmbeddingTape, self).indices, tape.counted
        V, E = self._params["weight"].shape
        d = gradient("dy", dy, (*indices.shape, E), self.dtype)
        if self.padding_idx is not None:
            others = indices != self.padding_idx
            read = others if read is None else others & read
        if read is not None:
            indices, d = indices[read], d[read]
        # Faster than np.add.at, three times or more, and with float64 sums than sorting and np.add.reduceat.
        places = indices.reshape(-1, 1) * E + np.arange(E)
        sums = np.bincount(places.ravel(), d.ravel(), V * E).reshape(V, E)
        with np.errstate(all="ignore"):
            return PartGrads(None, {"weight": sums.astype(self.dtype)})


@dataclass(eq=False, repr=False)
class LastStepTape(PartTape):
    shape: tuple[int, ...]
    last: Array  # (B,): the last valid step of each row, -1 for none
    dtype: np.dtype


class LastStep(Part):
    """The output at each row's last valid step: x (T, B, F), y (B, F); zeros for a row of length 0.

    With bidirectional=True the second half of the features is taken at step 0, where the reverse direction ends.
    y is float32 or float64 as x is, float32 for other kinds of numbers.

        >>> y, _ = lstm(x, lengths=lengths)  # (T, B, H)
        >>> LastStep()(y, lengths)  # (B, H)
    """

    takes_lengths = True
    ends_time = True

    def __init__(self, *, bidirectional: bool = False) -> None:
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        super().__init__({})

    @property
    def config(self) -> dict[str, Any]:
        return {"bidirectional": self.bidirectional}

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return y (B, F) of x (T, B, F), of which only those steps are read.

        Raises ValueError for a wrong shape or length, and for an odd F with bidirectional=True.
        """
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> tuple[Array, LastStepTape]:
        """Return (y, tape): as a call, and what `backward` needs."""
        given = checks.shaped("x", floating("x", x), ("T", "B", "F"))
        T, B, F = given.shape
        if self.bidirectional and F % 2:
            raise ValueError(f"x: expected an even number of features, half of them a direction's, got {F}")
        steps = checks.lengths(lengths, T, B, batched=True)
        tape = LastStepTape(self, given.shape, np.full(B, T - 1) if steps is None else steps - 1, given.dtype)
        y = np.zeros((B, F), given.dtype)
        for features, step, rows in self._pieces(tape):
            y[rows, features] = given[step, rows, features]
        return y, tape

    def _pieces(self, tape: LastStepTape) -> list[tuple[slice, Array, Array]]:
        """The features of each direction, and where they end: at which step of which rows."""
        F, rows = tape.shape[2], np.flatnonzero(tape.last >= 0)
        last = tape.last[rows]
        if not self.bidirectional:
            return [(slice(F), last, rows)]
        return [(slice(F // 2), last, rows), (slice(F // 2, F), np.zeros_like(last), rows)]

    def backward(self, tape: LastStepTape, dy: ArrayLike) -> PartGrads:
        """The gradient by x: dy at those steps, zero elsewhere."""
        d = gradient("dy", dy, check_tape(tape, LastStepTape, self).shape[1:], tape.dtype)
        dx = np.zeros(tape.shape, tape.dtype)
        for features, step, rows in self._pieces(tape):
            dx[step, rows, features] = d[rows, features]
        return PartGrads(dx, {})


@dataclass(eq=False, repr=False)
class DropoutTape(PartTape):
    shape: tuple[int, ...]
    dtype: np.dtype
    kept: Array | None  # which elements were not dropped, None for all


class Dropout(Part):
    """In `forward` each element is zero with probability p, the others are scaled by 1/(1 - p); a call changes nothing.

    x and y have any shape; y is float32 or float64 as x is, float32 for other kinds of numbers. Where nothing is
    dropped y may be x itself. The masks are drawn from `rng` (Srivastava et al. 2014, scaled as in torch.nn.Dropout).
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
        """Return x as an array."""
        return floating("x", x)

    def forward(self, x: ArrayLike) -> tuple[Array, DropoutTape]:
        """Return (y, tape): x with elements dropped, and what `backward` needs."""
        given = floating("x", x)
        kept = self.rng.random(given.shape, np.float32) >= self.p if self.p else None
        y = given if kept is None else drop(given, kept, self.p, out=np.empty_like(given))
        return y, DropoutTape(self, given.shape, given.dtype, kept)

    def backward(self, tape: DropoutTape, dy: ArrayLike) -> PartGrads:
        """The gradient by x: dy through the same mask."""
        kept = check_tape(tape, DropoutTape, self).kept
        d = gradient("dy", dy, tape.shape, tape.dtype)
        return PartGrads(d if kept is None else drop(d, kept, self.p, out=np.empty_like(d)), {})
