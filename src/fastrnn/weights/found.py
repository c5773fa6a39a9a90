"""A layer that was found among arrays: what it is, what its arrays cannot tell, and fastrnn's layer of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import checks
from .build import LAYERS
from .gates import Array

Params = Callable[[], dict[str, Array]]


@dataclass(frozen=True)
class FoundLayer:
    """A recurrent layer among named arrays.

    kind        "RNN", "LSTM" or "GRU"; "unknown" for what `refused` describes
    name        what the names of its arrays have in common; of an ONNX node its name
    input_size, hidden_size  0 where `refused` says why they are not known
    proj_size   features of h where an LSTM projects it, else 0
    convention  whose names and orders of gates these are: "torch", "keras", "flax", "onnx" or "equinox"
    options     further arguments of fastrnn's constructor that names, shapes, an ONNX node or Keras' configuration
                tell, as reset="before"
    ambiguous   what they cannot tell, in sentences that name the argument which says it
    undecided   those arguments without which `layer` raises ValueError, since a guess could be wrong
    refused     why no layer of fastrnn's can be made of it, or None
    names       its arrays
    """

    kind: str
    name: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    proj_size: int = 0
    convention: str = "torch"
    options: Mapping[str, Any] = field(default_factory=dict)
    ambiguous: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    refused: str | None = None
    names: tuple[str, ...] = ()
    _params: Params = field(default=dict, repr=False, compare=False)

    def params(self) -> dict[str, Array]:
        """The arrays as fastrnn's parameters, by name; raises ValueError where they are none of such a layer."""
        if self.refused is not None:
            raise ValueError(f"{self.name!r}: expected weights of a layer that fastrnn has: {self.refused}")
        return self._params()

    def layer(self, **options: Any) -> Any:
        """The layer with these weights; `options` are arguments of its constructor, such as batch_first or dtype.

        Raises ValueError where an argument of `undecided` is not given, or one says otherwise than the weights.
        """
        return self.make(LAYERS.get(self.kind), options)

    def make(self, cls: Any, options: Mapping[str, Any]) -> Any:
        """The layer, of this class of its kind."""
        params = self.params()
        said = {*options, *(["nonlinearity"] if "activations" in options else [])}
        for argument in self.undecided:
            if argument not in said:
                why = next(sentence for sentence in self.ambiguous if argument in sentence)
                raise ValueError(f"{argument}: expected to be given for {self.name!r}: {why}")
        for argument, value in self.options.items():
            if argument in options and options[argument] != value:
                raise ValueError(f"{argument}: expected {value!r} as in {self.name!r}, got {options[argument]!r}")
        return cls.from_state_dict(params, **{**self.options, **options})


def from_weights(cls: Any, weights: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """A layer of this class from the weights of its kind in a mapping or file: see `Layer.from_weights`."""
    from .find import find_layers

    kinds = [kind for kind, known in LAYERS.items() if issubclass(cls, known)]
    if not kinds:
        raise TypeError(f"weights: expected a class that others have, RNN, LSTM or GRU, got {cls.__name__}")
    if isinstance(weights, (str, os.PathLike)):
        from ..formats import read

        weights = read(weights)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {checks.kind(name)}")
    everything = find_layers(weights, "weights")
    found = [layer for layer in everything if layer.kind == kinds[0]]
    chosen = [layer for layer in found if name is None or layer.name == name.rstrip("./_")]
    if not found:
        others = ", ".join(f"{layer.kind} {layer.name!r}" for layer in everything) or "no recurrent layer"
        raise ValueError(f"weights: expected an {kinds[0]}, got {others}")
    if len(chosen) != 1:
        known = ", ".join(repr(layer.name) for layer in found)
        raise ValueError(f"name: expected one of {known}, got {name!r}")
    return chosen[0].make(cls, options)
