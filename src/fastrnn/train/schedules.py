"""Schedules of the learning rate: functions of the step, counted from 0, to a factor of the optimiser's rate.

    schedule = WarmUp(100, then=CosineSchedule(1900))
    optimiser.lr = rate * schedule(step)

The step may as well be an epoch: it is whatever the caller counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..core import checks


class Schedule:
    """A factor of the learning rate for every step, which may depend on what validations have shown."""

    def __call__(self, step: int) -> float:
        """The factor of the step, from 0 on."""
        raise NotImplementedError

    def observe(self, metric: float) -> None:
        """Learn of a validation: its loss, or what else is the better the smaller; most schedules do not heed it."""

    def reach(self, share: float) -> None:
        """Learn, before a step, how much of the run is over, from 0 to 1; schedules of so many steps do not heed it."""

    def state_dict(self) -> dict[str, Any]:
        """What the factors depend on, beside the step and the constructor's arguments."""
        return {}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` of such a schedule gave.

        Raises ValueError for missing or unexpected entries, TypeError for those of another kind.
        """
        checks.names("state_dict", mapping, list(self.state_dict()))


class StepSchedule(Schedule):
    """gamma^⌊step / step_size⌋, as torch.optim.lr_scheduler.StepLR."""

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = checks.integer("step_size", step_size)
        self.gamma = checks.not_negative("gamma", gamma)

    def __call__(self, step: int) -> float:
        return self.gamma ** (read_step(step) // self.step_size)


class CosineSchedule(Schedule):
    """From 1 at step 0 along half a cosine to `least` at step `steps`, where it stays (Loshchilov & Hutter 2017).

    As torch.optim.lr_scheduler.CosineAnnealingLR, which rises again after `steps`. Without `steps` it falls to the end
    of the run: of whichever limit of `fit` comes first, its seconds too.
    """

    def __init__(self, steps: int | None = None, least: float = 0.0) -> None:
        self.steps = None if steps is None else checks.integer("steps", steps)
        self.least = checks.probability("least", least)
        self.share = 0.0

    def __call__(self, step: int) -> float:
        done = min(read_step(step) / self.steps if self.steps else self.share, 1.0)
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * done)) / 2

    def reach(self, share: float) -> None:
        self.share = checks.probability("share", share)


class WarmUp(Schedule):
    """(step + 1) / steps for the first `steps` steps, then the schedule `then`, for which they begin again from 0.

    Without `then` it stays 1. As torch's LinearLR(start_factor=1 / steps, total_iters=steps - 1). `then` may be any
    function of the step; where it is a Schedule, what is observed and kept is its.
    """

    def __init__(self, steps: int, then: Callable[[int], float] | None = None) -> None:
        self.steps = checks.integer("steps", steps)
        if then is not None and not callable(then):
            raise TypeError(f"then: expected a schedule or None, got {checks.kind(then)}")
        self.then = then

    def __call__(self, step: int) -> float:
        step = read_step(step)
        if step < self.steps:
            return (step + 1) / self.steps
        return 1.0 if self.then is None else self.then(step - self.steps)

    def observe(self, metric: float) -> None:
        if isinstance(self.then, Schedule):
            self.then.observe(metric)

    def reach(self, share: float) -> None:
        if isinstance(self.then, Schedule):
            self.then.reach(share)

    def state_dict(self) -> dict[str, Any]:
        return self.then.state_dict() if isinstance(self.then, Schedule) else {}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        if isinstance(self.then, Schedule):
            self.then.load_state_dict(mapping)
        else:
            super().load_state_dict(mapping)


class Plateau(Schedule):
    """A factor that shrinks `factor` times whenever validations no longer get better, as torch's ReduceLROnPlateau.

    A metric is better where it is below best - threshold · |best|. After more than `patience` validations in a row that
    are not, the factor is multiplied by `factor`, down to `least`, and the count begins again. A metric of NaN is not
    better.
    """

    def __init__(self, factor: float = 0.5, patience: int = 3, threshold: float = 1e-4, least: float = 0.0) -> None:
        self.factor = checks.fraction("factor", factor)
        self.patience = checks.integer("patience", patience, least=0)
        self.threshold = checks.not_negative("threshold", threshold)
        self.least = checks.probability("least", least)
        self.current, self.best, self.waited = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        read_step(step)
        return self.current

    def observe(self, metric: float) -> None:
        value = checks.number("metric", metric)
        if self.best == math.inf:
            better = value < self.best
        else:
            better = value < self.best - self.threshold * abs(self.best)
        if better:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.current, self.waited = max(self.current * self.factor, self.least), 0

    def state_dict(self) -> dict[str, Any]:
        return {"current": self.current, "best": self.best, "waited": self.waited}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        super().load_state_dict(mapping)
        current = checks.probability("state_dict['current']", mapping["current"])
        best = checks.number("state_dict['best']", mapping["best"])
        waited = checks.integer("state_dict['waited']", mapping["waited"], least=0)
        self.current, self.best, self.waited = current, best, waited


def read_step(step: Any) -> int:
    return checks.integer("step", step, least=0)
