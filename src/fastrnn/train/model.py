"""Models: parts by name, with one mapping of all their parameters; and parts in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cells import RecurrentCell
from ..core import checks
from ..core.params import Named, Params
from ..layer import Layer
from .attention import DotAttention
from .part import Part, PartGrads, PartTape, check_tape

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..core.portable import PortableArray

Array = np.ndarray


class Model(Named):
    """Parts by name: layers, cells, parts of fastrnn.train, or models.

    `model.rnn` is the part that was given as rnn=…; `model.params["rnn.weight_ih_l0"]` its parameter. How the parts are
    put together is for a subclass or a function to say; `gradients` gathers what their `backward` return.
    Raises TypeError for what is no part, ValueError for a name that is taken, or parameters that two parts share.

        >>> model = Model(rnn=fastrnn.LSTM(8, 32), out=Linear(32, 2))
        >>> h, _, tape = model.rnn.forward(x)
        >>> y, out_tape = model.out.forward(h)
        >>> out = model.out.backward(out_tape, dy)
        >>> grads = model.gradients(rnn=model.rnn.backward(tape, out.x), out=out)  # grads["rnn.weight_ih_l0"], …
    """

    _parts: dict[str, Any]

    def __init__(self, **parts: Any) -> None:
        for name, part in parts.items():
            if not isinstance(part, (Part, Layer, RecurrentCell, Model)):
                raise TypeError(f"{name}: expected a layer, cell, part or model, got {checks.kind(part)}")
            if name.startswith("_") or "." in name or hasattr(type(self), name):
                raise ValueError(f"parts: expected names that a model does not use itself, got {name!r}")
        check_apart(parts)
        self._parts = parts
        self._arrange(owned(parts))

    def _arrange(self, arrays: dict[str, Array]) -> None:
        """Make the parts' arrays the parameters: whoever asks the model or the part gets the same ones."""
        self._params = arrays
        views = {f"{name}.{key}": view for name, part in self._parts.items() for key, view in part.params.items()}
        self._named = Params(arrays, views)

    def _read(self, loaded: Mapping[str, PortableArray]) -> dict[str, Array]:
        return owned(self._parts)

    def __getstate__(self) -> Any:
        """The parts, which have the parameters."""
        state = super().__getstate__()
        (state[0] if isinstance(state, tuple) else state)["_params"] = {}
        return state

    def __getattr__(self, name: str) -> Any:
        """The part of this name."""
        parts = vars(self).get("_parts", {})
        if name in parts:
            return parts[name]
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            known = f"; its parts are {', '.join(parts)}" if parts else ""
            raise AttributeError(f"{error}{known}", name=name, obj=self) from None

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, but for a part: another in its place would leave its parameters behind."""
        if name in vars(self).get("_parts", ()):
            raise AttributeError(
                f"cannot set {name!r} of {type(self).__name__!r} object: its parts are fixed once made"
            )
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *vars(self).get("_parts", ())]

    @property
    def parts(self) -> Mapping[str, Any]:
        """The parts by name, in order."""
        return dict(self._parts)

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        """The Generators from which the parts' `forward` draw, by the parts' dotted names."""
        found: dict[str, np.random.Generator] = {}
        for name, part in self._parts.items():
            if isinstance(part, Model):
                found |= {f"{name}.{inner}": generator for inner, generator in part.generators.items()}
            elif (generator := getattr(part, "rng", None)) is not None:
                found[name] = generator
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The kinds and configurations of the parts, as JSON has them."""
        return {"parts": {name: [type(part).__name__, part.config] for name, part in self._parts.items()}}

    def gradients(self, **grads: Any) -> dict[str, Array]:
        """The gradients of all parameters by dotted name, from what each part's `backward` returned, or its params.

        Raises ValueError where a part that has parameters is missing, or an unknown one given, TypeError for what are
        no gradients.
        """
        if unknown := [name for name in grads if name not in self._parts]:
            raise ValueError(f"{unknown[0]}: expected a part among {', '.join(self._parts)}")
        missing = [name for name, part in self._parts.items() if part.params and grads.get(name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)}: expected the gradients of this part, got none")
        found: dict[str, Array] = {}
        for name, part in self._parts.items():
            if (given := grads.get(name)) is not None:
                given = getattr(given, "params", given)
                checks.names(name, given, list(part.params))
                found |= {f"{name}.{key}": given[key] for key in part.params}
        return found

    def __repr__(self) -> str:
        """The parts, one a line, those of a model below it."""
        lines = [f"({name}): {part!r}" for name, part in self._parts.items()]
        inside = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
        return f"{type(self).__name__}({inside}\n)" if lines else f"{type(self).__name__}()"


