"""Equinox' recurrent cells and fastrnn's layers: weights in and out. Reading them needs no import of Equinox.

gru = fastrnn.equinox.from_equinox(cell)            # an equinox.nn.GRUCell or LSTMCell
cell = fastrnn.equinox.to_equinox(gru, cell)        # a new cell like the one given, with the layer's weights
"""

from __future__ import annotations

from typing import Any

from .core import checks
from .weights import build
from .weights import equinox as convert

__all__ = ["from_equinox", "to_equinox"]

KINDS = {"LSTMCell": "LSTM", "GRUCell": "GRU"}


def from_equinox(cells: Any, reverse: Any = None, **options: Any) -> Any:
    """The fastrnn.LSTM or GRU with the weights of an Equinox cell; of a list of cells, layers on top of each other.

    `reverse` is, or are, likewise the second direction's. `options` are arguments of the layer's constructor.
    Raises TypeError for what is no LSTMCell or GRUCell, ValueError for sizes that do not fit together.
    """
    named = build.named_cells(cells, reverse or None)
    kind = build.one_kind(kind_of("cells", cell) for _, cell in named)
    params = [convert.to_params(kind, **arrays_of(kind, cell), suffix=suffix) for suffix, cell in named]
    return build.layer_of(kind, params, **options)


def kind_of(name: str, cell: Any) -> str:
    """The kind of layer that a cell's class belongs to."""
    kind = type(cell)
    if kind.__name__ not in KINDS or not kind.__module__.startswith("equinox."):
        raise TypeError(f"{name}: expected an equinox.nn.LSTMCell or GRUCell, got {checks.kind(cell)}")
    return KINDS[kind.__name__]


def arrays_of(kind: str, cell: Any) -> dict[str, Any]:
    """The arrays of a cell by their names, in the order of `convert.from_params`."""
    names = ("weight_ih", "weight_hh", "bias", "bias_n")
    return {name: getattr(cell, name) for name in names[: 4 if kind == "GRU" else 3]}


def to_equinox(layer: Any, template: Any, index: int = 0, reverse: bool = False) -> Any:
    """A cell like the `template`, of its dtypes, with the weights of one layer and direction of a fastrnn.LSTM or GRU.

    Equinox' modules are immutable: the template stays as it is. `index` and `reverse` say which layer and direction.
    Raises ValueError for a template of another kind or size, or without biases where the layer has some, and for a
    layer with an option that Equinox' cells have not. A template with biases gets zeros of a layer without.
    """
    try:
        import equinox
        import jax.numpy
    except ImportError as error:
        raise ImportError("to_equinox needs equinox: pip install 'fastrnn[equinox]'") from error
    kind = build.kind_of(layer, "Equinox")
    if kind == "RNN":
        raise ValueError("layer: expected an LSTM or GRU, since Equinox has no cell of an RNN")
    if (given := kind_of("template", template)) != kind:
        raise ValueError(f"template: expected a cell for {kind}, got one for {given}")
    olds = arrays_of(kind, template)
    new: list[Any] = []
    for name, array in convert.from_params(kind, layer.state_dict(), build.suffix_of(layer, index, reverse)).items():
        old: Any = olds[name]
        if old is None and array is not None:
            raise ValueError(f"template: expected use_bias=True for a layer with biases, got {name} None")
        if array is None:
            new.append(None if old is None else jax.numpy.zeros_like(old))
        else:
            checks.shaped(f"the layer's {name}, for the template", array, old.shape)
            new.append(jax.numpy.asarray(array, old.dtype))
    return equinox.tree_at(lambda cell: list(arrays_of(kind, cell).values()), template, new, is_leaf=is_none)


def is_none(leaf: Any) -> bool:
    return leaf is None
