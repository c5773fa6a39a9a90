"""The figures for a terminal: a line for every layer; and all of them for a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .._version import __version__
from .models import Study, spans


def number(log10: float) -> str:
    """A norm, given its log10, as 0.28, 1.1, 35 or 2e-39."""
    if log10 == -math.inf:
        return "0"
    if -2 <= log10 < 3:
        return f"{10**log10:.2g}" if log10 < 2 else f"{10**log10:.0f}"
    exponent = math.floor(log10)
    mantissa = round(10 ** (log10 - exponent))
    return f"1e{exponent + 1:+d}" if mantissa == 10 else f"{mantissa}e{exponent:+d}"


def steps(value: float) -> str:
    return "∞" if value == math.inf else f"{value:.1f}" if value < 100 else f"{value:.3g}"


def saturated(study: Study) -> str:
    """The gate of which most is saturated."""
    shares = {gate: float(share.mean()) for gate, share in study.flow.saturation.items()}
    gate = max(shares, key=shares.__getitem__)
    return f"{gate} {shares[gate]:.0%}"


def flow_table(studies: Sequence[Study], steps_back: int) -> Iterator[RenderableType]:
    """What the columns mean, then a line for every layer."""
    yield Text("How much of a gradient arrives, going back in time", "bold")
    yield Text(
        "k back: the spectral norm of ∂h_T/∂h_(T-k), on standard normal input. exponent: the largest Lyapunov "
        "exponent, per step, in natural logarithms. memory: steps after which the forget gates (LSTM) or update gates "
        "(GRU) leave 1/e, the units' median. saturated: the gate of which most is. float32: how many steps back the "
        "norm is lost beside larger ones, is zero, or overflows. +4: that gate's bias.",
        "dim",
    )
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="cyan", pad_edge=False)
    table.add_column("layer", min_width=8, overflow="fold")
    columns = [f"{k}\nback" for k in spans(steps_back)] + ["expo-\nnent", "mem-\nory", "satu-\nrated"]
    columns += ["lost\nat", "zero\nat", "over\nat"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for study in studies:
        flow = study.flow
        norms = [number(flow.log10_state_to_state[-1 - k]) for k in spans(steps_back)]
        memory = "—" if flow.memory_horizon is None else steps(float(np.median(flow.memory_horizon)))
        limits = ["—" if k is None else str(k) for k in flow.state_limits]
        table.add_row(
            study.subject.name, *norms, f"{flow.lyapunov_exponents[0]:.3f}", memory, saturated(study), *limits
        )
    yield table


def to_record(study: Study, steps_back: int) -> dict[str, Any]:
    """What JSON has of a layer; index k of the lists over time is k steps back from the last. No number is null."""
    flow, subject = study.flow, study.subject
    record: dict[str, Any] = {
        "name": subject.name,
        "layer": repr(subject.layer),
        "layer_index": subject.layer_index,
        "direction": subject.direction,
        "cell": flow.cell,
        "lyapunov_exponents": listed(flow.lyapunov_exponents),
        "memory_horizon": listed(flow.memory_horizon),
        "state_limits": flow.state_limits._asdict(),
        "loss_limits": flow.loss_limits._asdict(),
    }
    for name in ("loss_to_state", "state_to_state", "loss_to_cell", "cell_to_cell"):
        record[f"log10_{name}"] = listed(backwards(getattr(flow, f"log10_{name}")))
    for name in ("saturation", "saturation_low", "saturation_high"):
        record[name] = {gate: listed(backwards(share)) for gate, share in getattr(flow, name).items()}
    kept = backwards(flow.log10_forget_products)
    quantiles = None if kept is None else dict(zip(("10", "50", "90"), np.percentile(kept, (10, 50, 90), axis=1)))
    record["log10_forget_products_percentiles"] = quantiles and {p: listed(line) for p, line in quantiles.items()}
    for name in ("step_singular_values", "step_state_singular_values", "log10_product_singular_values"):
        record[name] = {str(k): listed(getattr(flow, name)[-1 - k]) for k in (0, *spans(steps_back))}
    return record


def backwards(array: Any) -> Any:
    return None if array is None else array[::-1]


def listed(array: Any) -> Any:
    """An array as JSON can have it: null for what is not finite."""
    return None if array is None else [value if math.isfinite(value) else None for value in array.tolist()]


def to_document(studies: Sequence[Study], steps_back: int, seed: int) -> dict[str, Any]:
    models = [to_record(study, steps_back) for study in studies]
    return {"fastrnn": __version__, "T": steps_back, "seed": seed, "models": models}
