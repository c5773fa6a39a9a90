"""fastrnn's layers as a function that torch differentiates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..backends.base import Given
from ..core import checks, config, stack
from ..core.geometry import Array, Call, LayerSpec, aligned_empty, empty, sequence_shape, time_major
from ..core.steps import CallSteps, read_steps
from ..core.tape import Tape
from ..spec import Weights
from .calls import FlatLayer, array, contiguous, differentiates
from .packed import Packing
from .threads import Hosted, threads


def keep_elements(spec: LayerSpec, packing: Packing | None) -> Any:
    """What draws the masks of dropout between layers: torch's generator, in torch's order and layout."""

    def keep(shape: tuple[int, ...]) -> Array:
        # Of each element in the order of a layer's output: time-major, of packed data the valid steps alone.
        drawn = shape if packing is None else (int(packing.lengths.sum()), shape[-1])
        kept = array(torch.empty(drawn, dtype=torch.float32).bernoulli_(1 - spec.dropout)) != 0
        return kept if packing is None else packing.spread(kept)

    return keep


OWNER = "fastrnn.torch"  # of tapes


class Begun(NamedTuple):
    """A call, in the backends' layout."""

    packing: Packing | None
    call: Call
    weights: list[tuple[Weights, ...]]


def begin(
    layer: FlatLayer,
    batch_sizes: torch.Tensor | None,
    resets: Array | None,
    x: torch.Tensor,
    state: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    weights: list[tuple[Weights, ...]] | None = None,
) -> Begun:
    """`weights`, here and below: the parameters in the backends' layout, where the caller has them."""
    spec = layer.spec
    packing = None if batch_sizes is None else Packing(array(batch_sizes))
    given = array(x) if packing is None else packing.spread(array(x))
    given = time_major(checks.strided(given, spec.dtype), spec.batch_first)
    # Not by read_call: torch has checked all but the resets.
    steps = CallSteps(None if packing is None else packing.lengths)
    if resets is not None:
        T, B = given.shape[:2]
        steps = read_steps(spec, T, B, True, None, resets, None, None, None)
    call = Call(given, tuple([contiguous(part) for part in state]), steps, True)
    return Begun(packing, call, weights or layer.grouped([contiguous(param) for param in params]))


def tensor(steps: Array, packing: Packing | None) -> torch.Tensor:
    """A sequence as torch has it."""
    return torch.from_numpy(steps if packing is None else packing.pack(steps))


def forward(spec: LayerSpec, begun: Begun) -> tuple[torch.Tensor, tuple[Array, ...], Tape]:
    """y, the final state, and what `backward` needs."""
    backend, many, (packing, call, weights) = config.backend(), threads(), begun
    y = aligned_empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
    outputs = time_major(y, spec.batch_first)
    keep = keep_elements(spec, packing)
    with Hosted(backend, many):
        after, runs, kept, _ = stack.record(spec, backend, weights, call, outputs, keep=keep, threads=many)
    return tensor(y, packing), after, Tape(OWNER, spec, backend, weights, call, runs, kept, [None] * len(runs))


def backward(
    layer: FlatLayer,
    tape: Tape,
    packing: Packing | None,
    dy: torch.Tensor | None,
    dstate: Sequence[torch.Tensor | None],
    by_x: bool,
) -> tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]:
    """The gradients by x, None where it is not wanted, and by the state and the parameters."""
    spec, call = tape.spec, tape.call
    given = None
    if dy is not None:
        given = array(dy) if packing is None else packing.spread(array(dy))
        given = time_major(checks.strided(given, spec.dtype), spec.batch_first)
    parts = tuple(None if part is None else contiguous(part) for part in dstate)
    dparams = [np.empty(shape, spec.dtype) for shape in layer.shapes]
    dx = empty(sequence_shape(spec, call, spec.input_size), spec.dtype) if by_x else None
    inputs = None if dx is None else time_major(dx, spec.batch_first)
    many = threads()
    with Hosted(tape.backend, many):
        before, _ = stack.backprop(tape, Given(given, parts), inputs, layer.grouped(dparams), threads=many, fresh=True)
    return None if dx is None else tensor(dx, packing), tuple(map(torch.from_numpy, (*before, *dparams)))


class Recurrence(torch.autograd.Function):
    """(y, h) or (y, h, c) of x, the state and the parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        layer: FlatLayer,
        batch_sizes: torch.Tensor | None,
        resets: Array | None,
        weights: list[tuple[Weights, ...]] | None,
        parts: int,
        x: torch.Tensor,
        *rest: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`rest` are the parts of the state, of which there are `parts`, and the parameters."""
        begun = begin(layer, batch_sizes, resets, x, rest[:parts], rest[parts:], weights)
        y, after, ctx.tape = forward(layer.spec, begun)
        ctx.layer, ctx.packing = layer, begun.packing
        ctx.save_for_backward(x, *rest, *([y] if batch_sizes is None else []))  # changes in place are an error
        ctx.set_materialize_grads(False)
        return y, *map(torch.from_numpy, after)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *dstate: torch.Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        ctx.saved_tensors  # noqa: B018  raises where one has been changed
        dx, others = backward(ctx.layer, ctx.tape, ctx.packing, dy, dstate, ctx.needs_input_grad[5])
        found = (dx, *others)
        return (None,) * 5 + (not_again(found) if torch.is_grad_enabled() else found)


def not_again(gradients: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """The same, of which no gradients can be taken: whoever tries learns it, whatever else is in the graph."""
    message = b"fastrnn.torch: gradients of gradients are not computed; fastrnn.torch.restore(model) has torch do it"
    given = [gradient.requires_grad_() for gradient in gradients if gradient is not None]
    found = iter(torch._C._functions.DelayedError(message, len(given))(*given))
    return tuple([None if gradient is None else next(found) for gradient in gradients])


def infer(spec: LayerSpec, begun: Begun) -> tuple[torch.Tensor, ...]:
    """(y, *state) where nothing is to be differentiated."""
    backend, many, (packing, call, weights) = config.backend(), threads(), begun
    y = empty(sequence_shape(spec, call, spec.output_size), spec.dtype)
    outputs = time_major(y, spec.batch_first)
    with Hosted(backend, many):
        if spec.dropout:
            keep = keep_elements(spec, packing)
            after = stack.record(spec, backend, weights, call, outputs, keep=keep, threads=many)[0]
        else:
            packed = stack.packing(spec, backend, weights, len(call.x), many)
            after = stack.infer(spec, backend, packed, call, outputs, many)
    return tensor(y, packing), *map(torch.from_numpy, after)


def compute(
    layer: FlatLayer,
    batch_sizes: torch.Tensor | None,
    resets: Array | None,
    x: torch.Tensor,
    state: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    weights: list[tuple[Weights, ...]] | None = None,
) -> tuple[torch.Tensor, ...]:
    """(y, *state) of a layer's call, with gradients where torch records them."""
    if differentiates((x, *state, *params)):
        return Recurrence.apply(layer, batch_sizes, resets, weights, len(state), x, *state, *params)  # type: ignore[no-any-return]
    return infer(layer.spec, begin(layer, batch_sizes, resets, x, state, params, weights))
