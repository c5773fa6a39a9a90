"""RNN, LSTM and GRU for onnx's reference evaluator, opsets 7 to 22.

    T  time steps    B  rows    I  input_size    H  hidden_size    D  directions

    X  (T, B, I)     Y  (T, D, B, H)     initial_h, initial_c, Y_h, Y_c  (D, B, H); with layout=1
    X  (B, T, I)     Y  (B, T, D, H)     initial_h, initial_c, Y_h, Y_c  (B, D, H)

float32 and float64 are computed as such, float16 and bfloat16 in float32, and rounded once, at the end. Steps past a
row's length are zeros in Y, and its Y_h and Y_c are those of its last step; a row of length 0 ends where it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx.reference.op_run import OpRun

from ..core import config
from ..weights import onnx as weights

if TYPE_CHECKING:
    from ..frozen import FrozenLayer

Array = np.ndarray
NARROW = ("float16", "bfloat16")
FIRST_OPSET = 7


class Converted(NamedTuple):
    """What a node's tensors and attributes were made into: one layer, or one of each direction."""

    tensors: tuple[Array | None, ...]  # W, R, B, P: those that nothing can change themselves, of others copies
    options: list[dict[str, Any]]
    layers: list[FrozenLayer[Any]]


class Recurrent(OpRun):
    """What the operators share. The layers made of a node's tensors are kept as long as these stay the same."""

    op_domain = ""

    def __init__(self, onnx_node: Any, run_params: dict[str, Any], schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        self._kept: Converted | None = None
        opset = (run_params.get("opsets") or {}).get("", FIRST_OPSET)
        if opset < FIRST_OPSET:
            raise ValueError(f"{self.label}: expected opset {FIRST_OPSET} or later, got {opset}")

    @property
    def label(self) -> str:
        """What an error calls the node."""
        node = self.onnx_node
        return f"{node.op_type} node {node.name or next(filter(None, node.output), '')!r}"

    def run(self, *args: Any, **context: Any) -> tuple[Any, ...]:
        """As the evaluator calls it; outputs that the node leaves out, "", are None, as inputs of that name are."""
        found = super().run(*args, **context)
        return tuple(value if name else None for name, value in zip(self.onnx_node.output, found))

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        P: Array | None = None,
        **given: Any,
    ) -> tuple[Array, ...]:
        """Y, Y_h, and Y_c of an LSTM. `given` has the schema's defaults too, which are not those of each direction."""
        attributes = {attribute.name: given[attribute.name] for attribute in self.onnx_node.attribute}
        try:
            dtype = one_dtype(X=X, W=W, R=R, B=B, initial_h=initial_h, initial_c=initial_c, P=P)
            made = self._converted((W, R, B, P), attributes)
            batch_first = bool(attributes.get("layout"))
            state = initial_state(self.onnx_node.op_type, made, X, initial_h, initial_c, batch_first)
            runs = [layer(widened(X), part, lengths=sequence_lens) for layer, part in zip(made.layers, state)]
        except (TypeError, ValueError, NotImplementedError) as error:
            kind = ValueError if isinstance(error, TypeError) else type(error)  # the evaluator rewrites a TypeError
            raise kind(f"{self.label}: {str(error).replace('lengths:', 'sequence_lens:')}") from error
        return tuple(part.astype(dtype, copy=False) for part in outputs(runs, made.layers, batch_first))

    def _converted(self, tensors: tuple[Array | None, ...], attributes: dict[str, Any]) -> Converted:
        """The layers of these tensors, those of the call before where they are the same."""
        options = weights.to_options(self.onnx_node.op_type, attributes)
        kept = self._kept
        if (
            kept is not None
            and options == kept.options
            and kept.layers[0].backend == config.get_backend()
            and all(map(same, tensors, kept.tensors))
        ):
            return kept
        wide = tuple(None if tensor is None else widened(tensor) for tensor in tensors)
        made = layers_of(self.onnx_node.op_type, wide, options, attributes.get("hidden_size"))
        frozen = [layer.freeze() for layer in made]
        unchanging = tuple(t if t is None or constant(t) else np.array(t) for t in tensors)
        self._kept = Converted(unchanging, options, frozen)
        return self._kept