def owned(parts: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of all parts by dotted name."""
    return {f"{name}.{key}": array for name, part in parts.items() for key, array in part._params.items()}


def check_apart(parts: Mapping[str, Any]) -> None:
    """That no two parts have a parameter in common: an optimiser would take two steps where one is meant."""
    owners: dict[int, str] = {}
    for name, part in parts.items():
        for array in part._params.values():
            if owners.setdefault(id(array), name) != name:
                other = owners[id(array)]
                raise ValueError(f"{name}: expected a part of its own, got one that shares parameters with {other}")


@dataclass(eq=False, repr=False)
class ChainTape(PartTape):
    tapes: dict[str, Any]
    state: dict[str, Any]  # the final states of the recurrent layers, by part
    shape: tuple[int, ...]  # of y
    past: Array | None  # (T, B): which steps are past their row's length, None for no lengths, or no steps in y


class Chain(Model):
    """Parts in a row, each fed with what the one before gives: sequences (T, B, ...) with their lengths.

        model = Chain(Embedding(50, 16), LSTM(16, 64, bidirectional=True), LastStep(bidirectional=True), Linear(128, 2))

    Parts without a name are called "0", "1", … Recurrent layers give y; their states go in and out by name. `lengths`
    go to all that know of time, until one gives an output without it. Past a row's length x is not read for what lies
    before it, and y means nothing where the last part is no recurrent layer.

        >>> y, tape = model.forward(x, lengths=lengths)
        >>> loss, dy = cross_entropy(y, targets)
        >>> optimiser.step(model.backward(tape, dy).params)  # by dotted name, "1.weight_ih_l0"
    """

    def __init__(self, *parts: Any, **named: Any) -> None:
        given = {str(k): part for k, part in enumerate(parts)}
        if twice := [name for name in given if name in named]:
            raise ValueError(f"parts: expected other names than those of the parts in order, got {twice[0]!r}")
        super().__init__(**given | named)
        ended = None
        for name, part in self._parts.items():
            if isinstance(part, DotAttention) or not isinstance(part, (Part, Layer, Chain)):
                what = "a layer, a Chain, or a part of one input"
                raise TypeError(f"{name}: expected {what}, got {checks.kind(part)}")
            if isinstance(part, Layer) and part.batch_first:
                raise ValueError(f"{name}: expected a layer with time first, got batch_first=True")
            if ended is not None and takes_lengths(part):
                what = "a part that knows nothing of time"
                raise ValueError(f"{name}: expected {what} after {ended}, got {checks.kind(part)}")
            ended = name if ends_time(part) else ended

    @property
    def ends_time(self) -> bool:
        """Whether y has no axis over time."""
        return any(map(ends_time, self._parts.values()))

    @property
    def takes_lengths(self) -> bool:
        """Whether a part knows of time."""
        return any(map(takes_lengths, self._parts.values()))

    def __call__(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> Any:
        """Return y, without dropout. Arguments and errors are those of `run`."""
        return self.run(x, state, lengths)[0]

    def run(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> tuple[Any, dict[str, Any]]:
        """Return (y, state): without dropout, the states of the recurrent layers by part, to be carried on.

        x is what the first part takes; state a mapping of parts to initial states, each as the layer's, zero for those
        that are not in it; lengths (B,) the valid steps of each row. Raises as the parts do.
        """
        before, after = self._read_state("state", state), dict[str, Any]()
        y, steps = read_lengths(x, lengths)
        for name, part in self._parts.items():
            options = {"lengths": steps} if takes_lengths(part) else {}
            if isinstance(part, Layer):
                y, after[name] = part(y, before.get(name), **options)
            elif isinstance(part, Chain):
                y, after[name] = part.run(y, before.get(name), **options)
            else:
                y = part(y, **options)
            steps = None if ends_time(part) else steps
        return y, after

    def forward(self, x: ArrayLike, state: Any = None, lengths: ArrayLike | None = None) -> tuple[Any, ChainTape]:
        """Return (y, tape): as a call, with dropout, and what `backward` needs; `tape.state` is as `run` returns it."""
        before, after = self._read_state("state", state), dict[str, Any]()
        tapes: dict[str, Any] = {}
        y, steps = read_lengths(x, lengths)
        T = len(y) if steps is not None else 0
        for name, part in self._parts.items():
            options = {"lengths": steps} if takes_lengths(part) else {}
            if isinstance(part, Layer):
                y, after[name], tapes[name] = part.forward(y, before.get(name), lengths=steps)
            elif isinstance(part, Chain):
                y, tapes[name] = part.forward(y, before.get(name), **options)
                after[name] = tapes[name].state
            else:
                y, tapes[name] = part.forward(y, **options)
            steps = None if ends_time(part) else steps
        past = None if steps is None else np.arange(T)[:, None] >= steps
        return y, ChainTape(self, tapes, after, np.shape(y), past)

    def backward(self, tape: ChainTape, dy: ArrayLike | None = None, dstate: Any = None) -> PartGrads:
        """Gradients by x, by all parameters, by dotted name, and by the initial states of the recurrent layers.

        dy is shaped as y, and not read past a row's length; dstate is a mapping of parts to gradients of final states,
        each as the layer's. What is not given is zero, but not all of it.
        """
        check_tape(tape, ChainTape, self)
        checks.some_gradient("dy, dstate", dy, *self._read_state("dstate", dstate).values())
        return self._backprop(tape, dy, dstate)

    def _backprop(self, tape: ChainTape, dy: ArrayLike | None, dstate: Any) -> PartGrads:
        """As `backward`, where all may be zero: of a chain in a chain, when the loss depends on what lies before it."""
        later = self._read_state("dstate", dstate)
        d = None if dy is None else read_gradient(tape, dy)
        grads: dict[str, dict[str, Array]] = {}
        before: dict[str, Any] = {}
        for name, part in reversed(self._parts.items()):
            dafter, inner = later.get(name), tape.tapes[name]
            if isinstance(part, Layer):
                nothing = d is None and dafter is None
                found = part.backward(inner, d, zeros_like(tape.state[name]) if nothing else dafter)
                d, grads[name], before[name] = found.x, found.params, found.state
            elif isinstance(part, Chain):
                d, grads[name], before[name] = part._backprop(inner, d, dafter)
            elif d is None:
                grads[name] = zeros_like(part.params)
            else:
                d, grads[name], _ = part.backward(inner, d)
        named = {f"{name}.{key}": array for name in self._parts for key, array in grads[name].items()}
        return PartGrads(d, named, dict(reversed(before.items())))

    def _read_state(self, label: str, state: Any) -> Mapping[str, Any]:
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


def takes_lengths(part: Any) -> bool:
    return isinstance(part, Layer) or part.takes_lengths


def ends_time(part: Any) -> bool:
    return not isinstance(part, Layer) and part.ends_time


def read_lengths(x: ArrayLike, lengths: ArrayLike | None) -> tuple[Any, Array | None]:
    """x, as an array where there are lengths to be checked against its shape, and these."""
    if lengths is None:
        return x, None
    given = checks.real("x", x)
    if given.ndim < 2:
        raise ValueError(f"x: expected (T, B, ...) with lengths, got shape {checks.show(given.shape)}")
    T, B = given.shape[:2]
    return given, checks.lengths(lengths, T, B, batched=True)


def read_gradient(tape: ChainTape, dy: ArrayLike) -> Array:
    """dy, zero past a row's length."""
    given = checks.shaped("dy", checks.real("dy", dy), tape.shape)
    if tape.past is None:
        return given
    past = tape.past.reshape(tape.past.shape + (1,) * (given.ndim - 2))
    return np.where(past, given.dtype.type(0), given)


def zeros_like(value: Any) -> Any:
    """The same structure of arrays, of zeros."""
    if isinstance(value, Mapping):
        return {name: zeros_like(part) for name, part in value.items()}
    return tuple(map(zeros_like, value)) if isinstance(value, tuple) else np.zeros_like(value)
