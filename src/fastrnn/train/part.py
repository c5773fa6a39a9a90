"""What every part of a model has, beside a recurrent layer: parameters by name, a configuration, gradients."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, TypeVar

import numpy as np

from ..core import checks
from ..core.params import Named
from ..core.tape import describe_fields

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

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

    A call returns y; `forward` returns (y, tape), which `backward(tape, dy)` takes to PartGrads. A part that
    `takes_lengths` has the argument `lengths`, (B,), the valid steps of each row: what lies past them is not read. The
    output of one that `ends_time` has no axis over time.

    The constructor of a subclass sets the attributes that are its arguments, then calls this one with the parameters.
    """

    takes_lengths: ClassVar[bool] = False
    ends_time: ClassVar[bool] = False

    def __init__(self, params: dict[str, Array]) -> None:
        self._arrange(params)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as JSON has them, but for rng: `type(part)(**part.config)`."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, but for a parameter or what the constructor was given: the one is changed in params."""
        if name in vars(self).get("_params", ()):
            raise AttributeError(f"cannot set {name!r} of {type(self).__name__!r} object: assign to params[{name!r}]")
        if name in vars(self) and name in inspect.signature(type(self)).parameters:
            raise AttributeError(f"cannot set {name!r} of {type(self).__name__!r} object: it is fixed once made")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The call that makes such a part, without the defaults."""
        config, given = self.config, []
        for name, argument in inspect.signature(type(self)).parameters.items():
            if name not in config:
                continue
            if argument.default is argument.empty:
                given.append(repr(config[name]))
            elif config[name] != getattr(argument.default, "__name__", argument.default):  # a dtype by its name
                given.append(f"{name}={config[name]!r}")
        return f"{type(self).__name__}({', '.join(given)})"


@dataclass(eq=False, repr=False)
class PartTape:
    """What a part's `backward` needs of one `forward`: it belongs to that part, and refers to x without copying it."""

    owner: Any

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a tape of {type(self.owner).__name__} can be neither copied nor pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {type(self.owner).__name__}>"


T = TypeVar("T", bound=PartTape)


def check_tape(tape: Any, kind: type[T], owner: object) -> T:
    """`tape`, which this part's `forward` has recorded."""
    if not isinstance(tape, kind):
        raise TypeError(f"tape: expected a {kind.__name__}, got {checks.kind(tape)}")
    if tape.owner is not owner:
        raise ValueError(f"tape: expected one from this {type(owner).__name__}, got one from another")
    return tape


def gradient(name: str, dy: Any, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Check and convert a gradient that is to be of this shape."""
    return checks.contiguous(checks.shaped(name, checks.real(name, dy), shape), dtype)


def floating(name: str, value: ArrayLike) -> Array:
    """`value` as an array for a part without a dtype of its own: float32 or float64 as it is, others as float32."""
    array = checks.real(name, value)
    if array.dtype in (np.float32, np.float64):
        return checks.plain(array, np.dtype(array.dtype.type))
    return checks.contiguous(array, np.dtype(np.float32))
