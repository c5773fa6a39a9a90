"""Recurrences written out step by step, as torch's newer exporter does: recognised by one step, checked by all.

The products by the same recurrent weights are the steps. Between two of them lies a step, whose arithmetic loops.py
follows; x is what it takes by an index of time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .loops import Atom, Body, Sum, Unrecognised, as_gru, as_lstm, as_rnn, build, evaluate

FEWEST = 3  # products: two whole steps between them
FOLLOWED = ("MatMul", "Gemm", "Add", "Split", "Slice", "Squeeze", "Identity", "Dropout")  # between x and its products


def unrolled(scope: Any) -> dict[str, list[Any]]:
    """Constant weights by which a graph multiplies what follows from its own products by them: these products."""
    depends: dict[str, set[str]] = {}
    found: dict[str, list[Any]] = {}
    for node in scope.graph.node:
        before: set[str] = set().union(*(depends.get(name, set()) for name in node.input))
        if node.op_type in ("MatMul", "Gemm"):
            for weight in (name for name in node.input[:2] if scope.constant(name) is not None):
                found.setdefault(weight, []).append((node, weight in before))
                before = before | {weight}
        for output in node.output:
            depends[output] = before
    return {w: [n for n, _ in nodes] for w, nodes in found.items() if any(follows for _, follows in nodes)}


class Step(Body):
    """A step's tensors; those that follow from no product before are x, chosen by an index of time."""

    def __init__(self, scope: Any, sources: set[str], latest: dict[str, int]) -> None:
        super().__init__(scope, sources)
        self.latest = latest
        self.places: set[tuple[int, int]] = set()  # (axis, index) of time
        self.xs: set[str] = set()

    def value(self, name: str, width: int | None = None) -> Any:
        if name in self.sources or self.scope.constant(name) is not None or self.latest.get(name, 0):
            return super().value(name, width)
        node = self.scope.producers.get(name)
        chosen = None if node is None else self.chosen(node, name)
        if chosen is not None:
            whole, axis, index = chosen
            self.places.add((axis, index))
            return self.value(whole, width)
        if node is not None and node.op_type in FOLLOWED:
            return super().value(name, width)
        if width is None:
            raise Unrecognised(f"{name!r} goes into no product")
        self.xs.add(name)
        return Sum([(self.atom("source", name, width), np.eye(width))], np.zeros(width))

    def chosen(self, node: Any, name: str) -> tuple[str, int, int] | None:
        """(whole, axis, index) where a node takes one element of an axis."""
        constant = self.scope.constant
        if node.op_type == "Gather":
            index = constant(node.input[1])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return None if index is None or index.size != 1 else (node.input[0], axis, int(index.reshape(-1)[0]))
        maker = self.scope.producers.get(node.input[0]) if node.op_type == "Squeeze" else None
        if maker is not None and maker.op_type == "Slice" and len(maker.input) > 3:
            start, axis = (constant(maker.input[k]) for k in (1, 3))
            if start is not None and axis is not None and len(start) == 1:
                return maker.input[0], int(axis[0]), int(start[0])
        if maker is not None and maker.op_type == "Split":
            axis = next((a.i for a in maker.attribute if a.name == "axis"), 0)
            return maker.input[0], axis, list(maker.output).index(node.input[0])
        return None


def latest_products(scope: Any, products: list[Any]) -> dict[str, int]:
    """Of each tensor the last of these products that it follows from, counted from 1; 0 for none."""
    number = {id(node): k for k, node in enumerate(products, 1)}
    latest: dict[str, int] = {}
    for node in scope.graph.node:
        found = number.get(id(node), max((latest.get(name, 0) for name in node.input), default=0))
        latest.update(dict.fromkeys(node.output, found))
    return latest


def state_before(scope: Any, new: str, h: str, step: int, latest: dict[str, int]) -> str | None:
    """The tensor beside h that a step takes from the steps before it: c; None where there is none."""
    wanted, seen, found = [new], {h}, set()
    while wanted:
        name = wanted.pop()
        if name in seen or scope.constant(name) is not None:
            continue
        seen.add(name)
        if latest.get(name, 0) == step:
            wanted += scope.producers[name].input
        elif latest.get(name, 0):
            found.add(name)
    if len(found) > 1:
        raise Unrecognised(f"a step takes {1 + len(found)} tensors from the steps before it")
    return found.pop() if found else None


def cell_of(step: Step, new: str, h: str, c: str | None) -> tuple[str, Any]:
    """The kind of cell, and (x, options, gates) of a step."""
    total = step.value(new)
    if c is None:
        try:
            return "RNN", as_rnn(total, h)
        except Unrecognised:
            return "GRU", as_gru(total, h)
    products = total.scalars() or []
    atoms: list[Atom] = [a for atom, _ in products if atom.kind == "product" for a in atom.what]
    why = Unrecognised("the new h is not o times a function of the new c")
    for atom in atoms:
        if atom.kind == "activation" and any(part.kind == "product" for part, _ in atom.what[1].terms.values()):
            try:
                return "LSTM", as_lstm(total, atom.what[1], h, c)
            except Unrecognised as error:
                why = error
    raise why


def read_unrolled(scope: Any, products: list[Any]) -> tuple[Any, str, str]:
    """(layer, x, the last h that goes into a product) of the steps that these products belong to."""
    if len(products) < FEWEST:
        raise Unrecognised(f"{len(products)} products are too few to tell a step from")
    latest = latest_products(scope, products)
    k = len(products) - 1  # the step that begins with this product, counted from 1, and ends in the last one
    h, new = products[k - 1].input[0], products[k].input[0]
    c = state_before(scope, new, h, k, latest)
    step = Step(scope, {name for name in (h, c) if name}, latest)
    kind, (x, options, gates) = cell_of(step, new, h, c)
    if len(step.places) != 1:
        raise Unrecognised(f"a step takes {len(step.places)} places of its input")
    (axis, place), *_ = step.places
    if axis not in (0, 1):
        raise Unrecognised(f"axis {axis} of the input is time")
    shape = [1, 1]
    shape[axis] = steps_of(scope, x, axis) or abs(place) + 2
    width = gates[0][2].shape[1]
    given = np.random.default_rng(0).standard_normal((*shape, width)).astype(np.float32)
    (theirs,) = evaluate(scope, {x: given}, [new])
    for direction in ("forward", "reverse"):
        layer = build(kind, options | {"direction": direction, "batch_first": axis == 1}, gates)
        y, _ = layer(given)
        expected = y.take(place, axis)[0]
        if np.shape(theirs)[-1] == len(expected) and np.allclose(theirs, expected, atol=1e-4):
            return layer, x, new
    raise Unrecognised("its steps have other numbers than the cell that they look like, from a state of zeros")


def steps_of(scope: Any, x: str, axis: int) -> int | None:
    """How many steps x has, where the graph says it."""
    for value in (*scope.graph.input, *scope.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.name == x and len(dims) > axis and dims[axis].dim_value:
            return int(dims[axis].dim_value)
    return None
