"""What a batch is to a model: a loss, and its gradients by the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .data import Batch, Data

Array = np.ndarray


class Outcome(NamedTuple):
    """Of one batch: the loss, the mean over its targets; its gradients by name; the state to carry on, if any."""

    loss: float
    grads: Mapping[str, Array]
    state: Any = None


Loss: TypeAlias = Callable[..., tuple[float, Array]]
Objective: TypeAlias = Callable[[Any, Batch, Any], Outcome]  # (model, batch, state carried) -> Outcome


def supervised(loss: Loss) -> Objective:
    """The objective of a Chain whose output a loss compares with the targets."""

    def objective(model: Any, batch: Batch, state: Any) -> Outcome:
        y, tape = model.forward(batch.x, state, lengths=batch.lengths)
        value, dy = loss(y, batch.targets, **lengths_of(batch))
        return Outcome(value, model.backward(tape, dy).params, tape.state)

    return objective


def lengths_of(batch: Batch) -> dict[str, Array]:
    """The argument that tells a loss where rows end, where its targets are one a step."""
    return {"lengths": batch.lengths} if batch.per_step and batch.lengths is not None else {}


def evaluate(model: Any, data: Data, loss: Loss, batch_size: int = 256) -> float:
    """The mean loss over all targets of `data`, without dropout."""
    total, count, state = 0.0, 0, None
    for key in data.plan(batch_size, None):
        batch = data.batch(key)
        if batch is not None:
            y, state = model.run(batch.x, state if data.carries else None, lengths=batch.lengths)
            total += loss(y, batch.targets, **lengths_of(batch))[0] * batch.num_targets
            count += batch.num_targets
    if not count:
        raise ValueError("data: expected at least one target, got none")
    return total / count
