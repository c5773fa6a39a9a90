"""torch's recurrent functions under their names and with their arguments, on fastrnn where it computes them.

torch's modules call such functions of a namespace `_VF`; those of fastrnn.torch find this one instead (modules.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import _VF

from ..core import config, stack
from ..frozen import shortcut, step_at_once
from . import calls, operator
from .autograd import Recurrence, infer
from .calls import CELLS, Asked, array, contiguous, flat_layer, layer_of, refused, threads


def compute(
    asked: Asked,
    batch_sizes: torch.Tensor | None,
    x: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    params: list[torch.Tensor],
) -> tuple[torch.Tensor, ...] | None:
    """(y, *state), or None where torch has to compute it."""
    why: str | None = None
    resets = calls.resets.get()
    if torch.compiler.is_compiling():
        found = operator.compute(asked, batch_sizes, resets, x, state, params)
    else:
        why = refused([x, *state, *params])
        found = None if why else compute_here(asked, batch_sizes, resets, x, state, params)
    if found is None and resets is not None:
        raise NotImplementedError(f"resets: expected None where torch computes{f': {why}' if why else ''}")
    return found


def compute_here(
    asked: Asked,
    batch_sizes: torch.Tensor | None,
    resets: torch.Tensor | None,
    x: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    params: list[torch.Tensor],
) -> tuple[torch.Tensor, ...] | None:
    """(y, *state) of tensors that are not refused, or None where their sizes fit no layer."""
    layer = layer_of(asked, x, state, params, batch_sizes is not None)
    if layer is None:
        return None
    given = None if resets is None else array(resets)
    if differentiates((x, *state, *params)):
        return Recurrence.apply(layer, batch_sizes, given, len(state), x, *state, *params)
    return infer(layer, batch_sizes, given, x, state, params)


def differentiates(tensors: Sequence[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors])


def at_once(module: Any, x: Any, hx: Any) -> Any:
    """(y, state) by the backend's short way, of a call without gradients; None where it needs a closer look."""
    parts = () if hx is None else (hx,) if isinstance(hx, torch.Tensor) else hx
    params = [getattr(module, name) for name in module._flat_weights_names]
    if not isinstance(x, torch.Tensor) or not isinstance(parts, tuple):
        return None
    tensors = (x, *parts, *params)
    if differentiates(tensors) or (module.training and module.dropout) or refused(tensors):
        return None
    mode = module.mode.lower()
    asked = Asked(mode, module.bias, module.num_layers, 0.0, module.bidirectional, module.batch_first)
    layer = flat_layer(asked, tuple([param.shape for param in params]), x.dtype)
    if layer is None:
        return None
    spec, backend, many = layer.spec, config.backend(), threads()
    weights = layer.grouped([contiguous(param) for param in params])
    steps = x.shape[1 if spec.batch_first and x.dim() == 3 else 0]
    short = shortcut(spec, backend, stack.packing(spec, backend, weights, steps, many))
    if short is None:
        return None
    state = None if hx is None else array(hx) if len(parts) == 1 else tuple([array(part) for part in parts])
    found = short.sequence(array(x), state, None, many or config.get_num_threads())
    if found is None:
        return None
    y, after = found
    pair = type(after) is tuple
    return torch.from_numpy(y), tuple(map(torch.from_numpy, after)) if pair else torch.from_numpy(after)


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
        found = None
        if not torch.compiler.is_compiling():
            found = cell_at_once(mode, x, parts, (w_ih, w_hh, *given))
        if found is None:
            asked = Asked(mode, bool(given), 1, 0.0, False, False)
            of_layer = compute(asked, None, x[None], tuple([part[None] for part in parts]), [w_ih, w_hh, *given])
            found = None if of_layer is None else [part[0] for part in of_layer[1:]]
        if found is None:
            return getattr(_VF, mode + "_cell")(x, state, w_ih, w_hh, *biases)
        return tuple(found) if len(parts) == 2 else found[0]

    return function


def cell_at_once(
    mode: str, x: torch.Tensor, state: tuple[torch.Tensor, ...], params: tuple[torch.Tensor, ...]
) -> list[torch.Tensor] | None:
    """The parts of the next state, of a call without gradients; None where it needs a closer look."""
    tensors = (x, *state, *params)
    if differentiates(tensors) or refused(tensors):
        return None
    weights = [array(param) for param in params] + [None] * (4 - len(params))
    before = array(state[0]) if len(state) == 1 else tuple([array(part) for part in state])
    after = step_at_once(config.backend(), CELLS[mode], array(x), before, *weights)
    if after is None:
        return None
    return [torch.from_numpy(part) for part in (after if len(state) == 2 else (after,))]


lstm, gru, rnn_tanh, rnn_relu = map(sequence, ("lstm", "gru", "rnn_tanh", "rnn_relu"))
lstm_cell, gru_cell, rnn_tanh_cell, rnn_relu_cell = map(cell, ("lstm", "gru", "rnn_tanh", "rnn_relu"))
