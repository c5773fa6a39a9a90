"""Learning rates over a run: each schedule gives the factor of the base rate at a step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .. import checks
from .optimisers import number


class StepSchedule:
    """gamma to the power of step // step_size: the rate falls at once, every step_size steps."""

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = checks.integer("step_size", step_size), number("gamma", gamma, 0)

    def __call__(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


class CosineSchedule:
    """From 1 to `least` along half a cosine, over so many steps, and `least` from there (Loshchilov & Hutter 2017)."""

    def __init__(self, steps: int, least: float = 0.0) -> None:
        self.steps, self.least = checks.integer("steps", steps), number("least", least, 0)

    def __call__(self, step: int) -> float:
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * min(step / self.steps, 1))) / 2


class WarmUp:
    """From 1/steps to 1 in equal steps; then 1, or another schedule that counts from there."""

    def __init__(self, steps: int, then: Callable[[int], float] | None = None) -> None:
        self.steps = checks.integer("steps", steps)
        if then is not None and not callable(then):
            raise TypeError(f"then: expected a schedule, got {checks.kind(then)}")
        self.then = then

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return (step + 1) / self.steps
        return 1.0 if self.then is None else self.then(step - self.steps)


class Plateau:
    """Times `factor` after more than `patience` validations without a better one, and never below `least`.

    `fit` calls `observe` with each validation's loss. Better is less than the best by the share `threshold` of it
    (torch's ReduceLROnPlateau, mode "min", threshold_mode "rel").
    """

    def __init__(self, factor: float = 0.5, patience: int = 3, threshold: float = 1e-4, least: float = 0.0) -> None:
        self.factor, self.threshold = number("factor", factor, 0, 1), number("threshold", threshold, 0)
        self.patience, self.least = int(number("patience", patience, 0)), number("least", least, 0)
        self.value, self.best, self.waited = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        return self.value

    def observe(self, loss: float) -> None:
        """Take note of a validation."""
        if loss < self.best * (1 - self.threshold) or self.best == math.inf:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.value, self.waited = max(self.value * self.factor, self.least), 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"value": self.value, "best": self.best, "waited": self.waited}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        checks.names("state_dict", mapping, list(self.state_dict()))
        self.value, self.best, self.waited = (mapping[name] for name in ("value", "best", "waited"))
