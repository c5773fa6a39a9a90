"""Parameters by name: torch's names, shapes and order; gradients to accumulate into."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..spec import RNN_RELU, RNN_TANH, Cell, Weights
from . import checks
from .geometry import Array, LayerSpec, describe
from .hints import PARAMETER, hint
from .initialise import Init, bias_value, draw, scheme
from .portable import PortableArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of Weights
PROJECTION = "weight_hr"
VECTORS = ("peephole", "alpha", "norm")  # what the vectors of a cell are called


def rnn_cell(nonlinearity: Any) -> Cell:
    """The cell of an RNN with the nonlinearity "tanh" or "relu"."""
    return {"tanh": RNN_TANH, "relu": RNN_RELU}[checks.nonlinearity(nonlinearity)]


def layer_suffixes(spec: LayerSpec) -> list[list[str]]:
    """What follows the kind in a parameter's name, by layer and direction."""
    return [[f"_l{k}", f"_l{k}_reverse"][: spec.directions] for k in range(spec.num_layers)]


def shapes(spec: LayerSpec, suffixes: list[list[str]]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, in torch's order."""
    rows, H = len(spec.cell.gates) * spec.hidden_size, spec.hidden_size
    found: dict[str, tuple[int, ...]] = {}
    for k, layer in enumerate(suffixes):
        inputs = spec.output_size if k else spec.input_size
        for suffix in layer:
            sizes = ((rows, inputs), (rows, spec.widths[0]), (rows,), (rows,))
            found |= {kind + suffix: size for kind, size in zip(KINDS[: 4 if spec.bias else 2], sizes)}
            if spec.proj_size:
                found[PROJECTION + suffix] = spec.proj_size, H
            if spec.cell.own_vectors:
                found[vectors_of(spec.cell) + suffix] = (len(spec.cell.own_vectors) * H,)
    return found


def vectors_of(cell: Cell) -> str:
    """What a cell's vectors are called, for the name of the parameter that holds them."""
    return "norm" if cell.normal else "alpha" if cell.vectors else "peephole"


def group(arrays: Mapping[str, Array], suffixes: list[list[str]]) -> list[tuple[Weights, ...]]:
    """Named arrays as the weights of each layer and direction."""
    return [tuple([weights_of(arrays, suffix) for suffix in layer]) for layer in suffixes]


@cache
def names_of(suffix: str) -> tuple[list[str], list[str]]:
    """The names of a direction's parameters in the order of Weights, and those that its vectors may have."""
    return [kind + suffix for kind in (*KINDS, PROJECTION)], [kind + suffix for kind in VECTORS]


def weights_of(arrays: Mapping[str, Array], suffix: str) -> Weights:
    """Those of the named arrays that belong to a direction."""
    names, of_vectors = names_of(suffix)
    w_ih, w_hh, b_ih, b_hh, w_hr = [arrays.get(name) for name in names]
    vectors = None
    for name in of_vectors:  # no generator: every call of `backward` groups its gradients
        if name in arrays:
            vectors = arrays[name]
    return Weights(w_ih, w_hh, b_ih, b_hh, vectors, w_hr)  # type: ignore[arg-type]


ARRAY_BYTES = 256  # that an array and its name take, at the least, beside its elements


def check_memory(spec: LayerSpec) -> None:
    """A MemoryError, before any of the parameters is named or drawn, where they could not all be allocated."""
    rows, biases = spec.directions * len(spec.cell.gates) * spec.hidden_size, 2 if spec.bias else 0
    columns = spec.input_size + (spec.num_layers - 1) * spec.output_size + spec.num_layers * (spec.widths[0] + biases)
    projections = spec.num_layers * spec.directions * spec.proj_size * spec.hidden_size
    arrays = spec.num_layers * spec.directions * (2 + biases)
    size = rows * columns + projections
    try:
        np.empty(size * spec.dtype.itemsize + arrays * ARRAY_BYTES, np.uint8)  # asked for, never touched
    except (MemoryError, ValueError, OverflowError):
        sizes = ("input_size", "hidden_size", "num_layers")
        given = ", ".join(f"{size}={checks.digits(getattr(spec, size))}" for size in sizes)
        raise MemoryError(f"cannot allocate the parameters of {given}") from None


class Params(Mapping[str, Array]):
    """The parameters of a layer or cell by name: the names are fixed, the arrays are changed in place.

    Assigning to an item copies into the parameter, as `load_state_dict` does.
    """

    __slots__ = ("_arrays", "_views")

    def __init__(self, arrays: Mapping[str, Array], views: Mapping[str, Array] | None = None) -> None:
        """`views` are what callers get of the arrays, where others have them already."""
        self._arrays = arrays
        self._views = {name: array.view() for name, array in arrays.items()} if views is None else dict(views)

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


class Named:
    """Parameters by name, which stay the same arrays as long as their owner lives.

    A caller gets views of them: whoever sets the shape or dtype of one does not change what the kernels are given.
    A deep copy, or one that was pickled, has parameters of its own, writable whatever they were loaded from; a shallow
    copy shares them.
    """

    _params: dict[str, Array]
    _named: Params

    def _arrange(self, arrays: dict[str, Array]) -> None:
        """Make `arrays` the parameters."""
        self._params = arrays
        self._named = Params(arrays)

    def _read(self, loaded: Mapping[str, PortableArray]) -> dict[str, Array]:
        """The parameters that were pickled."""
        return {name: array.own(array.array.dtype) for name, array in loaded.items()}

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
        self._arrange(self._read(attributes["_params"]))

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what is not there."""
        found = hint("parameters" if name in vars(self).get("_params", ()) else name)
        message = f"{type(self).__name__!r} object has no attribute {name!r}{found}"
        raise AttributeError(message, name=name, obj=self)

    @property
    def params(self) -> Params:
        """Mapping of names to the parameters themselves, to be changed in place; its names are fixed.

        `params[name] = array` copies into a parameter, as `load_state_dict` does, and raises as it does.
        """
        return self._named

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(array.size for array in self._params.values())

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, by name."""
        return {name: array.copy() for name, array in self._params.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], prefix: str = "") -> None:
        """Copy all parameters from a mapping with exactly their names and shapes; on an error none has changed.

        With a prefix, such as "rnn.", the names are those after it, and entries that do not begin with it are left.
        Raises ValueError for missing, unexpected or misshapen entries, or where a parameter has been made read-only,
        and TypeError for entries that are not real.
        """
        given = under(prefix, mapping)
        checks.names(f"state_dict under {prefix!r}" if prefix else "state_dict", given, list(self._params))
        named = self._named
        found = {name: named.convert(f"state_dict[{prefix + name!r}]", name, given[name]) for name in self._params}
        for name, value in found.items():
            self._params[name][...] = value


