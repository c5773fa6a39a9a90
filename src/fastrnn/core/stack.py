"""A stack of layers over bare, checked arrays: the one place that runs the backends over whole sequences.

    x  (T, B, I)    y  (T, B, D·P)    state  h (L·D, B, P), c (L·D, B, H)    L  layers    D  directions

P is the width of h: H, but for a layer that projects. T or B may be 0 here: then there is nothing to compute, and the
backends are not called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..backends.base import Backend, Given, Run, Steps, Wanted, zero
from ..spec import Weights
from . import checkpoint, config, unitmasks
from .checkpoint import Checkpoints
from .geometry import Array, Call, LayerSpec, aligned_empty, empty, zeros
from .tape import Tape


def layer_state(state: Sequence[Any], layer: int, directions: int) -> tuple[Any, ...]:
    """The (D, B, H) parts of one layer; None stays None."""
    rows = slice(layer * directions, (layer + 1) * directions)
    return tuple([None if part is None else part[rows] for part in state])


def pack(spec: LayerSpec, backend: Backend, weights: Sequence[Sequence[Weights]]) -> tuple[Any, ...]:
    """The weights of every layer, arranged for `infer`."""
    return tuple(packing(spec, backend, weights))


def packing(
    spec: LayerSpec,
    backend: Backend,
    weights: Sequence[Sequence[Weights]],
    steps: int | None = None,
    threads: int | None = None,
) -> Iterator[Any]:
    """As `pack`, each layer when it is asked for: its memory then serves the next. `steps` is as in Backend.pack.

    `threads`, here and below: None for those that the process may use.
    """
    for layer in weights:
        yield backend.pack(spec.cell, layer, threads or config.get_num_threads(), steps)


def layer_steps(spec: LayerSpec, call: Call) -> Iterator[tuple[Steps, tuple[bool, ...]]]:
    """For each layer the steps as a backend takes them, and which of its directions are reverse."""
    if spec.num_layers == 1:
        reverse = spec.reverse_of(0)
        yield call.steps.of(reverse), reverse
        return
    known: dict[tuple[bool, ...], Steps] = {}
    for k in range(spec.num_layers):
        reverse = spec.reverse_of(k)
        if reverse not in known:
            known[reverse] = call.steps.of(reverse)
        yield known[reverse], reverse


def infer(
    spec: LayerSpec, backend: Backend, packed: Iterable[Any], call: Call, y: Array, threads: int | None = None
) -> tuple[Array, ...]:
    """Fill y and return the final state."""
    x, state = call.x, call.state
    if x.size == 0:
        return tuple(part.copy() for part in state)
    after = tuple(empty(part.shape, spec.dtype) for part in state)
    D, threads, layers = spec.directions, threads or config.get_num_threads(), iter(packed)
    for k, (steps, reverse) in enumerate(layer_steps(spec, call)):
        target = y if k == spec.num_layers - 1 else empty(y.shape, spec.dtype)
        run = Run(x, layer_state(state, k, D), steps, reverse, target, None)
        backend.forward(next(layers), run, layer_state(after, k, D), threads)  # and nothing holds the weights
        x = target
    return after


def record(
    spec: LayerSpec,
    backend: Backend,
    weights: Sequence[Sequence[Weights]],
    call: Call,
    y: Array,
    rng: np.random.Generator | None = None,
    every: int | None = None,
    keep: Callable[[tuple[int, ...]], Array] | None = None,
    threads: int | None = None,
) -> tuple[tuple[Array, ...], list[Run], list[Array | None], list[Checkpoints | None]]:
    """As `infer`, with dropout between the layers; return the final state and what `backprop` needs of each layer.

    Masks are drawn layer by layer: that of dropout before the layer, then those of its units (unitmasks.py).
    With `every`, it is the state before every so many steps instead of what all steps save.
    `keep`, given the shape of a layer's x, draws which elements dropout leaves, instead of rng.
    """
    if keep is None and rng is not None:
        keep = partial(keep_elements, rng, spec.dropout)
    x, state = call.x, call.state
    if x.size == 0:
        return tuple(part.copy() for part in state), [], [], []
    after = tuple(empty(part.shape, spec.dtype) for part in state)
    (T, B, _), D, S = x.shape, spec.directions, len(spec.cell.saved)
    threads = threads or config.get_num_threads()
    runs: list[Run] = []
    masks: list[Array | None] = []
    checkpoints: list[Checkpoints | None] = []
    for k, (layer, (steps, reverse)) in enumerate(zip(weights, layer_steps(spec, call))):
        kept = None
        if k and spec.dropout and keep is not None:
            kept = keep(x.shape)
            x = drop(x, kept, spec.dropout)
        if rng is not None:
            steps = unitmasks.draw(spec, steps, rng, T, B)
        target = y if k == spec.num_layers - 1 else empty(y.shape, spec.dtype)
        saved = aligned_empty((D, T, B, S, spec.hidden_size), spec.dtype) if S and every is None else None
        run, then = Run(x, layer_state(state, k, D), steps, reverse, target, saved), layer_state(after, k, D)
        if S and every is not None:
            checkpoints.append(checkpoint.forward(spec.cell, backend, layer, run, then, threads, every))
        else:  # and nothing holds the packed weights after the call: their memory serves the next layer
            backend.forward(backend.pack(spec.cell, layer, threads, T), run, then, threads)
            checkpoints.append(None)
        runs.append(run)
        masks.append(kept)
        x = target
    return after, runs, masks, checkpoints


def backprop(
    tape: Tape,
    given: Given,
    dx: Array | None,
    dweights: Sequence[Sequence[Weights]],
    dsteps: tuple[Array, ...] | None = None,
    threads: int | None = None,
    fresh: bool = False,
) -> tuple[tuple[Array, ...], Array | None]:
    """Fill dx, add to `dweights`; return the gradients of the initial state and of the scale, (T, B, H), if any.

    A dx of None is not wanted. `fresh`: what is in `dweights` counts as zero.
    What is given and dx are laid out as y, x and the state in `record`. dsteps, each part (L·D, T, B, its width),
    takes the gradients of the state after every step.
    """
    spec, call = tape.spec, tape.call
    dscale = None if call.steps.scale is None else zeros((*call.x.shape[:2], spec.hidden_size), spec.dtype)
    if not tape.runs:
        for layer in dweights if fresh else ():
            zero(layer)
        return tuple(np.zeros_like(s) if d is None else d.copy() for s, d in zip(call.state, given.dstate)), dscale
    dstate = tuple(empty(part.shape, spec.dtype) for part in call.state)
    D, threads, dy = spec.directions, threads or config.get_num_threads(), given.dy
    for k, (run, kept, parts) in reversed(list(enumerate(zip(tape.runs, tape.kept, tape.checkpoints)))):
        target = dx if k == 0 else empty(run.x.shape, spec.dtype)
        by_scale = None if dscale is None else zeros((D, *dscale.shape), spec.dtype)
        wanted = Wanted(
            target,
            layer_state(dstate, k, D),
            dweights[k],
            None if dsteps is None else layer_state(dsteps, k, D),
            by_scale,
            fresh,
        )
        given_here, weights = Given(dy, layer_state(given.dstate, k, D)), tape.weights[k]
        if parts is None:
            tape.backend.backward(spec.cell, weights, run, given_here, wanted, threads)
        else:
            wanted.clear()
            wanted = wanted._replace(fresh=False)
            checkpoint.backward(spec.cell, tape.backend, weights, run, parts, given_here, wanted, threads)
        if by_scale is not None:
            dscale += by_scale.sum(axis=0)
        dy = target if kept is None or target is None else drop(target, kept, spec.dropout, out=target)
    return dstate, dscale


def keep_elements(rng: np.random.Generator, dropout: float, shape: tuple[int, ...]) -> Array:
    """Draw which elements dropout leaves."""
    return rng.random(shape, np.float32) >= dropout


def drop(values: Array, kept: Array, dropout: float, out: Array | None = None) -> Array:
    """`values` where kept, scaled so that their expectation stays; zero elsewhere."""
    scale = 0.0 if dropout == 1 else 1 / (1 - dropout)
    with np.errstate(all="ignore"):  # infinity times zero is NaN here, without a word
        out = np.multiply(values, kept, out=out)
        return np.multiply(out, values.dtype.type(scale), out=out)
