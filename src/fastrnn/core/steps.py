"""Which steps a call's rows have, and what comes to them: lengths, resets, state_scale, mask, noise.

T  time steps     B  rows     H  hidden_size
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..backends.base import Steps
from . import checks

if TYPE_CHECKING:
    from .geometry import LayerSpec

Array = np.ndarray


class CallSteps(NamedTuple):
    """The steps of a call, in the backends' layout.

    Of a mask, each row's valid steps are moved to the front and counted by `lengths`: a backend needs to know of
    lengths alone. The arrays of the call are in that order then, and `places` leads back.
    """

    lengths: Array | None = None  # (B,) int64
    resets: Array | None = None  # (T, B) bool: the state does not pass from the step before to that one
    scale: Array | None = None  # (T, B, H) or (T, B, 1)
    noise: Array | None = None  # (T, B, D·H)
    places: Array | None = None  # (T, B): where the steps were, the valid ones first
    by_unit: bool = False  # whether the caller's state_scale has an axis over the units

    def of(self, reverse: Sequence[bool]) -> Steps:
        """As a backend takes them: resets for each direction."""
        if self.resets is None:
            return Steps(self.lengths, None, self.noise, self.scale)
        resets = np.stack([self._resets_backward() if backward else self.resets for backward in reverse])
        return Steps(self.lengths, resets, self.noise, self.scale)

    def _resets_backward(self) -> Array:
        """Where a state that comes from the step after is zeroed: what would pass between two steps is the same."""
        found = np.zeros_like(self.resets)
        found[:-1] = self.resets[1:]  # type: ignore[index]
        if self.lengths is not None:
            found &= np.arange(1, len(found) + 1)[:, None] < self.lengths
        return found

    def gather(self, array: Array) -> Array:
        """A (T, B, ...) array of the caller's steps, in the order of the call's."""
        return array if self.places is None else np.take_along_axis(array, self._places_for(array), axis=0)

    def room_for(self, array: Array) -> Array:
        """The array to fill with what `scatter` brings to `array`: itself, if the order is the same."""
        return array if self.places is None else np.empty(array.shape, array.dtype)

    def scatter(self, filled: Array, array: Array) -> None:
        """Bring a (T, B, ...) array from the order of the call's steps to the caller's."""
        if filled is not array:
            np.put_along_axis(array, self._places_for(array), filled, axis=0)

    def spread_states(self, states: Array) -> Array:
        """(L·D, T, B, H) of the call's steps as (T, L·D, B, H) of the caller's."""
        if self.places is None:
            return states.swapaxes(0, 1)
        found = np.zeros((states.shape[1], states.shape[0], *states.shape[2:]), states.dtype)
        for k, part in enumerate(states):
            self.scatter(part, found[:, k])
        return found

    def given_scale(self, gradient: Array, batch_first: bool, batched: bool) -> Array:
        """The gradient of the scale, (T, B, H), laid out as the caller's state_scale."""
        found = gradient if self.by_unit else gradient.sum(axis=-1)
        if self.places is not None:
            moved, found = found, np.zeros_like(found)
            self.scatter(moved, found)
        if not batched:
            return found[:, 0]
        return np.ascontiguousarray(found.swapaxes(0, 1)) if batch_first else found

    def _places_for(self, array: Array) -> Array:
        return self.places.reshape(array.shape[:2] + (1,) * (array.ndim - 2))  # type: ignore[union-attr]


def read_steps(
    spec: LayerSpec,
    T: int,
    B: int,
    batched: bool,
    lengths: Any,
    resets: Any,
    state_scale: Any,
    mask: Any,
    noise: Any,
) -> CallSteps:
    """Check and convert the arguments; those of a sequence are laid out as x."""
    ends = checks.lengths(lengths, T, B, batched)
    if resets is None and state_scale is None and mask is None and noise is None:
        return CallSteps(ends)
    shape = ((B, T) if spec.batch_first else (T, B)) if batched else (T,)

    def time_major(array: Array) -> Array:
        if not batched:
            return array[:, None]
        return array.swapaxes(0, 1) if spec.batch_first else array

    zeroed = None
    if resets is not None:
        zeroed = np.array(time_major(checks.booleans("resets", resets, shape)), order="C")
    scale, by_unit = None, False
    if state_scale is not None:
        given = checks.real("state_scale", state_scale)
        by_units = () if spec.proj_size else ((*shape, spec.hidden_size),)  # the units of h and c then differ
        given = checks.shaped("state_scale", given, shape, *by_units)
        by_unit = given.ndim > len(shape)
        scale = checks.strided(time_major(given if by_unit else given[..., None]), spec.dtype)
    added = None
    if noise is not None:
        if len(spec.cell.gates) > 1 or spec.num_layers > 1:
            raise ValueError("noise: expected None for a cell of several gates or a stack of layers, got noise")
        given = checks.shaped("noise", checks.real("noise", noise), (*shape, spec.output_size))
        added = checks.strided(time_major(given), spec.dtype)
    if mask is None:
        return CallSteps(ends, zeroed, scale, added, by_unit=by_unit)
    valid = time_major(checks.booleans("mask", mask, shape))
    if ends is not None:
        valid = valid & (np.arange(T)[:, None] < ends)
    places = np.argsort(~valid, axis=0, kind="stable")
    moved = CallSteps(np.count_nonzero(valid, axis=0).astype(np.int64), places=places, by_unit=by_unit)
    resets, scale, noise = [None if array is None else moved.gather(array) for array in (zeroed, scale, added)]
    return moved._replace(resets=resets, scale=scale, noise=noise)
