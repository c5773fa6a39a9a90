"""Frozen layers and cells: immutable, their weights copied and packed once, for inference at the lowest latency."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, NoReturn

import numpy as np

from . import backends
from .backends.base import Backend, Run, Steps
from .core import checks, config, stack
from .core.geometry import (
    Array,
    DescribedCell,
    DescribedLayer,
    LayerSpec,
    Shapes,
    as_state,
    cell_state_shapes,
    empty,
    one_step,
    read_call,
    read_cell_call,
    read_state,
    sequence_shape,
    state_shapes,
    time_major,
)
from .core.portable import PortableArray
from .core.tape import S
from .spec import Cell, Weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Shape = tuple[int, ...]


def shortcut(spec: LayerSpec, backend: Backend, packed: Iterable[Any], cell: bool = False) -> Any:
    """The backend's short way for arguments that need no conversion, or None where it has none."""
    if not hasattr(backend, "Shortcut"):
        return None
    return backend.Shortcut(packed, spec, np.ndarray, np.empty, cell)


def infer(
    spec: LayerSpec,
    backend: Backend,
    packed: Iterable[Any],
    short: Any,
    x: ArrayLike,
    state: Any,
    lengths: ArrayLike | None,
    resets: ArrayLike | None,
    state_scale: ArrayLike | None,
    mask: ArrayLike | None,
    noise: ArrayLike | None,
) -> tuple[Array, Any]:
    """The outputs and the final state of a whole sequence, from and to the caller's layout."""
    if short is not None and resets is None and state_scale is None and mask is None and noise is None:
        answer = short.sequence(x, state, lengths, config.get_num_threads())
        if answer is not None:
            return answer
    call = read_call(spec, x, state, lengths, resets, state_scale, mask, noise)
    y = empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
    outputs = time_major(y, spec.batch_first)
    filled = call.steps.room_for(outputs)
    after = stack.infer(spec, backend, packed, call, filled)
    call.steps.scatter(filled, outputs)
    return y, as_state(after, state_shapes(spec, call.x.shape[1], call.batched))


def step_at_once(backend: Backend, cell: Cell, x: ArrayLike, state: Any, *weights: Any) -> Any:
    """A cell's next state by the backend's short way; None where it has none, or an argument needs a closer look."""
    short = getattr(backend, "cell_step", None)
    return None if short is None else short(cell, x, state, *weights, config.get_num_threads())


def layer_at_once(
    spec: LayerSpec, backend: Backend, weights: Sequence[Sequence[Weights]], x: ArrayLike, state: Any
) -> Any:
    """(y, state) of a sequence of one step, as `step_at_once`: for a single layer that goes forward."""
    short = getattr(backend, "cell_step", None)
    if short is None or spec.num_layers > 1 or spec.bidirectional or spec.backward:
        return None
    return short.layer(spec.cell, x, state, *weights[0][0][:4], spec.batch_first, config.get_num_threads())


def infer_cell(spec: LayerSpec, backend: Backend, packed: Iterable[Any], x: ArrayLike, state: Any) -> Any:
    """The next state of a cell, from and to the caller's layout."""
    call = read_cell_call(spec, x, state)
    B, H = call.x.shape[1], spec.hidden_size
    after = stack.infer(spec, backend, packed, call, empty((1, B, H), spec.dtype))
    return as_state(after, cell_state_shapes(spec, B, call.batched))


class Frozen(DescribedCell):
    """What frozen layers and cells share.

    Pickled, they go as the plain weights and the name of the backend, and are packed again where they are loaded. A
    backend that cannot run there is replaced by the one in force there, with a RuntimeWarning. A copy is the object
    itself.
    """

    __slots__ = ("_backend", "_label", "_packed", "_short", "_spec", "_weights")
    _backend: Backend
    _label: str
    _packed: tuple[Any, ...]
    _short: Any
    _weights: Sequence[tuple[Weights, ...]]

    def __init__(self, spec: LayerSpec, label: str, weights: Sequence[tuple[Weights, ...]], backend: Backend) -> None:
        """`weights` are this object's own, and read-only from now on."""
        for direction in chain.from_iterable(weights):
            for array in direction:
                if array is not None:
                    array.flags.writeable = False
        packed = self._pack(spec, backend, weights)
        for name, value in zip(Frozen.__slots__, (backend, label, *packed, spec, weights)):
            object.__setattr__(self, name, value)

    def _pack(self, spec: LayerSpec, backend: Backend, weights: Sequence[tuple[Weights, ...]]) -> tuple[Any, Any]:
        """The weights, packed, and the backend's short way, None where there is none."""
        packed = stack.pack(spec, backend, weights)
        return packed, shortcut(spec, backend, packed, isinstance(self, FrozenCell))

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

    def __reduce__(self) -> tuple[Any, ...]:
        weights = [[[None if w is None else PortableArray(w) for w in d] for d in layer] for layer in self._weights]
        return thaw, (type(self), self._spec, self._label, weights, self.backend)


