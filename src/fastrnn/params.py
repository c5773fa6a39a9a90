"""Parameters by name: torch's names, shapes, order and initialisation; gradients to accumulate into."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from math import sqrt
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import checks
from .geometry import Array, LayerSpec, describe
from .portable import PortableArray
from .spec import RNN_RELU, RNN_TANH, Cell, Weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of Weights
PARAMETER = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")  # what torch's modules have as attributes


def rnn_cell(nonlinearity: Any) -> Cell:
    """The cell of an RNN with the nonlinearity "tanh" or "relu"."""
    cells = {"tanh": RNN_TANH, "relu": RNN_RELU}
    if not isinstance(nonlinearity, str) or nonlinearity not in cells:
        error = ValueError if isinstance(nonlinearity, str) else TypeError
        raise error(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return cells[nonlinearity]


def layer_suffixes(spec: LayerSpec) -> list[list[str]]:
    """What follows the kind in a parameter's name, by layer and direction."""
    return [[f"_l{k}", f"_l{k}_reverse"][: spec.directions] for k in range(spec.num_layers)]


def shapes(spec: LayerSpec, suffixes: list[list[str]]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, in torch's order."""
    rows, H = spec.cell.gates * spec.hidden_size, spec.hidden_size
    found: dict[str, tuple[int, ...]] = {}
    for k, layer in enumerate(suffixes):
        inputs = spec.output_size if k else spec.input_size
        for suffix in layer:
            sizes = ((rows, inputs), (rows, H), (rows,), (rows,))
            found |= {kind + suffix: size for kind, size in zip(KINDS[: 4 if spec.bias else 2], sizes)}
    return found


def group(arrays: Mapping[str, Array], suffixes: list[list[str]]) -> list[tuple[Weights, ...]]:
    """Named arrays as the weights of each layer and direction."""
    return [
        tuple(
            Weights(
                arrays["weight_ih" + s], arrays["weight_hh" + s], arrays.get("bias_ih" + s), arrays.get("bias_hh" + s)
            )
            for s in layer
        )
        for layer in suffixes
    ]


ARRAY_BYTES = 256  # that an array and its name take, at the least, beside its elements


def check_memory(spec: LayerSpec) -> None:
    """A MemoryError, before any of the parameters is named or drawn, where they could not all be allocated."""
    rows, biases = spec.directions * spec.cell.gates * spec.hidden_size, 2 if spec.bias else 0
    columns = spec.input_size + (spec.num_layers - 1) * spec.output_size + spec.num_layers * (spec.hidden_size + biases)
    arrays = spec.num_layers * spec.directions * (2 + biases)
    try:
        np.empty(rows * columns * spec.dtype.itemsize + arrays * ARRAY_BYTES, np.uint8)  # asked for, never touched
    except (MemoryError, ValueError, OverflowError):
        sizes = ("input_size", "hidden_size", "num_layers")
        given = ", ".join(f"{size}={checks.digits(getattr(spec, size))}" for size in sizes)
        raise MemoryError(f"cannot allocate the parameters of {given}") from None


def draw(shapes: Mapping[str, tuple[int, ...]], spec: LayerSpec, rng: np.random.Generator) -> dict[str, Array]:
    """Parameters from U(-1/√H, 1/√H), in order."""
    bound = 1 / sqrt(spec.hidden_size)
    return {name: rng.uniform(-bound, bound, shape).astype(spec.dtype) for name, shape in shapes.items()}


class Params(Mapping[str, Array]):
    """The parameters of a layer or cell by name: the names are fixed, the arrays are changed in place.

    Assigning to an item copies into the parameter, as `load_state_dict` does.
    """

    __slots__ = ("_arrays", "_views")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._views = {name: array.view() for name, array in arrays.items()}

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, name: object) -> bool:
        return name in self._views

    def keys(self) -> KeysView[str]:
        return self._views.keys()

    def values(self) -> ValuesView[Array]:
        return self._views.values()

    def items(self) -> ItemsView[str, Array]:
        return self._views.items()

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        """Raises as `load_state_dict` does, and ValueError for a name that no parameter has."""
        if name not in self._arrays:
            raise ValueError(f"params: expected one of {', '.join(self._arrays)}, got {name!r}")
        if value is not self._views[name]:  # which `params[name] -= ...` has changed already
            self._arrays[name][...] = self.convert(f"params[{name!r}]", name, value)

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError("params: expected no deletion, since a layer or cell keeps all of its parameters")

    def convert(self, label: str, name: str, value: ArrayLike) -> Array:
        """What may be copied into a parameter: an array of its own, since `value` may overlap another parameter."""
        array = self._arrays[name]
        found = np.array(checks.shaped(label, checks.real(label, value), array.shape), array.dtype)
        if not self._views[name].flags.writeable:
            raise ValueError(f"params[{name!r}]: expected a writable array to load into, got a read-only one")
        return found

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    def copy(self) -> dict[str, Array]:
        return self._views.copy()

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._views)

    def __repr__(self) -> str:
        return f"Params({self._views!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._views,)  # apart from their layer or cell, they are its parameters no longer


