"""What MinGRU, MinLSTM and IndRNN share, and the three.

Arguments, layouts, states and `lengths` are those of the package's layers.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core import checks, config
from ..core.geometry import Array, LayerSpec, as_state, empty, read_call, sequence_shape, state_shapes, time_major
from ..core.initialise import Init, draw, scheme
from ..core.params import Accumulators, Named, layer_suffixes, under
from ..core.portable import PortableArray
from ..core.statedict import read_arrays
from ..core.tape import Grads, Tape, check_tape
from ..layers import Layer
from ..spec import Cell
from .frozen import FrozenScan
from .stack import INDRNN, MINGRU, MINLSTM, Order, advance, backprop, described, group, infer, packing, shapes, show

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

NAME = re.compile(r"(weight_ih|weight_hh|bias_ih)_l(\d+)(_reverse)?")


class ScanLayer(Layer[Array]):
    """What MinGRU, MinLSTM and IndRNN share: the base class of all three, not to be made itself."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        bidirectional: bool,
        dtype: DTypeLike,
        rng: Any,
        init: Init,
    ) -> None:
        spec = LayerSpec(
            cell,
            checks.integer("input_size", input_size),
            checks.integer("hidden_size", hidden_size),
            checks.integer("num_layers", num_layers),
            checks.flag("bias", bias),
            checks.flag("batch_first", batch_first),
            0.0,
            checks.flag("bidirectional", bidirectional),
            checks.float_dtype(dtype),
        )
        generator, init = checks.generator(rng), scheme(init)
        self._spec, self._suffixes, self._rng = spec, layer_suffixes(spec), None
        sizes = shapes(spec, self._suffixes)
        recurrent = {name: size for name, size in sizes.items() if name.startswith("weight_hh")}
        others = {name: size for name, size in sizes.items() if name not in recurrent}
        arrays = draw(others, spec, generator, init, None)
        arrays |= {name: generator.uniform(0, 1, size).astype(spec.dtype) for name, size in recurrent.items()}
        self._arrange({name: arrays[name] for name in sizes})

    def _arrange(self, arrays: dict[str, Array]) -> None:
        Named._arrange(self, arrays)
        self._weights = group(arrays, self._suffixes)

    def _read(self, loaded: Mapping[str, PortableArray]) -> dict[str, Array]:
        sizes = shapes(self._spec, self._suffixes)
        return {name: checks.shaped(name, loaded[name].own(self.dtype), size) for name, size in sizes.items()}

    @property
    def config(self) -> dict[str, Any]:
        return described(self._spec)

    def __repr__(self) -> str:
        return show(type(self).__name__, self._spec)

    @classmethod
    def from_state_dict(cls, mapping: Mapping[str, ArrayLike], prefix: str = "", **options: Any) -> Self:
        """Make a layer of the sizes and parameters in a mapping such as another's state_dict().

        With a prefix, such as "rnn.", the names are those after it, and entries that do not begin with it are left.
        The dtype is float64 if all entries are, else float32. `options` are arguments of the constructor that names
        and shapes do not show, or that replace what they show. Raises TypeError or ValueError for names that no such
        layer has, and as `load_state_dict` does.
        """
        arrays = read_arrays(under(prefix, mapping), prefix)
        matches = {name: NAME.fullmatch(name) for name in arrays}
        if "weight_ih_l0" not in arrays or None in matches.values():
            raise ValueError(f"state_dict: expected names such as 'weight_ih_l0', got {', '.join(map(repr, arrays))}")
        first = checks.shaped("state_dict['weight_ih_l0']", arrays["weight_ih_l0"], ("rows", "input_size"))
        found = {
            "input_size": first.shape[1],
            "hidden_size": len(first) // len(cls._cell.gates),
            "num_layers": 1 + max(int(match[2]) for match in matches.values() if match),
            "bias": any(name.startswith("bias") for name in arrays),
            "bidirectional": any(match[3] for match in matches.values() if match),
            "dtype": np.float64 if all(array.dtype == np.float64 for array in arrays.values()) else np.float32,
        }
        layer = cls(**found | options)
        layer.load_state_dict(arrays)
        return layer

    def __call__(  # type: ignore[override]
        self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return (y, state): the outputs and the final state. Nothing is kept for `backward`.

        x       (T, B, I), with batch_first=True (B, T, I); unbatched (T, I)
        state   the initial h, (L·D, B, H), unbatched (L·D, H); None for zeros
        lengths (B,) integers: the valid steps of each row; None for T in all. Past them y is zero and x is not read
        y       (T, B, D·H), laid out as x; the new arrays y and state have the layer's dtype

        Raises ValueError for a wrong shape or length, TypeError for what are no real numbers.
        """
        backend = config.backend()
        return infer(self._spec, backend, self._weights, packing(backend, self._weights), x, state, lengths)

    def forward(  # type: ignore[override]
        self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array, Tape]:
        """Return (y, state, tape): as a call, and what `backward` needs.

        Arguments, results and errors are those of a call. `tape.gates` shows the gates and the candidate n, of an
        IndRNN none. The tape refers to x and the parameters: leave them unchanged until `backward` has been called. y,
        which the tape has too, is read-only.
        """
        spec, backend, weights = self._spec, config.backend(), self._weights
        call = read_call(spec, x, state, lengths, copy_state=True)
        T, B = call.x.shape[:2]
        y, runs = empty(sequence_shape(spec, call, spec.output_size), spec.dtype), []  # type: ignore[var-annotated]
        order, target = Order(spec, T, B, call.batched), time_major(y, spec.batch_first)
        packed = packing(backend, weights)
        after = advance(spec, backend, weights, packed, call.x, call.state[0], call.steps.lengths, target, order, runs)
        tape = Tape(self, spec, backend, weights, call, runs)
        y.flags.writeable = False  # the view of it, too, which cannot be made writable again
        return y[...], as_state((after,), state_shapes(spec, B, call.batched)), tape

    def backward(  # type: ignore[override]
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: ArrayLike | None = None,
        *,
        accumulate: Grads[Array] | Mapping[str, Array] | None = None,
    ) -> Grads[Array]:
        """Gradients of a loss from its gradients by y and by the final state: Grads with x, state and params.

        dy is shaped as y, dstate as the state; one of them may be None for zero. dy past a row's length is not read.
        `accumulate` takes earlier Grads, or their params: the parameters' gradients are added in place into its
        arrays, and these are returned. The gradients of x and of the initial state are new arrays.
        An exception other than for a wrong argument, such as KeyboardInterrupt, leaves the arrays of `accumulate` with
        unspecified contents.
        """
        check_tape(tape, self)
        spec, call = self._spec, tape.call
        B = call.x.shape[1]
        shapes = state_shapes(spec, B, call.batched)
        (dafter,) = checks.gradients((("dstate", dstate),), shapes, spec.inner_state(B), spec.dtype)
        if dy is not None:
            dy = checks.shaped("dy", checks.real("dy", dy), sequence_shape(spec, call, spec.output_size))
            dy = time_major(checks.strided(dy, spec.dtype), spec.batch_first)
        checks.some_gradient("dy, dstate", dy, dafter)
        read = [("x", call.x), ("dy", dy), ("dstate", dafter)]
        sums = Accumulators(self._params, accumulate.params if isinstance(accumulate, Grads) else accumulate, read)
        dx = empty(sequence_shape(spec, call, spec.input_size), spec.dtype)
        inner = group(sums.inner, self._suffixes)
        sums.clear()
        before = backprop(tape, dy, dafter, time_major(dx, spec.batch_first), inner)
        return Grads(dx, as_state((before,), shapes), sums.finish())

    def freeze(self) -> FrozenScan:  # type: ignore[override]
        """An immutable copy for inference, on the backend in force now."""
        return FrozenScan(self._spec, repr(self), group(self.state_dict(), self._suffixes), config.backend())


class GatedScan(ScanLayer):
    """What MinGRU and MinLSTM share: their constructor."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
    ) -> None:
        sizes = input_size, hidden_size, num_layers
        super().__init__(self._cell, *sizes, bias, batch_first, bidirectional, dtype, rng, init)


