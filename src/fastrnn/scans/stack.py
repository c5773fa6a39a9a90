"""A stack of scans over bare, checked arrays; its parameters, and how the layers are described.

The products by x, of both directions of a layer at once, are one product over the whole sequence; then each unit has
its own recurrence (backends/scan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.base import Run, Steps
from ..core import config
from ..core.geometry import Array, LayerSpec, as_state, empty, read_call, sequence_shape, state_shapes, time_major
from ..core.tape import Tape
from ..recurrence import sum_rows
from ..spec import Cell, Weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# In a tape n is the candidate, W_n x + b_n. A gate's activation takes its place there.
MINGRU = Cell("mingru", gates="zn", states="h", saved=("z", "n"), phases=())
MINLSTM = Cell("minlstm", gates="fin", states="h", saved=("f", "i", "n"), phases=())
INDRNN = {
    name: Cell(f"indrnn_{name}", gates="a", states="h", saved=(), phases=(), carries=True) for name in ("tanh", "relu")
}


# --- A stack of scans over bare, checked arrays


def shapes(spec: LayerSpec, suffixes: list[list[str]]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter: a vector weight_hh only where the state is multiplied, and one bias."""
    rows, H = len(spec.cell.gates) * spec.hidden_size, spec.hidden_size
    found: dict[str, tuple[int, ...]] = {}
    for k, layer in enumerate(suffixes):
        for suffix in layer:
            found[f"weight_ih{suffix}"] = rows, spec.output_size if k else spec.input_size
            if spec.cell.carries:
                found[f"weight_hh{suffix}"] = (H,)
            if spec.bias:
                found[f"bias_ih{suffix}"] = (rows,)
    return found


def group(arrays: Mapping[str, Array], suffixes: list[list[str]]) -> list[tuple[Weights, ...]]:
    """Named arrays as the weights of each layer and direction; w_hh is None where there is none."""
    return [
        tuple(Weights(arrays["weight_ih" + s], arrays.get("weight_hh" + s), arrays.get("bias_ih" + s)) for s in layer)  # type: ignore[arg-type]
        for layer in suffixes
    ]


def joined(parts: Sequence[Array | None]) -> Array | None:
    """The arrays of all directions, one below the other."""
    if parts[0] is None:
        return None
    return parts[0] if len(parts) == 1 else np.concatenate([part for part in parts if part is not None])


class Order:
    """How sequences of a call lie in memory: as the caller's do, so that most are taken without a copy."""

    def __init__(self, spec: LayerSpec, T: int, B: int, batched: bool) -> None:
        self.rows_first, self.T, self.B = spec.batch_first and batched, T, B
        self.dtype = spec.dtype

    def empty(self, size: int) -> Array:
        """(T, B, size)."""
        if self.rows_first:
            return empty((self.B, self.T, size), self.dtype).swapaxes(0, 1)
        return empty((self.T, self.B, size), self.dtype)

    def flat(self, sequence: Array) -> Array:
        """(T·B, size), C-contiguous, the terms of a product: a view where it lies so."""
        array = sequence.swapaxes(0, 1) if self.rows_first else sequence
        return np.ascontiguousarray(array).reshape(self.T * self.B, -1)


def packing(backend: Any, weights: Sequence[tuple[Weights, ...]]) -> Iterator[Any]:
    """The weights of every layer for the product by x, each when it is asked for: its memory then serves the next."""
    for layer in weights:
        w, bias = joined([d.w_ih for d in layer]), joined([d.b_ih for d in layer])
        yield backend.pack_linear(w, bias, False, config.get_num_threads())


def advance(
    spec: LayerSpec,
    backend: Any,
    weights: Sequence[tuple[Weights, ...]],
    packed: Iterable[Any],
    x: Array,
    state: Array,
    lengths: Array | None,
    y: Array,
    order: Order,
    runs: list[Run] | None = None,
) -> Array:
    """Fill y and return the final state; `runs` takes what `backprop` needs of each layer."""
    if x.size == 0:
        return state.copy()
    H, G, D, threads = spec.hidden_size, len(spec.cell.gates), spec.directions, config.get_num_threads()
    after = empty(state.shape, spec.dtype)
    for k, (layer, products) in enumerate(zip(weights, packed)):
        target = y if k == spec.num_layers - 1 else order.empty(D * H)
        gates = order.empty(D * G * H)
        backend.linear(products, order.flat(x), order.flat(gates), threads)
        for d, direction in enumerate(layer):
            given = gates[:, :, d * G * H : (d + 1) * G * H], None, direction.w_hh, state[k * D + d]
            out = target[:, :, d * H : (d + 1) * H]
            backend.scan_forward(spec.cell.name, *given, out, after[k * D + d], lengths, d == 1, threads)
        if runs is not None:
            T, B = x.shape[:2]
            saved = gates.reshape(T, B, D, G, H).transpose(2, 0, 1, 3, 4) if spec.cell.saved else None
            before = (state[k * D : (k + 1) * D],)
            runs.append(Run(x, before, Steps(lengths), spec.reverse_of(k), target, saved))
        x = target
    return after


