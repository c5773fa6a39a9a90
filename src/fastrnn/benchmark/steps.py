"""One step of a cell called from NumPy code, against the same step written by hand in NumPy.

    B  rows of the batch     H  hidden_size, and input_size too     G  gates: 1 for RNN, 3 for GRU, 4 for LSTM

    x, dx        (B, H)
    state        h, or for LSTM (h, c): (B, H) each, as are their gradients
    w_ih, w_hh   (G·H, H)
    b_ih, b_hh   (G·H,)

By hand, `*_forward` returns the next state and what `*_backward` needs besides the gradients of the loss by that state;
`*_backward` returns the gradients of x, the state, w_ih, w_hh, b_ih and b_hh, as fastrnn's functions do.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

import fastrnn

from ..core.blas import threads_everywhere
from ..core.config import BackendName
from .kinds import KINDS
from .measure import LocalCall, Timing, interleave
from .peers import Disagreement, check_agreement

Array = np.ndarray

BATCHES, HIDDEN_SIZES = (1, 4, 16, 64), (16, 64, 128, 256, 512)
SHAPES = tuple((B, H) for B in BATCHES for H in HIDDEN_SIZES)
QUICK = tuple((B, H) for B in (1, 16) for H in (16, 128))

# --- by hand


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def cut(gates: Array, count: int) -> list[Array]:
    """The gates' columns, as views. Slices, since np.split takes as long as a small step's products."""
    H = gates.shape[-1] // count
    return [gates[..., k * H : (k + 1) * H] for k in range(count)]


def rnn(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    return np.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)


def rnn_forward(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple:
    after = rnn(x, h, w_ih, w_hh, b_ih, b_hh)
    return after, (x, h, w_ih, w_hh, after)


def rnn_backward(saved: tuple, dh: Array) -> tuple:
    x, h, w_ih, w_hh, after = saved
    d = dh * (1 - after**2)
    db = d.sum(axis=0)
    return d @ w_ih, d @ w_hh, d.T @ x, d.T @ h, db, db


def lstm(x: Array, state: Any, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple:
    h, c = state
    i, f, g, o = cut(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm_forward(x: Array, state: Any, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple:
    h, c = state
    i, f, g, o = cut(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c_after = f * c + i * g
    tanh_c = np.tanh(c_after)
    return (o * tanh_c, c_after), (x, h, c, w_ih, w_hh, i, f, g, o, tanh_c)


def lstm_backward(saved: tuple, dh: Array, dc: Array) -> tuple:
    x, h, c, w_ih, w_hh, i, f, g, o, tanh_c = saved
    dc = dc + dh * o * (1 - tanh_c**2)
    d_i, d_f, d_g = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2)
    d = np.concatenate((d_i, d_f, d_g, dh * tanh_c * o * (1 - o)), axis=-1)
    db = d.sum(axis=0)
    return d @ w_ih, (d @ w_hh, dc * f), d.T @ x, d.T @ h, db, db


def gru(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    a_r, a_z, a_n = cut(x @ w_ih.T + b_ih, 3)
    u_r, u_z, u_n = cut(h @ w_hh.T + b_hh, 3)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    return (1 - z) * np.tanh(a_n + r * u_n) + z * h


def gru_forward(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple:
    a_r, a_z, a_n = cut(x @ w_ih.T + b_ih, 3)
    u_r, u_z, u_n = cut(h @ w_hh.T + b_hh, 3)
    r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
    n = np.tanh(a_n + r * u_n)
    return (1 - z) * n + z * h, (x, h, w_ih, w_hh, r, z, n, u_n)


def gru_backward(saved: tuple, dh: Array) -> tuple:
    x, h, w_ih, w_hh, r, z, n, u_n = saved
    d_n = dh * (1 - z) * (1 - n**2)
    d_r, d_z = d_n * u_n * r * (1 - r), dh * (h - n) * z * (1 - z)
    d_x, d_h = np.concatenate((d_r, d_z, d_n), axis=-1), np.concatenate((d_r, d_z, d_n * r), axis=-1)
    return d_x @ w_ih, dh * z + d_h @ w_hh, d_x.T @ x, d_h.T @ h, d_x.sum(axis=0), d_h.sum(axis=0)


class Step(NamedTuple):
    """A cell's step as functions of bare arrays: by hand or fastrnn's."""

    infer: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def both(self, x: Array, state: Any, weights: Sequence[Array], dstate: Sequence[Array]) -> tuple:
        """The next state and all gradients."""
        after, saved = self.forward(x, state, *weights)
        return after, self.backward(saved, *dstate)


BY_HAND = {
    "rnn": Step(rnn, rnn_forward, rnn_backward),
    "lstm": Step(lstm, lstm_forward, lstm_backward),
    "gru": Step(gru, gru_forward, gru_backward),
}
FUNCTIONS = {
    "rnn": Step(fastrnn.rnn_tanh_cell, fastrnn.rnn_tanh_cell_forward, fastrnn.rnn_tanh_cell_backward),
    "lstm": Step(fastrnn.lstm_cell, fastrnn.lstm_cell_forward, fastrnn.lstm_cell_backward),
    "gru": Step(fastrnn.gru_cell, fastrnn.gru_cell_forward, fastrnn.gru_cell_backward),
}
CLASSES: dict[str, tuple[Any, Any]] = {
    "rnn": (fastrnn.RNNCell, fastrnn.RNN),
    "lstm": (fastrnn.LSTMCell, fastrnn.LSTM),
    "gru": (fastrnn.GRUCell, fastrnn.GRU),
}

# --- measured


class Contender(NamedTuple):
    """A way to take one step; `training` is forward and backward, all gradients."""

    name: str
    mode: str
    run: Callable[[], Any]


def contenders(cell: str, B: int, H: int, dtype: Any) -> list[Contender]:
    """Every way, in each mode NumPy's first. All have the same data, and weights as initialised."""
    make_cell, make_layer = CLASSES[cell]
    x, h, c, dh, dc = np.random.default_rng(0).standard_normal((5, B, H)).astype(dtype)
    state, dstate, stacked = (h, (dh,), h[None]) if cell != "lstm" else ((h, c), (dh, dc), (h[None], c[None]))
    one, layer = make_cell(H, H, dtype=dtype, rng=0), make_layer(H, H, dtype=dtype)
    layer.load_state_dict({f"{name}_l0": array for name, array in one.params.items()})
    weights, frozen = tuple(one.params.values()), one.freeze()
    by_hand, function = BY_HAND[cell], FUNCTIONS[cell]
    return [
        Contender("NumPy", "forward", lambda: by_hand.infer(x, state, *weights)),
        Contender("function", "forward", lambda: function.infer(x, state, *weights)),
        Contender("cell", "forward", lambda: one(x, state)),
        Contender("frozen step", "forward", lambda: frozen(x, state)),
        Contender("layer", "forward", lambda: layer(x[None], stacked)[1]),
        Contender("NumPy", "training", lambda: by_hand.both(x, state, weights, dstate)),
        Contender("function", "training", lambda: function.both(x, state, weights, dstate)),
    ]


