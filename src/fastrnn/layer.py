"""What the recurrent layers share: stacks over whole sequences, forward and backward.

    T  time steps            I  input_size      L  num_layers
    B  rows of the batch     H  hidden_size     D  directions, 1 or 2

    x       (T, B, I), with batch_first (B, T, I), unbatched (T, I)
    y       (T, B, D·H), with batch_first (B, T, D·H), unbatched (T, D·H); the last layer's h of every step
    state   h, or for LSTM (h, c): (L·D, B, H) each, whatever batch_first says, unbatched (L·D, H);
            row k·D + d belongs to layer k, direction d; None means zeros
            where an LSTM has proj_size=P, h has P features, c has H, and y D·P
    lengths (B,) integers from 0 to T: the valid steps of each row, None for T in all

Outputs at or past a row's length are zero, its final state is that of its last valid step, the reverse direction
starts there, and x and dy are not read there. A row of length 0 ends in its initial state: the gradients of the two are
the same, and it adds nothing to those of the parameters.

Inputs are anything `np.asarray` takes. Real numbers and booleans are converted to the layer's dtype; other kinds of
values, and masked arrays that mask an element, are a TypeError, other shapes a ValueError. Inputs are never modified.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal

import numpy as np

from .backends.base import Given
from .core import checks, config, stack, unitmasks
from .core.geometry import (
    Array,
    DescribedLayer,
    LayerSpec,
    as_state,
    count_steps,
    empty,
    read_call,
    sequence_shape,
    state_shapes,
    time_major,
    zeros,
)
from .core.initialise import Init
from .core.params import Accumulators, Parameters, check_memory, group, layer_suffixes, under
from .core.portable import portable
from .core.statedict import read_arrays, read_sizes
from .core.tape import Grads, S, Tape, check_tape
from .frozen import FrozenLayer, infer, layer_at_once, shortcut
from .spec import LSTM_COUPLED, Cell

if TYPE_CHECKING:
    import os
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    # The gradient of a final state: of h, or of (h, c), a part of which may be None for zero.
    StateGradient = ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None

    OneDirection = Literal["forward", "reverse"]
    MaskPer = Literal["step", "sequence"]
    Direction = OneDirection | tuple[OneDirection, ...] | list[OneDirection]


class Layer(Parameters, DescribedLayer, Generic[S]):
    """What the recurrent layers share: their base class, not to be made itself."""

    _cell: Cell  # of a class whose constructor leaves no choice

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: DTypeLike,
        rng: Any,
        init: Init,
        forget_bias: float | None = None,
        alpha: ArrayLike | None = None,
        train_alpha: bool = True,
        direction: Direction = "forward",
        recurrent_dropout: float = 0.0,
        mask_per: MaskPer | None = None,
        proj_size: int = 0,
    ) -> None:
        spec = LayerSpec(
            cell,
            checks.integer("input_size", input_size),
            checks.integer("hidden_size", hidden_size),
            checks.integer("num_layers", num_layers),
            checks.flag("bias", bias),
            checks.flag("batch_first", batch_first),
            checks.probability("dropout", dropout),
            checks.flag("bidirectional", bidirectional),
            checks.float_dtype(dtype),
            recurrent_dropout=checks.fraction("recurrent_dropout", recurrent_dropout),
            mask_per=checks.mask_per(mask_per),
            proj_size=checks.integer("proj_size", proj_size, least=0),
        )
        if spec.proj_size >= spec.hidden_size:
            size, given = checks.digits(spec.hidden_size), checks.digits(spec.proj_size)
            raise ValueError(f"proj_size: expected an integer below hidden_size = {size}, got {given}")
        if spec.proj_size and spec.cell.options and spec.cell.options.zoneout:
            raise ValueError(f"zoneout: expected 0 with proj_size={spec.proj_size}, whose h is not that of the units")
        if spec.proj_size and spec.cell.normal:
            raise ValueError(f"proj_size: expected 0 with layer_norm, got {spec.proj_size}")
        generator = checks.generator(rng)
        check_memory(spec)
        spec = spec._replace(backward=checks.direction(direction, spec.num_layers, spec.bidirectional))
        if spec.dropout and spec.num_layers == 1:
            warnings.warn(
                f"dropout={spec.dropout} does nothing with num_layers=1: it acts between the layers", stacklevel=3
            )
        draws = (spec.dropout and spec.num_layers > 1) or unitmasks.draws(spec)
        self._rng = portable(generator) if draws else None
        leaks = None if alpha is None else read_alpha(alpha, spec)
        super().__init__(spec, layer_suffixes(spec), generator, init, forget_bias, leaks, train_alpha)

    @classmethod
    def from_state_dict(cls, mapping: Mapping[str, ArrayLike], prefix: str = "", **options: Any) -> Self:
        """Make a layer of the sizes and parameters in a mapping such as a torch module's state_dict, as arrays.

        With a prefix, such as "rnn.", the names are those after it, and entries that do not begin with it are left.
        The dtype is float64 if all entries are, else float32. `options` are arguments of the constructor that names
        and shapes do not show (batch_first, dropout, nonlinearity, rng), or that replace what they show (dtype).
        Raises TypeError or ValueError for names that no such layer has, and as `load_state_dict` does.
        """
        arrays = read_arrays(under(prefix, mapping), prefix)
        gates = len(LSTM_COUPLED.gates if options.get("coupled") else cls._cell.gates)
        may_project = len(cls._cell.states) == 2
        layer = cls(**read_sizes(arrays, gates, prefix, layers=True, may_project=may_project) | options)
        layer.load_state_dict(arrays)
        return layer

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, ArrayLike] | str | os.PathLike[str], name: str | None = None, **options: Any
    ) -> Self:
        """Make a layer of this kind from anybody's weights: a mapping of names to arrays, or a file for `fastrnn.read`.

        The weights are found by `fastrnn.find_layers`, whatever their names begin with; `name` says which of several
        layers. `options` are arguments of the constructor that weights do not tell, such as batch_first.
        Raises ValueError where no layer, or none that `name` tells, is there, or an argument is missing without which a
        guess could be wrong, and as `fastrnn.read` does.

            >>> lstm = fastrnn.LSTM.from_weights("model.pt", "encoder.rnn", batch_first=True)
        """
        from .weights.found import from_weights

        return from_weights(cls, weights, name, options)

    @property
    def rng(self) -> np.random.Generator | None:
        """The Generator from which `forward` draws masks, of dropout and of units; None for a layer that draws none."""
        return None if self._rng is None else self._rng.generator

    def __call__(
        self,
        x: ArrayLike,
        state: S | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        state_scale: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        noise: ArrayLike | None = None,
    ) -> tuple[Array, S]:
        """Return (y, state): the outputs and the final state. Nothing is kept for `backward`; dropout is inactive.

        x       (T, B, I), with batch_first=True (B, T, I); unbatched (T, I)
        state   the initial state, None for zeros: h, or for LSTM (h, c), each (L·D, B, H), unbatched (L·D, H)
        lengths (B,) integers: the valid steps of each row; None for T in all. Past them y is zero and x is not read
        resets  (T, B) booleans: where True the row begins anew, as after a state of zeros: no direction's state
                passes between that step and the one before
        state_scale  (T, B) or (T, B, H): multiplies the state, h and c, that comes to that step; likewise in every
                layer and direction; (T, B) alone where proj_size makes h narrower than c
        mask    (T, B) booleans: where False the step does not happen. The state stays, y is zero, x is not read
        noise   (T, B, D·H): added to the argument of f in a single layer of RNN or LeakyRNN; no gradient is taken by it
        y       (T, B, D·H), laid out as x; the new arrays y and state have the layer's dtype

        resets, state_scale, mask and noise are laid out as x: (B, T, ·) with batch_first, unbatched without B.

        Raises ValueError for a wrong shape or length, TypeError for what are no real numbers.

            >>> lstm = fastrnn.LSTM(input_size=3, hidden_size=5)
            >>> y, (h, c) = lstm(np.zeros((7, 2, 3)), lengths=[7, 4])  # y (7, 2, 5), h and c (1, 2, 5)
        """
        spec, backend, steps = self._spec, config.backend(), count_steps(self._spec, x)
        if steps == 1 and lengths is resets is state_scale is mask is noise is None:
            stepped = layer_at_once(spec, backend, self._weights, x, state)
            if stepped is not None:
                return stepped
        packed = stack.packing(spec, backend, self._weights, steps)
        short = shortcut(spec, backend, packed)
        return infer(spec, backend, packed, short, x, state, lengths, resets, state_scale, mask, noise)

    def forward(
        self,
        x: ArrayLike,
        state: S | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        state_scale: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        checkpoint: int | None = None,
    ) -> tuple[Array, S, Tape]:
        """Return (y, state, tape): as a call, with dropout and masks of units, and what `backward` needs.

        Arguments, results and errors are those of a call. `tape.gates` and `tape.outputs` show what was computed.

        checkpoint  for long sequences: keep the state of every so many steps only, and what is between them, the gates,
                    is computed again in `backward`. The same bits, for a third more work; least memory at √T. The
                    tape has the y of every layer all the same, but no `gates`

        The tape refers to x, state_scale and the parameters: leave them unchanged until `backward` has been called. y,
        which the tape has too, is read-only.

        Processes forked from one draw the same dropout masks, also with rng=None: each has a copy of the generator, as
        of any of NumPy's. Layers that are made in the processes, with rng=None or a seed for each, draw different ones.
        """
        spec, backend, weights = self._spec, config.backend(), self._weights
        every = None if checkpoint is None else checks.integer("checkpoint", checkpoint)
        call = read_call(spec, x, state, lengths, resets, state_scale, mask, noise, copy_state=True)
        y = empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
        outputs = time_major(y, spec.batch_first)
        filled = call.steps.room_for(outputs)
        rng = None if self._rng is None else self._rng.generator
        after, runs, kept, checkpoints = stack.record(spec, backend, weights, call, filled, rng, every)
        call.steps.scatter(filled, outputs)
        tape = Tape(self, spec, backend, weights, call, runs, kept, checkpoints)
        y.flags.writeable = False  # the view of it, too, which cannot be made writable again
        return y[...], as_state(after, state_shapes(spec, call.x.shape[1], call.batched)), tape

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: StateGradient = None,
        *,
        accumulate: Grads[S] | Mapping[str, Array] | None = None,
        states: bool = False,
    ) -> Grads[S]:
        """Gradients of a loss from its gradients by y and by the final state: Grads with x, state and params.

        dy is shaped as y, dstate as the state; None, also for one part of dstate, means zero, but not for all. dy past
        a row's length is not read. With states=True the result has the gradients by the state after every step, too.

            >>> y, state, tape = lstm.forward(x)
            >>> grads = lstm.backward(tape, dy=2 * y / y.size)  # of the loss (y**2).mean()
            >>> grads.x, grads.state, grads.params["weight_ih_l0"]

        `accumulate` takes earlier Grads, or their params: the parameters' gradients are added in place into its
        arrays, and these are returned. The gradients of x and of the initial state are new arrays.
        An exception other than for a wrong argument, such as KeyboardInterrupt, leaves the arrays of `accumulate` with
        unspecified contents.
        """
        check_tape(tape, self)
        spec, call = self._spec, tape.call
        T, B = call.x.shape[:2]
        shapes = state_shapes(spec, B, call.batched)
        nothing = None if len(spec.cell.states) == 1 else (None, None)
        named = checks.parts("dstate", nothing if dstate is None else dstate, len(spec.cell.states))
        dafter = checks.gradients(named, shapes, spec.inner_state(B), spec.dtype)
        if dy is not None:
            dy = checks.shaped("dy", checks.real("dy", dy), sequence_shape(spec, call, spec.output_size))
            dy = call.steps.gather(time_major(checks.strided(dy, spec.dtype), spec.batch_first))
        checks.some_gradient("dy, dstate", dy, *dafter)
        read = [("x", call.x), ("state_scale", call.steps.scale), ("dy", dy), *[("dstate", part) for part in dafter]]
        sums = Accumulators(self._params, accumulate.params if isinstance(accumulate, Grads) else accumulate, read)
        dx = empty(sequence_shape(spec, call, spec.input_size), spec.dtype)
        inputs = time_major(dx, spec.batch_first)
        filled = call.steps.room_for(inputs)
        inner = group(sums.inner, self._suffixes)
        dsteps = None
        if checks.flag("states", states):
            dsteps = tuple(zeros((runs, T, B, width), spec.dtype) for runs, _, width in spec.inner_state(B))
        before, dscale = stack.backprop(tape, Given(dy, dafter), filled, inner, dsteps, fresh=sums.fresh)
        call.steps.scatter(filled, inputs)
        by_step = None
        if dsteps is not None:
            by_step = as_state(
                tuple(call.steps.spread_states(part) for part in dsteps), tuple((T, *shape) for shape in shapes)
            )
        by_scale = None if dscale is None else call.steps.given_scale(dscale, spec.batch_first, call.batched)
        return Grads(dx, as_state(before, shapes), sums.finish(), by_step, by_scale)

    def freeze(self) -> FrozenLayer[S]:
        """An immutable copy for inference, its weights packed once for the backend in force now.

        It keeps the weights as they are, too, for pickling: twice their memory, but for the numpy backend.
        """
        return FrozenLayer(self._spec, repr(self), self._grouped(self.state_dict()), config.backend())


def read_alpha(alpha: Any, spec: LayerSpec) -> Array:
    """The leaks of the units, (H,), in the layer's dtype."""
    given = checks.shaped("alpha", checks.real("alpha", alpha), (), (spec.hidden_size,))
    found = np.array(np.broadcast_to(given, (spec.hidden_size,)), spec.dtype)
    outside = ~((found > 0) & (found <= 1))
    if outside.any():
        raise ValueError(f"alpha: expected numbers above 0 and at most 1, got {found[outside][0]}")
    return found
