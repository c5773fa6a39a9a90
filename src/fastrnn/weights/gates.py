"""What conversions share: the gates of each kind of layer, and blocks of them in another order.

I  input_size     H  hidden_size     G  gates
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import checks
from ..core.params import PROJECTION, VECTORS

Array = np.ndarray

GATES = {"RNN": "a", "LSTM": "ifgo", "GRU": "rzn"}  # fastrnn's, in the order of weight_ih's rows
KINDS = {len(gates): kind for kind, gates in GATES.items()}


def gates_of(kind: str) -> str:
    """The gates of a kind of layer: "RNN", "LSTM" or "GRU"."""
    return GATES[checks.word("kind", kind, tuple(GATES))]


def kind_of_rows(rows: int, hidden: int) -> str:
    """The kind of a layer by its recurrent matrix, of so many rows for H; "unknown" for none of them."""
    return KINDS.get(rows // hidden, "unknown") if hidden and rows % hidden == 0 else "unknown"


def by_role(kind: str, gates: Any, candidate: Any) -> list[Any]:
    """fastrnn's `activations` of a cell whose gates have one function, and whose candidate and c have one."""
    return {"RNN": [candidate], "GRU": [gates, candidate], "LSTM": [gates, candidate, candidate]}[kind]


def reorder(array: Array, order: Sequence[int], axis: int = 0) -> Array:
    """The equal blocks along an axis, in the order of their numbers; the array itself where that is theirs."""
    if list(order) == list(range(len(order))):
        return array
    blocks = np.split(array, len(order), axis)
    return np.concatenate([blocks[k] for k in order], axis)


def both_biases(params: Mapping[str, Any], suffix: str) -> tuple[Array, Array] | None:
    """bias_ih and bias_hh of a direction, None for a layer without; they come in pairs."""
    names = [f"bias_ih{suffix}", f"bias_hh{suffix}"]
    found = [checks.real(f"params[{name!r}]", params[name]) for name in names if name in params]
    if len(found) == 1:
        raise ValueError(f"params: expected {names[0]!r} and {names[1]!r}, or neither, got one of them")
    return (found[0], found[1]) if found else None


def matrices(kind: str, params: Mapping[str, Any], suffix: str) -> tuple[Array, Array, int]:
    """weight_ih (G·H, I), weight_hh (G·H, H) and H of a direction without a projection or vectors of its own."""
    G = len(gates_of(kind))
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    if missing := [name + suffix for name in names[:2] if name + suffix not in params]:
        raise ValueError(f"params: expected {missing[0]!r}, got {', '.join(map(repr, params))}")
    own = [name for name in params if name.endswith(suffix) and name.removesuffix(suffix) in (PROJECTION, *VECTORS)]
    if own:
        raise ValueError(f"params: expected the weights of a plain {kind}, got {own[0]!r} too")
    w_ih, w_hh = (checks.real(f"params[{name + suffix!r}]", params[name + suffix]) for name in names[:2])
    H = checks.columns("weight_hh" + suffix, w_hh).shape[-1]
    checks.shaped(f"params['weight_hh{suffix}']", w_hh, (G * H, H))
    checks.shaped(f"params['weight_ih{suffix}']", w_ih, (G * H, "I"))
    for name in names[2:]:
        if name + suffix in params:
            checks.shaped(f"params[{name + suffix!r}]", checks.real(name, params[name + suffix]), (G * H,))
    return w_ih, w_hh, H
