"""Is every backend right on this machine? Values against the reference in higher precision, and the invariances.

The reference runs in the next wider type (float64 for float32, long double for float64; where that has no more digits,
float64 is judged by itself, and its activations not at all). Errors are relative to the largest magnitude in the array,
in units of the type's eps; what is allowed follows from the length of the sums: 4·ceil(log2((I+H)·T)) forward, twice
that backward, and four times as much where products are normalised: a small deviation divides their errors. The
kernels' sigmoid and tanh are measured alone, too, in ULP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from math import ceil, inf, log2
from typing import Any, NamedTuple

import numpy as np

from . import backends, ulps
from .backends import reference
from .backends.base import Backend, Given, Run, Steps, Wanted
from .core.options import with_options
from .spec import CELLS, Weights

Arrays = dict[str, np.ndarray]
DTYPES = ("float32", "float64")


class Case(NamedTuple):
    """One call of a backend, forward and backward."""

    cell: str
    T: int
    B: int
    I: int
    H: int
    directions: int = 1
    ragged: bool = False  # rows of different lengths, NaN past their ends
    bias: bool = True
    P: int = 0  # features to which h is projected; 0: it is not

    def __str__(self) -> str:
        words = f"{self.cell} T={self.T} B={self.B} I={self.I} H={self.H}" + f" P={self.P}" * (self.P > 0)
        both, ragged = " both directions" * (self.directions == 2), " ragged" * self.ragged
        return words + both + ragged + " no bias" * (not self.bias)

    @property
    def allowed(self) -> int:
        """The error allowed forward, in eps."""
        return (16 if KINDS[self.cell].normal else 4) * ceil(log2((self.I + self.H) * self.T))


# (T, B, I, H): a single unit, odd sizes around the widths of vectors and tiles, long chains, sizes that use threads.
SHAPES = (
    (3, 16, 1, 1), (7, 3, 2, 5), (13, 1, 16, 17), (5, 17, 3, 33), (40, 6, 40, 16), (200, 2, 5, 24), (12, 1, 64, 130),
    (9, 33, 48, 96),
)  # fmt: skip
KINDS = CELLS | {  # and cells with options
    "lstm with peepholes": with_options(CELLS["lstm"], peephole=True),
    "lstm of other functions": with_options(
        CELLS["lstm"], activations=("sigmoid", "softsign", ("scaled_tanh", 1.2, 0.8))
    ),
    "lstm with zoneout": with_options(CELLS["lstm"], zoneout=(0.1, 0.3)),
    "gru with zoneout": with_options(CELLS["gru"], zoneout=0.2),
    "lstm with each gate normalised": with_options(CELLS["lstm"], layer_norm="gate", zoneout=(0.1, 0.3)),
    "gru of other functions": with_options(CELLS["gru"], activations=(("scaled_tanh", 0.5, 0.5), "softplus")),
}
CASES = tuple(
    Case(cell, *shape, directions, ragged, bias)
    for cell in KINDS
    for k, shape in enumerate(SHAPES)
    for directions, ragged, bias in [(1, False, True), (2, True, k % 2 == 0)]
    if not (KINDS[cell].normal and 1 in shape[2:])  # of one input, or unit, what is left of the gradient is rounding
)
PROJECTED = tuple(
    Case("lstm", *shape, P=P, **more)
    for shape, P, more in (
        ((7, 3, 2, 5), 3, {}),
        ((40, 6, 40, 16), 7, {"directions": 2, "ragged": True}),
        ((12, 1, 64, 130), 70, {}),
        ((9, 33, 48, 96), 40, {"ragged": True}),
    )
)
CASES += PROJECTED
# For the invariances: rows over threads, units over threads, and less than a vector.
INVARIANT = tuple(
    Case(cell, *shape, ragged=ragged)
    for cell in KINDS
    for shape, ragged in [((9, 33, 48, 96), True), ((12, 1, 64, 130), False), ((11, 5, 3, 7), True)]
)
INVARIANT += tuple(case for case in PROJECTED if case.directions == 1)


class Inputs(NamedTuple):
    weights: tuple[Weights, ...]
    x: np.ndarray
    state: tuple[np.ndarray, ...]
    lengths: np.ndarray | None
    dy: np.ndarray
    dstate: tuple[np.ndarray, ...]


class Finding(NamedTuple):
    """One line of the verdict: the worst of many cases."""

    backend: str
    level: str  # the instruction set, "" where there is no choice
    dtype: str
    check: str  # of CHECKS, or "load"
    error: float | None  # in eps or ULP; None for an invariance, which holds bit for bit or not
    allowed: float | None
    where: str  # the case and array of the worst error, or of the first difference
    ok: bool


@cache
def inputs(case: Case, dtype: str) -> Inputs:
    """The data of a case: weights as of a new layer, x and states standard normal, gradients positive.

    Gradients of both signs could cancel in a bias of one element and leave nothing but rounding errors.
    """
    spec, (_, T, B, I, H, D, ragged, bias, P) = KINDS[case.cell], case
    widths = (P or H, H)[: len(spec.states)]
    rng = np.random.default_rng([T, B, I, H, D])

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    def positive(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, shape).astype(dtype)

    def weight(*shape: int) -> np.ndarray:
        return rng.uniform(-(H**-0.5), H**-0.5, shape).astype(dtype)

    rows = len(spec.gates) * H

    def vectors() -> np.ndarray | None:
        return rng.uniform(0.1, 1, len(spec.own_vectors) * H).astype(dtype) if spec.own_vectors else None

    def direction() -> Weights:
        matrices = weight(rows, I), weight(rows, widths[0])
        b_ih, b_hh = (weight(rows), weight(rows)) if bias else (None, None)
        return Weights(*matrices, b_ih, b_hh, vectors(), weight(P, H) if P else None)

    weights = tuple(direction() for _ in range(D))
    x, dy = normal(T, B, I), positive(T, B, D * widths[0])
    state, dstate = (tuple(draw(D, B, width) for width in widths) for draw in (normal, positive))
    lengths = None
    if ragged:
        lengths = rng.integers(0, T + 1, B)
        for row, length in enumerate(lengths):
            x[length:, row] = dy[length:, row] = np.nan
    return Inputs(weights, x, state, lengths, dy, dstate)


def unset(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled: what is forgotten stays NaN."""
    return np.full(shape, np.nan, dtype)


