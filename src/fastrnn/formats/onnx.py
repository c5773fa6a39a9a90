"""ONNX models: initialisers and the tensors of Constant nodes, of the graph and of those within its nodes.

The format: onnx.proto3 in https://github.com/onnx/onnx; the package onnx parses it, and what it says is compared with
the bytes that are there. Files beside the model are mapped, and must lie in its folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .arrays import Entry, add, refused
from .narrow import held_in, widened
from .source import arrange, map_file, part, read_shape

Array = np.ndarray
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
RECURRENT = ("RNN", "LSTM", "GRU", "DynamicQuantizeLSTM")
EXTERNAL = 1  # TensorProto.DataLocation
LAST_FIELD, GRAPH_FIELD = 50, 7  # of ModelProto
MOST_FIELDS = 100_000  # of a ModelProto, functions and notes among them
DEEPEST = 50  # graphs within each other's nodes


def is_onnx(data: Array) -> bool:
    """Whether all of a file is the fields of a ModelProto, one of them a graph: ONNX has no magic number."""
    at, graph = 0, False
    for _ in range(MOST_FIELDS):
        if at >= len(data):
            break
        tag, at = varint(data, at)
        field, wire = tag >> 3, tag & 7
        if not 1 <= field <= LAST_FIELD or wire not in (0, 2) or at < 0:
            return False
        size, at = varint(data, at)
        graph |= field == GRAPH_FIELD and wire == 2
        at += size if wire == 2 else 0
        if at < 0:
            return False
    return graph and at == len(data)


def varint(data: Array, at: int) -> tuple[int, int]:
    """An integer of protobuf's, and where it ends; -2**70 for one that has no end."""
    value = 0
    for k, byte in enumerate(data[at : at + 10].tolist() if at >= 0 else []):
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return value, at + k + 1
    return 0, -(2**70)


def read(path: str | os.PathLike[str], data: Array) -> tuple[dict[str, Entry], list[Node]]:
    """The tensors of a model, and its recurrent nodes.

    Raises ImportError without the package onnx, ValueError for what it cannot parse.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError("ONNX files need onnx: pip install 'fastrnn[onnx]'") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data.tobytes())
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"its protobuf cannot be parsed: {error}") from error
    graphs = Graphs(Path(path))
    graphs.add_graph(model.graph, "", 0)
    for function in model.functions:
        graphs.add_nodes(function.node, f"{text(function.name)}/", 0)
    return graphs.entries, graphs.nodes


class Node(NamedTuple):
    """A recurrent node: its operator, the names that its inputs have among the arrays, "" for none, and attributes."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graphs:
    """The tensors and recurrent nodes of a model's graphs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.nodes: list[Node] = []
        self.same: dict[str, str] = {}  # what an Identity gives, to what it takes
        self.maps: dict[str, Array] = {}

    def beside(self, location: str) -> Array:
        """The bytes of a file in the model's folder."""
        if location not in self.maps:
            self.maps[location] = map_beside(self.path, location)
        return self.maps[location]

    def add_graph(self, graph: Any, prefix: str, depth: int) -> None:
        """Add the tensors of a graph; those of a graph within a node are below the node's name."""
        if depth > DEEPEST:
            raise ValueError(f"its graphs are within each other more than {DEEPEST} deep")
        for tensor in graph.initializer:
            name = prefix + text(tensor.name)
            add(self.entries, name, read_tensor(tensor, name, self.beside))
        for sparse in graph.sparse_initializer:
            add(self.entries, prefix + text(sparse.values.name), refused("sparse", (), "it is a sparse tensor"))
        self.add_nodes(graph.node, prefix, depth)

    def add_nodes(self, nodes: Any, prefix: str, depth: int) -> None:
        for k, node in enumerate(nodes):
            name = prefix + (text(node.name) or f"{text(node.op_type)}.{k}")
            if node.op_type == "Constant" and len(node.output) == 1:
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.HasField("t"):
                        output = prefix + text(node.output[0])
                        add(self.entries, output, read_tensor(attribute.t, output, self.beside))
            elif node.op_type == "Identity" and len(node.input) == len(node.output) == 1:
                self.same[prefix + text(node.output[0])] = self.known(text(node.input[0]), prefix)
            elif node.op_type in RECURRENT:
                inputs = tuple(self.known(text(given), prefix) for given in node.input)
                self.nodes.append(Node(node.op_type, name, inputs, dict(map(attribute_value, node.attribute))))
            for attribute in node.attribute:
                for graph in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                    self.add_graph(graph, f"{name}/", depth + 1)

    def known(self, name: str, prefix: str) -> str:
        """The whole name of an input, of this graph or of one around it; as it is given if no array has it."""
        while True:
            whole = self.same.get(prefix + name, prefix + name)
            if whole in self.entries or not prefix:
                return whole if name else ""
            prefix = prefix[: prefix.rstrip("/").rfind("/") + 1]


