"""What a Keras layer is, as far as it matters for what it computes: its cells, their functions, its directions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from ..core import checks
from ..weights import keras as arrays
from ..weights.gates import by_role

CELLS = {keras.layers.SimpleRNNCell: "RNN", keras.layers.LSTMCell: "LSTM", keras.layers.GRUCell: "GRU"}
FUSED = {keras.layers.SimpleRNN: "RNN", keras.layers.LSTM: "LSTM", keras.layers.GRU: "GRU"}
TORCH = ("sigmoid", "tanh", "relu")  # functions that users give by torch's own name, too


class Read(NamedTuple):
    """A Keras layer, or a Bidirectional of two."""

    name: str
    kind: str
    directions: tuple[tuple[Any, ...], ...]  # of each, the cells from the first layer to the last
    rnns: tuple[Any, ...]  # of each direction, the Keras layer
    options: dict[str, Any]  # of the constructor of fastrnn's layer, but for its sizes

    @property
    def cells(self) -> list[Any]:
        return [cell for cells in self.directions for cell in cells]


def function(given: Any, label: str) -> str | tuple[Any, ...]:
    """What fastrnn's `activations` takes for an activation of Keras; ValueError, with the label, for another."""
    if isinstance(given, keras.layers.Activation):
        return function(given.activation, label)
    if type(given) is keras.layers.LeakyReLU:
        return "leaky_relu", float(given.negative_slope)
    if type(given) is keras.layers.ELU:
        return "elu", float(given.alpha)
    torch = sys.modules.get("torch")
    for name in arrays.NAMES:
        known = [getattr(module, name, None) for module in (keras.activations, keras.ops)]
        if torch is not None and name in TORCH:
            known.append(getattr(torch, name))
        if any(one is given for one in known):
            return arrays.activation(name)
    return arrays.activation(getattr(given, "__name__", repr(given)) + " of its own", label)


def functions_of(cell: Any, label: str) -> list[Any]:
    """fastrnn's `activations` for a cell of Keras."""
    kind = CELLS[type(cell)]
    gates = None if kind == "RNN" else function(cell.recurrent_activation, f"{label}: recurrent_activation")
    return by_role(kind, gates, function(cell.activation, f"{label}: activation"))


def cells_of(rnn: Any, label: str) -> tuple[Any, ...]:
    """The cells of a Keras layer; TypeError for a layer or a cell that may compute something else."""
    fused = next((kind for kind in type(rnn).__mro__ if kind in FUSED), None)
    ours = type(rnn).__module__.startswith("fastrnn.keras.")
    if not isinstance(rnn, keras.layers.RNN) or not (ours or type(rnn) in FUSED or type(rnn) is keras.layers.RNN):
        known = "a keras.layers.SimpleRNN, LSTM, GRU, an RNN of their cells, or a Bidirectional of these"
        of = f", a {fused.__name__} of its own" if fused is not None else ""
        raise TypeError(f"{label}: expected {known}, got {checks.kind(rnn)}{of}")
    cells = rnn.cell.cells if type(rnn.cell) is keras.layers.StackedRNNCells else [rnn.cell]
    for cell in cells:
        if type(cell) not in CELLS:
            known = ", ".join(kind.__name__ for kind in CELLS)
            raise TypeError(f"{label}: expected cells that are a {known}, got {checks.kind(cell)}")
    return tuple(cells)


def read(layer: Any) -> Read:
    """The layer's facts; TypeError or ValueError, with the layer's name, for one that no layer of fastrnn is like."""
    name = f"layer {layer.name!r}" if isinstance(layer, keras.layers.Layer) else "layer"
    if isinstance(layer, keras.layers.Bidirectional):
        rnns: tuple[Any, ...] = (layer.forward_layer, layer.backward_layer)
    else:
        rnns = (layer,)
    directions = tuple(cells_of(rnn, name) for rnn in rnns)
    cells = [cell for one in directions for cell in one]
    if len(rnns) == 2 and rnns[0].go_backwards:
        raise ValueError(f"{name}: expected a forward_layer with go_backwards=False, got True")
    kind = CELLS[type(cells[0])]
    same(name, "a kind", [CELLS[type(cell)] for cell in cells])
    same(name, "units", [cell.units for cell in cells])
    same(name, "use_bias", [cell.use_bias for cell in cells])
    same(name, "layers in each direction", [len(one) for one in directions])
    if len(rnns) == 2 and len(directions[0]) > 1:
        raise ValueError(f"{name}: expected one cell in each direction of a Bidirectional, got {len(directions[0])}")
    functions = [functions_of(cell, name) for cell in cells]
    same(name, "activations", functions)
    if kind == "GRU":
        same(name, "reset_after", [cell.reset_after for cell in cells])
    backwards = len(rnns) == 1 and bool(layer.go_backwards)
    options = arrays.options_of(kind, functions[0], getattr(cells[0], "reset_after", True), backwards)
    return Read(name, kind, directions, rnns, options)


def same(label: str, what: str, values: Sequence[Any]) -> None:
    """ValueError unless all cells agree: a layer of fastrnn has one of each for all of its layers and directions."""
    if any(value != values[0] for value in values):
        raise ValueError(f"{label}: expected {what} that all cells share, got {', '.join(map(str, values))}")


def number_array(variable: Any) -> Any:
    """A variable's value; of the 16-bit formats, which fastrnn does not compute in, as the same numbers in float32."""
    value = keras.ops.convert_to_numpy(variable)
    return value if value.dtype.name in ("float32", "float64") else value.astype("float32")


def params_of(found: Read) -> list[dict[str, Any]]:
    """fastrnn's parameters of every layer and direction; ValueError for a layer without weights yet."""
    if any(getattr(cell, "kernel", None) is None for cell in found.cells):
        raise ValueError(f"{found.name}: expected a layer that has been built, got one without weights")
    params = []
    for cells, ending in zip(found.directions, ("", "_reverse")):
        for k, cell in enumerate(cells):
            kernel, recurrent = number_array(cell.kernel), number_array(cell.recurrent_kernel)
            bias = number_array(cell.bias) if cell.use_bias else None
            params.append(arrays.to_params(found.kind, kernel, recurrent, bias, f"_l{k}{ending}"))
    return params