class Parameters:
    """The parameters of a layer or cell, which stay the same arrays as long as it lives.

    A caller gets views of them: whoever sets the shape or dtype of one does not change what the kernels are given.
    A deep copy, or one that was pickled, has parameters of its own, writable whatever they were loaded from; a shallow
    copy shares them.
    """

    def __init__(self, spec: LayerSpec, suffixes: list[list[str]], rng: np.random.Generator) -> None:
        self._spec = spec
        self._suffixes = suffixes
        self._arrange(draw(shapes(spec, suffixes), spec, rng))

    def _arrange(self, arrays: dict[str, Array]) -> None:
        """Make `arrays` the parameters, for the callers, by name, and for the kernels, by layer."""
        self._params = arrays
        self._named = Params(arrays)
        self._weights = group(arrays, self._suffixes)

    def __getstate__(self) -> Any:
        """Each parameter once: what writes every occurrence of an array anew would part them from the weights."""
        state: Any = super().__getstate__()
        attributes, slots = state if isinstance(state, tuple) else (state, None)  # a subclass may have slots
        kept = {name: value for name, value in attributes.items() if name not in ("_named", "_weights")}
        kept["_params"] = {name: PortableArray(array) for name, array in self._params.items()}
        return kept if slots is None else (kept, slots)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, {})
        vars(self).update(attributes)
        for name, value in slots.items():
            object.__setattr__(self, name, value)
        spec, loaded = self._spec, attributes["_params"]
        sizes = shapes(spec, self._suffixes)
        self._arrange({name: checks.shaped(name, loaded[name].own(spec.dtype), size) for name, size in sizes.items()})

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what is not there."""
        message = f"{type(self).__name__!r} object has no attribute {name!r}{hint(name)}"
        raise AttributeError(message, name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, but for what in torch's modules would replace or tie a parameter."""
        self._refuse("set", name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse("delete", name)
        super().__delattr__(name)

    def _refuse(self, what: str, name: str) -> None:
        if PARAMETER.fullmatch(name) and not hasattr(type(self), name):  # a subclass may make properties of them
            raise AttributeError(f"cannot {what} {name!r} of {type(self).__name__!r} object{hint(name)}")

    @property
    def params(self) -> Params:
        """Mapping of names to the parameters themselves, to be changed in place; its names are fixed.

        `params[name] = array` copies into a parameter, as `load_state_dict` does, and raises as it does.
        """
        return self._named

    def __repr__(self) -> str:
        return describe(type(self).__name__, self._spec)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, by name."""
        return {name: array.copy() for name, array in self._params.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy all parameters from a mapping with exactly their names and shapes; on an error none has changed.

        Raises ValueError for missing, unexpected or misshapen entries, or where a parameter has been made read-only,
        and TypeError for entries that are not real.
        """
        checks.names("state_dict", mapping, list(self._params))
        named = self._named
        found = {name: named.convert(f"state_dict[{name!r}]", name, mapping[name]) for name in self._params}
        for name, value in found.items():
            self._params[name][...] = value


def hint(name: str) -> str:
    """Where the parameters are, for a name that torch gives one of them."""
    where = ": the parameters are in params, to be changed in place, or all at once with load_state_dict"
    return where if PARAMETER.fullmatch(name) else ""


class Accumulators:
    """Where the gradients of parameters go: `named` as the caller gets them, `inner` as a backend writes them.

    `apart` has the elements of those into which a backend cannot write; `read` are the arrays of the caller's that the
    backward pass reads, apart from the parameters.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        accumulate: Mapping[str, Any] | None,
        read: Sequence[tuple[str, Array | None]],
    ) -> None:
        self.named: dict[str, Array] = {}
        self.inner: dict[str, Array] = {}
        self.apart: dict[str, Array] = {}
        if accumulate is not None:
            checks.names("accumulate", accumulate, list(params))
        for name, param in params.items():
            if accumulate is None:
                self.named[name] = self.inner[name] = np.zeros(param.shape, param.dtype)
                continue
            label = f"accumulate[{name!r}]"
            given = accumulate[name]  # once: a mapping may make its arrays as they are asked for
            array = checks.output(label, given, param.shape, param.dtype, contiguous=False)
            others = [("a parameter", other) for other in params.values()]
            others += [(f"accumulate[{other!r}]", earlier) for other, earlier in self.named.items()]
            checks.own_memory(label, array, [*others, *read])
            self.named[name], self.inner[name] = given, array
            if not (array.flags.c_contiguous and array.flags.aligned):
                self.apart[name], self.inner[name] = array, np.zeros(param.shape, param.dtype)

    def finish(self) -> dict[str, Array]:
        """Add what could not be written in place, and return the caller's arrays."""
        for name, target in self.apart.items():
            with np.errstate(all="ignore"):  # as the kernels add
                target += self.inner[name]
        return self.named