def attribute_value(attribute: Any) -> tuple[str, Any]:
    """The name and value of an attribute of numbers or texts."""
    field = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints", 8: "strings"}.get(attribute.type)
    value: Any = getattr(attribute, field) if field else None
    return text(attribute.name), list(value) if field in ("floats", "ints", "strings") else value


def text(value: Any) -> str:
    """A name; protobuf gives bytes where they are no UTF-8."""
    if not isinstance(value, str):
        raise ValueError("it has a name that is no UTF-8")
    return value


def read_tensor(tensor: Any, name: str, beside: Callable[[str], Array]) -> Entry:
    """A tensor of the model, as an array whose size is that of its bytes."""
    shape = read_shape(list(tensor.dims), repr(name))
    known = DTYPES.get(tensor.data_type)
    dtype = held_in(known) if known else None
    if known is None or dtype is None:
        return refused(f"ONNX type {tensor.data_type}", shape, f"it is of ONNX's data type {tensor.data_type}")
    if tensor.data_location == EXTERNAL:

        def external() -> Array:
            return widened(arrange(external_part(tensor, name, beside), dtype, shape, repr(name)), known)

        return Entry(known, shape, external)
    content = np.frombuffer(tensor.raw_data, np.uint8)
    if not tensor.HasField("raw_data"):
        content = np.frombuffer(typed_data(tensor, dtype, known).tobytes(), np.uint8)
    array = arrange(content, dtype, shape, repr(name))
    return Entry(known, shape, lambda: widened(array, known))


def typed_data(tensor: Any, dtype: np.dtype, known: str) -> Array:
    """The numbers of a tensor that has them in a field of their type; narrow ones are bits, held in int32."""
    if known in ("float32", "complex64"):
        return np.array(tensor.float_data, "<f4")
    if known in ("float64", "complex128"):
        return np.array(tensor.double_data, "<f8")
    if known == "int64":
        return np.array(tensor.int64_data, "<i8")
    if known in ("uint32", "uint64"):
        return np.array(tensor.uint64_data, "<u8").astype(dtype)
    held = np.dtype(f"<u{dtype.itemsize}") if dtype.kind == "f" else dtype
    return np.array(tensor.int32_data, "<i4").astype(held)


def external_part(tensor: Any, name: str, beside: Callable[[str], Array]) -> Array:
    """The bytes of a tensor in a file beside the model."""
    keys = {text(pair.key): text(pair.value) for pair in tensor.external_data}
    try:
        offset = int(keys.get("offset", "0"))
        length = int(keys["length"]) if "length" in keys else None
    except ValueError:
        raise ValueError(f"the place of {name!r} in a file beside it is no pair of integers") from None
    content = beside(keys.get("location", ""))
    return part(content, offset, len(content) - offset if length is None else length, repr(name))


def map_beside(path: Path, location: str) -> Array:
    """The bytes of a file in the model's folder; a ValueError for one elsewhere."""
    folder = path.resolve().parent
    try:
        target = (folder / location).resolve()
        inside = target.is_relative_to(folder) and target != folder
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside or not location:
        raise ValueError(f"its tensors are said to be in {location!r}, which is not in the model's folder")
    try:
        return map_file(target)
    except OSError as error:
        raise ValueError(f"its tensors are said to be in {location!r}: {error.strerror}") from error
