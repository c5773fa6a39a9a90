"""RNN, LSTM and GRU: stacks of recurrent layers over whole sequences.

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
from collections.abc import Mapping, Sequence
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
from .core.options import with_options
from .core.params import Accumulators, Parameters, check_memory, group, layer_suffixes, rnn_cell, under
from .core.portable import portable
from .core.statedict import read_arrays, read_sizes
from .core.tape import Grads, S, Tape, check_tape
from .frozen import FrozenLayer, infer, shortcut
from .spec import GRU as GRU_CELL
from .spec import LEAKY_RELU, LEAKY_TANH, LSTM_COUPLED, NORM_EPS, Cell
from .spec import LSTM as LSTM_CELL
from .spec import RNN_TANH as RNN_CELL

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    Activations = Sequence[str | tuple[str, float] | tuple[str, float, float]]

    # The gradient of a final state: of h, or of (h, c), a part of which may be None for zero.
    StateGradient = ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None

    OneDirection = Literal["forward", "reverse"]
    MaskPer = Literal["step", "sequence"]
    Direction = OneDirection | tuple[OneDirection, ...] | list[OneDirection]


class Layer(Parameters, DescribedLayer, Generic[S]):
    """What RNN, LSTM and GRU share: the base class of all three, not to be made itself."""

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
        spec, backend = self._spec, config.backend()
        packed = stack.packing(spec, backend, self._weights, count_steps(spec, x))
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
        before, dscale = stack.backprop(tape, Given(dy, dafter), filled, inner, dsteps)
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


class RNN(Layer[Array]):
    """Elman layers: h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), f being tanh or relu (Elman 1990).

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says
    where rows end. See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other, dropout between them in `forward`
    recurrent_dropout  in `forward`: h times a mask of 0 and 1 / (1 - p) is what W_hh takes (Gal & Ghahramani 2016)
    zoneout        the probability that a unit keeps its state in a step of `forward`; a call and steps take the
                   expectation (Krueger et al. 2017)
    mask_per       "step" or "sequence": for how long masks stay; None: a sequence for recurrent_dropout, a step for
                   zoneout. `tape.masks` shows them
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    direction      "reverse" for that direction alone, or a tuple of "forward" and "reverse", one for each layer
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters and `forward`'s masks
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot, orthogonal weight_hh, zero biases
    activations    of f alone, in a list, a name or
                   (name, alpha, beta) as ONNX has them: sigmoid, hard_sigmoid, tanh, relu, leaky_relu,
                   thresholded_relu, elu, softsign, softplus, affine, scaled_tanh, linear
    clip           a bound of what the activations of gates and candidate take: within -clip .. clip

    Parameters are named and shaped as torch.nn.RNN's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.RNN(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = RNN_CELL

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        mask_per: MaskPer | None = None,
        bidirectional: bool = False,
        direction: Direction = "forward",
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
        activations: Activations | None = None,
        clip: float | None = None,
    ) -> None:
        cell = with_options(rnn_cell(nonlinearity), activations, clip, zoneout=zoneout)
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng, init,
            direction=direction, recurrent_dropout=recurrent_dropout, mask_per=mask_per,
        )  # fmt: skip

    @property
    def nonlinearity(self) -> str:
        """The name of f."""
        cell = self._spec.cell
        return cell.name.split("_")[1] if cell.options is None else cell.options.functions[1].name