class StepSettings(NamedTuple):
    cells: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]  # (B, H)
    dtype: Any
    backend: BackendName  # of fastrnn's contenders
    seconds: float  # per contender at each shape


class StepResult(NamedTuple):
    """One contender at one shape beside NumPy's step by hand; without a timing, the reason why it was not timed."""

    cell: str
    B: int
    H: int
    mode: str
    contender: str
    backend: BackendName
    by_hand: Timing
    timing: Timing | None
    reason: str | None

    @property
    def ratio(self) -> float | None:
        """NumPy's time over this one's."""
        return None if self.timing is None else self.by_hand.median / self.timing.median


def run_steps(
    settings: StepSettings, progress: Callable[[str, int, int], None], found: list[StepResult] | None = None
) -> list[StepResult]:
    """Measure all contenders of every cell and shape on one thread.

    `found` fills shape by shape, so that an interruption leaves what has been measured. `progress` gets what is under
    way, how much is done, and of how much.
    """
    found = [] if found is None else found
    todo = [(cell, B, H) for cell in settings.cells for B, H in settings.shapes]
    with threads_everywhere(1), fastrnn.use_backend(settings.backend):
        for done, (cell, B, H) in enumerate(todo):
            progress(f"{KINDS[cell].title} one step B={B} H={H}", done, len(todo))
            found.extend(run_shape(settings, cell, B, H))
    progress("done", len(todo), len(todo))
    return found


def run_shape(settings: StepSettings, cell: str, B: int, H: int) -> list[StepResult]:
    """Time those whose results agree with NumPy's, in turns."""
    everyone = contenders(cell, B, H, settings.dtype)
    wrong = vet(everyone)
    right = [who for who in everyone if who not in wrong]
    # A call in this process raises what goes wrong in it: no timing is a failure.
    timings = cast(list[Timing], interleave([LocalCall(who.run) for who in right], settings.seconds))
    timed = dict(zip(right, timings))
    by_hand = {who.mode: timing for who, timing in timed.items() if who.name == "NumPy"}
    backend = settings.backend
    return [
        StepResult(cell, B, H, who.mode, who.name, backend, by_hand[who.mode], timed.get(who), wrong.get(who))
        for who in everyone
    ]


def vet(everyone: Sequence[Contender]) -> dict[Contender, str]:
    """Those that compute something else than the first of their mode, with the reason not to time them."""
    expected: dict[str, list[Array]] = {}
    wrong = {}
    for who in everyone:
        result = list(arrays(who.run()))
        try:
            for part, right in zip(result, expected.setdefault(who.mode, result), strict=True):
                check_agreement(part.reshape(right.shape), right)
        except Disagreement as error:
            wrong[who] = f"wrong by {error}"
    return wrong


def arrays(result: Any) -> Iterator[Array]:
    """The arrays of a result, which may be tuples within tuples."""
    if isinstance(result, np.ndarray):
        yield result
    else:
        for part in result:
            yield from arrays(part)
