"""The weights of an Equinox cell and fastrnn's: both ways.

    weight_ih (G·H, I), weight_hh (G·H, H) as fastrnn's     I  input_size     H  hidden_size
    LSTMCell  gates i f g o; bias (4·H,)
    GRUCell   gates r z n; bias (3·H,), bias_n (H,): what is added within the reset gate's product

Both have bias None without biases. (`equinox.nn.LSTMCell` and `GRUCell`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core import checks
from .gates import Array, both_biases, gates_of, matrices


def to_params(
    kind: str, weight_ih: Any, weight_hh: Any, bias: Any = None, bias_n: Any = None, suffix: str = "_l0"
) -> dict[str, Array]:
    """fastrnn's parameters by name from a cell's arrays; `kind` is "LSTM" or "GRU".

    Raises ValueError for shapes that no such cell has, naming the array, and for biases of which a part is missing.
    """
    G = len(gates_of(checks.word("kind", kind, ("LSTM", "GRU"))))
    w_hh = checks.real("weight_hh", weight_hh)
    H = w_hh.shape[-1] if w_hh.ndim else 0
    checks.shaped("weight_hh", w_hh, (G * H, H))
    w_ih = checks.shaped("weight_ih", checks.real("weight_ih", weight_ih), (G * H, "I"))
    found = {"weight_ih" + suffix: w_ih, "weight_hh" + suffix: w_hh}
    if (bias_n is None) != (bias is None or kind == "LSTM"):
        raise ValueError(f"bias_n: expected an array with the bias of a GRU, else None, got {checks.kind(bias_n)}")
    if bias is None:
        return found
    of_x = checks.shaped("bias", checks.real("bias", bias), (G * H,))
    of_h = np.zeros_like(of_x)
    if bias_n is not None:
        of_h[2 * H :] = checks.shaped("bias_n", checks.real("bias_n", bias_n), (H,))
    return found | {"bias_ih" + suffix: of_x, "bias_hh" + suffix: of_h}


def from_params(kind: str, params: Mapping[str, Any], suffix: str = "_l0") -> dict[str, Array | None]:
    """A cell's arrays, weight_ih, weight_hh, bias and, for "GRU", bias_n, from fastrnn's of one direction."""
    checks.word("kind", kind, ("LSTM", "GRU"))
    w_ih, w_hh, H = matrices(kind, params, suffix)
    found: dict[str, Array | None] = {"weight_ih": w_ih, "weight_hh": w_hh, "bias": None}
    biases = both_biases(params, suffix)
    if kind == "GRU":
        found["bias_n"] = None if biases is None else biases[1][2 * H :].copy()
    if biases is not None:
        of_x, of_h = biases[0].copy(), biases[1]
        if kind == "GRU":
            of_x[: 2 * H] += of_h[: 2 * H]
        else:
            of_x += of_h
        found["bias"] = of_x
    return found