class LSTM(Layer[tuple[Array, Array]]):
    """Long short-term memory layers, gates i, f, g, o (Hochreiter & Schmidhuber 1997, Gers et al. 2000):

        i, f, o = σ(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)      g = tanh(likewise)
        c_t = f c_(t-1) + i g                                   h_t = o tanh(c_t)

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state (h, c) come out; `lengths` says
    where rows end. See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other, dropout between them in `forward`
    recurrent_dropout  in `forward`: h times a mask of 0 and 1 / (1 - p) is what W_hh takes (Gal & Ghahramani 2016)
    zoneout        the probability that a unit keeps its state in a step of `forward`; a call and steps take the
                   expectation (Krueger et al. 2017). A pair: of h and of c
    mask_per       "step" or "sequence": for how long masks stay; None: a sequence for recurrent_dropout, a step for
                   zoneout. `tape.masks` shows them
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    direction      "reverse" for that direction alone, or a tuple of "forward" and "reverse", one for each layer
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters and `forward`'s masks
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot, orthogonal weight_hh, zero biases,
                   but forget gates' 1
    forget_bias    the sum of both biases of every forget gate, instead of init's: large ones remember longer
    proj_size      h has so many features, fewer than the hidden units: h_t = W_hr (o tanh(c_t)), by the parameters
                   weight_hr_l0 (proj_size, hidden_size) (Sak et al. 2014); 0: h has hidden_size
    peephole       gates see c: i and f that of the step before, o the new one, each unit by a factor of its own, the
                   parameters peephole_l0, (3·H,) in the order i, f, o (Gers & Schmidhuber 2000)
    coupled        f = 1 - i, without parameters of its own: gates i, g, o (Greff et al. 2017)
    activations    of the gates, of g and of c instead of ("sigmoid", "tanh", "tanh"), each a name or
                   (name, alpha, beta) as ONNX has them: sigmoid, hard_sigmoid, tanh, relu, leaky_relu,
                   thresholded_relu, elu, softsign, softplus, affine, scaled_tanh, linear
    clip           a bound of what the activations of gates and candidate take: within -clip .. clip
    layer_norm     W_ih x and W_hh h are normalised over the units of all gates, each by itself, before the biases are
                   added, and c on its way into h (Ba et al. 2016); "gate": each gate over its own units. The gains are
                   the parameters norm_l0: (10·H,) of the gates by x, of the gates by h, of c, and the bias of c
    norm_eps       what joins a variance before its root

    Parameters are named and shaped as torch.nn.LSTM's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.LSTM(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = LSTM_CELL

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        mask_per: MaskPer | None = None,
        bidirectional: bool = False,
        direction: Direction = "forward",
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
        forget_bias: float | None = None,
        proj_size: int = 0,
        peephole: bool = False,
        coupled: bool = False,
        activations: Activations | None = None,
        clip: float | None = None,
        layer_norm: bool | Literal["gate"] = False,
        norm_eps: float = NORM_EPS,
    ) -> None:
        sizes = input_size, hidden_size, num_layers
        cell = with_options(
            LSTM_CELL, activations, clip, peephole, coupled, zoneout=zoneout, layer_norm=layer_norm, norm_eps=norm_eps
        )
        super().__init__(
            cell, *sizes, bias, batch_first, dropout, bidirectional, dtype, rng, init, forget_bias, direction=direction,
            recurrent_dropout=recurrent_dropout, mask_per=mask_per, proj_size=proj_size,
        )  # fmt: skip


class GRU(Layer[Array]):
    """Gated recurrent units, gates r, z, n, with the reset gate after the product (Cho et al. 2014, as torch.nn.GRU):

        r, z = σ(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)         n = tanh(W_in x_t + b_in + r (W_hn h_(t-1) + b_hn))
        h_t = (1 - z) n + z h_(t-1)

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says
    where rows end. See `__call__`, `forward` and `backward`.

    num_layers     layers on top of each other, dropout between them in `forward`
    recurrent_dropout  in `forward`: h times a mask of 0 and 1 / (1 - p) is what W_hh takes (Gal & Ghahramani 2016)
    zoneout        the probability that a unit keeps its state in a step of `forward`; a call and steps take the
                   expectation (Krueger et al. 2017)
    mask_per       "step" or "sequence": for how long masks stay; None: a sequence for recurrent_dropout, a step for
                   zoneout. `tape.masks` shows them
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    direction      "reverse" for that direction alone, or a tuple of "forward" and "reverse", one for each layer
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters and `forward`'s masks
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot, orthogonal weight_hh, zero biases
    reset          whether r multiplies after the product, as above, or h before it, W_hn (r h_(t-1)) + b_hn: as
                   published, ONNX's linear_before_reset=0, Keras's reset_after=False
    activations    of the gates and of n instead of ("sigmoid", "tanh"), each a name or
                   (name, alpha, beta) as ONNX has them: sigmoid, hard_sigmoid, tanh, relu, leaky_relu,
                   thresholded_relu, elu, softsign, softplus, affine, scaled_tanh, linear
    clip           a bound of what the activations of gates and candidate take: within -clip .. clip
    layer_norm     W_ih x and W_hh h are normalised over the units of all gates, each by itself, before the biases are
                   added (Ba et al. 2016); "gate": each gate over its own units. The gains are
                   the parameters norm_l0: (6·H,) of the gates by x, and of the gates by h
    norm_eps       what joins a variance before its root

    Parameters are named and shaped as torch.nn.GRU's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.GRU(input_size=8, hidden_size=32, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)))  # y (50, 16, 32)
    """

    _cell = GRU_CELL

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        mask_per: MaskPer | None = None,
        bidirectional: bool = False,
        direction: Direction = "forward",
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
        reset: Literal["after", "before"] = "after",
        activations: Activations | None = None,
        clip: float | None = None,
        layer_norm: bool | Literal["gate"] = False,
        norm_eps: float = NORM_EPS,
    ) -> None:
        sizes = input_size, hidden_size, num_layers
        cell = with_options(
            GRU_CELL, activations, clip, reset=reset, zoneout=zoneout, layer_norm=layer_norm, norm_eps=norm_eps
        )
        super().__init__(
            cell, *sizes, bias, batch_first, dropout, bidirectional, dtype, rng, init, direction=direction,
            recurrent_dropout=recurrent_dropout, mask_per=mask_per,
        )  # fmt: skip


class LeakyRNN(Layer[Array]):
    """Leaky integrators: h_t = (1 - α) h_(t-1) + α f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh + noise_t) (Jaeger 2007).

    α = Δt / τ for units of the time constant τ: a continuous-time network, stepped by Euler's rule.

    x (T, B, input_size) goes in, y (T, B, hidden_size) and the final state h come out; `lengths` says
    where rows end. See `__call__`, `forward` and `backward`.

    alpha          a number, or one per unit (H,), above 0 and at most 1; the same in all layers and directions
    train_alpha    whether it is a parameter, alpha_l0 (H,), with a gradient; nothing keeps it within 0 .. 1 then
    nonlinearity   f, "tanh" or "relu"
    num_layers     layers on top of each other, dropout between them in `forward`
    recurrent_dropout  in `forward`: h times a mask of 0 and 1 / (1 - p) is what W_hh takes (Gal & Ghahramani 2016)
    zoneout        the probability that a unit keeps its state in a step of `forward`; a call and steps take the
                   expectation (Krueger et al. 2017)
    mask_per       "step" or "sequence": for how long masks stay; None: a sequence for recurrent_dropout, a step for
                   zoneout. `tape.masks` shows them
    bidirectional  a second direction, from each row's end back: y has 2·hidden_size features
    direction      "reverse" for that direction alone, or a tuple of "forward" and "reverse", one for each layer
    batch_first    x and y are (B, T, ·); the state never is
    dtype          float32 or float64, of parameters and results
    rng            None, a seed, a SeedSequence or a Generator: the parameters and `forward`'s masks
    init           "torch": all parameters from U(-1/√H, 1/√H); "keras": Glorot, orthogonal weight_hh, zero biases

    Parameters are named and shaped as torch.nn.RNN's. Raises TypeError or ValueError that names the argument.

        >>> layer = fastrnn.LeakyRNN(input_size=8, hidden_size=32, alpha=0.2, rng=0)
        >>> y, state = layer(np.zeros((50, 16, 8)), noise=0.1 * np.random.default_rng(0).normal(size=(50, 16, 32)))
    """

    _cell = LEAKY_TANH

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        alpha: ArrayLike = 0.1,
        train_alpha: bool = False,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        mask_per: MaskPer | None = None,
        bidirectional: bool = False,
        direction: Direction = "forward",
        dtype: DTypeLike = np.float32,
        rng: Any = None,
        init: Init = "torch",
    ) -> None:
        cell = {"tanh": LEAKY_TANH, "relu": LEAKY_RELU}[checks.nonlinearity(nonlinearity)]
        cell = with_options(cell, zoneout=zoneout)
        sizes = input_size, hidden_size
        train = checks.flag("train_alpha", train_alpha)
        super().__init__(
            cell, *sizes, num_layers, bias, batch_first, dropout, bidirectional, dtype, rng, init, None, alpha, train,
            direction, recurrent_dropout, mask_per,
        )  # fmt: skip
        self._alpha = np.array(alpha, np.float64).tolist()

    @property
    def nonlinearity(self) -> Literal["tanh", "relu"]:
        return "relu" if self._spec.cell.name == LEAKY_RELU.name else "tanh"

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"alpha": self._alpha, "train_alpha": not self._constants}

    def __repr__(self) -> str:
        alpha = self._alpha if isinstance(self._alpha, float) else "[...]"
        return f"{super().__repr__()[:-1]}, alpha={alpha}{', train_alpha=True' * (not self._constants)})"


def read_alpha(alpha: Any, spec: LayerSpec) -> Array:
    """The leaks of the units, (H,), in the layer's dtype."""
    given = checks.shaped("alpha", checks.real("alpha", alpha), (), (spec.hidden_size,))
    found = np.array(np.broadcast_to(given, (spec.hidden_size,)), spec.dtype)
    outside = ~((found > 0) & (found <= 1))
    if outside.any():
        raise ValueError(f"alpha: expected numbers above 0 and at most 1, got {found[outside][0]}")
    return found