def zeros_like(weights: Weights) -> Weights:
    return Weights(*(None if w is None else np.zeros_like(w) for w in weights))  # type: ignore[arg-type]


def run(backend: Backend, case: Case, given: Inputs, threads: int = 1) -> tuple[Arrays, Arrays]:
    """What a backend makes of a case: the arrays of forward and of backward, by name."""
    spec, dtype = KINDS[case.cell], given.x.dtype
    (T, B, _), (D, _, H) = given.x.shape, given.state[-1].shape
    y, out = unset(given.dy.shape, dtype), tuple(unset(part.shape, dtype) for part in given.state)
    saved = unset((D, T, B, len(spec.saved), H), dtype) if spec.saved else None
    packed = backend.pack(spec, given.weights, 1)
    passed = Run(given.x, given.state, Steps(given.lengths), (False, True)[:D], y, saved)
    backend.forward(packed, passed, out, threads)

    dx, dstate0 = unset(given.x.shape, dtype), tuple(unset(part.shape, dtype) for part in given.state)
    dweights = tuple(zeros_like(weights) for weights in given.weights)
    wanted = Wanted(dx, dstate0, dweights)
    backend.backward(spec, given.weights, passed, Given(given.dy, given.dstate), wanted, threads)
    named = {f"d{name}[{d}]": g for d, dw in enumerate(dweights) for name, g in dw._asdict().items() if g is not None}
    forward = {"y": y, **dict(zip(("h", "c"), out))}
    return forward, {"dx": dx, **dict(zip(("dh", "dc"), dstate0)), **named}


@cache
def expected(case: Case, dtype: str) -> tuple[Arrays, Arrays]:
    """The reference's answer in the wider type."""
    given, wider = inputs(case, dtype), ulps.WIDER[dtype]

    def widen(arrays: Iterable[np.ndarray | None]) -> tuple:
        return tuple(None if array is None else array.astype(wider) for array in arrays)

    weights = tuple(Weights(*widen(w)) for w in given.weights)
    x, dy = widen((given.x, given.dy))
    return run(reference, case, Inputs(weights, x, widen(given.state), given.lengths, dy, widen(given.dstate)))


