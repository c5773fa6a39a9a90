"""What the command compares: RNN, LSTM and GRU as they begin, and with gates that begin open; or layers of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.geometry import Array
from ..layers import GRU, LSTM, RNN
from .analysis import GradientFlow, gradient_flow
from .jacobians import KINDS

INPUT_SIZE = 16
# The spectral radius of weight_hh, which is orthogonal times that. tanh' is below 1: with this input an RNN of radius
# 1.1 still contracts, and it takes 1.7 for its gradient to grow about as 1.1^k.
CONTRACTING, EXPANDING = 0.9, 1.7
GATE_BIASES = (1, 4)
CAPTION = (
    "radius: of an RNN's orthogonal W_hh, before tanh' < 1 shrinks it further;   "
    "+4: bias of the LSTM's forget gate or the GRU's update gate"
)


class Subject(NamedTuple):
    """One direction of one layer, to be looked at under a name."""

    name: str
    layer: Any
    layer_index: int = 0
    direction: int = 0


class Study(NamedTuple):
    subject: Subject
    flow: GradientFlow


def classic(hidden_size: int, seed: int) -> list[Subject]:
    """The layers that a teacher compares, drawn from `seed`."""
    subjects = [
        Subject(f"RNN, radius {radius}", scaled_rnn(hidden_size, radius, seed)) for radius in (CONTRACTING, EXPANDING)
    ]
    for kind, gate in ((LSTM, "forget"), (GRU, "update")):
        subjects.append(Subject(f"{kind.__name__}, as torch's", kind(INPUT_SIZE, hidden_size, rng=seed)))
        for bias in GATE_BIASES:
            layer = kind(INPUT_SIZE, hidden_size, rng=seed)
            set_keeping_bias(layer, bias)
            subjects.append(Subject(f"{kind.__name__}, {gate} +{bias}", layer))
    return subjects


def scaled_rnn(hidden_size: int, radius: float, seed: int) -> RNN:
    """An RNN without biases whose weight_hh is a random orthogonal matrix times `radius`."""
    layer = RNN(INPUT_SIZE, hidden_size, bias=False, rng=seed)
    normal = np.random.default_rng(seed).standard_normal((hidden_size, hidden_size))
    layer.params["weight_hh_l0"][...] = radius * np.linalg.qr(normal)[0]
    return layer


def set_keeping_bias(layer: Any, value: float) -> None:
    """Make both biases together `value` for an LSTM's forget gate or a GRU's update gate, each its layer's second."""
    H = layer.hidden_size
    layer.params["bias_ih_l0"][H : 2 * H] = value
    layer.params["bias_hh_l0"][H : 2 * H] = 0


def found_in(parts: Mapping[str, Any]) -> list[Subject]:
    """Every direction of every recurrent layer among the parts of a file, those inside of models too."""
    subjects = []
    for name, layer in layers_in(parts):
        for k in range(layer.num_layers):
            for d in range(2 if layer.bidirectional else 1):
                words = [name or type(layer).__name__]
                words += [f"layer {k}"] * (layer.num_layers > 1) + ["reverse"] * d
                subjects.append(Subject(", ".join(words), layer, k, d))
    return subjects


def layers_in(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in parts.items():
        if isinstance(part, KINDS):
            yield prefix + name, part
        elif isinstance(inner := getattr(part, "parts", None), Mapping):
            yield from layers_in(inner, f"{prefix}{name}.")


def study(subject: Subject, steps_back: int, seed: int) -> Study:
    """Follow the gradient `steps_back` steps back, on an input that is standard normal."""
    x = normal_input(subject.layer, steps_back + 1, seed)
    flow = gradient_flow(subject.layer, x, layer_index=subject.layer_index, direction=subject.direction)
    return Study(subject, flow)


def normal_input(layer: Any, T: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((T, layer.input_size))


def spans(steps_back: int) -> Sequence[int]:
    """The numbers of steps back that tables show."""
    return sorted({k for k in (1, 10, 50, 100, 200, 500, 1000) if k < steps_back} | {steps_back})[-5:]
