"""A layer's shape, and the way between the caller's layouts and the backends' time-major one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..spec import Cell
from . import checks
from .options import described
from .steps import CallSteps, read_steps

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray
Shapes = tuple[tuple[int, ...], ...]  # of the parts of a state


class LayerSpec(NamedTuple):
    """What a layer is, apart from its weights. A cell is a layer whose sequences have one step."""

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    dtype: np.dtype
    backward: tuple[bool, ...] = ()  # of each layer of one direction: whether it is the reverse one; () if none is
    recurrent_dropout: float = 0.0
    mask_per: str | None = None  # for how long masks of units stay: a "step" or "sequence"; None: see unitmasks.draw
    proj_size: int = 0  # features of h where they are fewer than hidden units: those are projected; 0: not

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def reverse_of(self, layer: int) -> tuple[bool, ...]:
        """Of each direction of a layer: whether it goes from a row's last step to its first."""
        return self.backward[layer : layer + 1] or (False, True)[: self.directions]

    @property
    def direction(self) -> str | tuple[str, ...]:
        """The constructor's argument: one word where all layers go the same way."""
        words = tuple("reverse" if backward else "forward" for backward in self.backward) or ("forward",)
        return words[0] if len(set(words)) == 1 else words

    @property
    def widths(self) -> tuple[int, ...]:
        """The features of each part of a state: of h, or of h and c."""
        P = self.proj_size or self.hidden_size
        return (P,) if self.cell.states == "h" else (P, self.hidden_size)

    @property
    def output_size(self) -> int:
        return self.directions * self.widths[0]

    def inner_state(self, B: int) -> Shapes:
        """The shapes of the parts of a state in the backends' layout."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        h = rows, B, self.proj_size or self.hidden_size  # no loop over widths: every call asks for it several times
        return (h,) if self.cell.states == "h" else (h, (rows, B, self.hidden_size))


class DescribedCell:
    """The constructor's arguments, to be read back."""

    __slots__ = ()
    _spec: LayerSpec

    @property
    def input_size(self) -> int:
        return self._spec.input_size

    @property
    def hidden_size(self) -> int:
        return self._spec.hidden_size

    @property
    def output_size(self) -> int:
        """The features of y, or of a cell's h: hidden_size or proj_size, of a bidirectional layer twice that."""
        return self._spec.output_size

    @property
    def bias(self) -> bool:
        return self._spec.bias

    @property
    def dtype(self) -> np.dtype:
        return self._spec.dtype

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as JSON has them: `type(layer)(**layer.config)` is of the same shape.

        Not among them is what the parameters began with: init, forget_bias and rng.
        """
        spec = self._spec
        found: dict[str, Any] = {"input_size": spec.input_size, "hidden_size": spec.hidden_size}
        if len(spec.cell.gates) == 1:
            found["nonlinearity"] = spec.cell.name.split("_")[1]
        return found | described(spec.cell) | {"bias": spec.bias, "dtype": spec.dtype.name}

    def zero_state(self, B: int | None = None) -> Any:
        """A state of zeros for B rows, (B, H), or without B for unbatched input, (H,): an array, of LSTM a pair."""
        rows = () if B is None else (checks.integer("B", B),)
        return self._zeros(tuple([(*rows, width) for width in self._spec.widths]))

    def _zeros(self, shapes: Shapes) -> Any:
        return as_state(tuple([zeros(shape, self._spec.dtype) for shape in shapes]), shapes)


class DescribedLayer(DescribedCell):
    """As `DescribedCell`, with what only layers have."""

    __slots__ = ()

    @property
    def config(self) -> dict[str, Any]:
        spec = self._spec
        projection = {"proj_size": spec.proj_size} if spec.proj_size else {}
        return super().config | {
            **projection,
            "num_layers": spec.num_layers,
            "batch_first": spec.batch_first,
            "dropout": spec.dropout,
            "recurrent_dropout": spec.recurrent_dropout,
            "mask_per": spec.mask_per,
            "bidirectional": spec.bidirectional,
            "direction": spec.direction if isinstance(spec.direction, str) else list(spec.direction),
        }

    def zero_state(self, B: int | None = None) -> Any:
        """A state of zeros for B rows, (L·D, B, H), or without B for unbatched input, (L·D, H).

        An array, of LSTM a pair (h, c).
        """
        return self._zeros(state_shapes(self._spec, 1 if B is None else checks.integer("B", B), B is not None))

    @property
    def num_layers(self) -> int:
        return self._spec.num_layers

    @property
    def proj_size(self) -> int:
        """The features of h where a layer projects its hidden units to fewer; else 0."""
        return self._spec.proj_size

    @property
    def batch_first(self) -> bool:
        return self._spec.batch_first

    @property
    def dropout(self) -> float:
        return self._spec.dropout

    @property
    def bidirectional(self) -> bool:
        return self._spec.bidirectional

    @property
    def direction(self) -> str | tuple[str, ...]:
        """Of layers of one direction "forward" or "reverse"; a tuple, one for each, where they differ."""
        return self._spec.direction


class Call(NamedTuple):
    """The arguments of a call, checked and in the backends' layout."""

    x: Array  # (T, B, I)
    state: tuple[Array, ...]  # (L·D, B, H) each, h of a layer that projects (L·D, B, P)
    steps: CallSteps
    batched: bool
    cell: bool = False  # whether the caller's arrays have no axis over time


