"""Frozen layers and cells: immutable, their weights copied and packed once, for inference at the lowest latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast

import numpy as np
from numpy import ndarray

from . import checks, config, stack
from .backends.base import Backend
from .geometry import (
    Array,
    DescribedCell,
    DescribedLayer,
    LayerSpec,
    as_state,
    cell_shape,
    empty,
    one_step,
    read_call,
    read_cell_call,
    read_state,
    sequence_shape,
    state_shape,
    time_major,
)
from .spec import Weights
from .tape import S

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Shape = tuple[int, ...]


def infer(
    spec: LayerSpec, backend: Backend, packed: Sequence[Any], x: ArrayLike, state: Any, lengths: ArrayLike | None
) -> tuple[Array, Any]:
    """The outputs and the final state of a whole sequence, from and to the caller's layout."""
    call = read_call(spec, x, state, lengths)
    y = empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
    after = stack.infer(spec, backend, packed, call, time_major(y, spec.batch_first))
    return y, as_state(after, state_shape(spec, call.x.shape[1], call.batched))


def infer_cell(spec: LayerSpec, backend: Backend, packed: Sequence[Any], x: ArrayLike, state: Any) -> Any:
    """The next state of a cell, from and to the caller's layout."""
    call = read_cell_call(spec, x, state)
    B, H = call.x.shape[1], spec.hidden_size
    after = stack.infer(spec, backend, packed, call, empty((1, B, H), spec.dtype))
    return as_state(after, cell_shape(B, H, call.batched))


def usable(array: Any, dtype: np.dtype, shape: Shape) -> bool:
    """Whether an argument can go to the backend as it is: quick, and False where it is not sure."""
    return type(array) is ndarray and array.dtype is dtype and array.shape == shape and array.flags.carray


class Frozen(DescribedCell):
    """What frozen layers and cells share.

    A step passes by the general conversion of arguments where `usable` allows it: at small sizes that takes longer
    than the arithmetic.
    """

    __slots__ = ("_backend", "_hot", "_label", "_packed", "_spec")
    _backend: Backend
    _hot: tuple[np.dtype, int, int, int]  # what every step looks up: dtype, L, H and the number of states
    _label: str
    _packed: tuple[Any, ...]

    def __init__(self, spec: LayerSpec, label: str, weights: Sequence[tuple[Weights, ...]], backend: Backend) -> None:
        spec = spec._replace(
            dtype=np.dtype(spec.dtype.type)
        )  # the object that arrays have: an unpickled one is another
        packed = tuple([backend.pack(spec.cell, layer) for layer in weights])
        hot = spec.dtype, spec.num_layers, spec.hidden_size, spec.cell.states
        for name, value in zip(Frozen.__slots__, (backend, hot, label, packed, spec)):
            object.__setattr__(self, name, value)

    @property
    def backend(self) -> str:
        """The name of the backend that was in force when this was frozen, and computes it."""
        return self._backend.name

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name}")

    def __repr__(self) -> str:
        return f"<frozen {self._label}, backend {self.backend}>"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo: object):
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds weights packed for this machine: pickle what it was frozen from")

    def _read_x(self, name: str, x: Any) -> Array:
        """x (B, I) or (I,) as a C-contiguous array."""
        spec = self._spec
        I = spec.input_size
        if type(x) is ndarray and x.ndim == 2 and usable(x, spec.dtype, (x.shape[0], I)):
            return x
        return checks.contiguous(checks.shaped(name, checks.real(name, x), ("B", I), (I,)), spec.dtype)

    def _read_state(self, state: Any, shape: Shape) -> tuple[Array, ...]:
        """The parts of a state as C-contiguous arrays of `shape`; zeros for None."""
        dtype, _, _, states = self._hot
        if states == 1:
            if usable(state, dtype, shape):
                return (state,)
        elif type(state) is tuple and len(state) == 2:
            h, c = state
            if usable(h, dtype, shape) and usable(c, dtype, shape):
                return state
        return read_state(self._spec, state, shape, shape)

    def _advance(self, x: Array, now: tuple[Array, ...], y: Array, after: tuple[Array, ...]) -> None:
        """One step of all layers, the arrays C-contiguous in the caller's layout; y serves the lower layers as scratch.

        A layer's new h is its output: the next one reads it from `after`, which may be `now` itself.
        """
        if x.size == 0:
            return
        x, y = one_step(x), one_step(y)
        if now[0].ndim != 3:
            inner = self._spec.inner_state(x.shape[1])
            now, after = tuple([part.reshape(inner) for part in now]), tuple([part.reshape(inner) for part in after])
        forward, threads = self._backend.forward, config.get_num_threads()
        if len(self._packed) == 1:
            forward(self._packed[0], x, now, None, y, after, None, threads)
            return
        for k, packed in enumerate(self._packed):
            before, then = tuple([part[k : k + 1] for part in now]), tuple([part[k : k + 1] for part in after])
            forward(packed, x, before, None, y, then, None, threads)
            x = then[0]


