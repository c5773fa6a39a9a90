"""What a Keras layer computes, in NumPy: masks, merged directions, the order of outputs as Keras has them.

B rows     T steps     I features     H units
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..weights import build
from .reading import Read, params_of, read

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray


def freeze(layer: Any) -> FrozenKerasLayer:
    """What a built Keras layer computes, as a function of NumPy arrays for serving; its weights are packed once.

    It takes and gives what the Keras layer does: see FrozenKerasLayer. Raises as `from_keras` does, and ValueError
    for a stateful layer: give `initial_state` instead.
    """
    found = read(layer)
    if found.rnns[0].stateful:
        raise ValueError(f"{found.name}: expected stateful=False, got True: have return_state, and give initial_state")
    return FrozenKerasLayer(found, getattr(layer, "merge_mode", "concat"))


class FrozenKerasLayer:
    """A Keras layer's call, with its options, on NumPy arrays: y, or (y, *states) with return_state.

        x              (B, T, I), T at least 1
        mask           (B, T) booleans: where False the step does not happen
        initial_state  as Keras takes it: [h] or [h, c], (B, H) each; of a Bidirectional those of both directions in
                       one list; of an RNN of several cells a list of them for each cell
        y              (B, H), with return_sequences (B, T, H), steps in the order in which they were processed

    At a step that the mask leaves out y is that of the step before, zeros before the first, or zeros with
    zero_output_for_mask, as in Keras. Bidirectional merges: concat, sum, mul, ave, or None, a tuple of both.
    `layer` is the fastrnn.FrozenLayer that computes it.
    """

    def __init__(self, found: Read, merge_mode: str | None) -> None:
        """`merge_mode` is of a Bidirectional."""
        first = found.rnns[0]
        self._kind, self._merge, self._cells = found.kind, merge_mode, len(found.directions[0])
        self._stacked = hasattr(first.cell, "cells")
        self._backwards = tuple(bool(rnn.go_backwards) for rnn in found.rnns)
        self._zero = tuple(bool(rnn.zero_output_for_mask) for rnn in found.rnns)
        self._sequences, self._state = bool(first.return_sequences), bool(first.return_state)
        self.layer = build.layer_of(found.kind, params_of(found), batch_first=True, **found.options).freeze()

    def __call__(self, x: ArrayLike, mask: ArrayLike | None = None, initial_state: Any = None) -> Any:
        """Raises TypeError or ValueError that names the argument."""
        x = checks.shaped("x", checks.real("x", x), ("B", "T", self.layer.input_size))
        B, T = x.shape[:2]
        if not T:
            raise ValueError(f"x: expected at least one step, got shape {checks.show(x.shape)}")
        valid = None if mask is None else checks.booleans("mask", mask, (B, T))
        y, after = self.layer(x, self._given(initial_state, B), **steps(valid))
        H, outputs = self.layer.hidden_size, []
        for d, (backwards, zero) in enumerate(zip(self._backwards, self._zero)):
            one = y[..., d * H : (d + 1) * H]
            one = one[:, ::-1] if backwards else one
            if valid is not None and not zero:
                one = held(one, valid[:, ::-1] if backwards else valid)
            if self._sequences:  # a Bidirectional's second direction is brought back into the order of time
                outputs.append(one[:, ::-1] if d else one)
            else:
                outputs.append(one[:, -1])
        merged = np.ascontiguousarray(outputs[0]) if len(outputs) == 1 else merge(self._merge, *outputs)
        if not self._state:
            return merged
        return (*merged, *self._taken(after)) if isinstance(merged, tuple) else (merged, *self._taken(after))

    def _given(self, state: Any, B: int) -> Any:
        """fastrnn's state."""
        if state is None:
            return None
        parts = len(self._backwards) * self._cells
        each = 2 if self._kind == "LSTM" else 1
        items = [state] if isinstance(state, np.ndarray) else list(state)
        if self._stacked and all(isinstance(item, (list, tuple)) for item in items):
            items = [part for item in items for part in item]
        if len(items) != parts * each:
            raise ValueError(f"initial_state: expected {parts * each} arrays, got {len(items)}")
        shape = (B, self.layer.hidden_size)
        read = [checks.shaped(f"initial_state[{k}]", checks.real(f"initial_state[{k}]", item), shape)
                for k, item in enumerate(items)]  # fmt: skip
        stacked = tuple(np.stack(read[part::each]) for part in range(each))
        return stacked if each == 2 else stacked[0]

    def _taken(self, after: Any) -> list[Any]:
        """Keras' list of states."""
        parts = after if isinstance(after, tuple) else (after,)
        runs = [[part[k] for part in parts] for k in range(len(parts[0]))]
        if self._stacked and len(parts) == 2:
            return runs
        return [part for run in runs for part in run]


def steps(valid: Array | None) -> dict[str, Array]:
    """A mask as fastrnn's `lengths`, where rows end and nothing else is left out, else as its `mask`."""
    if valid is None or valid.all():
        return {}
    lengths = np.count_nonzero(valid, axis=1)
    if (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all():
        return {"lengths": lengths}
    return {"mask": valid}


def held(y: Array, valid: Array) -> Array:
    """y (B, T, H) with each step that is not valid as the last valid one before it, zeros where there is none."""
    B, T = valid.shape
    last = np.maximum.accumulate(np.where(valid, np.arange(T), -1), axis=1)
    return np.where(last[..., None] < 0, y.dtype.type(0), y[np.arange(B)[:, None], np.maximum(last, 0)])


def merge(mode: str | None, y: Array, reverse: Array) -> Any:
    """Both directions' outputs as Bidirectional merges them."""
    if mode == "concat":
        return np.concatenate([y, reverse], axis=-1)
    if mode is None:
        return np.ascontiguousarray(y), np.ascontiguousarray(reverse)
    with np.errstate(all="ignore"):  # as the kernels compute
        return {"sum": lambda: y + reverse, "ave": lambda: (y + reverse) / 2, "mul": lambda: y * reverse}[mode]()
