"""RNNCell, LSTMCell and GRUCell: one time step, for those who write the loop over time themselves.

    B  rows of the batch     I  input_size     H  hidden_size

    x      (B, I), unbatched (I,)
    state  h, or for LSTMCell (h, c): (B, H) each, unbatched (H,); None means zeros

Arguments are accepted, converted and refused as those of the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal

import numpy as np

from .backends.base import Backend, Given, Run, Steps
from .core import checks, config, stack
from .core.geometry import (
    Array,
    Call,
    DescribedCell,
    LayerSpec,
    as_state,
    cell_shape,
    cell_state_shapes,
    empty,
    one_step,
    read_cell_call,
)
from .core.initialise import Init
from .core.params import Accumulators, Parameters, check_memory, group, rnn_cell, under
from .core.statedict import read_arrays, read_sizes
from .core.steps import CallSteps
from .core.tape import Grads, S, Tape, check_tape
from .frozen import FrozenCell, infer_cell, step_at_once
from .spec import GRU, LSTM, RNN_RELU, RNN_TANH, Cell, Weights

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

SUFFIXES = [[""]]  # of the parameters of a cell's only layer and direction


class StepTape(Tape):
    """The tape of a step that went the backend's short way. What only a closer look needs is made when asked for."""

    __slots__ = ("_cell", "recorded")

    def __init__(self, owner: object, cell: Cell, backend: Backend, recorded: Any) -> None:
        self.owner, self._cell, self.backend, self.recorded = owner, cell, backend, recorded

    def __getattr__(self, name: str) -> Any:
        """The other parts of a tape, all at once. Only where one is not there yet is this called."""
        if name not in Tape.__slots__:
            raise AttributeError(f"a Tape has no {name}")
        I, H, bias, dtype, batched = self.recorded.sizes
        x, weights, before, y, saved = self.recorded.contents
        spec = LayerSpec(self._cell, I, H, 1, bias, False, 0.0, False, dtype)
        call = Call(x, before, CallSteps(), batched, cell=True)
        run = Run(x, before, Steps(), spec.reverse_of(0), y, saved)
        super().__init__(self.owner, spec, self.backend, [(Weights(*weights),)], call, [run])
        return getattr(self, name)


def record_at_once(backend: Backend, owner: object, cell: Cell, x: Any, state: Any, *weights: Any) -> Any:
    """One step by the backend's short way: the next state and the tape.

    None where there is no such way, or an argument needs a closer look.
    """
    short = getattr(backend, "cell_step", None)
    found = None if short is None else short.record(cell, x, state, *weights, config.get_num_threads())
    return None if found is None else (found[0], StepTape(owner, cell, backend, found[1]))


def backprop_at_once(tape: Tape, accumulate: Any, named: Sequence[tuple[str, ArrayLike | None]]) -> Any:
    """The gradients of x, the state and the weights, (w_ih, w_hh, b_ih, b_hh), by the backend's short way.

    None where the tape is of another, there is something to add to, or a gradient needs a closer look.
    """
    if accumulate is not None or not isinstance(tape, StepTape):
        return None
    return tape.recorded.backprop(tuple([gradient for _, gradient in named]), config.get_num_threads())


def record_cell(
    backend: Backend, owner: object, spec: LayerSpec, weights: Sequence[Sequence[Weights]], x: ArrayLike, state: Any
) -> Any:
    """One step from and to the caller's layout: the next state and the tape."""
    call = read_cell_call(spec, x, state, copy_state=True)
    B, H = call.x.shape[1], spec.hidden_size
    after, runs, *_ = stack.record(spec, backend, weights, call, empty((1, B, H), spec.dtype))
    return as_state(after, cell_state_shapes(spec, B, call.batched)), Tape(owner, spec, backend, weights, call, runs)


def read_cell_gradients(tape: Tape, *named: tuple[str, ArrayLike | None]) -> tuple[Array | None, ...]:
    """Check and convert dh, or dh and dc."""
    spec, (_, B, _) = tape.spec, tape.call.x.shape
    dafter = checks.gradients(named, cell_state_shapes(spec, B, tape.call.batched), spec.inner_state(B), spec.dtype)
    checks.some_gradient(", ".join(name for name, _ in named), *dafter)
    return dafter


