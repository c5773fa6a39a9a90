"""What every part of a model has, beside a recurrent layer: parameters by name, a configuration, gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..params import Named
from ..tape import describe_fields

Array = np.ndarray


class PartGrads(NamedTuple):
    """Gradients of a loss by what went into a part.

    x is shaped as the input, a tuple where there are several inputs, and None where it has no gradient, such as the
    indices of an Embedding; params has those of the parameters by name; state is a Chain's, by part.
    """

    x: Any
    params: dict[str, Array]
    state: Any = None

    def __repr__(self) -> str:
        return describe_fields(self)


class Part(Named):
    """A part of a model.

    A call returns y; `forward` returns (y, tape), which `backward(tape, dy)` takes to PartGrads. A part that knows of
    time has the argument `lengths`, (B,), the valid steps of each row: what lies past them is not read.
    """

    def __init__(self, params: dict[str, Array]) -> None:
        self._arrange(params)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as JSON has them, but for rng: `type(part)(**part.config)`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.config.items())})"


def gradient(name: str, dy: Any, y: Array) -> Array:
    """Check and convert a gradient that is to be shaped as y."""
    from .. import checks

    return checks.contiguous(checks.shaped(name, checks.real(name, dy), y.shape), y.dtype)
