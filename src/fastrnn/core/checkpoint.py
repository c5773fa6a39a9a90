"""Passes that keep little: the state before every so many steps, from which backward computes the rest again.

    T  time steps     B  rows     D  directions     H  hidden_size     P  features of h     S  len(cell.saved)

A pass is cut into parts of the steps in the order in which a direction visits them. Every part forward is a run of its
own; backward goes through them from the last to the first as one pass, so its bits are those of a pass that keeps all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..backends.base import Backend, Given, Run, Span, State, Steps, Wanted
from ..spec import Cell, Weights
from .geometry import Array, aligned_empty, empty


class Checkpoints(NamedTuple):
    """What is kept of one layer's pass."""

    bounds: list[int]  # the visited steps at which a part begins, and T
    states: State  # (parts, D, B, P), (parts, D, B, H): before each part

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """The number of every part, its first visited step and the one after its last."""
        for n, (first, last) in enumerate(pairwise(self.bounds)):
            yield n, first, last


def cut(T: int, every: int, directions: int) -> list[int]:
    """Where parts begin, and T. Two directions meet half-way between two parts, as Span demands."""
    return sorted({*range(0, T, every), T} | ({T // 2} if directions == 2 else set()))


def forward(
    cell: Cell, backend: Backend, weights: Sequence[Weights], run: Run, after: State, threads: int, every: int
) -> Checkpoints:
    """As Backend.forward, part by part."""
    bounds = cut(len(run.x), every, len(weights))
    kept = Checkpoints(bounds, tuple(empty((len(bounds) - 1, *part.shape), part.dtype) for part in run.state))
    P = widths(run)[0]
    for d, packed in enumerate(packing(cell, backend, weights, threads, len(run.x))):
        now, then = direction_of(run.state, d), direction_of(after, d)
        for n, first, last in kept.parts():
            for states, part in zip(kept.states, now):
                states[n, d] = part[0]
            y = run.y[in_time(run, d, first, last), :, d * P : (d + 1) * P]
            backend.forward(packed, part_of(run, d, first, last, now, y, None), then, threads)
            now = then
    return kept


def backward(
    cell: Cell,
    backend: Backend,
    weights: Sequence[Weights],
    run: Run,
    kept: Checkpoints,
    given: Given,
    wanted: Wanted,
    threads: int,
) -> None:
    """As Backend.backward, from the last part to the first."""
    (T, B, _), D, S, (P, H, dtype) = run.x.shape, len(weights), len(cell.saved), (*widths(run), run.x.dtype)
    longest = max(last - first for _, first, last in kept.parts())
    room = aligned_empty((D * (longest + 1) * B * S * H,), dtype)
    y, after = empty((longest, B, P), dtype), tuple(empty(part[:1].shape, dtype) for part in run.state)
    packed = list(packing(cell, backend, weights, threads, T))
    held: list[Any] = []
    for n, first, last in reversed(list(kept.parts())):
        shape = (D, last - first + 1, B, S, H)
        saved = room[: math.prod(shape)].reshape(shape)
        for d in range(D):
            before = direction_of(tuple(states[n] for states in kept.states), d)
            edge, inside = (-1, np.s_[:-1]) if run.reverse[d] else (0, np.s_[1:])
            if len(before) == 2:
                saved[d, edge, :, cell.saved.index("c")] = before[1][0]
            again = part_of(run, d, first, last, before, y[: last - first], saved[d : d + 1, inside])
            backend.forward(packed[d], again, after, threads)
        backend.backward(cell, weights, run._replace(saved=saved, span=Span(first, last, held)), given, wanted, threads)


def packing(cell: Cell, backend: Backend, weights: Sequence[Weights], threads: int, steps: int) -> Iterator[Any]:
    """The weights of every direction, arranged for it alone."""
    for direction in weights:
        yield backend.pack(cell, [direction], threads, steps)


def widths(run: Run) -> tuple[int, int]:
    """The features of h, and the hidden units: fewer and more, of a layer that projects."""
    return run.state[0].shape[-1], run.state[-1].shape[-1]


def direction_of(state: State, d: int) -> State:
    return tuple(part[d : d + 1] for part in state)


def in_time(run: Run, d: int, first: int, last: int) -> slice:
    """Where in time the visited steps first to last - 1 of a direction are."""
    T = len(run.x)
    return slice(T - last, T - first) if run.reverse[d] else slice(first, last)


def part_of(run: Run, d: int, first: int, last: int, state: State, y: Array, saved: Array | None) -> Run:
    """The visited steps first to last - 1 of one direction as a run of their own."""
    here, (lengths, resets, noise, scale, drop, keep) = in_time(run, d, first, last), run.steps
    P = state[0].shape[-1]
    noise, drop, *keep = [
        None if array is None else array[here, :, d * P : (d + 1) * P] for array in (noise, drop, *keep)
    ]
    steps = Steps(
        None if lengths is None else np.clip(lengths - here.start, 0, last - first),
        None if resets is None else resets[d : d + 1, here],
        noise,
        None if scale is None else scale[here],
        drop,
        keep,
    )
    return Run(run.x[here], state, steps, (run.reverse[d],), y, saved)
