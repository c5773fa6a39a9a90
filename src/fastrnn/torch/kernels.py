"""torch's recurrent functions under their names and with their arguments, on fastrnn where it computes them.

torch's modules call such functions of a namespace `_VF`; those of fastrnn.torch find this one instead (modules.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import _VF

from . import autograd, calls, operator
from .calls import Asked, array, layer_of, refused


def compute(
    asked: Asked,
    batch_sizes: torch.Tensor | None,
    x: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    params: list[torch.Tensor],
) -> tuple[torch.Tensor, ...] | None:
    """(y, *state), or None where torch has to compute it."""
    found, why = None, None
    resets = calls.resets.get()
    if torch.compiler.is_compiling():
        found = operator.compute(asked, batch_sizes, resets, x, state, params)
    elif (why := refused([x, *state, *params])) is None:
        layer = layer_of(asked, x, state, params, batch_sizes is not None)
        if layer is not None:
            given = None if resets is None else array(resets)
            found = autograd.compute(layer, batch_sizes, given, x, state, params)
    if found is None and resets is not None:
        raise NotImplementedError(f"resets: expected None where torch computes{f': {why}' if why else ''}")
    return found


def sequence(mode: str) -> Any:
    """torch's function of whole sequences: of (x, state, parameters), or of (data, batch_sizes, state, parameters)."""

    def function(x: torch.Tensor, second: Any, third: Any, *rest: Any) -> tuple[torch.Tensor, ...]:
        if isinstance(rest[0], (list, tuple)):  # the parameters, behind batch_sizes
            batch_sizes, state = second, third
            params, bias, num_layers, dropout, train, bidirectional = rest
            batch_first = False
        else:
            batch_sizes, state, params = None, second, third
            bias, num_layers, dropout, train, bidirectional, batch_first = rest
        parts = (state,) if isinstance(state, torch.Tensor) else tuple(state)
        asked = Asked(mode, bias, num_layers, float(dropout) if train else 0.0, bidirectional, batch_first)
        found = compute(asked, batch_sizes, x, parts, list(params))
        return getattr(_VF, mode)(x, second, third, *rest) if found is None else found

    return function


def cell(mode: str) -> Any:
    """torch's function of one step of a cell."""

    def function(x: torch.Tensor, state: Any, w_ih: torch.Tensor, w_hh: torch.Tensor, *biases: Any) -> Any:
        given = [bias for bias in biases if bias is not None]
        parts = (state,) if isinstance(state, torch.Tensor) else tuple(state)
        asked = Asked(mode, bool(given), 1, 0.0, False, False)
        found = compute(asked, None, x[None], tuple([part[None] for part in parts]), [w_ih, w_hh, *given])
        if found is None:
            return getattr(_VF, mode + "_cell")(x, state, w_ih, w_hh, *biases)
        return tuple([part[0] for part in found[1:]]) if len(parts) == 2 else found[1][0]

    return function


lstm, gru, rnn_tanh, rnn_relu = map(sequence, ("lstm", "gru", "rnn_tanh", "rnn_relu"))
lstm_cell, gru_cell, rnn_tanh_cell, rnn_relu_cell = map(cell, ("lstm", "gru", "rnn_tanh", "rnn_relu"))
