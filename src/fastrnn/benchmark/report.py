"""A benchmark's outcome as JSON: one stable schema for whoever keeps the figures."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

from .ceiling import Floor, floor
from .charlm import Learned, Recipe
from .measure import Timing
from .runner import LeftOut, Outcome, Result, Settings
from .steps import StepResult
from .workloads import Workload

SCHEMA = "fastrnn-bench/1"


class Report(NamedTuple):
    """All there is to say about one run."""

    machine: dict[str, str | int | None]
    versions: dict[str, str]  # of the peers
    settings: Settings
    outcome: Outcome
    corpus: str | None = None
    recipe: Recipe | None = None
    learned: Sequence[Learned] = ()
    steps: Sequence[StepResult] = ()

    def floor(self, workload: Workload) -> Floor | None:
        """By what this run measured; None without the native backend."""
        dtype, peak = self.settings.dtype, self.outcome.peak
        footprint = workload.recurrent_bytes(dtype)
        bandwidth = self.outcome.bandwidths.get(footprint) if footprint else inf
        return None if peak is None or bandwidth is None else floor(workload, dtype, peak, bandwidth)


def to_json(report: Report) -> str:
    """The schema `fastrnn-bench/1`: seconds are per call, `gflops` and `peak_gflops` 1e9 flop/s; null where absent.

    `name`: who has sequences of that size. `read_bandwidths`: 1e9 bytes/s at which all threads together read so many
    bytes, the size of a workload's W_hh, over and over. `peak_share` is of the FMA peak; `limit_share` of both
    ceilings: the least time of ceiling.py over the median, with `limit` the one that binds the sequential part, "fma"
    or "cache". `single_steps`: one step of a cell, called from NumPy code, in `mode` "training" with its backward;
    `ratio` is the time of the contender "NumPy" over that of this one, and `reason` says why it was not timed.
    """
    settings, outcome = report.settings, report.outcome
    document = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**report.machine, "peers": report.versions},
        "threads": settings.threads,
        "dtype": str(settings.dtype),
        "seconds_per_measurement": settings.seconds,
        "peak_gflops": None if outcome.peak is None else outcome.peak / 1e9,
        "peak_samples_gflops": [peak / 1e9 for peak in outcome.peaks],
        "read_bandwidths": [{"bytes": n, "gbytes_per_s": rate / 1e9} for n, rate in sorted(outcome.bandwidths.items())],
        "results": [result_record(result, report) for result in outcome.results],
        "left_out": [{**identity(gap), "reason": gap.reason} for gap in outcome.left_out],
        "single_steps": [step_record(step) for step in report.steps],
        "character_model": None if report.recipe is None else model_record(report, report.recipe),
    }
    return json.dumps(document, indent=1)


def identity(entry: Result | LeftOut) -> dict[str, Any]:
    cell, size, mode = entry.workload
    return {"cell": cell, "mode": mode, **size._asdict(), "name": size.name, "competitor": entry.competitor}


def result_record(result: Result, report: Report) -> dict[str, Any]:
    timing, peak, least = result.timing, report.outcome.peak, report.floor(result.workload)
    return {
        **identity(result),
        "flops": result.workload.flops,
        "seconds": seconds_record(timing),
        "sequences_per_s": result.sequences_per_s,
        "steps_per_s": result.steps_per_s,
        "gflops": result.flops / 1e9,
        "peak_share": None if peak is None else result.flops / peak,
        "limit_share": None if least is None else least.seconds / timing.median,
        "limit": None if least is None else "cache" if least.by_cache else "fma",
    }


def seconds_record(timing: Timing) -> dict[str, Any]:
    return {
        "median": timing.median,
        "q1": timing.percentile(25),
        "q3": timing.percentile(75),
        "min": min(timing.samples),
        "max": max(timing.samples),
        "calls_per_sample": timing.calls,
        "samples": list(timing.samples),
    }


def step_record(step: StepResult) -> dict[str, Any]:
    return {
        "cell": step.cell,
        "B": step.B,
        "H": step.H,
        "mode": step.mode,
        "contender": step.contender,
        "backend": step.backend,
        "seconds": None if step.timing is None else seconds_record(step.timing),
        "ratio": step.ratio,
        "reason": step.reason,
    }


def model_record(report: Report, recipe: Recipe) -> dict[str, Any]:
    cells = [{**learned._asdict(), "characters_per_s": learned.characters_per_s} for learned in report.learned]
    return {"text": report.corpus, "recipe": {**recipe._asdict(), "dtype": str(recipe.dtype)}, "cells": cells}