class MinGRU(GatedScan):
    """Minimal gated recurrent units (Feng et al. 2024, Were RNNs all we needed?), in their linear form:

        z = σ(W_z x_t + b_z)        n = W_n x_t + b_n        h_t = (1 - z) h_(t-1) + z n

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says where rows end.
    See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot and zero biases

    Parameters weight_ih_l0 (2·hidden_size, input_size), rows z, n, and bias_ih_l0 (2·hidden_size,); those of other
    layers and directions are named as torch's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.MinGRU(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = MINGRU


class MinLSTM(GatedScan):
    """Minimal LSTM (Feng et al. 2024, Were RNNs all we needed?), its gates normalised, in its linear form:

        f, i = σ(W x_t + b)        n = W_n x_t + b_n        h_t = f / (f + i) h_(t-1) + i / (f + i) n

    Where both gates are 0, their pre-activations below -87 in float32 or -708 in float64, h is 0 / 0, NaN.
    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says where rows end.
    See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot, zero biases, but forget gates' 1

    Parameters weight_ih_l0 (3·hidden_size, input_size), rows f, i, n, and bias_ih_l0 (3·hidden_size,); those of other
    layers and directions are named as torch's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.MinLSTM(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = MINLSTM


class IndRNN(ScanLayer):
    """Independently recurrent layers (Li et al. 2018): each unit's state is multiplied by a weight of its own:

        h_t = f(W x_t + b + u h_(t-1))        f is relu or tanh

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says where rows end.
    See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other
    nonlinearity   "relu" or "tanh"
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters
    init           "torch": W and b from U(-1/√H, 1/√H); "keras": Glorot and zero biases; u from U(0, 1) either way

    Parameters weight_ih_l0 (hidden_size, input_size), weight_hh_l0 (hidden_size,), which is u, and bias_ih_l0
    (hidden_size,); those of other layers and directions are named as torch's. Raises TypeError or ValueError that names
    the argument.

        >>> layer = fastrnn.IndRNN(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = INDRNN["relu"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "relu",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
    ) -> None:
        sizes, cell = (input_size, hidden_size, num_layers), INDRNN[checks.nonlinearity(nonlinearity)]
        super().__init__(cell, *sizes, bias, batch_first, bidirectional, dtype, rng, init)

    @property
    def nonlinearity(self) -> Literal["tanh", "relu"]:
        return "relu" if self._spec.cell == INDRNN["relu"] else "tanh"