def backprop(
    tape: Tape, dy: Array | None, dafter: Array | None, dx: Array, dweights: list[tuple[Weights, ...]]
) -> Array:
    """Fill dx, add the parameters' gradients into `dweights`, and return the gradient of the initial state."""
    spec, call = tape.spec, tape.call
    (before,) = call.state
    if not tape.runs:
        return np.zeros_like(before) if dafter is None else dafter.copy()
    T, B = call.x.shape[:2]
    H, G, D, threads = spec.hidden_size, len(spec.cell.gates), spec.directions, config.get_num_threads()
    backend: Any = tape.backend
    order, dstate = Order(spec, T, B, call.batched), empty(before.shape, spec.dtype)
    for k, run in reversed(list(enumerate(tape.runs))):
        x, y, (start,), saved = run.x, run.y, run.state, run.saved
        layer, dgates = tape.weights[k], order.empty(D * G * H)
        for d, (direction, by) in enumerate(zip(layer, dweights[k])):
            half, row = np.s_[:, :, d * H : (d + 1) * H], k * D + d
            kept = y[half] if saved is None else saved[d].reshape(T, B, G * H)
            total = np.empty((B, H), spec.dtype) if spec.cell.carries else None
            given = kept, direction.w_hh, y[half], start[d], call.steps.lengths, d == 1
            after = None if dy is None else dy[half], None if dafter is None else dafter[row]
            out = dgates[:, :, d * G * H : (d + 1) * G * H], None, total, dstate[row], threads
            backend.scan_backward(spec.cell.name, *given, *after, *out)
            if total is not None:
                add(by.w_hh, sum_rows(total))
        target = dx if k == 0 else order.empty(x.shape[2])
        lengths, flat = call.steps.lengths, order.flat(dgates)
        terms = order.flat(x if lengths is None else without_padding(x, lengths))
        products = backend.pack_linear(joined([d.w_ih for d in layer]), None, True, threads)
        backend.linear(products, flat, order.flat(target), threads)
        with np.errstate(all="ignore"):  # as the kernels compute
            by_weight, by_bias = flat.T @ terms, sum_rows(flat) if spec.bias else None
        for d, by in enumerate(dweights[k]):
            rows = slice(d * G * H, (d + 1) * G * H)
            add(by.w_ih, by_weight[rows])
            if by_bias is not None and by.b_ih is not None:
                add(by.b_ih, by_bias[rows])
        dy = target
    return dstate


def add(to: Array, values: Array) -> None:
    with np.errstate(all="ignore"):
        to += values


def without_padding(x: Array, lengths: Array) -> Array:
    """x with zeros past each row's end, where it may be anything: 0 · NaN would be NaN."""
    there = np.arange(len(x))[:, None] < lengths
    return np.where(there[:, :, None], x, x.dtype.type(0))


def infer(
    spec: LayerSpec,
    backend: Any,
    weights: Sequence[tuple[Weights, ...]],
    packed: Iterable[Any],
    x: ArrayLike,
    state: Any,
    lengths: ArrayLike | None,
) -> tuple[Array, Array]:
    """The outputs and the final state of a whole sequence, from and to the caller's layout."""
    call = read_call(spec, x, state, lengths)
    T, B = call.x.shape[:2]
    y = empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
    order, target = Order(spec, T, B, call.batched), time_major(y, spec.batch_first)
    after = advance(spec, backend, weights, packed, call.x, call.state[0], call.steps.lengths, target, order)
    return y, as_state((after,), state_shapes(spec, B, call.batched))


def described(spec: LayerSpec) -> dict[str, Any]:
    """The constructor's arguments by name, as JSON has them, but for rng and init."""
    found: dict[str, Any] = {"input_size": spec.input_size, "hidden_size": spec.hidden_size}
    found["num_layers"] = spec.num_layers
    if spec.cell.carries:
        found["nonlinearity"] = spec.cell.name.removeprefix("indrnn_")
    found |= {"bias": spec.bias, "batch_first": spec.batch_first, "bidirectional": spec.bidirectional}
    return found | {"dtype": spec.dtype.name}


DEFAULTS = {"num_layers": 1, "nonlinearity": "relu", "bias": True, "batch_first": False, "bidirectional": False}


def show(name: str, spec: LayerSpec) -> str:
    """The call that makes such a layer, without the defaults."""
    defaults = DEFAULTS | {"dtype": "float32"}
    options = [f", {key}={value!r}" for key, value in described(spec).items() if value != defaults.get(key, value)]
    return f"{name}({spec.input_size}, {spec.hidden_size}{''.join(options)})"