class Parameters(Named):
    """The parameters of a layer or cell."""

    def __init__(
        self,
        spec: LayerSpec,
        suffixes: list[list[str]],
        rng: np.random.Generator,
        init: Init = "torch",
        forget_bias: float | None = None,
        alpha: Array | None = None,
        train_alpha: bool = True,
    ) -> None:
        """`alpha` (H,) is what the parameters of this name begin with, or, unless they are trained, what they are."""
        init, forget_bias = scheme(init), bias_value(forget_bias, spec.bias)
        self._spec = spec
        self._suffixes = suffixes
        arrays = draw(shapes(spec, suffixes), spec, rng, init, forget_bias)
        leaks = {name: np.array(alpha, spec.dtype) for name in arrays if name.startswith("alpha")}
        self._constants = {} if train_alpha else leaks
        self._arrange({name: leaks.get(name, array) for name, array in arrays.items() if name not in self._constants})

    def _arrange(self, arrays: dict[str, Array]) -> None:
        """Make `arrays` the parameters, for the callers, by name, and for the kernels, by layer."""
        super()._arrange(arrays)
        self._weights = self._grouped(arrays)

    def _grouped(self, arrays: Mapping[str, Array]) -> list[tuple[Weights, ...]]:
        """The weights of each layer and direction, with the constants among them."""
        return group({**arrays, **self._constants}, self._suffixes)

    def _read(self, loaded: Mapping[str, PortableArray]) -> dict[str, Array]:
        spec = self._spec
        sizes = {name: size for name, size in shapes(spec, self._suffixes).items() if name not in self._constants}
        return {name: checks.shaped(name, loaded[name].own(spec.dtype), size) for name, size in sizes.items()}

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

    def __repr__(self) -> str:
        return describe(type(self).__name__, self._spec)


def under(prefix: Any, mapping: Any) -> Any:
    """The entries whose names begin with `prefix`, by the rest of their names."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {checks.kind(prefix)}")
    if not prefix or not isinstance(mapping, Mapping):
        return mapping
    return {
        name.removeprefix(prefix): mapping[name]
        for name in mapping
        if isinstance(name, str) and name.startswith(prefix)
    }


class Accumulators:
    """Where the gradients of parameters go: `named` as the caller gets them, `inner` as a backend writes them.

    `apart` has the elements of those into which a backend cannot write; `fresh`: none of them holds anything yet.
    `read` are the arrays of the caller's that the backward pass reads, apart from the parameters.
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
        self.fresh = accumulate is None
        if accumulate is not None:
            checks.names("accumulate", accumulate, list(params))
        for name, param in params.items():
            if accumulate is None:
                self.named[name] = self.inner[name] = np.empty(param.shape, param.dtype)
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

    def clear(self) -> None:
        """Zero them if they hold nothing yet: for who adds to them in any case."""
        for array in self.inner.values() if self.fresh else ():
            array.fill(0)

    def finish(self) -> dict[str, Array]:
        """Add what could not be written in place, and return the caller's arrays."""
        for name, target in self.apart.items():
            with np.errstate(all="ignore"):  # as the kernels add
                target += self.inner[name]
        return self.named
