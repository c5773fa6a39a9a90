"""Frozen scans: immutable, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.geometry import Array, LayerSpec
from ..frozen import FrozenLayer
from ..spec import Weights
from .stack import Order, advance, described, infer, packing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class FrozenScan(FrozenLayer[Array]):
    """An immutable MinGRU, MinLSTM or IndRNN for inference, from `freeze()`."""

    __slots__ = ()

    def _pack(self, spec: LayerSpec, backend: Any, weights: Sequence[tuple[Weights, ...]]) -> tuple[Any, Any]:
        return tuple(packing(backend, weights)), None

    @property
    def config(self) -> dict[str, Any]:
        return described(self._spec)

    def __call__(  # type: ignore[override]
        self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return (y, state), as the layer it was frozen from would."""
        return infer(self._spec, self._backend, self._weights, self._packed, x, state, lengths)

    def _advance(self, x: Array, now: tuple[Array, ...], y: Array, after: tuple[Array, ...]) -> None:
        spec, H = self._spec, self._spec.hidden_size
        x, y = x.reshape(1, -1, spec.input_size), y.reshape(1, -1, H)
        order, before = Order(spec, 1, x.shape[1], batched=False), now[0].reshape(spec.num_layers, -1, H)
        new = advance(spec, self._backend, self._weights, self._packed, x, before, None, y, order)
        after[0][...] = new.reshape(after[0].shape)
