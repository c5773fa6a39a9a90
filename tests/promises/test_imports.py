"""Imports go one way: the parts of the package in the order in which they stand on each other."""

import ast
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(fastrnn.__file__).parent
# Each part may import those before it and itself. A module that runs a part only when it is asked to (in a function)
# does not stand on it.
ORDER = (
    ("_version", "spec"),
    ("backends",),
    ("core",),
    ("layer", "layers", "cells", "functional", "frozen", "recurrence", "scans"),
    ("console", "ulps"),
    ("flow", "verify"),
    ("files", "formats", "weights"),
    ("train",),
    ("equinox", "flax", "keras", "onnx", "sklearn", "torch"),
    ("learn", "benchmark"),
    ("cli", "__main__"),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def imported(path):
    """The modules of the package that a module imports when it is imported, each as its parts below `fastrnn`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level and node.col_offset == 0:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module.split(".") if node.module else ()))
            for name in node.names:
                yield module if module else (name.name,)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    part = path.relative_to(ROOT).with_suffix("").parts[0]
    if part == "__init__":
        return
    for module in imported(path):
        assert RANK[module[0]] <= RANK[part], f"{part} imports {'.'.join(module)}"


def test_every_part_has_its_place():
    parts = {path.relative_to(ROOT).with_suffix("").parts[0] for path in ROOT.rglob("*.py")}
    assert parts - {"__init__"} == set(RANK)
