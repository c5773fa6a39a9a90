"""Parameters by name: torch's names, shapes, order and initialisation; gradients to accumulate into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .geometry import Array, LayerSpec, describe
from .spec import RNN_RELU, RNN_TANH, Cell, Weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of Weights


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


def views(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.view() for name, array in arrays.items()}


class Parameters:
    """The parameters of a layer or cell, which stay the same arrays as long as it lives.

    A caller gets views of them: whoever sets the shape or dtype of one does not change what the kernels are given.
    """

    def __init__(self, spec: LayerSpec, suffixes: list[list[str]], rng: np.random.Generator) -> None:
        self._spec = spec
        self._suffixes = suffixes
        self._params = draw(shapes(spec, suffixes), spec, rng)
        self._weights = group(self._params, suffixes)
        self._views = views(self._params)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_views"}  # a copy makes its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._views = views(self._params)

    @property
    def params(self) -> Mapping[str, Array]:
        """Read-only mapping of names to the parameters themselves, to be changed in place."""
        return MappingProxyType(self._views)

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
        found = {}
        for name, array in self._params.items():
            label = f"state_dict[{name!r}]"
            value = checks.shaped(label, checks.real(label, mapping[name]), array.shape)
            found[name] = np.array(value, array.dtype)  # copied first: it may be, or overlap, another parameter
            if not self._views[name].flags.writeable:
                raise ValueError(f"params[{name!r}]: expected a writable array to load into, got a read-only one")
        for name, value in found.items():
            self._params[name][...] = value


class Accumulators:
    """Where the gradients of parameters go: `named` as the caller gets them, `inner` as a backend writes them.

    `apart` has the elements of those into which a backend cannot write; `read` are the arrays that the backward pass
    reads, apart from the parameters.
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
