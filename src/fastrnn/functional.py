"""The cells as functions of bare arrays, with torch's arguments, each with its backward.

    B  rows of the batch     I  input size     H  hidden size     G  gates: 1 for RNN, 3 for GRU, 4 for LSTM

    x            (B, I), unbatched (I,)
    state        h, or for LSTM (h, c): (B, H) each, unbatched (H,); None means zeros
    w_ih, w_hh   (G·H, I), (G·H, H)
    b_ih, b_hh   (G·H,) each, or None for zero

Everything is computed in the dtype of w_ih, which is float32 or float64 (else TypeError); other arrays are converted.
The bits are those of a layer. Weights are read as they are: a loop in which they stay the same is faster with a frozen
cell.
`*_forward` returns (state, tape) and `*_backward` takes the tape and the gradient of the loss by the returned state;
its `accumulate` takes earlier CellGrads, or a dict of w_ih, w_hh, b_ih, b_hh, to add the weights' gradients into in
place. A wrong shape is a ValueError and a wrong kind of value a TypeError that names the argument. An exception other
than for a wrong argument, such as KeyboardInterrupt, leaves the arrays of `accumulate` with unspecified contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cells import backprop_at_once, backprop_cell, read_cell_gradients, record_at_once, record_cell
from .core import checks, config, stack
from .core.geometry import Array, LayerSpec
from .core.params import Accumulators
from .core.tape import CellGrads, Tape, check_tape
from .frozen import infer_cell, step_at_once
from .spec import GRU, LSTM, RNN_RELU, RNN_TANH, Cell, Weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Bias = ArrayLike | None
    Pair = tuple[Array, Array]
    LSTMGrads = CellGrads[Pair]
    HGrads = CellGrads[Array]


def read_weights(cell: Cell, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias, b_hh: Bias) -> tuple[LayerSpec, Weights]:
    """Check and convert the weights; their shapes say what the cell's are."""
    inputs, hidden = (checks.columns(name, checks.real(name, w)) for name, w in (("w_ih", w_ih), ("w_hh", w_hh)))
    dtype = checks.float_dtype(inputs.dtype.newbyteorder("="), "w_ih")
    H = hidden.shape[-1]
    rows = len(cell.gates) * H
    checks.shaped("w_hh", hidden, (rows, H))
    checks.shaped("w_ih", inputs, (rows, "I"))
    biases = [
        None if b is None else checks.contiguous(checks.shaped(name, checks.real(name, b), (rows,)), dtype)
        for name, b in (("b_ih", b_ih), ("b_hh", b_hh))
    ]
    spec = LayerSpec(cell, inputs.shape[1], H, 1, b_ih is not None or b_hh is not None, False, 0.0, False, dtype)
    return spec, Weights(checks.contiguous(inputs, dtype), checks.contiguous(hidden, dtype), *biases)


def infer(cell: Cell, x: ArrayLike, state: Any, *weights: Any) -> Any:
    backend = config.backend()
    after = step_at_once(backend, cell, x, state, *weights)
    if after is not None:
        return after
    spec, read = read_weights(cell, *weights)
    return infer_cell(spec, backend, stack.packing(spec, backend, [(read,)], steps=1), x, state)


def record(owner: str, cell: Cell, x: ArrayLike, state: Any, *weights: Any) -> Any:
    backend = config.backend()
    recorded = record_at_once(backend, owner, cell, x, state, *weights)
    if recorded is not None:
        return recorded
    spec, read = read_weights(cell, *weights)
    # Views stay what they are, whatever shape the caller's arrays are given meanwhile.
    kept = Weights._make([None if w is None else w.view() for w in read])
    return record_cell(backend, owner, spec, [(kept,)], x, state)


