"""torch's layers with a weight in parts, of which torch makes the weight in every call: found, and refused by name.

torch.nn.utils.weight_norm      weight_hh_l0_g, weight_hh_l0_v
torch.nn.utils.spectral_norm    weight_hh_l0_orig, weight_hh_l0_u, weight_hh_l0_v
torch.nn.utils.prune            weight_hh_l0_orig, weight_hh_l0_mask
torch.nn.utils.parametrizations, parametrize    parametrizations.weight_hh_l0.original0, original1, or original
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .found import FoundLayer
from .gates import kind_of_rows
from .given import Given, short

PART = re.compile(
    r"(.*?)(parametrizations\.)?((?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(?:_l\d+)?(?:_reverse)?)"
    r"(_g|_v|_u|_orig|_mask|\.original\d*|\.\d+\..*)",
    re.DOTALL,
)
WHOLE = re.compile(r"(.*?)((?:(?:weight|bias)_(?:ih|hh)|weight_hr)(?:_l\d+)?(?:_reverse)?)", re.DOTALL)
UTILS = "torch.nn.utils"

Parts = dict[str, dict[str, str]]  # of each weight, what its parts' names end with, to these names


def parts_of(given: Given) -> dict[str, Parts]:
    """The weights in parts, by what the names of a layer's arrays begin with."""
    found: dict[str, Parts] = {}
    for prefix, members in given.groups(PART).items():
        weights: Parts = {}
        for (within, weight, part), name in members.items():
            weights.setdefault(weight, {})[("." if within else "") + part] = name
        if known := {weight: parts for weight, parts in weights.items() if undo(weight, parts) is not None}:
            found[prefix] = known
    return found


def undo(weight: str, parts: dict[str, str]) -> str | None:
    """The call that makes one weight of the parts, None where they are none that torch makes."""
    if any(part.startswith("..original") for part in parts):
        return f"{UTILS}.parametrize.remove_parametrizations(module, {weight!r})"
    if {"_g", "_v"} <= parts.keys():
        return f"{UTILS}.remove_weight_norm(module, {weight!r})"
    if {"_orig", "_mask"} <= parts.keys():
        return f"{UTILS}.prune.remove(module, {weight!r})"
    return f"{UTILS}.remove_spectral_norm(module, {weight!r})" if {"_orig", "_u"} <= parts.keys() else None


def layers(given: Given) -> Iterator[FoundLayer]:
    """The layers that have such weights, refused."""
    whole = given.groups(WHOLE)
    for prefix, weights in parts_of(given).items():
        names = [name for parts in weights.values() for name in parts.values()]
        weight, parts = next(iter(weights.items()))
        why = (
            f"its {weight!r} is in parts, {', '.join(map(repr, parts.values()))}, of which torch makes it in every call"
        )
        names += [name for name in whole.get(prefix, {}).values() if name not in names]
        rows, hidden = matrix(given, names, "weight_hh")
        hidden = matrix(given, names, "weight_hr")[1] or hidden
        yield FoundLayer(
            kind_of_rows(rows, hidden), short(prefix), matrix(given, names, "weight_ih")[1], hidden,
            refused=f"{why}; before saving, {undo(weight, parts)} makes them one", names=tuple(names),
        )  # fmt: skip


def matrix(given: Given, names: list[str], weight: str) -> tuple[int, int]:
    """The shape of a matrix of the first layer, that of its largest part; (0, 0) where there is none."""
    shapes = [given.shape(name) for name in names if re.search(rf"{weight}(?:_l0)?(?!_reverse|_l?\d)", name)]
    columns, rows = max(((shape[1], shape[0]) for shape in shapes if len(shape) == 2), default=(0, 0))
    return rows, columns