def error_in_eps(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest deviation in eps of `got`'s type, relative to the largest magnitude; infinite for NaN."""
    deviation, largest = np.max(np.abs(got - exact), initial=0), np.max(np.abs(exact), initial=0)
    if deviation == 0:
        return 0.0
    error = float(deviation / largest) / float(np.finfo(got.dtype).eps) if largest else inf
    return inf if np.isnan(error) else error


# --- the checks: a backend at the level in force


def check_values(backend: Backend, level: str, dtype: str) -> list[Finding]:
    """The worst error forward and backward, by how much of the allowance it takes."""
    worst: dict[str, tuple[float, float, str]] = {}
    for case in CASES:
        passes = zip(("forward", "backward"), (1, 2), run(backend, case, inputs(case, dtype)), expected(case, dtype))
        for check, factor, got, exact in passes:
            for name, array in got.items():
                error, allowed = error_in_eps(array, exact[name]), factor * case.allowed
                if check not in worst or error / allowed > worst[check][0] / worst[check][1]:
                    worst[check] = error, allowed, f"{name} of {case}"
    return [
        Finding(backend.name, level, dtype, check, error, allowed, where, ok=error <= allowed)
        for check, (error, allowed, where) in worst.items()
    ]


def check_invariances(backend: Backend, level: str, dtype: str) -> list[Finding]:
    """The same bits on any number of threads, in any batch, in any chunks."""
    found = []
    for name, differences in INVARIANCES.items():
        where = next((f"{array} of {case}" for case in INVARIANT for array in differences(backend, case, dtype)), "")
        found.append(Finding(backend.name, level, dtype, name, None, None, where, ok=not where))
    return found


def differing(got: Arrays, wanted: Arrays) -> Iterator[str]:
    return (name for name, array in got.items() if array.tobytes() != wanted[name].tobytes())


def threads_differ(backend: Backend, case: Case, dtype: str) -> Iterator[str]:
    """Everything, on two and three threads instead of one."""
    alone = run(backend, case, inputs(case, dtype), threads=1)
    for threads in (2, 3):
        for got, wanted in zip(run(backend, case, inputs(case, dtype), threads), alone):
            yield from differing(got, wanted)


def batch_differs(backend: Backend, case: Case, dtype: str) -> Iterator[str]:
    """Outputs, states and their gradients of a row, alone and without padding instead of in its batch."""
    given = inputs(case, dtype)
    together = {name: array for arrays in run(backend, case, given) for name, array in arrays.items()}
    for b in {0, case.B // 2, case.B - 1}:
        steps = case.T if given.lengths is None else int(given.lengths[b])
        T, lengths = (steps, None) if steps else (1, np.zeros(1, np.int64))
        state, dstate = (tuple(part[:, b : b + 1].copy() for part in parts) for parts in (given.state, given.dstate))
        row = Inputs(given.weights, given.x[:T, b : b + 1], state, lengths, given.dy[:T, b : b + 1], dstate)
        alone = {name: array for arrays in run(backend, case, row) for name, array in arrays.items()}
        for name in ("y", "dx", "h", "c", "dh", "dc"):
            if name in together:
                part = together[name][:T, b : b + 1] if name in ("y", "dx") else together[name][:, b : b + 1]
                yield from differing({name: alone[name]}, {name: part})


def chunks_differ(backend: Backend, case: Case, dtype: str) -> Iterator[str]:
    """Outputs and state, without a tape in chunks and step by step, instead of as a whole with one."""
    given = inputs(case._replace(ragged=False), dtype)
    whole, _ = run(backend, case, given)
    packed = backend.pack(KINDS[case.cell], given.weights, 1)
    for cuts in ([0, case.T // 3, case.T], range(case.T + 1)):
        y, state = unset(whole["y"].shape, whole["y"].dtype), tuple(part.copy() for part in given.state)
        for start, stop in zip(cuts, cuts[1:]):
            part = Run(given.x[start:stop], state, Steps(), (False, True)[: case.directions], y[start:stop], None)
            backend.forward(packed, part, state, 1)
        yield from differing({"y": y, **dict(zip(("h", "c"), state))}, whole)


INVARIANCES = {"threads": threads_differ, "batch": batch_differs, "chunks": chunks_differ}
CHECKS = ("forward", "backward", *INVARIANCES)


# --- the activations


ACTIVATIONS = ("sigmoid", "tanh")
ACTIVATION_INPUTS = 400_000


def check_activations(backend: Any, level: str, dtype: str) -> Iterator[Finding]:
    """The worst error of each, in ULP, where input and result are normal numbers."""
    v = ulps.sample(dtype, ACTIVATION_INPUTS)
    v = v[(v == 0) | (np.abs(v) >= np.finfo(dtype).tiny)]
    for name in ACTIVATIONS:
        got = np.full_like(v, np.nan)
        backend.activate(name, v, got)
        errors = ulps.errors(got, ulps.exact(name, v))
        worst = int(np.argmax(errors))  # of a NaN, if there is one
        error = inf if np.isnan(errors[worst]) else float(errors[worst])
        where = f"{name}({v[worst]!r})"
        yield Finding(backend.name, level, dtype, name, error, ulps.BOUND, where, ok=error <= ulps.BOUND)


# --- all of them


@contextmanager
def at_level(backend: Any, level: str) -> Iterator[None]:
    """The native backend at one of its instruction-set levels; the others have none."""
    if not level:
        yield
        return
    before = backend.level()
    backend.set_level(level)
    try:
        yield
    finally:
        backend.set_level(before)


def verify(names: Iterable[str]) -> Iterator[Finding]:
    """Check the named backends at every level, finding by finding: first their layers, then their activations."""
    loaded = []
    for name in names:
        try:
            loaded.append(backends.load(name))
        except backends.BackendUnavailable as error:
            yield Finding(name, "", "", "load", None, None, str(error), ok=False)
    for backend, level, dtype in settings(loaded):
        yield from check_values(backend, level, dtype)
        if backend is not reference:  # the reference promises values, not bits
            yield from check_invariances(backend, level, dtype)
    for backend, level, dtype in settings(backend for backend in loaded if hasattr(backend, "activate")):
        if ulps.can_judge(dtype):
            yield from check_activations(backend, level, dtype)


def settings(loaded: Iterable[Any]) -> Iterator[tuple[Any, str, str]]:
    """Each backend in each dtype, at each of its levels while that is in force."""
    for backend in loaded:
        for level in backend.levels() if hasattr(backend, "levels") else [""]:
            with at_level(backend, level):
                for dtype in DTYPES:
                    yield backend, level, dtype