def backprop(owner: str, tape: Tape, accumulate: Any, *named: tuple[str, ArrayLike | None]) -> Any:
    check_tape(tape, owner)
    found = backprop_at_once(tape, accumulate, named)
    if found is not None:
        dx, dstate, sums = found
        return CellGrads(dx, dstate, *sums)
    dafter = read_cell_gradients(tape, *named)
    if isinstance(accumulate, CellGrads):
        accumulate = {name: getattr(accumulate, name) for name in Weights._fields[:4]}
    if isinstance(accumulate, Mapping):
        accumulate = {name: array for name, array in accumulate.items() if array is not None}
    weights = {name: array for name, array in tape.weights[0][0]._asdict().items() if array is not None}
    into = Accumulators(weights, accumulate, [("x", tape.call.x), *zip([name for name, _ in named], dafter)])
    dx, dstate = backprop_cell(tape, dafter, [(Weights(**into.inner),)], into.fresh)
    return CellGrads(dx, dstate, **into.finish())


def lstm_cell(x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None) -> Pair:
    """The next (h, c) of an LSTM, gates i, f, g, o; see LSTMCell for the equations."""
    return infer(LSTM, x, state, w_ih, w_hh, b_ih, b_hh)


def lstm_cell_forward(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> tuple[Pair, Tape]:
    """As `lstm_cell`, with the tape for `lstm_cell_backward`."""
    return record("lstm_cell_forward", LSTM, x, state, w_ih, w_hh, b_ih, b_hh)


def lstm_cell_backward(
    tape: Tape,
    dh: ArrayLike | None = None,
    dc: ArrayLike | None = None,
    *,
    accumulate: LSTMGrads | Mapping[str, Array] | None = None,
) -> LSTMGrads:
    """Gradients of a loss from its gradients by the next h and c, one of which may be None for zero."""
    return backprop("lstm_cell_forward", tape, accumulate, ("dh", dh), ("dc", dc))


def gru_cell(x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None) -> Array:
    """The next h of a GRU, gates r, z, n; see GRUCell for the equations."""
    return infer(GRU, x, state, w_ih, w_hh, b_ih, b_hh)


def gru_cell_forward(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> tuple[Array, Tape]:
    """As `gru_cell`, with the tape for `gru_cell_backward`."""
    return record("gru_cell_forward", GRU, x, state, w_ih, w_hh, b_ih, b_hh)


def gru_cell_backward(tape: Tape, dh: ArrayLike, *, accumulate: HGrads | Mapping[str, Array] | None = None) -> HGrads:
    """Gradients of a loss from its gradient by the next h."""
    return backprop("gru_cell_forward", tape, accumulate, ("dh", dh))


def rnn_tanh_cell(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> Array:
    """The next h of an RNN with tanh; see RNNCell for the equations."""
    return infer(RNN_TANH, x, state, w_ih, w_hh, b_ih, b_hh)


def rnn_tanh_cell_forward(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> tuple[Array, Tape]:
    """As `rnn_tanh_cell`, with the tape for `rnn_tanh_cell_backward`."""
    return record("rnn_tanh_cell_forward", RNN_TANH, x, state, w_ih, w_hh, b_ih, b_hh)


def rnn_tanh_cell_backward(
    tape: Tape, dh: ArrayLike, *, accumulate: HGrads | Mapping[str, Array] | None = None
) -> HGrads:
    """Gradients of a loss from its gradient by the next h."""
    return backprop("rnn_tanh_cell_forward", tape, accumulate, ("dh", dh))


def rnn_relu_cell(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> Array:
    """The next h of an RNN with relu; see RNNCell for the equations."""
    return infer(RNN_RELU, x, state, w_ih, w_hh, b_ih, b_hh)


def rnn_relu_cell_forward(
    x: ArrayLike, state: Any, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: Bias = None, b_hh: Bias = None
) -> tuple[Array, Tape]:
    """As `rnn_relu_cell`, with the tape for `rnn_relu_cell_backward`."""
    return record("rnn_relu_cell_forward", RNN_RELU, x, state, w_ih, w_hh, b_ih, b_hh)


def rnn_relu_cell_backward(
    tape: Tape, dh: ArrayLike, *, accumulate: HGrads | Mapping[str, Array] | None = None
) -> HGrads:
    """Gradients of a loss from its gradient by the next h."""
    return backprop("rnn_relu_cell_forward", tape, accumulate, ("dh", dh))
