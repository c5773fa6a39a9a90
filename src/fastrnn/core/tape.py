"""What `forward` hands to `backward`, and what `backward` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import numpy as np

from ..backends.base import Backend, Run
from ..spec import Weights
from .checkpoint import Checkpoints
from .geometry import Array, Call, LayerSpec

S = TypeVar("S")  # a state: an array h, or a pair (h, c)


class Tape:
    """What `backward` needs of one `forward`; its `gates`, `outputs` and `masks` may be looked at.

    It refers to x and the parameters without copying them, so they have to be unchanged when `backward` is called. It
    is not used up: `backward` may be called any number of times. It remembers the layer, cell or function and the
    backend it is from, and belongs to them: it can be neither copied nor pickled.
    """

    __slots__ = ("backend", "call", "checkpoints", "kept", "owner", "runs", "spec", "weights")

    def __init__(
        self,
        owner: object,
        spec: LayerSpec,
        backend: Backend,
        weights: Sequence[Sequence[Weights]],
        call: Call,
        runs: Sequence[Run],
        kept: Sequence[Array | None] = (None,),
        checkpoints: Sequence[Checkpoints | None] = (None,),
    ) -> None:
        """`runs` are the layers' passes, `kept` says which elements of their x dropout left, None for all.

        `checkpoints` are instead of what the runs save.
        """
        self.owner, self.spec, self.backend = owner, spec, backend
        self.weights, self.call, self.runs, self.kept = weights, call, runs, kept
        self.checkpoints = checkpoints

    @property
    def gates(self) -> tuple[dict[str, Array], ...]:
        """What each layer and direction computed at every step: a dict of views for each row of a state, k·D + d.

        LSTM has "i", "f", "g", "o" and "c", the state after the step; GRU has "r", "z", "n" and "hn", which is
        W_hn h + b_hn; RNN has none. Each is (T, B, H), with batch_first (B, T, H), unbatched (T, H), of a cell (B, H)
        or (H,), and read-only. Past a row's length, and where a mask is False, the values mean nothing.
        Raises ValueError for a tape of forward(…, checkpoint=…), which has not kept them.
        """
        if any(self.checkpoints):
            raise ValueError("tape.gates: expected a tape that keeps every step, got one of forward(…, checkpoint=…)")
        names = self.spec.cell.saved
        return tuple(
            {} if run.saved is None else {name: self._given(run.saved[d, :, :, s]) for s, name in enumerate(names)}
            for run in self.runs
            for d in range(self.spec.directions)
        )

    @property
    def outputs(self) -> tuple[Array, ...]:
        """The y of every layer, the first to the last: read-only views, laid out as y. Of a cell its h."""
        return tuple(self._given(run.y) for run in self.runs)

    @property
    def masks(self) -> tuple[dict[str, Array], ...]:
        """The masks of units that `forward` drew: a dict of read-only views for each row of a state, k·D + d.

        "recurrent_dropout" is what h was multiplied by; "zoneout_h" and "zoneout_c" are 1 where a unit kept its value.
        Each is (T, B, H), laid out as y; of an h that is projected it is (T, B, P).
        """
        names, size = ("recurrent_dropout", "zoneout_h", "zoneout_c"), self.spec.widths[0]
        return tuple(
            {
                name: self._given(array[:, :, d * size : (d + 1) * size])
                for name, array in zip(names, (run.steps.drop, *run.steps.keep))
                if array is not None
            }
            for run in self.runs
            for d in range(self.spec.directions)
        )

    def _given(self, array: Array) -> Array:
        """A read-only view of a (T, B, n) array in the caller's layout."""
        call = self.call
        if call.steps.places is not None:
            moved, array = array, np.zeros(array.shape, array.dtype)
            call.steps.scatter(moved, array)
        view = array.swapaxes(0, 1) if self.spec.batch_first and call.batched else array[...]
        view = view if call.batched else view[:, 0]
        view = view[0] if call.cell else view
        view.flags.writeable = False
        return view

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


def shapes_of(value: Any) -> str:
    """The shapes in gradients, for their repr."""
    if isinstance(value, np.ndarray):
        return str(value.shape)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shapes_of(part)}' for name, part in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(shapes_of, value))})"
    return repr(value)


def describe_fields(grads: Any) -> str:
    """The fields of gradients that are there, with their shapes."""
    fields = [f"{name}={shapes_of(value)}" for name, value in grads._asdict().items() if value is not None]
    return f"{type(grads).__name__}({', '.join(fields)})"


class Grads(NamedTuple, Generic[S]):
    """Gradients of a loss by what went into a layer or cell; every array has the shape and dtype of its original.

    `states`, if `backward` was asked for it, are those by the state after every step: shaped as the state, with an
    axis over time before it, (T, L·D, B, H), unbatched (T, L·D, H). That by h counts what y gives to the loss, too;
    that by c is of c alone, as h does not depend on it. Past a row's length they are zero.
    `state_scale` is that by forward's argument of this name, if it was given.
    """

    x: Array
    state: S
    params: dict[str, Array]
    states: S | None = None
    state_scale: Array | None = None

    def __repr__(self) -> str:
        return describe_fields(self)


class CellGrads(NamedTuple, Generic[S]):
    """Gradients of a loss by the arguments of a functional cell; None for a bias that was None."""

    x: Array
    state: S
    w_ih: Array
    w_hh: Array
    b_ih: Array | None = None
    b_hh: Array | None = None

    def __repr__(self) -> str:
        return describe_fields(self)
