"""fastrnn's layers as a function that torch differentiates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..backends.base import Given
from ..core import checks, config, stack
from ..core.geometry import Array, Call, LayerSpec, aligned_empty, time_major
from ..core.steps import CallSteps, read_steps
from ..core.tape import Tape
from ..spec import Weights
from .calls import Asked, array, contiguous, grouped, threads
from .packed import Packing


def keep_elements(spec: LayerSpec, packing: Packing | None) -> Any:
    """What draws the masks of dropout between layers: torch's generator, in torch's order and layout."""

    def keep(shape: tuple[int, ...]) -> Array:
        # Of each element in the order of a layer's output: time-major, of packed data the valid steps alone.
        drawn = shape if packing is None else (int(packing.lengths.sum()), shape[-1])
        kept = array(torch.empty(drawn, dtype=torch.float32).bernoulli_(1 - spec.dropout)) != 0
        return kept if packing is None else packing.spread(kept)

    return keep


def read(
    spec: LayerSpec, x: torch.Tensor, state: tuple[torch.Tensor, ...], packing: Packing | None, resets: Array | None
) -> Call:
    """The call in the backends' layout, of arguments that torch has checked."""
    given = array(x) if packing is None else packing.spread(array(x))
    given = checks.strided(given, spec.dtype)
    steps = given if packing is not None else time_major(given, spec.batch_first)
    T, B = steps.shape[:2]
    parts = tuple(contiguous(part) for part in state)
    if packing is not None:
        return Call(steps, parts, CallSteps(packing.lengths), True)
    if resets is None:
        return Call(steps, parts, CallSteps(), True)
    return Call(steps, parts, read_steps(spec, T, B, True, None, resets, None, None, None), True)


class Recurrence(torch.autograd.Function):
    """(y, h) or (y, h, c) of x, the state and the parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        asked: Asked,
        spec: LayerSpec,
        batch_sizes: torch.Tensor | None,
        resets: Array | None,
        parts: int,
        x: torch.Tensor,
        *rest: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`rest` are the parts of the state, of which there are `parts`, and the parameters."""
        state, params = rest[:parts], rest[parts:]
        backend = config.backend()
        packing = None if batch_sizes is None else Packing(array(batch_sizes))
        call = read(spec, x, state, packing, resets)
        weights = grouped(asked, [contiguous(param) for param in params])
        T, B = call.x.shape[:2]
        first_axes = (B, T) if spec.batch_first and packing is None else (T, B)
        y = aligned_empty((*first_axes, spec.output_size), spec.dtype)
        outputs = y if packing is not None else time_major(y, spec.batch_first)
        keep = keep_elements(spec, packing) if spec.dropout else None
        after, runs, kept, _ = stack.record(spec, backend, weights, call, outputs, keep=keep, threads=threads())
        ctx.tape = Tape("fastrnn.torch", spec, backend, weights, call, runs, kept, [None] * len(runs))
        ctx.packing, ctx.asked, ctx.shapes = packing, asked, [param.shape for param in params]
        result = torch.from_numpy(y if packing is None else packing.pack(y))
        ctx.save_for_backward(x, *rest, *([result] if packing is None else []))  # changes in place are an error
        ctx.set_materialize_grads(False)
        return result, *map(torch.from_numpy, after)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *dstate: torch.Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        ctx.saved_tensors  # noqa: B018  raises where one has been changed
        tape, packing = ctx.tape, ctx.packing
        spec, call = tape.spec, tape.call
        given = None
        if dy is not None:
            given = checks.strided(array(dy), spec.dtype)
            given = time_major(given, spec.batch_first) if packing is None else packing.spread(given)
        parts = tuple(None if part is None else contiguous(part) for part in dstate)
        dparams = [np.zeros(tuple(shape), spec.dtype) for shape in ctx.shapes]
        T, B = call.x.shape[:2]
        swapped = spec.batch_first and packing is None
        dx = np.empty((*((B, T) if swapped else (T, B)), spec.input_size), spec.dtype)
        inner = time_major(dx, True) if swapped else dx
        before, _ = stack.backprop(tape, Given(given, parts), inner, grouped(ctx.asked, dparams), threads=threads())
        dx = dx if packing is None else packing.pack(dx)
        found = tuple(map(torch.from_numpy, (dx, *before, *dparams)))
        if torch.is_grad_enabled():
            found = not_again(found)
        return (None,) * 5 + found


def not_again(gradients: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The same, of which no gradients can be taken: whoever tries learns it, whatever else is in the graph."""
    message = b"fastrnn.torch: gradients of gradients are not computed; fastrnn.torch.restore(model) has torch do it"
    error = torch._C._functions.DelayedError(message, len(gradients))
    return tuple(error(*[gradient.requires_grad_() for gradient in gradients]))


def infer(
    asked: Asked,
    spec: LayerSpec,
    batch_sizes: torch.Tensor | None,
    resets: Array | None,
    x: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    params: list[torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """The same where nothing is to be differentiated."""
    backend = config.backend()
    packing = None if batch_sizes is None else Packing(array(batch_sizes))
    call = read(spec, x, state, packing, resets)
    T, B = call.x.shape[:2]
    weights: list[tuple[Weights, ...]] = grouped(asked, [contiguous(param) for param in params])
    first_axes = (B, T) if spec.batch_first and packing is None else (T, B)
    y = np.empty((*first_axes, spec.output_size), spec.dtype)
    outputs = y if packing is not None else time_major(y, spec.batch_first)
    if spec.dropout:
        keep = keep_elements(spec, packing)
        after = stack.record(spec, backend, weights, call, outputs, keep=keep, threads=threads())[0]
    else:
        many = threads()
        after = stack.infer(spec, backend, stack.packing(spec, backend, weights, T, many), call, outputs, many)
    return torch.from_numpy(y if packing is None else packing.pack(y)), *map(torch.from_numpy, after)
