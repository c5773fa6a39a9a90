"""A benchmark's outcome as JSON: one stable schema for whoever keeps the figures."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .charlm import Learned, Recipe
from .runner import LeftOut, Outcome, Result, Settings

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


def to_json(report: Report) -> str:
    """The schema `fastrnn-bench/1`: seconds are per call, `gflops` and `peak_gflops` 1e9 flop/s; null where absent."""
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
        "results": [result_record(result, outcome.peak) for result in outcome.results],
        "left_out": [{**identity(gap), "reason": gap.reason} for gap in outcome.left_out],
        "character_model": None if report.recipe is None else model_record(report, report.recipe),
    }
    return json.dumps(document, indent=1)


def identity(entry: Result | LeftOut) -> dict[str, Any]:
    cell, size, mode = entry.workload
    return {"cell": cell, "mode": mode, **size._asdict(), "competitor": entry.competitor}


def result_record(result: Result, peak: float | None) -> dict[str, Any]:
    timing = result.timing
    return {
        **identity(result),
        "flops": result.workload.flops,
        "seconds": {
            "median": timing.median,
            "q1": timing.percentile(25),
            "q3": timing.percentile(75),
            "min": min(timing.samples),
            "max": max(timing.samples),
            "calls_per_sample": timing.calls,
            "samples": list(timing.samples),
        },
        "sequences_per_s": result.sequences_per_s,
        "steps_per_s": result.steps_per_s,
        "gflops": result.flops / 1e9,
        "peak_share": None if peak is None else result.flops / peak,
    }


def model_record(report: Report, recipe: Recipe) -> dict[str, Any]:
    cells = [{**learned._asdict(), "characters_per_s": learned.characters_per_s} for learned in report.learned]
    return {"text": report.corpus, "recipe": {**recipe._asdict(), "dtype": str(recipe.dtype)}, "cells": cells}