def describe(name: str, spec: LayerSpec) -> str:
    """The call that makes a layer or cell of this spec, without the defaults."""
    options = {
        "num_layers": (spec.num_layers, 1),
        "proj_size": (spec.proj_size, 0),
        "nonlinearity": (spec.cell.name.split("_")[1] if len(spec.cell.gates) == 1 else "tanh", "tanh"),
        **{name: (value, None) for name, value in described(spec.cell).items()},
        "bias": (spec.bias, True),
        "batch_first": (spec.batch_first, False),
        "dropout": (spec.dropout, 0.0),
        "recurrent_dropout": (spec.recurrent_dropout, 0.0),
        "mask_per": (spec.mask_per, None),
        "bidirectional": (spec.bidirectional, False),
        "direction": (spec.direction, "forward"),
        "dtype": (spec.dtype.name, "float32"),
    }
    given = [f", {option}={value!r}" for option, (value, default) in options.items() if value != default]
    return f"{name}({spec.input_size}, {spec.hidden_size}{''.join(given)})"


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """np.empty, with a MemoryError also for what no address could hold."""
    return allocate(np.empty, shape, dtype)


CACHE_LINE = 64  # bytes


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """As `empty`, from the start of a cache line: a kernel's vectors then straddle none, which is 5 % of a forward."""
    size = math.prod(shape) * dtype.itemsize
    memory = empty((size + CACHE_LINE,), np.dtype(np.uint8))
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """np.zeros, with a MemoryError also for what no address could hold."""
    return allocate(np.zeros, shape, dtype)


def allocate(how: Callable[..., Array], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    try:
        return how(shape, dtype)
    except ValueError as error:
        raise MemoryError(f"cannot allocate an array of shape {shape} and dtype {dtype}") from error


def read_state(spec: LayerSpec, state: Any, shapes: Shapes, inner: Shapes, copy: bool = False) -> tuple[Array, ...]:
    """The parts of an initial state, of `shapes`, as C-contiguous arrays of the shapes `inner`; zeros for None."""
    if state is None:
        return tuple([zeros(shape, spec.dtype) for shape in inner])
    return checks.state(state, shapes, inner, spec.dtype, copy)


def as_state(parts: tuple[Array, ...], shapes: Shapes) -> Any:
    """The parts of a state in the caller's layout: a bare array, or a pair."""
    if parts[0].shape != shapes[0]:
        parts = tuple(part.reshape(shape) for part, shape in zip(parts, shapes))
    return parts if len(parts) == 2 else parts[0]


# --- a layer's layout: x and y (T, B, n), with batch_first (B, T, n), unbatched (T, n); state (L·D, B, n) or (L·D, n)


def time_major(array: Array, batch_first: bool) -> Array:
    """A sequence in the caller's layout as a (T, B, n) view, whose shape stays though the caller's may be set."""
    if array.ndim == 2:
        return array[:, None]
    return array.swapaxes(0, 1) if batch_first else array[:]


def count_steps(spec: LayerSpec, x: Any) -> int | None:
    """T of a sequence in the caller's layout, None where it takes a closer look to know."""
    if type(x) is not Array or not 2 <= x.ndim <= 3:
        return None
    return x.shape[1 if spec.batch_first and x.ndim == 3 else 0]


def sequence_shape(spec: LayerSpec, call: Call, size: int) -> tuple[int, ...]:
    """The shape of a sequence in the caller's layout."""
    T, B = call.x.shape[:2]
    if not call.batched:
        return T, size
    return (B, T, size) if spec.batch_first else (T, B, size)


def state_shapes(spec: LayerSpec, B: int, batched: bool) -> Shapes:
    """The shapes of the parts of a state in the caller's layout."""
    inner = spec.inner_state(B)
    return inner if batched else unbatched(inner)


def unbatched(inner: Shapes) -> Shapes:
    """Shapes of the parts of a state without the axis over rows."""
    return tuple([(runs, width) for runs, _, width in inner])


def read_call(
    spec: LayerSpec,
    x: ArrayLike,
    state: Any,
    lengths: Any = None,
    resets: Any = None,
    state_scale: Any = None,
    mask: Any = None,
    noise: Any = None,
    copy_state: bool = False,
) -> Call:
    """Check and convert the arguments of a layer's call."""
    I = spec.input_size
    expected = ("B", "T", I) if spec.batch_first else ("T", "B", I)
    given = checks.strided(checks.shaped("x", checks.real("x", x), expected, ("T", I)), spec.dtype)
    batched = given.ndim == 3
    given = time_major(given, spec.batch_first)
    T, B = given.shape[:2]
    inner = spec.inner_state(B)
    parts = read_state(spec, state, inner if batched else unbatched(inner), inner, copy_state)
    steps = read_steps(spec, T, B, batched, lengths, resets, state_scale, mask, noise)
    return Call(steps.gather(given), parts, steps, batched)


# --- a cell's layout: x (B, n) or unbatched (n,); state (B, H) or (H,)


def one_step(array: Array) -> Array:
    """A cell's array in the caller's layout as a (1, B, n) view."""
    return array[None] if array.ndim == 2 else array[None, None]


def cell_shape(B: int, size: int, batched: bool) -> tuple[int, ...]:
    """The shape of a cell's array in the caller's layout."""
    return (B, size) if batched else (size,)


def cell_state_shapes(spec: LayerSpec, B: int, batched: bool) -> Shapes:
    """The shapes of the parts of a cell's state in the caller's layout."""
    return tuple([cell_shape(B, width, batched) for width in spec.widths])


def read_cell_call(spec: LayerSpec, x: ArrayLike, state: Any, copy_state: bool = False) -> Call:
    """Check and convert the arguments of a cell's call."""
    I = spec.input_size
    given = checks.strided(checks.shaped("x", checks.real("x", x), ("B", I), (I,)), spec.dtype)
    batched = given.ndim == 2
    given = one_step(given)
    B = given.shape[1]
    parts = read_state(spec, state, cell_state_shapes(spec, B, batched), spec.inner_state(B), copy_state)
    return Call(given, parts, CallSteps(), batched, cell=True)
