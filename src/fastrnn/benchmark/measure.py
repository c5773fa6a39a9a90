"""Time: interleaved samples of several competitors, their medians and spread."""

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import ceil
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple, Protocol

import numpy as np

SHORTEST = 1e-3  # seconds of a sample: far above the clock's resolution and the loop's own cost
FEWEST, MOST = 3, 25  # samples
PAUSE, LONGEST_PAUSE = 1e-3, 0.2  # seconds of a look at idle threads, and how long they may take to become idle


class Call(Protocol):
    """Something to time, wherever it runs."""

    def elapsed(self, calls: int) -> float:
        """Seconds per call of `calls` calls in a row."""
        ...

    def result(self, shape: tuple[int, ...]) -> np.ndarray:
        """What a call computes: the first part of its result, as an array of `shape`."""
        ...


class CallFailed(Exception):
    """A call that runs elsewhere did not come to its end; the message says why."""


class LocalCall(NamedTuple):
    """A call in this process: `run`, inside `context()` entered outside the clock."""

    run: Callable[[], Any]
    context: Callable[[], AbstractContextManager] = nullcontext

    def elapsed(self, calls: int) -> float:
        """As in `timeit`, with the garbage collector held off."""
        run, collecting = self.run, gc.isenabled()
        gc.disable()
        try:
            with self.context():
                if calls > 1:  # caches and threads as in a program that does nothing else
                    run()
                start = perf_counter()
                for _ in range(calls):
                    run()
                return (perf_counter() - start) / calls
        finally:
            if collecting:
                gc.enable()

    def result(self, shape: tuple[int, ...]) -> np.ndarray:
        with self.context():
            return np.asarray(self.run()[0]).reshape(shape)


class Timing(NamedTuple):
    """Seconds of one call over `samples`, each the mean of `calls` calls in a row."""

    samples: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def spread(self) -> float:
        """Half the interquartile range relative to the median."""
        return (self.percentile(75) - self.percentile(25)) / 2 / self.median

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples, percent))


def settle() -> None:
    """Wait until no thread of this process works: pools spin on after their last task, OpenBLAS's for 25 to 105 ms."""
    deadline = perf_counter() + LONGEST_PAUSE
    while perf_counter() < deadline:
        worked = process_time()
        sleep(PAUSE)
        if process_time() - worked < PAUSE / 4:
            break


def estimate(call: Call) -> float:
    """Seconds of one warm call, roughly."""
    settle()
    calls = 1
    while (seconds := call.elapsed(calls)) * calls < SHORTEST:
        calls *= 4
    return seconds


def plan(seconds_per_call: float, budget: float) -> tuple[int, int]:
    """How many samples, of how many calls each, make `budget` seconds; never fewer than FEWEST samples."""
    calls = ceil(max(budget / MOST, SHORTEST) / seconds_per_call)
    samples = int(budget / (calls * seconds_per_call))
    return min(max(samples, FEWEST), MOST), calls


def schedule(samples: Sequence[int]) -> list[int]:
    """The order in which competitors are sampled: each one's samples spread evenly over the whole run."""
    places = [((j + 0.5) / n, i) for i, n in enumerate(samples) for j in range(n)]
    return [i for _, i in sorted(places)]


def interleave(calls: Sequence[Call], budget: float) -> list[Timing | CallFailed]:
    """Time every call for about `budget` seconds, in turns, so that a disturbance of the machine meets them all.

    A call that fails has its failure in place of its timing, and the others go on.
    """
    plans, failures = [], {}
    for i, call in enumerate(calls):
        try:
            plans.append(plan(estimate(call), budget))
        except CallFailed as failure:
            plans.append((0, 0))
            failures[i] = failure
    taken: list[list[float]] = [[] for _ in calls]
    for i in schedule([samples for samples, _ in plans]):
        if i in failures:
            continue
        settle()
        try:
            taken[i].append(calls[i].elapsed(plans[i][1]))
        except CallFailed as failure:
            failures[i] = failure
    return [failures.get(i) or Timing(tuple(samples), plans[i][1]) for i, samples in enumerate(taken)]
