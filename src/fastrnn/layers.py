"""The recurrent layers RNN, LSTM, GRU and LeakyRNN: what each is made of. What they do is in layer.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .core import checks
from .core.geometry import Array
from .core.initialise import Init
from .core.options import with_options
from .core.params import rnn_cell
from .layer import Layer
from .spec import GRU as GRU_CELL
from .spec import LEAKY_RELU, LEAKY_TANH, NORM_EPS
from .spec import LSTM as LSTM_CELL
from .spec import RNN_TANH as RNN_CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike

    from .layer import Direction, MaskPer

    Activations = Sequence[str | tuple[str, float] | tuple[str, float, float]]


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
