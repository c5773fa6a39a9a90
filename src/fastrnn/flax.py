"""Flax' recurrent cells and fastrnn's layers: weights in and out, of linen and of nnx. Reading them needs no Flax.

    lstm = fastrnn.flax.from_flax(variables["params"])              # of a linen cell: a nested mapping of arrays
    lstm = fastrnn.flax.from_flax(nnx_cell)                         # or an nnx cell
    variables = {"params": fastrnn.flax.to_flax(lstm)}
    nnx.update(nnx_cell, fastrnn.flax.to_flax(lstm, form="nnx"))

Flax' carry is (c, h), fastrnn's state (h, c).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

from .core import checks
from .weights import build
from .weights import flax as convert
from .weights.gates import by_role

__all__ = ["from_flax", "to_flax"]

FUNCTIONS = {  # the names in flax.linen, flax.nnx and jax.nn of what fastrnn has too
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "elu": "elu",
    "leaky_relu": "leaky_relu",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "identity": "linear",
}


def from_flax(cells: Any, reverse: Any = None, **options: Any) -> Any:
    """The fastrnn.RNN, LSTM or GRU with the weights of Flax cells: their kind is told by the names of their parts.

    cells    the parameters of a linen cell (SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell), a nested mapping of
             arrays; the state of an nnx cell as such a mapping; or an nnx cell. A list of them: layers on each other
    reverse  likewise of the second direction, for a bidirectional layer
    options  arguments of the layer's constructor: batch_first, dtype, activations, dropout

    Functions other than sigmoid and tanh are read off an nnx cell; arrays alone do not show them: give `activations`.
    Raises TypeError or ValueError, naming the part, for what is no such cell, such as MGUCell or a residual SimpleCell.
    """
    read = [(suffix, *read_cell(cell)) for suffix, cell in build.named_cells(cells, reverse)]
    kind = build.one_kind(convert.kind_of(arrays) for _, arrays, _ in read)
    if "activations" not in options:
        found = [given for _, _, given in read]
        if any(given != found[0] for given in found):
            raise ValueError("cells: expected the same functions in all of them, got different ones")
        if found[0] is not None:
            options["activations"] = by_role(kind, *found[0])
    return build.layer_of(kind, [convert.to_params(arrays, suffix) for suffix, arrays, _ in read], **options)


def read_cell(cell: Any) -> tuple[Mapping[str, Any], tuple[Any, Any] | None]:
    """A cell's nested mapping of arrays and, where they are known, its functions: of the gates, of the candidate."""
    nnx = sys.modules.get("flax.nnx")  # whoever has such a cell has imported it
    if nnx is not None and isinstance(cell, nnx.Module):
        known = (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
        if type(cell) not in known:
            raise TypeError(f"cells: expected an nnx {', '.join(k.__name__ for k in known)}, got {checks.kind(cell)}")
        if getattr(cell, "residual", False):
            raise ValueError("cells: expected a SimpleCell without residual=True, which fastrnn has not")
        gate = function("gate_fn", cell.gate_fn) if hasattr(cell, "gate_fn") else None
        return plain(nnx.state(cell, nnx.Param)), (gate, function("activation_fn", cell.activation_fn))
    if isinstance(cell, Mapping):
        return plain(cell), None
    raise TypeError(f"cells: expected a mapping of arrays or an nnx cell, got {checks.kind(cell)}")


def plain(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested mappings as dicts, variables of nnx as their values."""
    found = {}
    for name, part in mapping.items():
        if isinstance(part, Mapping):
            found[str(name)] = plain(part)
        else:
            found[str(name)] = part.get_value() if hasattr(part, "get_value") else part
    return found


def function(label: str, given: Any) -> Any:
    """What fastrnn's `activations` takes for a function of a cell; ValueError for one that it has not."""
    jax, nnx, linen = (sys.modules.get(name) for name in ("jax.nn", "flax.nnx", "flax.linen"))
    for name, ours in FUNCTIONS.items():
        if any(getattr(module, name, None) is given for module in (jax, nnx, linen) if module is not None):
            return ours
    jnp = sys.modules.get("jax.numpy")
    if jnp is not None and given is jnp.tanh:
        return "tanh"
    name = getattr(given, "__name__", repr(given))
    raise ValueError(f"{label}: expected one of {', '.join(FUNCTIONS)}, which fastrnn has, got {name}")


def to_flax(
    layer: Any, index: int = 0, reverse: bool = False, *, form: Literal["linen", "nnx", "nnx_optimized"] = "linen"
) -> dict[str, dict[str, Any]]:
    """The weights of one layer and direction of a fastrnn.RNN, LSTM or GRU, as a Flax cell's nested mapping of arrays.

    `form` is that of linen's cells, of nnx's, or of nnx's OptimizedLSTMCell; `index` and `reverse` say which layer and
    direction. What acts in training alone, such as dropout, is not among the weights.
    Raises ValueError for a layer with an option that Flax' cells have not, or with functions other than sigmoid and
    tanh, which arrays do not show, and for a bias of n within the reset gate's product with nnx's GRUCell.
    """
    kind = build.kind_of(layer, "Flax")
    if build.functions_of(layer)[-1][0] != "tanh":
        raise ValueError("nonlinearity: expected 'tanh' for Flax, whose arrays do not show it, got 'relu'")
    suffix = build.suffix_of(layer, index, reverse)
    return convert.from_params(kind, layer.state_dict(), suffix, form)
