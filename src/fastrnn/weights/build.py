"""A layer from converted weights, and what another package's cell can be of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..core import checks
from ..core.options import ROLES
from ..layer import Layer
from ..layers import GRU, LSTM, RNN
from .gates import Array, gates_of

LAYERS: dict[str, Any] = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
OPTIONS = ("activations", "reset", "peephole", "coupled", "proj_size", "clip", "zoneout", "layer_norm")


def layer_of(kind: str, params: Sequence[dict[str, Array]], **options: Any) -> Any:
    """The layer with the parameters of all layers and directions; `options` are further arguments of its constructor.

    Its dtype is float64 if all arrays are, else float32. Raises ValueError for sizes that do not fit together.
    """
    gates_of(kind)
    merged: dict[str, Array] = {}
    for found in params:
        merged |= found
    return LAYERS[kind].from_state_dict(merged, **options)


def named_cells(cells: Any, reverse: Any) -> list[tuple[str, Any]]:
    """What ends the names of each cell's parameters, and the cell: layers on each other, then those of the reverse.

    Each argument is a cell or a list of them, `reverse` None for a layer of one direction.
    """
    layers, other = (list(given) if isinstance(given, (list, tuple)) else [given] for given in (cells, reverse))
    backward = [] if reverse is None else other
    if reverse is not None and len(backward) != len(layers):
        raise ValueError(f"reverse: expected {len(layers)} cells, one for each layer, got {len(backward)}")
    if not layers:
        raise ValueError("cells: expected at least one cell, got none")
    found = [(f"_l{k}", cell) for k, cell in enumerate(layers)]
    return found + [(f"_l{k}_reverse", cell) for k, cell in enumerate(backward)]


def one_kind(kinds: Iterable[str]) -> str:
    """The kind that cells have in common; ValueError where they have none."""
    found = sorted(set(kinds))
    if len(found) > 1:
        raise ValueError(f"cells: expected cells of one kind, got {' and '.join(found)}")
    return found[0]


def kind_of(layer: Any, where: str, allowed: Sequence[str] = ()) -> str:
    """ "RNN", "LSTM" or "GRU" of a layer whose cell `where` has; ValueError that names an option which it has not.

    `allowed` are options of which the caller takes care.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: expected a fastrnn.RNN, LSTM or GRU, got {checks.kind(layer)}")
    kinds = [kind for kind, made in LAYERS.items() if isinstance(layer, made)]
    if not kinds:
        raise ValueError(f"layer: expected an RNN, LSTM or GRU for {where}, which has no {checks.kind(layer)}")
    kind = kinds[0]
    config = layer.config
    for name in OPTIONS:
        if config.get(name) and name not in allowed:
            raise ValueError(f"{name}: expected a layer without it for {where}, got {config[name]!r}")
    return kind


def functions_of(layer: Any) -> list[tuple[str, float, float]]:
    """The activations of a layer, (name, alpha, beta), in the order of the argument `activations`."""
    cell = layer._spec.cell
    roles = ROLES[cell.equation]
    if cell.options is None:
        plain = {0: "sigmoid", 1: "relu" if cell.name == "rnn_relu" else "tanh", 2: "tanh"}
        return [(plain[role], 0.0, 0.0) for role in roles]
    return [tuple(cell.options.functions[role]) for role in roles]


def suffix_of(layer: Any, index: int, reverse: bool) -> str:
    """What ends the names of a direction's parameters; ValueError for a direction that the layer has not."""
    if not 0 <= checks.integer("index", index, least=0) < layer.num_layers:
        raise ValueError(f"index: expected a layer below num_layers={layer.num_layers}, got {index}")
    if checks.flag("reverse", reverse) and not layer.bidirectional:
        raise ValueError("reverse: expected False for a layer of one direction, got True")
    return f"_l{index}{'_reverse' if reverse else ''}"
