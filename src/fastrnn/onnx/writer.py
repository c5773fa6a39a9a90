"""Layers as ONNX models."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..core import checks
from ..layers import GRU, LSTM, RNN
from ..weights import onnx as weights
from ..weights.build import LAYERS

Array = np.ndarray
OPSETS = range(7, 23)
FIRST_IR = 4  # in which initialisers need not be inputs
AXES_ARE_INPUTS = 13  # from this opset on, of Squeeze and Split


def to_onnx(
    layer: RNN | LSTM | GRU,
    path: str | os.PathLike[str] | None = None,
    *,
    opset: int = 17,
    initial_state: bool = True,
    lengths: bool = False,
) -> onnx.ModelProto:
    """An ONNX model that computes what a call of the layer does, for ONNX Runtime, OpenVINO and others.

    Its inputs are x, h0 and, of LSTM, c0, its outputs y, h and c, laid out as those of a call: x is (T, B, I), with
    batch_first (B, T, I), a state (L·D, B, H). T and B may be any. Each layer is a node of its own.

    path           where the model is written, too; None: nowhere
    opset          7 to 22
    initial_state  whether h0 and c0 are inputs; else they are zeros
    lengths        whether there is an input `lengths` (B,) of int32, the valid steps of each row

    Dropout is inactive, as in a call. What ONNX has no word for, proj_size, layer_norm and zoneout, is a ValueError
    that names the option. ONNX's clip, alpha and beta are float32. ONNX Runtime computes layers of float32 alone;
    OpenVINO has no peepholes, no coupled gates, and of the activations sigmoid, hard_sigmoid, tanh and relu.
    """
    kind = type(layer).__name__
    if LAYERS.get(kind) is not type(layer):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {checks.kind(layer)}")
    if checks.integer("opset", opset) not in OPSETS:
        raise ValueError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    writer = Writer(layer, kind, opset, checks.flag("initial_state", initial_state), checks.flag("lengths", lengths))
    model = writer.model()
    if path is not None:
        onnx.save(model, path)
    return model


class Writer:
    """The parts of a graph, as they are made one after the other."""

    def __init__(self, layer: Any, kind: str, opset: int, initial_state: bool, lengths: bool) -> None:
        self.layer, self.kind, self.opset = layer, kind, opset
        self.initial_state, self.lengths = initial_state, lengths
        self.attributes = weights.from_options(layer.config, kind)
        self.parts = ["h", "c"] if kind == "LSTM" else ["h"]
        self.directions = 2 if layer.bidirectional else 1
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> onnx.ModelProto:
        layer, L = self.layer, self.layer.num_layers
        x = self.node("Transpose", ["x"], ["x_by_step"], perm=[1, 0, 2]) if layer.batch_first else "x"
        states = {part: self.split(part) for part in self.parts}
        after: dict[str, list[str]] = {part: [] for part in self.parts}
        for k in range(L):
            finals = {part: f"{part}_l{k}" if L > 1 else part for part in self.parts}
            for part, name in finals.items():
                after[part].append(name)
            x = self.recurrent(k, x, {part: states[part][k] for part in self.parts}, finals)
        for part in self.parts if L > 1 else []:
            self.node("Concat", after[part], [part], axis=0)
        if layer.batch_first:
            self.node("Transpose", [x], ["y"], perm=[1, 0, 2])
        imports = [helper.make_opsetid("", self.opset)]
        version = max(helper.find_min_ir_version_for(imports), FIRST_IR)
        return helper.make_model(self.graph(), opset_imports=imports, ir_version=version, producer_name="fastrnn")

    def graph(self) -> onnx.GraphProto:
        layer = self.layer
        real = helper.np_dtype_to_tensor_dtype(layer.dtype)
        axes = ["B", "T"] if layer.batch_first else ["T", "B"]
        state = [layer.num_layers * self.directions, "B", layer.hidden_size]
        given = [helper.make_tensor_value_info("x", real, [*axes, layer.input_size])]
        if self.initial_state:
            given += [helper.make_tensor_value_info(f"{part}0", real, state) for part in self.parts]
        if self.lengths:
            given.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, ["B"]))
        results = [helper.make_tensor_value_info("y", real, [*axes, layer.output_size])]
        results += [helper.make_tensor_value_info(part, real, state) for part in self.parts]
        return helper.make_graph(self.nodes, "fastrnn", given, results, self.constants)

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Add a node, named by its first output, which is returned."""
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attributes))
        return outputs[0]

    def constant(self, name: str, array: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def with_integers(
        self, op: str, inputs: list[str], outputs: list[str], what: str, value: list[int], **more: Any
    ) -> str:
        """Add a node of an operator whose integers are an input from opset 13 on, and an attribute before."""
        if self.opset < AXES_ARE_INPUTS:
            return self.node(op, inputs, outputs, **{what: value}, **more)
        name = self.constant(f"{outputs[0]}_{what}", np.array(value, np.int64))
        return self.node(op, [*inputs, name], outputs, **more)

    def split(self, part: str) -> list[str]:
        """The initial state of each layer, "" where there is none."""
        L, given = self.layer.num_layers, f"{part}0"
        if not self.initial_state:
            return [""] * L
        if L == 1:
            return [given]
        names = [f"{given}_l{k}" for k in range(L)]
        self.with_integers("Split", [given], names, "split", [self.directions] * L, axis=0)
        return names

    def recurrent(self, k: int, x: str, state: dict[str, str], finals: dict[str, str]) -> str:
        """Add the node of a layer, and what turns its Y (T, D, B, H) into (T, B, D·H)."""
        layer, D = self.layer, self.directions
        coupled = bool(self.attributes.get("input_forget"))
        tensors = dict(zip("WRBP", weights.from_params(self.kind, layer.params, coupled=coupled, layer=k)))
        names = {n: "" if t is None else self.constant(f"{n}_l{k}", t) for n, t in tensors.items()}
        inputs = [x, names["W"], names["R"], names["B"], "lengths" if self.lengths else "", state["h"]]
        if self.kind == "LSTM":
            inputs += [state["c"], names["P"]]
        while not inputs[-1]:
            inputs.pop()
        ways = layer.direction
        way = "bidirectional" if D == 2 else ways if isinstance(ways, str) else ways[k]
        Y = f"Y_l{k}"
        self.node(
            self.kind, inputs, [Y, *finals.values()], hidden_size=layer.hidden_size, direction=way, **self.attributes
        )
        last = k == layer.num_layers - 1 and not layer.batch_first
        y = "y" if last else f"y_l{k}"
        if D == 1:
            return self.with_integers("Squeeze", [Y], [y], "axes", [1])
        by_row = self.node("Transpose", [Y], [f"{Y}_by_row"], perm=[0, 2, 1, 3])
        shape = self.constant(f"{y}_shape", np.array([0, 0, D * layer.hidden_size], np.int64))
        return self.node("Reshape", [by_row, shape], [y])
