"""The recurrent layers of ONNX models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..core import checks
from ..weights import onnx as weights
from .loops import Unrecognised, read_loop
from .unrolled import read_unrolled, unrolled

Array = np.ndarray
MICROSOFT = "com.microsoft"
QUANTIZED = "DynamicQuantizeLSTM"
RECURRENT = re.compile(r"lstm|gru|rnn", re.IGNORECASE)  # in an operator's name
NOT_CONSTANT = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
KEEPS_VALUE = ("Identity", "Expand", "Tile", "Slice", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Cast", "Gather")


@dataclass(frozen=True)
class Node:
    """What a graph says of a layer beside its weights.

    operator       "LSTM", or with its domain "com.microsoft.DynamicQuantizeLSTM", whose weights were dequantised;
                   "Loop", "Scan"; "unrolled" for steps that are written out, by the name of their recurrent weights
    x, outputs     the tensors that go in, and Y, Y_h, Y_c that come out ("" for what is left out); of steps that are
                   written out the last h that another step takes
    initial_state  the constants that it begins with, as a call of the layer takes them; None for zeros
    state_inputs   else the names of the tensors that the graph computes as initial_h and initial_c
    lengths        the name of the tensor sequence_lens, None where there is none
    """

    operator: str
    x: str
    outputs: tuple[str, ...]
    initial_state: Any
    state_inputs: tuple[str, ...]
    lengths: str | None


class Layers(Mapping[str, Any]):
    """The layers of a model by the names of their nodes.

    nodes    the same names: what the graph says of each beside its weights
    skipped  what is or looks recurrent and is no layer here, by name: why not
    """

    def __init__(self, layers: dict[str, Any], nodes: dict[str, Node], skipped: dict[str, str]) -> None:
        self._layers, self.nodes, self.skipped = layers, nodes, skipped

    def __getitem__(self, name: str) -> Any:
        if name in self.skipped:
            raise KeyError(f"{name}: not read: {self.skipped[name]}")
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"Layers({self._layers!r}, skipped={self.skipped!r})"


def from_onnx(model: onnx.ModelProto | str | os.PathLike[str]) -> Layers:
    """The recurrent layers of a model or its file, by the names of their nodes, those of subgraphs and functions too.

    RNN, LSTM and GRU, and com.microsoft.DynamicQuantizeLSTM with its weights dequantised, become layers whose y is
    (T, B, D·H) where ONNX's Y is (T, D, B, H). Weights may be initialisers, or computed from them. A node without a
    name has that of its operator and its place. A Loop or Scan whose body is the step of a cell is recognised, and so
    are steps that are written out one by one.
    What is no layer here is in `skipped`, with why. Raises TypeError or ValueError for what is no model.
    """
    model = load(model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    reader = Reader(opsets)
    reader.read(Scope(model.graph, opsets))
    return Layers(reader.layers, reader.nodes, reader.skipped)


def load(model: Any) -> onnx.ModelProto:
    """A model that is given, or its file's; ValueError for a file of another kind."""
    if isinstance(model, onnx.ModelProto):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model: expected a ModelProto or a path, got {checks.kind(model)}")
    try:
        found = onnx.load(os.fspath(model))
    except DecodeError as error:
        raise ValueError(f"model: expected an ONNX model, got {os.fspath(model)!r}: {error}") from error
    if not found.graph.node:
        raise ValueError(f"model: expected an ONNX model, got {os.fspath(model)!r}, which has no graph")
    return found


class Scope:
    """The tensors of a graph, and of those around it."""

    def __init__(self, graph: onnx.GraphProto, opsets: dict[str, int], outer: Scope | None = None) -> None:
        self.graph, self.opsets, self.outer = graph, opsets, outer
        self.known: dict[str, Array | None] = {"": None}
        self.known |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.inputs = {value.name for value in graph.input}

    def constant(self, name: str) -> Array | None:
        """A tensor's numbers, computed where they follow from constants; None where they do not."""
        if name in self.known:
            return self.known[name]
        self.known[name] = None
        node = self.producers.get(name)
        if node is None:
            if name not in self.inputs and self.outer is not None:
                self.known[name] = self.outer.constant(name)
        elif (
            node.domain == "" and node.op_type not in NOT_CONSTANT and not any(a.HasField("g") for a in node.attribute)
        ):
            feed = {given: self.constant(given) for given in node.input if given}
            if all(value is not None for value in feed.values()):
                for output, value in zip(node.output, ReferenceEvaluator(node, opsets=self.opsets).run(None, feed)):
                    self.known[output] = np.asarray(value)
        return self.known[name]

    def uniform(self, name: str) -> float | None:
        """The one number that all elements of a tensor are, whatever its shape; None where that cannot be told."""
        found = self.constant(name)
        if found is not None:
            return float(found.flat[0]) if found.size and (found == found.flat[0]).all() else None
        node = self.producers.get(name)
        if node is None:
            return self.outer.uniform(name) if self.outer is not None and name not in self.inputs else None
        if node.op_type == "ConstantOfShape":
            values = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
            return float(values[0].flat[0]) if values else 0.0
        if node.op_type in KEEPS_VALUE:
            return self.uniform(node.input[0])
        if node.op_type == "Concat":
            each = {self.uniform(given) for given in node.input}
            return each.pop() if len(each) == 1 else None
        return None


