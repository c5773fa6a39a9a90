"""Models: parts by name, with one mapping of all their parameters; and parts in a row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..cells import RecurrentCell
from ..layers import Layer
from ..params import under
from .attention import AttentionPooling
from .linear import Dropout, LastStep
from .part import Part, PartGrads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray


class ModelParams(Mapping[str, Array]):
    """The parameters of all parts, by dotted names; assigning to an item copies into the parameter."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._owners = {f"{name}.{key}": (part, key) for name, part in parts.items() for key in part.params}

    def __getitem__(self, name: str) -> Array:
        part, key = self._owners[name]
        return part.params[key]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        if name not in self._owners:
            raise ValueError(f"params: expected one of {', '.join(self._owners)}, got {name!r}")
        part, key = self._owners[name]
        part.params[key] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def convert(self, label: str, name: str, value: ArrayLike) -> Array:
        """What may be copied into a parameter, as `Params.convert`."""
        part, key = self._owners[name]
        return part.params.convert(label, key, value)

    def __repr__(self) -> str:
        return f"ModelParams({dict(self)!r})"


class Model:
    """Parts by name: layers, cells, parts of fastrnn.train, or models.

    `model.rnn` is the part that was given as rnn=…; `model.params["rnn.weight_ih_l0"]` its parameter. How the parts are
    put together is for a subclass or a function to say; `gradients` gathers what their `backward` return.
    """

    def __init__(self, **parts: Any) -> None:
        for name, part in parts.items():
            if not isinstance(part, (Part, Layer, RecurrentCell, Model)):
                raise TypeError(f"{name}: expected a layer, cell, part or model, got {checks.kind(part)}")
            if name.startswith("_") or "." in name or hasattr(type(self), name):
                raise ValueError(f"parts: expected names that a model does not use itself, got {name!r}")
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("_parts", {})
        if name in parts:
            return parts[name]
        found = f": its parts are {', '.join(parts)}" if parts else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{found}", name=name, obj=self)

    @property
    def parts(self) -> Mapping[str, Any]:
        """The parts by name, in order."""
        return dict(self._parts)

    @property
    def params(self) -> ModelParams:
        """Mapping of dotted names to the parameters themselves, to be changed in place."""
        return ModelParams(self._parts)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(part.num_parameters for part in self._parts.values())

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        """The Generators from which the parts' `forward` draw, by the parts' dotted names."""
        found: dict[str, np.random.Generator] = {}
        for name, part in self._parts.items():
            if isinstance(part, Model):
                found |= {f"{name}.{inner}": generator for inner, generator in part.generators.items()}
            elif isinstance(part, (Layer, Dropout)) and part.rng is not None:
                found[name] = part.rng
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The kinds and configurations of the parts, as JSON has them."""
        return {"parts": {name: [type(part).__name__, part.config] for name, part in self._parts.items()}}

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, by dotted name."""
        return {name: array.copy() for name, array in self.params.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], prefix: str = "") -> None:
        """Copy all parameters from a mapping; on an error none has changed. As a layer's, errors included."""
        params, given = self.params, under(prefix, mapping)
        checks.names(f"state_dict under {prefix!r}" if prefix else "state_dict", given, list(params))
        found = {name: params.convert(f"state_dict[{prefix + name!r}]", name, given[name]) for name in params}
        for name, value in found.items():
            params[name][...] = value

    def gradients(self, **grads: Any) -> dict[str, Array]:
        """The gradients of all parameters by dotted name, from what each part's `backward` returned, or its params.

        Raises ValueError where a part that has parameters is missing, or an unknown one given.
        """
        found: dict[str, Array] = {}
        for name, part in self._parts.items():
            given = grads.pop(name, None)
            given = getattr(given, "params", given)
            if given is None and part.num_parameters:
                raise ValueError(f"{name}: expected the gradients of this part, got none")
            checks.names(name, given or {}, list(part.params))
            found |= {f"{name}.{key}": given[key] for key in part.params}
        if grads:
            raise ValueError(f"{next(iter(grads))}: expected a part among {', '.join(self._parts)}")
        return found

    def __repr__(self) -> str:
        lines = [f"({name}): {part!r}" for name, part in self._parts.items()]
        inside = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
        return f"{type(self).__name__}({inside}\n)" if lines else f"{type(self).__name__}()"


