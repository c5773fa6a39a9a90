"""What `forward` hands to `backward`, and what `backward` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from .backends.base import Backend
from .geometry import Array, Call, LayerSpec
from .spec import Weights

S = TypeVar("S")  # a state: an array h, or a pair (h, c)


class Run(NamedTuple):
    """One layer's pass, as its backward needs it."""

    x: Array
    y: Array
    state: tuple[Array, ...]
    saved: Array | None
    kept: Array | None  # which elements of x dropout left, None for all


class Tape:
    """What `backward` needs of one `forward`; opaque to its users.

    It refers to x and the parameters without copying them, so they have to be unchanged when `backward` is called. It
    is not used up: `backward` may be called any number of times. It remembers the layer, cell or function and the
    backend it is from, and belongs to them: it can be neither copied nor pickled.
    """

    __slots__ = ("backend", "call", "owner", "runs", "spec", "weights")

    def __init__(
        self,
        owner: object,
        spec: LayerSpec,
        backend: Backend,
        weights: Sequence[Sequence[Weights]],
        call: Call,
        runs: Sequence[Run],
    ) -> None:
        self.owner, self.spec, self.backend = owner, spec, backend
        self.weights, self.call, self.runs = weights, call, runs

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a Tape of {self.owner} can be neither copied nor pickled: call forward where backward is to run, "
            "with the layer, x and the state sent there"
        )

    def __repr__(self) -> str:
        T, B, _ = self.call.x.shape
        return f"<Tape of {self.owner}, T={T}, B={B}, backend {self.backend.name}>"


def check_tape(tape: Any, owner: object) -> None:
    """That `tape` was recorded by `owner`, which is a layer or cell or the name of a function."""
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected a Tape, got {type(tape).__name__}")
    if tape.owner is not owner and not (isinstance(owner, str) and tape.owner == owner):
        raise ValueError(f"tape: expected one from {owner}, got one from another, {tape.owner}")


class Grads(NamedTuple, Generic[S]):
    """Gradients of a loss by what went into a layer or cell; every array has the shape and dtype of its original."""

    x: Array
    state: S
    params: dict[str, Array]


class CellGrads(NamedTuple, Generic[S]):
    """Gradients of a loss by the arguments of a functional cell; None for a bias that was None."""

    x: Array
    state: S
    w_ih: Array
    w_hh: Array
    b_ih: Array | None = None
    b_hh: Array | None = None
