"""The gradient's way back through time, looked at while a model trains."""

from __future__ import annotations

from typing import Any

from ..flow import GradientFlow, gradient_flow
from ..layer import Layer
from .data import Batch
from .model import Chain, ChainTape


def flows(model: Chain, batch: Batch) -> dict[str, GradientFlow]:
    """What `gradient_flow` finds in each recurrent layer of a Chain, by dotted name, on a batch's first row."""
    _, tape = model.forward(batch.x, lengths=batch.lengths)
    steps = len(batch.x) if batch.lengths is None else int(batch.lengths[0])
    return {name: gradient_flow(layer, x[:steps, 0]) for name, layer, x in inputs(model, tape, "")}


def inputs(model: Chain, tape: ChainTape, prefix: str) -> list[tuple[str, Layer[Any], Any]]:
    """The recurrent layers of a Chain, and what each was given, (T, B, I)."""
    found: list[tuple[str, Layer[Any], Any]] = []
    for name, part in model.parts.items():
        if isinstance(part, Layer):
            found.append((prefix + name, part, tape.tapes[name].call.x))
        elif isinstance(part, Chain):
            found += inputs(part, tape.tapes[name], f"{prefix}{name}.")
    return found
