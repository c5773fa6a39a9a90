"""A benchmark's outcome as JSON: one stable schema for whoever keeps the figures."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .charlm import Learned, Recipe
from .runner import Outcome, Result, Settings

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
        "machine": {**report.machine, "peers": report.versions},
        "threads": settings.threads,
        "dtype": str(settings.dtype),
        "seconds_per_measurement": settings.seconds,
        "peak_gflops": None if outcome.peak is None else outcome.peak / 1e9,
        "peak_samples_gflops": [peak / 1e9 for peak in outcome.peaks],
        "results": [result_record(result, outcome.peak) for result in outcome.results],
        "character_model": None if report.recipe is None else model_record(report),
    }
    return json.dumps(document, indent=1)


def result_record(result: Result, peak: float | None) -> dict[str, Any]:
    cell, size, mode = result.workload
    record: dict[str, Any] = {"cell": cell, "mode": mode, **size._asdict(), "competitor": result.competitor}
    record |= {"flops": result.workload.flops, "skipped": result.skipped}
    timing = result.timing
    if timing is None:
        measured = ("seconds", "sequences_per_s", "steps_per_s", "gflops", "peak_share")
        return record | dict.fromkeys(measured)
    q1, q3 = timing.quartiles
    record["seconds"] = {
        "median": timing.median,
        "q1": q1,
        "q3": q3,
        "min": min(timing.samples),
        "max": max(timing.samples),
        "calls_per_sample": timing.calls,
        "samples": list(timing.samples),
    }
    return record | {
        "sequences_per_s": result.sequences_per_s,
        "steps_per_s": result.steps_per_s,
        "gflops": result.flops / 1e9,
        "peak_share": None if peak is None else result.flops / peak,
    }


def model_record(report: Report) -> dict[str, Any]:
    recipe = report.recipe._replace(dtype=str(report.recipe.dtype))._asdict()
    cells = [{**learned._asdict(), "characters_per_s": learned.characters_per_s} for learned in report.learned]
    return {"text": report.corpus, "recipe": recipe, "cells": cells}
