"""The Jacobian of every step of a layer, in float64, from the kernels' own backward.

    T  time steps      H  hidden_size      n  numbers in a state: H, or for LSTM's (h, c) 2·H

A path is one row of the batch through one direction of one layer; its steps are counted in the order in which the
direction visits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core import unitmasks
from ..core.geometry import Array, Call
from ..layers import GRU, LSTM, RNN, LeakyRNN

FLOAT64 = np.dtype(np.float64)
KINDS = (RNN, LSTM, GRU, LeakyRNN)


class Path(NamedTuple):
    """What a layer of one direction, in float64, makes of one sequence.

    `layer` is without zoneout, of which every step of the states keeps a share.
    """

    layer: Any
    x: Array  # (T, I)
    states: tuple[Array, ...]  # each (T + 1, H): before the first step and after every one
    zoneout: tuple[float, ...]  # of each part of the state

    @property
    def T(self) -> int:
        return len(self.x)

    @property
    def n(self) -> int:
        return len(self.states) * self.layer.hidden_size


def one_direction(layer: Any, k: int, d: int) -> Any:
    """Direction d of layer k as a layer of its own, its parameters converted to float64."""
    kind: Any = next(kind for kind in KINDS if isinstance(layer, kind))
    sizes = {"input_size": layer._spec.output_size if k else layer.input_size, "num_layers": 1}
    plain = {"batch_first": False, "dropout": 0.0, "bidirectional": False, "direction": "forward", "dtype": FLOAT64}
    alone = kind(**(layer.config | sizes | plain | {"recurrent_dropout": 0.0}), rng=0)
    suffix = f"_l{k}" + ("_reverse" if d else "")
    alone.load_state_dict({name: layer.params[name.removesuffix("_l0") + suffix] for name in alone.params})
    return alone


def without_zoneout(layer: Any) -> Any:
    """The layer itself if it has none, else the same without it."""
    if not unitmasks.zoneout(layer._spec):
        return layer
    alone = type(layer)(**(layer.config | {"zoneout": 0.0}), rng=0)
    alone.load_state_dict(layer.params)
    return alone


def bare(parts: Sequence[Array]) -> Any:
    """A state as the layers take it: a bare array, or a pair."""
    return tuple(parts) if len(parts) == 2 else parts[0]


def parts_of(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


def in_order(sequence: Array, backward: bool) -> Array:
    """A sequence (T, …) in the order in which a direction visits its steps, or back from it."""
    return sequence[::-1] if backward else sequence


def start(call: Call, directions: int, k: int, d: int) -> Any:
    """The initial state of one direction of one layer, for the one row that a call has."""
    run = k * directions + d
    return bare([part[run : run + 1] for part in call.state])


def outputs_below(layer: Any, call: Call, k: int) -> list[Array]:
    """What goes into each of the layers 0 to k, (T, 1, I_k), without dropout."""
    D = 2 if layer.bidirectional else 1
    inputs = [call.x]
    for below in range(k):
        halves = []
        for d, backward in enumerate(layer._spec.reverse_of(below)):
            y, _ = one_direction(layer, below, d)(in_order(inputs[-1], backward), start(call, D, below, d))
            halves.append(in_order(y, backward))
        inputs.append(np.concatenate(halves, axis=-1))
    return inputs


def gradient_above(layer: Any, call: Call, inputs: Sequence[Array], k: int, dy: Array) -> Array:
    """The gradient by the outputs of layer k, from dy, that by the outputs of the last layer: (T, 1, D·H)."""
    H, D = layer.hidden_size, 2 if layer.bidirectional else 1
    for above in reversed(range(k + 1, layer.num_layers)):
        dx = np.zeros_like(inputs[above])
        for d, backward in enumerate(layer._spec.reverse_of(above)):
            before = [part[0, 0] for part in parts_of(start(call, D, above, d))]
            path = follow(one_direction(layer, above, d), in_order(inputs[above][:, 0], backward), before)
            given = in_order(dy[..., d * H : (d + 1) * H], backward)
            dx += in_order(gradient_below(path, given), backward)
        dy = dx
    return dy


def gradient_below(path: Path, dy: Array) -> Array:
    """The gradient by x of a path, (T, 1, I), from that by its outputs (T, 1, H)."""
    dx, after = np.empty((path.T, 1, path.x.shape[1])), [np.zeros_like(part[:1]) for part in path.states]
    for t in reversed(range(path.T)):
        after[0] = after[0] + dy[t]
        _, _, tape = path.layer.forward(path.x[t, None, None], bare([part[t, None, None] for part in path.states]))
        made = [(1 - p) * gradient[None] for p, gradient in zip(path.zoneout, after)]
        grads = path.layer.backward(tape, dstate=bare(made))
        after = [part[0] + p * gradient for p, part, gradient in zip(path.zoneout, parts_of(grads.state), after)]
        dx[t] = grads.x[0]
    return dx


def follow(layer: Any, x: Array, before: Sequence[Array]) -> Path:
    """Run a layer of one direction over x (T, I) from a state, parts of (H,), and keep the state after every step."""
    states = tuple(np.empty((len(x) + 1, layer.hidden_size)) for _ in before)
    for kept, part in zip(states, before):
        kept[0] = part
    served, state = layer.freeze(), bare([part[None] for part in before])
    for t, x_t in enumerate(x):
        _, state = served.step(x_t, state)
        for kept, part in zip(states, parts_of(state)):
            kept[t + 1] = part[0]
    zoneout = unitmasks.zoneout(layer._spec) or (0.0,) * len(states)
    return Path(without_zoneout(layer), x, states, zoneout)


def step_jacobian(path: Path, t: int) -> Array:
    """The derivative of the state after step t by the state before it, (n, n).

    The batch that goes forward is n times the same step; each row brings back the gradient of one number of the state
    after it, which is a row of the Jacobian.
    """
    n, H, layer = path.n, path.layer.hidden_size, path.layer
    unit = np.eye(n)
    x = np.broadcast_to(path.x[t], (1, n, path.x.shape[1]))
    _, _, tape = layer.forward(x, bare([np.broadcast_to(part[t], (1, n, H)) for part in path.states]))
    after = [unit[None, :, s * H : (s + 1) * H] for s in range(len(path.states))]
    before = parts_of(layer.backward(tape, dstate=bare(after)).state)
    jacobian, kept = np.concatenate([part[0] for part in before], axis=1), np.repeat(path.zoneout, H)
    return (1 - kept[:, None]) * jacobian + np.diag(kept)