def thaw(kind: type[Frozen], spec: LayerSpec, label: str, weights: Any, name: str) -> Frozen:
    """What was pickled, packed again."""
    try:
        backend = backends.load(name)
    except backends.BackendUnavailable as error:
        backend = config.backend()
        warnings.warn(f"<frozen {label}> was frozen for another backend; {error}", RuntimeWarning, stacklevel=2)

    def read(array: PortableArray | None) -> Array | None:
        return None if array is None else array.own(spec.dtype)

    own = [tuple(Weights(*map(read, d)) for d in layer) for layer in weights]  # type: ignore[arg-type]
    return kind(spec, label, own, backend)


class FrozenLayer(Frozen, DescribedLayer, Generic[S]):
    """An immutable layer for inference, from `freeze()`."""

    __slots__ = ()

    def __call__(
        self,
        x: ArrayLike,
        state: S | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        state_scale: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        noise: ArrayLike | None = None,
    ) -> tuple[Array, S]:
        """Return (y, state), as the layer it was frozen from would."""
        spec, backend = self._spec, self._backend
        return infer(spec, backend, self._packed, self._short, x, state, lengths, resets, state_scale, mask, noise)

    def step(
        self,
        x_t: ArrayLike,
        state: S | None = None,
        out: tuple[Array, S] | None = None,
        *,
        resets: ArrayLike | None = None,
    ) -> tuple[Array, S]:
        """Advance all layers by one time step and return (y, state).

        x_t (B, I) or (I,); y (B, n) or (n,), as h has n features; the state as in a call, its None zeros. `out` takes
        (y, state) to write into and return: C-contiguous arrays of the layer's dtype; its state may be the input state
        itself, beyond that no two arrays may overlap. resets (B,), unbatched a bool: where True the row begins anew,
        from zeros.
        Raises ValueError for a bidirectional or reverse layer, which has no steps.
        """
        spec = self._spec
        if resets is not None and state is not None:
            state = self._begin_anew(state, resets)
        if self._short is not None:
            stepped = self._short.step(x_t, state, out, config.get_num_threads())
            if stepped is not None:
                return stepped
        if spec.bidirectional or spec.backward:
            got = "a bidirectional one" if spec.bidirectional else f"direction={spec.direction!r}"
            raise ValueError(f"step: expected a layer of the forward direction alone, got {got}, which needs sequences")
        x = checks.shaped("x_t", checks.real("x_t", x_t), ("B", spec.input_size), (spec.input_size,))
        x = checks.contiguous(x, spec.dtype)
        rows = x.shape[:-1]
        shapes, y_shape = tuple([(spec.num_layers, *rows, width) for width in spec.widths]), (*rows, spec.output_size)
        now = read_state(spec, state, shapes, shapes)
        if out is None:
            y, after = np.empty(y_shape, spec.dtype), tuple([np.empty(shape, spec.dtype) for shape in shapes])
            self._advance(x, now, y, after)
            return y, as_state(after, shapes)
        y, after = self._read_out(out, y_shape, shapes)
        checks.disjoint("out", y, after, x, now)
        self._advance(x, now, y, after)
        return out

    def _begin_anew(self, state: Any, resets: Any) -> Any:
        """The state, of any layout, with zeros in the rows that are reset: a copy."""
        parts = checks.parts("state", state, len(self._spec.cell.states))
        given = [checks.real(name, part) for name, part in parts]
        zeroed = checks.booleans("resets", resets, given[0].shape[1:-1])[..., None]
        found = tuple([np.where(zeroed, part.dtype.type(0), part) for part in given])
        return as_state(found, tuple([part.shape for part in found]))

    def _read_out(self, out: Any, y_shape: Shape, shapes: Shapes) -> tuple[Array, tuple[Array, ...]]:
        """The arrays to write into."""
        dtype = self._spec.dtype
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError(f"out: expected a pair (y, state), got {checks.kind(out)}")
        y = checks.output("out[0]", out[0], y_shape, dtype, contiguous=True)
        named = checks.parts("out[1]", out[1], len(shapes))
        after = [checks.output(*part, shape, dtype, contiguous=True) for part, shape in zip(named, shapes)]
        return y, tuple(after)

    def _advance(self, x: Array, now: tuple[Array, ...], y: Array, after: tuple[Array, ...]) -> None:
        """One step of all layers, the arrays C-contiguous in the caller's layout; y serves the lower layers as scratch.

        A layer's new h is its output: the next one reads it from `after`, which may be `now` itself.
        """
        if x.size == 0:
            return
        x, y = one_step(x), one_step(y)
        spec, inner = self._spec, self._spec.inner_state(x.shape[1])
        now, after = [tuple([part.reshape(shape) for part, shape in zip(parts, inner)]) for parts in (now, after)]
        for k, packed in enumerate(self._packed):
            before, then = stack.layer_state(now, k, 1), stack.layer_state(after, k, 1)
            run = Run(x, before, Steps(), spec.reverse_of(k), y, None)
            self._backend.forward(packed, run, then, config.get_num_threads())
            x = then[0]


class FrozenCell(Frozen, Generic[S]):
    """An immutable cell for inference, from `freeze()`."""

    __slots__ = ()

    def __call__(self, x: ArrayLike, state: S | None = None) -> S:
        """Return the next state, as the cell it was frozen from would."""
        if self._short is not None:
            stepped = self._short.step(x, state, None, config.get_num_threads())
            if stepped is not None:
                return stepped
        return infer_cell(self._spec, self._backend, self._packed, x, state)