class Reader:
    """Collects the layers of graphs."""

    def __init__(self, opsets: dict[str, int]) -> None:
        self.opsets = opsets
        self.layers: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}
        self.skipped: dict[str, str] = {}

    def read(self, scope: Scope, path: str = "") -> None:
        for place, node in enumerate(scope.graph.node):
            name = self.free_name(path + (node.name or f"{node.op_type}_{place}"))
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            if operator in weights.GATES or operator == f"{MICROSOFT}.{QUANTIZED}":
                try:
                    self.layers[name], self.nodes[name] = read_node(scope, node, operator)
                except (TypeError, ValueError, NotImplementedError) as error:
                    self.layers.pop(name, None)
                    self.skipped[name] = f"{operator}: {error}"
            elif RECURRENT.search(node.op_type):
                self.skipped[name] = f"{operator}: this operator is not read"
            elif node.op_type in ("Loop", "Scan") and loops(node):
                try:
                    layer, x, outputs, given = read_loop(scope, node, Scope)
                    fixed = [scope.uniform(state) == 0 for state in given]
                    computed = () if all(fixed) else tuple(given)
                    self.layers[name], self.nodes[name] = layer, Node(operator, x, tuple(outputs), None, computed, None)
                except Exception as error:  # whatever a body may have that no step of a cell has
                    self.skipped[name] = f"{operator}: a recurrence that is not recognised: {error}"
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.read(Scope(attribute.g, self.opsets, scope), f"{name}/{attribute.name}/")
        for weight, products in unrolled(scope).items():
            name = self.free_name(f"{path}{weight}")
            try:
                layer, x, last = read_unrolled(scope, products)
                self.layers[name], self.nodes[name] = layer, Node("unrolled", x, (last,), None, (), None)
            except Unrecognised as error:
                count = len(products)
                self.skipped[name] = f"unrolled: {count} products by these weights, one after the other: {error}"

    def free_name(self, name: str) -> str:
        taken, number, found = {*self.layers, *self.skipped}, 1, name
        while found in taken:
            number += 1
            found = f"{name}_{number}"
        return found


def loops(node: onnx.NodeProto) -> bool:
    """Whether the body of a loop has a product and an activation."""
    operators = {inner.op_type for a in node.attribute if a.HasField("g") for inner in a.g.node}
    return bool(operators & {"MatMul", "Gemm"}) and bool(operators & {"Sigmoid", "Tanh", "Relu", "HardSigmoid", "Clip"})


def read_node(scope: Scope, node: onnx.NodeProto, operator: str) -> tuple[Any, Node]:
    """The layer of a node, and what its graph says of it."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [*node.input, *[""] * 12]
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    given = dict(zip(names, inputs))
    tensors: dict[str, Array | None] = {}
    for name in ("W", "R", "B", "P"):
        if not given[name] or (name == "P" and operator == "GRU"):
            tensors[name] = None
            continue
        tensors[name] = scope.constant(given[name])
        if tensors[name] is None:
            raise ValueError(f"{name}: expected constants, got {given[name]!r}, which the graph computes or is given")
    kind = "LSTM" if operator.endswith(QUANTIZED) else operator
    if kind != operator:
        for name, k in (("W", 8), ("R", 10)):
            tensors[name] = dequantized(name, tensors[name], scope.constant(inputs[k]), scope.constant(inputs[k + 1]))
    wide: dict[str, Any] = {
        n: t.astype(np.float32) if t is not None and t.dtype != np.float64 else t for n, t in tensors.items()
    }
    layer: Any = weights.layer(kind, **wide, **attributes)
    batch_first = layer.batch_first
    parts: list[Array | None] = []
    computed: list[str] = []
    for name in ("initial_h", "initial_c")[: 2 if kind == "LSTM" else 1]:
        part = scope.constant(given[name])
        if part is not None and (part.ndim != 3 or part.shape[2] != layer.hidden_size):
            raise ValueError(f"{name}: expected {layer.hidden_size} features, got the shape {part.shape}")
        if not given[name] or scope.uniform(given[name]) == 0:
            parts.append(None)
        elif part is None:
            computed.append(given[name])
            parts.append(None)
        else:
            parts.append(part.swapaxes(0, 1) if batch_first else part)
    state = None
    if any(part is not None for part in parts) and not computed:
        like = next(part for part in parts if part is not None)
        whole = [np.zeros_like(like) if part is None else part for part in parts]
        state = tuple(whole) if kind == "LSTM" else whole[0]
    elif any(part is not None for part in parts):
        computed = [given[name] for name in ("initial_h", "initial_c")]
    return layer, Node(operator, given["X"], tuple(node.output), state, tuple(computed), given["sequence_lens"] or None)


def dequantized(name: str, array: Array | None, scale: Array | None, zero: Array | None) -> Array:
    """Weights (D, I, 4·H) of integers as (D, 4·H, I), by scale and zero point of each direction, or of each row."""
    if array is None or scale is None:
        raise ValueError(f"{name}: expected constants with a constant scale")
    rows = [part.reshape(len(array), 1, -1) for part in (scale, np.zeros_like(scale) if zero is None else zero)]
    return ((array.astype(np.float32) - rows[1].astype(np.float32)) * rows[0]).swapaxes(1, 2)
