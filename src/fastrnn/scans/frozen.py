"""Frozen scans: immutable, for inference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .. import backends
from ..core import checks, config
from ..core.geometry import Array, DescribedLayer, LayerSpec
from ..core.portable import PortableArray
from ..spec import Weights
from .stack import Order, advance, described, infer, packing

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike


class FrozenScan(DescribedLayer):
    """An immutable MinGRU, MinLSTM or IndRNN for inference, from `freeze()`.

    Pickled, it goes as its weights and the name of the backend; one that cannot run where it is loaded is replaced by
    the one in force there, with a RuntimeWarning. A copy is the object itself.
    """

    __slots__ = ("_backend", "_label", "_packed", "_spec", "_weights")
    _backend: Any
    _label: str
    _packed: tuple[Any, ...]
    _weights: Sequence[tuple[Weights, ...]]

    def __init__(self, spec: LayerSpec, label: str, weights: Sequence[tuple[Weights, ...]], backend: Any) -> None:
        """`weights` are this object's own, and read-only from now on."""
        for array in [array for layer in weights for direction in layer for array in direction if array is not None]:
            array.flags.writeable = False
        for name, value in zip(FrozenScan.__slots__, (backend, label, tuple(packing(backend, weights)), spec, weights)):
            object.__setattr__(self, name, value)

    @property
    def config(self) -> dict[str, Any]:
        return described(self._spec)

    @property
    def backend(self) -> str:
        """The name of the backend that was in force when this was frozen, and computes it."""
        return self._backend.name

    def __call__(self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None) -> tuple[Array, Array]:
        """Return (y, state), as the layer it was frozen from would."""
        return infer(self._spec, self._backend, self._weights, self._packed, x, state, lengths)

    def step(self, x_t: ArrayLike, state: Any = None, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Advance all layers by one time step and return (y, state).

        x_t (B, I) or (I,); y (B, H) or (H,); the state as in a call, its None zeros. `out` takes (y, state) to write
        into and return: C-contiguous arrays of the layer's dtype; its state may be the input state itself, beyond
        that no two arrays may overlap. Raises ValueError for a bidirectional layer, which has no steps.
        """
        spec = self._spec
        if spec.bidirectional:
            raise ValueError("step: expected a layer of one direction, got a bidirectional one, which needs sequences")
        x = checks.shaped("x_t", checks.real("x_t", x_t), ("B", spec.input_size), (spec.input_size,))
        x = checks.contiguous(x, spec.dtype)
        rows = x.shape[:-1]
        shape, y_shape = (spec.num_layers, *rows, spec.hidden_size), (*rows, spec.hidden_size)
        B = rows[0] if rows else 1
        inner = spec.inner_state(B)
        if state is None:
            now = np.zeros(shape, spec.dtype)
        else:
            now = checks.contiguous(checks.shaped("state", checks.real("state", state), shape), spec.dtype)
        if out is not None:
            if not isinstance(out, (tuple, list)) or len(out) != 2:
                raise TypeError(f"out: expected a pair (y, state), got {checks.kind(out)}")
            y = checks.output("out[0]", out[0], y_shape, spec.dtype, contiguous=True)
            after = checks.output("out[1]", out[1], shape, spec.dtype, contiguous=True)
            checks.disjoint("out", y, (after,), x, (now,))
        else:
            y, after = np.empty(y_shape, spec.dtype), np.empty(shape, spec.dtype)
        order = Order(spec, 1, B, batched=False)
        row_y = y.reshape(1, B, spec.hidden_size)
        given = self._weights, self._packed, x.reshape(1, B, -1), now.reshape(inner)
        new = advance(spec, self._backend, *given, None, row_y, order)
        after[...] = new.reshape(shape)
        return (y, after) if out is None else out

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name}")

    def __repr__(self) -> str:
        return f"<frozen {self._label}, backend {self.backend}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        weights = [[[None if w is None else PortableArray(w) for w in d] for d in layer] for layer in self._weights]
        return thaw, (self._spec, self._label, weights, self.backend)


def thaw(spec: LayerSpec, label: str, weights: Any, name: str) -> FrozenScan:
    """What was pickled."""
    try:
        backend: Any = backends.load(name)
    except backends.BackendUnavailable as error:
        backend = config.backend()
        warnings.warn(f"<frozen {label}> was frozen for another backend; {error}", RuntimeWarning, stacklevel=2)
    own = [
        tuple(Weights._make([None if w is None else w.own(spec.dtype) for w in direction]) for direction in layer)
        for layer in weights
    ]
    return FrozenScan(spec, label, own, backend)
