"""What the gates say of memory: products of forget gates, the horizon they imply, and saturation."""

from __future__ import annotations

import numpy as np

from ..backends.reference.cells import EQUATIONS
from ..backends.reference.functions import Own, affine
from ..core.geometry import Array
from .jacobians import Path

# The gates of each cell, in the order in which the reference's equations return them, and the one that keeps the past.
GATES = {
    "lstm": ("i", "f", "g", "o"),
    "lstm_coupled": ("i", "g", "o"),
    "gru": ("r", "z", "n"),
    "gru_reset_first": ("r", "z", "n"),
}
KEEPERS = {"lstm": "f", "gru": "z", "lstm_coupled": "f", "gru_reset_first": "z"}
SIGMOIDS = ("i", "f", "o", "r", "z")
LOW, HIGH = 0.1, 0.9  # Karpathy et al., Visualizing and understanding recurrent networks (2015)


def cell_name(path: Path) -> str:
    return path.layer._spec.cell.name


def gates(path: Path) -> dict[str, Array]:
    """The gates of every step, each (T, H), by the reference's equations; of an RNN its output, as "h"."""
    name, w = cell_name(path), path.layer._weights[0][0]
    own = Own(path.layer._spec.cell, w, path.layer.hidden_size)
    h, c = path.states[0][:-1], path.states[1][:-1] if len(path.states) == 2 else None
    a, u = affine(path.x, w.w_ih, w.b_ih), own.state_share(h)
    after, _, kept = EQUATIONS[name][0](a, u, h, c, own)
    if name not in GATES:
        return {"h": after}
    found = dict(zip(GATES[name], kept))
    return found | {"f": 1 - found["i"]} if name == "lstm_coupled" else found


def saturation(name: str, values: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The fractions of units of which each gate is saturated low, and high, at each step: (T,) by gate."""
    low, high = {}, {}
    for gate, value in values.items():
        if name.endswith("relu"):
            low[gate], high[gate] = (value <= 0).mean(axis=1), np.zeros(len(value))
        else:
            low[gate] = (value < (LOW if gate in SIGMOIDS else -HIGH)).mean(axis=1)
            high[gate] = (value > HIGH).mean(axis=1)
    return low, high


def keeping(name: str, values: dict[str, Array]) -> tuple[Array, Array] | tuple[None, None]:
    """log10 of the products of forget (LSTM) or update gates (GRU) to the end, (T, H), and the horizons, (H,)."""
    if name not in KEEPERS:
        return None, None
    with np.errstate(divide="ignore"):
        logs = np.log10(values[KEEPERS[name]])
        horizon = np.log10(np.e) / np.abs(logs.mean(axis=0))
    products = np.zeros_like(logs)
    products[:-1] = np.cumsum(logs[:0:-1], axis=0)[::-1]
    return products, horizon
