"""The grid: every workload on every competitor, checked once against each other, then timed in turns."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from .machine import fma_peak, read_bandwidth
from .measure import Call, CallFailed, Timing, estimate, interleave
from .peers import Competitor, Disagreement, check_agreement
from .workloads import Problem, Size, Workload, problem, workloads

Progress = Callable[[str, int, int], None]  # what is under way, how much is done, of how much

TINY = Size(T=2, B=2, I=3, H=4)
LONGEST_CALL = 10.0  # seconds; a longer call is not measured,
PATIENCE = 20  # unless it is shorter than so many times the budget of its measurement


class Settings(NamedTuple):
    sizes: tuple[Size, ...]
    cells: tuple[str, ...]
    modes: tuple[str, ...]
    dtype: Any
    threads: int
    seconds: float  # per workload and competitor


class Result(NamedTuple):
    """One competitor on one workload."""

    workload: Workload
    competitor: str
    timing: Timing

    @property
    def sequences_per_s(self) -> float:
        return self.workload.size.B / self.timing.median

    @property
    def steps_per_s(self) -> float:
        return self.workload.steps / self.timing.median

    @property
    def flops(self) -> float:
        """flop/s"""
        return self.workload.flops / self.timing.median


FAILED = "failed: "  # begins the reason of a competitor that raised an exception or died


class LeftOut(NamedTuple):
    """A competitor that was not timed on a workload, and why."""

    workload: Workload
    competitor: str
    reason: str


class Outcome(NamedTuple):
    """What a run found; the first competitor leads: the others are compared with it."""

    competitors: list[str]
    results: list[Result]
    left_out: list[LeftOut]
    # Measured along the way; empty without the native backend.
    peaks: list[float]  # flop/s of FMAs
    bandwidths: dict[int, float]  # bytes/s at which so many bytes are read again and again

    @property
    def peak(self) -> float | None:
        return max(self.peaks, default=None)


def empty_outcome() -> Outcome:
    return Outcome([], [], [], [], {})


def run_grid(
    settings: Settings, competitors: Sequence[Competitor], progress: Progress, outcome: Outcome | None = None
) -> Outcome:
    """Measure the grid; the first competitor is the one that the others must agree with.

    `outcome`, an empty one, fills workload by workload, so that an interruption leaves what has been measured.
    """
    grid = list(workloads(settings.sizes, settings.cells, settings.modes))
    outcome = empty_outcome() if outcome is None else outcome
    outcome.competitors.extend(competitor.name for competitor in competitors)
    total = len(settings.cells) * len(settings.modes) + len(grid)
    warmed = warm_up(settings, competitors, lambda label, done: progress(label, done, total))
    size = None
    for done, workload in enumerate(grid, warmed):
        progress(f"{workload.kind.title} {workload.mode} {workload.size}", done, total)
        try:
            if workload.size != size:
                measure_ceilings(outcome, settings, workload.size)
                size = workload.size
            results, left_out = run_workload(problem(workload, settings.dtype), competitors, settings.seconds)
        except MemoryError as error:
            failure = CallFailed(str(error) or "no memory")
            results, left_out = [], [failed(workload, who.name, failure) for who in able(workload, competitors)]
        outcome.results.extend(results)
        outcome.left_out.extend(left_out)
    progress("done", total, total)
    return outcome


def measure_ceilings(outcome: Outcome, settings: Settings, size: Size) -> None:
    """The FMA peak once more, and the bandwidths that the cells need at this size, once each."""
    peak = fma_peak(settings.dtype, settings.threads)
    outcome.peaks.extend([] if peak is None else [peak])
    for workload in workloads([size], settings.cells, ["forward"]):
        footprint = workload.recurrent_bytes(settings.dtype)
        if footprint and footprint not in outcome.bandwidths:
            bandwidth = read_bandwidth(footprint, settings.threads)
            outcome.bandwidths.update({} if bandwidth is None else {footprint: bandwidth})


def warm_up(settings: Settings, competitors: Sequence[Competitor], progress: Callable[[str, int], None]) -> int:
    """Every path once at a tiny size: compilation and first-use costs stay out of the figures. Returns the paths."""
    tiny = list(workloads([TINY], settings.cells, settings.modes))
    for done, workload in enumerate(tiny):
        for competitor in able(workload, competitors):
            verb = "compiling" if competitor.name == "numba" else "warming up"
            progress(f"{verb} {competitor.name}: {workload.kind.title} {workload.mode}", done)
            tiny_problem = problem(workload, settings.dtype)
            with suppress(CallFailed):  # it will fail in the grid again, where there is a place to say so
                first_result(competitor.prepare(tiny_problem), tiny_problem)
    return len(tiny)


def run_workload(
    whole: Problem, competitors: Sequence[Competitor], seconds: float
) -> tuple[list[Result], list[LeftOut]]:
    """One workload on everyone who can: those measured, in the order of `competitors`, and those left out."""
    workload = whole.workload
    capable = able(workload, competitors)
    left_out = vet(whole, capable, seconds)
    absent = {who.competitor for who in left_out}
    calls, results = {}, []
    for competitor in capable:
        if competitor.name not in absent:
            try:
                calls[competitor.name] = competitor.prepare(whole)
            except CallFailed as failure:
                left_out.append(failed(workload, competitor.name, failure))
    for name, timing in zip(calls, interleave(list(calls.values()), seconds), strict=True):
        if isinstance(timing, CallFailed):
            left_out.append(failed(workload, name, timing))
        else:
            results.append(Result(workload, name, timing))
    return results, left_out


def able(workload: Workload, competitors: Sequence[Competitor]) -> list[Competitor]:
    return [who for who in competitors if workload.mode in who.modes and workload.cell in who.cells]


def failed(workload: Workload, competitor: str, failure: CallFailed) -> LeftOut:
    return LeftOut(workload, competitor, f"{FAILED}{failure}")


def vet(whole: Problem, competitors: Sequence[Competitor], seconds: float) -> list[LeftOut]:
    """On the first eighth of the time steps: who fails, computes something else than the first, or takes too long?"""
    workload, T = whole.workload, whole.workload.size.T
    part = whole.head(max(1, T // 8))
    expected, left_out = None, []
    for competitor in competitors:
        try:
            call = competitor.prepare(part)
            result = first_result(call, part)
            expected = result if expected is None else expected
            check_agreement(result, expected, spare_rows(workload))
            seconds_per_call = min(estimate(call), estimate(call)) * T / part.workload.size.T
        except Disagreement as error:
            left_out.append(LeftOut(workload, competitor.name, f"wrong by {error}"))
        except CallFailed as failure:
            left_out.append(failed(workload, competitor.name, failure))
        else:
            if seconds_per_call > longest_call(seconds):
                left_out.append(LeftOut(workload, competitor.name, f"{seconds_per_call:.1f} s a call"))
    return left_out


def spare_rows(workload: Workload) -> int:
    """How many rows of the batch need not agree.

    Where a derivative jumps, numbers that are the same up to rounding may fall on either side: so rarely that few rows
    meet it, while another equation changes all of them.
    """
    B = workload.size.B
    return min(B - 1, 1 + B // 32) if workload.kind.corner and workload.mode == "training" else 0


def longest_call(seconds: float) -> float:
    """The longest call, in seconds, that is measured on a budget."""
    return max(LONGEST_CALL, PATIENCE * seconds)


def first_result(call: Call, part: Problem) -> np.ndarray:
    T, B, I, H = part.workload.size
    return call.result((T, B, H if part.workload.mode == "forward" else I))