def one_dtype(X: Array, **tensors: Array | None) -> np.dtype:
    """The dtype of X, which the operators want of every tensor of real numbers."""
    if X.dtype not in (np.float32, np.float64) and X.dtype.name not in NARROW:
        raise ValueError(f"X: expected float32, float64, float16 or bfloat16, got dtype {X.dtype}")
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != X.dtype:
            raise ValueError(f"{name}: expected dtype {X.dtype}, X's, got {tensor.dtype}")
    return X.dtype


def widened(array: Array) -> Array:
    """Numbers of half the width of float32 as float32; others as they are."""
    return array.astype(np.float32) if array.dtype.name in NARROW else array


def layers_of(kind: str, tensors: tuple[Any, ...], options: list[dict[str, Any]], hidden_size: Any) -> list[Any]:
    """One layer, or two of one direction each where their activations differ."""
    if all(other == options[0] for other in options):
        W, R, B, P = tensors
        return [weights.build(kind, W, R, B, P, options[0], hidden_size)]
    found = []
    for d, (own, way) in enumerate(zip(options, ("forward", "reverse"))):
        alone = {name: value for name, value in own.items() if name != "bidirectional"} | {"direction": way}
        W, R, B, P = (None if tensor is None else tensor[d : d + 1] for tensor in tensors)
        found.append(weights.build(kind, W, R, B, P, alone, hidden_size))
    return found


def same(tensor: Array | None, kept: Array | None) -> bool:
    """Whether a tensor has the kept numbers: by identity where nothing can have changed them, else one by one."""
    if tensor is None or kept is None:
        return tensor is kept
    return (tensor is kept and constant(kept)) or (tensor.dtype == kept.dtype and np.array_equal(tensor, kept))


def constant(array: Any) -> bool:
    """Whether nothing can change an array: it, and what it is a view of, is read-only, down to bytes of Python."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return isinstance(array, bytes)


def initial_state(kind: str, made: Converted, X: Array, h: Any, c: Any, batch_first: bool) -> list[Any]:
    """The state that each layer begins with: None, h, or for LSTM (h, c)."""
    if h is None and c is None:
        return [None] * len(made.layers)
    D = 1 + made.layers[0].bidirectional if len(made.layers) == 1 else 2
    rows, H = X.shape[0 if batch_first else 1], made.layers[0].hidden_size
    parts = []
    for name, part in [("initial_h", h), ("initial_c", c)][: 2 if kind == "LSTM" else 1]:
        if part is None:
            part = np.zeros((D, rows, H), np.float32)
        else:
            expected = (rows, D, H) if batch_first else (D, rows, H)
            if part.shape != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {part.shape}")
            part = widened(part.swapaxes(0, 1) if batch_first else part)
        parts.append(part)
    each = [parts] if len(made.layers) == 1 else [[part[d : d + 1] for part in parts] for d in range(2)]
    return [tuple(found) if kind == "LSTM" else found[0] for found in each]


def outputs(runs: list[Any], layers: list[Any], batch_first: bool) -> list[Array]:
    """Y, Y_h and Y_c as ONNX lays them out, from (y, state) of each layer."""
    axis = 2 if batch_first else 1  # of the directions in Y
    found = []
    for (y, _), layer in zip(runs, layers):
        first, second, _ = y.shape
        directed = y.reshape(first, second, 1 + layer.bidirectional, layer.hidden_size)
        found.append(directed if batch_first else directed.swapaxes(1, 2))
    states = [state if isinstance(state, tuple) else (state,) for _, state in runs]
    parts = [np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*states)]
    Y = np.concatenate(found, axis) if len(found) > 1 else found[0]
    return [Y, *[part.swapaxes(0, 1) if batch_first else part for part in parts]]


class RNN(Recurrent):
    """ONNX's RNN."""


class LSTM(Recurrent):
    """ONNX's LSTM."""


class GRU(Recurrent):
    """ONNX's GRU."""


OPS = [RNN, LSTM, GRU]