class FrozenLayer(Frozen, DescribedLayer, Generic[S]):
    """An immutable layer for inference, from `freeze()`."""

    __slots__ = ()

    def __call__(self, x: ArrayLike, state: S | None = None, *, lengths: ArrayLike | None = None) -> tuple[Array, S]:
        """Return (y, state), as the layer it was frozen from would."""
        return infer(self._spec, self._backend, self._packed, x, state, lengths)

    def step(self, x_t: ArrayLike, state: S | None = None, out: tuple[Array, S] | None = None) -> tuple[Array, S]:
        """Advance all layers by one time step and return (y, state).

        x_t (B, I) or (I,); y (B, H) or (H,); the state as in a call, its None zeros. `out` takes (y, state) to write
        into and return: C-contiguous arrays of the layer's dtype; its state may be the input state itself, beyond
        that no two arrays may overlap. Raises ValueError for a bidirectional layer, which has no steps.
        """
        if self._spec.bidirectional:
            raise ValueError("step: expected a layer of one direction, got a bidirectional one, which needs sequences")
        dtype, L, H, states = self._hot
        x = self._read_x("x_t", x_t)
        rows = x.shape[:-1]
        shape, y_shape = (L, *rows, H), (*rows, H)
        now = self._read_state(state, shape)
        if out is not None:
            y, after = self._read_out(out, y_shape, shape)
            checks.disjoint("out", y, after, x, now)
            self._advance(x, now, y, after)
            return out
        y, h = np.empty(y_shape, dtype), np.empty(shape, dtype)
        after = (h,) if states == 1 else (h, np.empty(shape, dtype))
        self._advance(x, now, y, after)
        return y, cast(S, h if states == 1 else after)

    def _read_out(self, out: Any, y_shape: Shape, shape: Shape) -> tuple[Array, tuple[Array, ...]]:
        """The arrays to write into."""
        dtype, _, _, states = self._hot
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError(f"out: expected a pair (y, state), got {checks.kind(out)}")
        y, state = out
        parts = (state,) if states == 1 else state
        if type(parts) is tuple and len(parts) == states and usable(y, dtype, y_shape):
            if usable(parts[0], dtype, shape) and usable(parts[-1], dtype, shape):
                return y, parts
        checks.output("out[0]", y, y_shape, dtype, contiguous=True)
        named = checks.parts("out[1]", state, states)
        return y, tuple([checks.output(name, part, shape, dtype, contiguous=True) for name, part in named])


class FrozenCell(Frozen, Generic[S]):
    """An immutable cell for inference, from `freeze()`."""

    __slots__ = ()

    def __call__(self, x: ArrayLike, state: S | None = None) -> S:
        """Return the next state, as the cell it was frozen from would."""
        x = self._read_x("x", x)
        dtype, _, H, states = self._hot
        shape = (*x.shape[:-1], H)
        now = self._read_state(state, shape)
        y, h = np.empty(shape, dtype), np.empty(shape, dtype)
        after: tuple[Array, ...] = (h,) if states == 1 else (h, np.empty(shape, dtype))
        self._advance(x, now, y, after)
        return cast(S, h if states == 1 else after)
