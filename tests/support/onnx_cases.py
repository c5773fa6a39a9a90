"""Random nodes of ONNX's recurrent operators, and ONNX Runtime to run them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
EACH = {"RNN": 1, "LSTM": 3, "GRU": 2}  # activations of a direction
NUMBERS = {  # alpha and beta of each activation, where it takes them
    "Sigmoid": (), "HardSigmoid": (0.3, 0.45), "Tanh": (), "Relu": (), "LeakyRelu": (0.2,), "ThresholdedRelu": (0.1,),
    "Elu": (0.7,), "Softsign": (), "Softplus": (), "Affine": (0.4, 0.1), "ScaledTanh": (0.8, 1.3),
}  # fmt: skip
NAMES = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]


class Case(NamedTuple):
    """A node: its operator, its inputs by name, and its attributes."""

    kind: str
    feed: dict[str, Any]
    attributes: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The node's inputs, "" where one is left out."""
        names = [n if n in self.feed else "" for n in NAMES if n not in ("initial_c", "P") or self.kind == "LSTM"]
        while not names[-1]:
            names.pop()
        return names

    @property
    def outputs(self) -> list[str]:
        return ["Y", "Y_h", "Y_c"][: 3 if self.kind == "LSTM" else 2]


def random_case(kind: str, seed: int, same_functions: bool = False, sizes: tuple[int, ...] | None = None) -> Case:
    """A node with each input and attribute there or not; `same_functions`: of both directions."""
    rng = np.random.default_rng(seed)

    def real(*shape: int) -> Any:
        return rng.uniform(-1, 1, shape).astype(np.float32)

    T, B, I, H = sizes or rng.integers(1, [9, 6, 7, 20])
    T, B, I, H = int(T), int(B), int(I), int(H)
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G = 2 if direction == "bidirectional" else 1, GATES[kind]
    # R is such that states do not grow: where they do, ONNX Runtime's Softplus overflows.
    feed = {"X": real(T, B, I), "W": real(D, G * H, I), "R": 0.7 * real(D, G * H, H) / np.float32(H) ** 0.5}
    feed["R"] = feed["R"].astype(np.float32)
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction}
    some = iter(rng.random(20) < 0.5)
    if next(some):
        feed["B"] = real(D, 2 * G * H)
    if next(some):
        feed["sequence_lens"] = rng.integers(1, T + 1, B).astype(np.int32)
    if next(some):
        feed["initial_h"] = real(D, B, H)
    if next(some):
        attributes["clip"] = float(rng.uniform(0.2, 1.5))
    if next(some):
        attributes |= random_functions(rng, EACH[kind], D, same_functions)
    if kind == "LSTM":
        if next(some):
            feed["initial_c"] = real(D, B, H)
        if next(some):
            feed["P"] = real(D, 3 * H)
        if next(some):
            attributes["input_forget"] = 1
    if kind == "GRU" and next(some):
        attributes["linear_before_reset"] = 1
    return Case(kind, feed, attributes)


def random_functions(rng: Any, each: int, D: int, same: bool) -> dict[str, Any]:
    """activations, and the numbers that those take."""
    names = [str(name) for name in rng.choice(list(NUMBERS), each * D)]
    if each > 1:  # gates that are no fractions let states grow beyond all bounds
        names[::each] = [str(name) for name in rng.choice(["Sigmoid", "HardSigmoid", "Tanh", "Softsign"], D)]
    if same:
        names = names[:each] * D
    numbers = [NUMBERS[name] for name in names]
    found = {
        "activations": names,
        "activation_alpha": [n[0] for n in numbers if n],
        "activation_beta": [n[1] for n in numbers if len(n) > 1],
    }
    return {name: values for name, values in found.items() if values}


def model_of(case: Case, opset: int = 14, outputs: list[str] | None = None, constant: tuple[str, ...] = ()) -> Any:
    """A model of this node alone; the inputs named in `constant` are initialisers."""
    from onnx import helper, numpy_helper

    node = helper.make_node(case.kind, case.names, outputs or case.outputs, name="node", **case.attributes)

    def value(name: str, shape: Any) -> Any:
        dtype = case.feed.get(name, case.feed["X"]).dtype
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    graph = helper.make_graph(
        [node],
        "graph",
        [value(name, array.shape) for name, array in case.feed.items() if name not in constant],
        [value(name, None) for name in outputs or case.outputs if name],
        [numpy_helper.from_array(case.feed[name], name) for name in constant if name in case.feed],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runtime(case: Case, opset: int = 14) -> list[Any]:
    """ONNX Runtime's Y, Y_h and Y_c."""
    return session(model_of(case, opset)).run(None, case.feed)


def close(found: Any, expected: Any, what: str = "") -> None:
    """Equal but for what single precision rounds in a few steps, where functions are as steep as 1.3 times tanh."""
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * scale, err_msg=what)