def backprop_cell(
    tape: Tape, dafter: tuple[Array | None, ...], dweights: Sequence[Sequence[Weights]], fresh: bool
) -> Any:
    """The gradients of x and the initial state in the caller's layout; those of the weights go into `dweights`.

    `fresh`: what is there counts as zero.
    """
    spec, (_, B, I), batched = tape.spec, tape.call.x.shape, tape.call.batched
    dx = empty(cell_shape(B, I, batched), spec.dtype)
    before, _ = stack.backprop(tape, Given(None, dafter), one_step(dx), dweights, fresh=fresh)
    return dx, as_state(before, cell_state_shapes(spec, B, batched))


class RecurrentCell(Parameters, DescribedCell, Generic[S]):
    """What the cells share."""

    _cell: Cell  # of a class whose constructor leaves no choice

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool,
        dtype: DTypeLike,
        rng: Any,
        init: Init,
        forget_bias: float | None = None,
    ) -> None:
        spec = LayerSpec(
            cell,
            checks.integer("input_size", input_size),
            checks.integer("hidden_size", hidden_size),
            num_layers=1,
            bias=checks.flag("bias", bias),
            batch_first=False,
            dropout=0.0,
            bidirectional=False,
            dtype=checks.float_dtype(dtype),
        )
        check_memory(spec)
        super().__init__(spec, SUFFIXES, checks.generator(rng), init, forget_bias)

    @classmethod
    def from_state_dict(cls, mapping: Mapping[str, ArrayLike], prefix: str = "", **options: Any) -> Self:
        """Make a cell of the sizes and parameters in a mapping such as a torch module's state_dict, as arrays.

        Prefix, dtype, options and errors are as in a layer's `from_state_dict`.
        """
        arrays = read_arrays(under(prefix, mapping), prefix)
        cell = cls(**read_sizes(arrays, len(cls._cell.gates), prefix, layers=False) | options)
        cell.load_state_dict(arrays)
        return cell

    def __call__(self, x: ArrayLike, state: S | None = None) -> S:
        """Return the next state: of x (B, I) or (I,), from h, or of LSTMCell (h, c), (B, H) or (H,), None for zeros."""
        spec, backend, weights = self._spec, config.backend(), self._weights
        after = step_at_once(backend, spec.cell, x, state, *weights[0][0][:4])
        if after is not None:
            return after
        return infer_cell(spec, backend, stack.packing(spec, backend, weights, steps=1), x, state)

    def forward(self, x: ArrayLike, state: S | None = None) -> tuple[S, Tape]:
        """Return (state, tape): the next state, and what `backward` needs.

        The tape refers to x and the parameters: leave them unchanged until `backward` has been called.
        """
        spec, backend, weights = self._spec, config.backend(), self._weights
        recorded = record_at_once(backend, self, spec.cell, x, state, *weights[0][0][:4])
        return record_cell(backend, self, spec, weights, x, state) if recorded is None else recorded

    def _backward(self, tape: Tape, named: Sequence[tuple[str, ArrayLike | None]], accumulate: Any) -> Grads[S]:
        check_tape(tape, self)
        found = backprop_at_once(tape, accumulate, named)
        if found is not None:
            dx, dstate, sums = found
            return Grads(dx, dstate, dict(zip(self._params, [array for array in sums if array is not None])))
        dafter = read_cell_gradients(tape, *named)
        read = [("x", tape.call.x), *zip([name for name, _ in named], dafter)]
        sums = Accumulators(self._params, accumulate.params if isinstance(accumulate, Grads) else accumulate, read)
        dx, dstate = backprop_cell(tape, dafter, group(sums.inner, self._suffixes), sums.fresh)
        return Grads(dx, dstate, sums.finish())

    def freeze(self) -> FrozenCell[S]:
        """An immutable copy for inference, its weights packed once for the backend in force now.

        It keeps the weights as they are, too, for pickling: twice their memory, but for the numpy backend.
        """
        return FrozenCell(self._spec, repr(self), self._grouped(self.state_dict()), config.backend())


class OneStateCell(RecurrentCell[Array]):
    """What the cells whose state is h alone share."""

    def backward(
        self,
        tape: Tape,
        dstate: ArrayLike | None = None,
        *,
        dh: ArrayLike | None = None,
        accumulate: Grads[Array] | Mapping[str, Array] | None = None,
    ) -> Grads[Array]:
        """Gradients of a loss from its gradient by the next state, which is h, shaped as it: dstate, or by name dh.

        `accumulate` takes earlier Grads, or their params: the parameters' gradients are added in place into its
        arrays, and these are returned. The gradients of x and of the state are new arrays.
        An exception other than for a wrong argument, such as KeyboardInterrupt, leaves the arrays of `accumulate` with
        unspecified contents.
        """
        if dh is not None and dstate is not None:
            raise TypeError("dstate, dh: expected one of them, got both")
        return self._backward(tape, [("dh", dstate if dh is None else dh)], accumulate)


