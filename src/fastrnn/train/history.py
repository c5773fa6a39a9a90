"""What a run of `fit` has seen, step by step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """The course of a run.

    losses       the loss of each step's batch, before the step
    norms        the gradient's norm of each step, before clipping
    rates        the learning rate of each step
    validations  (step, loss) of each validation
    flow         (step, {part: GradientFlow}) of each look at the gradients, with flow=True; not in a checkpoint
    seconds      of training, those before a resumption included
    stopped      why it ended: "epochs", "steps", "seconds" or "patience"
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    flow: list[tuple[int, Any]] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, loss) of the best validation, the first of equals; None without one."""
        return min(self.validations, key=lambda found: found[1], default=None)

    def recorded(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name != "flow"}