class ChainTape(NamedTuple):
    """What a Chain's `backward` needs: each part's tape; the final states of the recurrent layers, by part."""

    tapes: dict[str, Any]
    state: dict[str, Any]


def knows_lengths(part: Any) -> bool:
    return "lengths" in inspect.signature(type(part).__call__).parameters


class Chain(Model):
    """Parts in a row, each fed with what the one before gives: sequences (T, B, ...) with their lengths.

        model = Chain(Embedding(50, 16), LSTM(16, 64, bidirectional=True), LastStep(bidirectional=True), Linear(128, 2))

    Parts without a name are called "0", "1", … Recurrent layers give y; their states go in and out by name. `lengths`
    go to all that know of time, until one gives an output without it.
    """

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(**{str(k): part for k, part in enumerate(parts)} | named)
        for name, part in self._parts.items():
            if isinstance(part, RecurrentCell) or (isinstance(part, Model) and not isinstance(part, Chain)):
                raise TypeError(f"{name}: expected a layer, a part or a Chain, got {checks.kind(part)}")
            if isinstance(part, Layer) and part.batch_first:
                raise ValueError(f"{name}: expected a layer with time first, got batch_first=True")

    def __call__(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> Any:
        """Return y, without dropout."""
        return self.run(x, state, lengths)[0]

    def run(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> tuple[Any, dict[str, Any]]:
        """Return (y, state): without dropout, the states of the recurrent layers by part, to be carried on."""
        after: dict[str, Any] = {}
        before = self._read_state(state)
        y: Any = x
        for name, part in self._parts.items():
            if isinstance(part, Layer):
                y, after[name] = part(y, before.get(name), lengths=lengths)
            elif isinstance(part, Chain):
                y, after[name] = part.run(y, before.get(name), lengths)
            else:
                y = part(y, lengths) if knows_lengths(part) else part(y)
            lengths = None if ends_time(part) else lengths
        return y, after

    def forward(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> tuple[Any, ChainTape]:
        """Return (y, tape); `tape.state` are the final states by part."""
        tapes: dict[str, Any] = {}
        after: dict[str, Any] = {}
        before = self._read_state(state)
        y: Any = x
        for name, part in self._parts.items():
            if isinstance(part, Layer):
                y, after[name], tapes[name] = part.forward(y, before.get(name), lengths=lengths)
            elif isinstance(part, Chain):
                y, tapes[name] = part.forward(y, before.get(name), lengths)
                after[name] = tapes[name].state
            else:
                y, tapes[name] = part.forward(y, lengths) if knows_lengths(part) else part.forward(y)
            lengths = None if ends_time(part) else lengths
        return y, ChainTape(tapes, after)

    def backward(self, tape: ChainTape, dy: ArrayLike | None = None, dstate: Any = None) -> PartGrads:
        """Gradients by x, by all parameters, by dotted name, and by the initial states of the recurrent layers.

        dy is shaped as y; dstate has gradients of final states by part, each as the layer's.
        """
        later = self._read_state(dstate, "dstate")
        grads: dict[str, dict[str, Array]] = {}
        before: dict[str, Any] = {}
        d: Any = dy
        for name, part in reversed(self._parts.items()):
            if isinstance(part, (Layer, Chain)):
                found = part.backward(tape.tapes[name], d, later.get(name))
                before[name] = found.state
            else:
                found = part.backward(tape.tapes[name], d)
            d, grads[name] = found.x, found.params
        named = {f"{name}.{key}": array for name in self._parts for key, array in grads[name].items()}
        return PartGrads(d, named, before)

    def _read_state(self, state: Any, label: str = "state") -> Mapping[str, Any]:
        """States by part; None is none."""
        if state is None:
            return {}
        if not isinstance(state, Mapping):
            raise TypeError(f"{label}: expected a mapping of parts to states, got {checks.kind(state)}")
        known = [name for name, part in self._parts.items() if isinstance(part, (Layer, Chain))]
        for name in state:
            if name not in known:
                raise ValueError(f"{label}: expected names among {', '.join(known) or 'none'}, got {name!r}")
        return state


def ends_time(part: Any) -> bool:
    """Whether what a part gives has no axis over time any more."""
    if isinstance(part, Chain):
        return any(map(ends_time, part.parts.values()))
    return isinstance(part, (AttentionPooling, LastStep))