class RNNCell(OneStateCell):
    """h' = f(W_ih x + b_ih + W_hh h + b_hh), f being tanh or relu (Elman 1990).

    x (B, input_size) or (input_size,) goes in, the next state comes out:
    h (B, hidden_size) or (hidden_size,). See `__call__`, `forward` and `backward`;
    rng, dtype, init are as in fastrnn.RNN.

    Parameters are named and shaped as torch.nn.RNNCell's. Raises TypeError or ValueError that names the argument.

        >>> cell = fastrnn.RNNCell(input_size=8, hidden_size=32, rng=0)
        >>> state = cell(np.zeros((16, 8)))  # (16, 32)
    """

    _cell = RNN_TANH

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
    ) -> None:
        super().__init__(rnn_cell(nonlinearity), input_size, hidden_size, bias, dtype, rng, init)

    @property
    def nonlinearity(self) -> Literal["tanh", "relu"]:
        return "relu" if self._spec.cell == RNN_RELU else "tanh"


class LSTMCell(RecurrentCell[tuple[Array, Array]]):
    """Long short-term memory, gates i, f, g, o (Hochreiter & Schmidhuber 1997, Gers et al. 2000):

        i, f, o = σ(W_ih x + b_ih + W_hh h + b_hh)      g = tanh(likewise)
        c' = f c + i g                                  h' = o tanh(c')

    x (B, input_size) or (input_size,) goes in, the next state comes out:
    (h, c), each (B, hidden_size) or (hidden_size,). See `__call__`, `forward` and `backward`;
    rng, dtype, init and forget_bias are as in fastrnn.LSTM.

    Parameters are named and shaped as torch.nn.LSTMCell's. Raises TypeError or ValueError that names the argument.

        >>> cell = fastrnn.LSTMCell(input_size=8, hidden_size=32, rng=0)
        >>> state = cell(np.zeros((16, 8)))  # a pair of (16, 32)
    """

    _cell = LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
        forget_bias: float | None = None,
    ) -> None:
        super().__init__(LSTM, input_size, hidden_size, bias, dtype, rng, init, forget_bias)

    def backward(
        self,
        tape: Tape,
        dstate: tuple[ArrayLike | None, ArrayLike | None] | ArrayLike | None = None,
        dc: ArrayLike | None = None,
        *,
        dh: ArrayLike | None = None,
        accumulate: Grads[tuple[Array, Array]] | Mapping[str, Array] | None = None,
    ) -> Grads[tuple[Array, Array]]:
        """Gradients of a loss from its gradients by the next h and c, shaped as they are; one may be None for zero.

        They are given as a tuple, dstate, as a layer takes them; or as two arrays, dh and dc.

        `accumulate` takes earlier Grads, or their params: the parameters' gradients are added in place into its
        arrays, and these are returned. The gradients of x and of the state are new arrays.
        An exception other than for a wrong argument, such as KeyboardInterrupt, leaves the arrays of `accumulate` with
        unspecified contents.
        """
        if isinstance(dstate, tuple):
            if dh is not None or dc is not None:
                raise TypeError("dstate, dh, dc: expected a pair or two arrays, got both")
            return self._backward(tape, checks.parts("dstate", dstate, 2), accumulate)
        if dstate is not None and dh is not None:
            raise TypeError("dstate, dh: expected one of them, got both")
        return self._backward(tape, [("dh", dstate if dh is None else dh), ("dc", dc)], accumulate)


class GRUCell(OneStateCell):
    """Gated recurrent unit, gates r, z, n, with the reset gate after the product (Cho et al. 2014, as torch.nn.GRU):

        r, z = σ(W_ih x + b_ih + W_hh h + b_hh)         n = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    x (B, input_size) or (input_size,) goes in, the next state comes out:
    h (B, hidden_size) or (hidden_size,). See `__call__`, `forward` and `backward`;
    rng, dtype, init are as in fastrnn.GRU.

    Parameters are named and shaped as torch.nn.GRUCell's. Raises TypeError or ValueError that names the argument.

        >>> cell = fastrnn.GRUCell(input_size=8, hidden_size=32, rng=0)
        >>> state = cell(np.zeros((16, 8)))  # (16, 32)
    """

    _cell = GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
    ) -> None:
        super().__init__(GRU, input_size, hidden_size, bias, dtype, rng, init)
