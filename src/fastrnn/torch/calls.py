"""A recurrent function as torch asks for it: what it is of, whether fastrnn computes it, and its arrays.

T time steps, B rows, I input_size, H hidden_size, L layers, D directions, P features of h
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.geometry import Array, LayerSpec
from ..core.params import group, layer_suffixes, shapes
from ..spec import GRU, LSTM, RNN_RELU, RNN_TANH, Weights

CELLS = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU}
DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Resets:
    """Of the call under way: (T, B) booleans laid out as x, or None. torch's own forward passes none on.

    A compiler, which traces one call at a time, does not know context variables: for it they are in `traced`.
    """

    def __init__(self) -> None:
        self.variable: ContextVar[torch.Tensor | None] = ContextVar("fastrnn_torch_resets", default=None)
        self.traced: torch.Tensor | None = None

    def get(self) -> torch.Tensor | None:
        return self.traced if torch.compiler.is_compiling() else self.variable.get()

    def during(self, given: torch.Tensor, function: Any, *args: Any) -> Any:
        """What a function gives, called while these are in force."""
        if torch.compiler.is_compiling():
            self.traced = given
            found = function(*args)
            self.traced = None
            return found
        token = self.variable.set(given)
        try:
            return function(*args)
        finally:
            self.variable.reset(token)


resets = Resets()


class Asked(NamedTuple):
    """The arguments of torch's functions that are no tensors."""

    mode: str
    bias: bool
    num_layers: int
    dropout: float  # 0 where the module does not train
    bidirectional: bool
    batch_first: bool


class FlatLayer(NamedTuple):
    """A layer whose parameters are torch's flat list."""

    spec: LayerSpec
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    suffixes: list[list[str]]

    def grouped(self, arrays: Sequence[Array]) -> list[tuple[Weights, ...]]:
        """What belongs to its parameters, one by one, as the weights of each layer and direction."""
        return group(dict(zip(self.names, arrays)), self.suffixes)


@lru_cache(maxsize=1024)
def flat_layer(asked: Asked, given: tuple[torch.Size, ...], dtype: torch.dtype) -> FlatLayer | None:
    """What parameters of these shapes belong to; None where it is no layer."""
    cell = CELLS[asked.mode]
    (rows, I), P = given[0], given[1][-1]
    H = rows // len(cell.gates)
    if P > H or (P < H and asked.mode != "lstm"):
        return None
    spec = LayerSpec(
        cell, I, H, asked.num_layers, asked.bias, asked.batch_first, asked.dropout, asked.bidirectional, DTYPES[dtype],
        proj_size=P if P < H else 0,
    )  # fmt: skip
    suffixes = layer_suffixes(spec)
    expected = shapes(spec, suffixes)
    known = tuple(expected.values())
    return FlatLayer(spec, tuple(expected), known, suffixes) if given == known else None


def layer_of(
    asked: Asked, x: torch.Tensor, state: Sequence[torch.Tensor], params: Sequence[torch.Tensor], packed: bool
) -> FlatLayer | None:
    """What layer this is a call of; None if sizes do not fit, so that torch raises its own error."""
    layer = flat_layer(asked, tuple([param.shape for param in params]), x.dtype)
    if layer is None or x.shape[-1] != layer.spec.input_size:
        return None
    if packed:
        return layer
    inner = layer.spec.inner_state(x.shape[0 if asked.batch_first else 1])
    return layer if len(state) == len(inner) and all([a.shape == b for a, b in zip(state, inner)]) else None


def array(tensor: torch.Tensor) -> Array:
    """A view of a tensor."""
    return tensor.detach().numpy()


def contiguous(tensor: torch.Tensor) -> Array:
    """The same, but a copy of what lies otherwise."""
    return np.ascontiguousarray(array(tensor))


def differentiates(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether torch records gradients by any of them."""
    return torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors])


def refusal() -> str | None:
    """Why nothing can be computed here and now, or None."""
    if torch.jit.is_tracing():
        return "torch.jit traces"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is enabled"
    if torch._C._functorch.maybe_current_level() is not None:
        return "a transform of torch.func is under way"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is under way"
    return None


def refused(tensors: Sequence[torch.Tensor]) -> str | None:
    """Why a function of these tensors is torch's, or None."""
    if why := refusal():
        return why
    dtype = tensors[0].dtype
    if dtype not in DTYPES:
        return f"{dtype} is neither float32 nor float64"
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            return f"{type(tensor).__name__} is a tensor of its own kind"
        if not tensor.is_cpu:
            return f"a tensor is on {tensor.device}"
        if tensor.dtype is not dtype:
            return f"tensors are {dtype} and {tensor.dtype}"
        if tensor.layout is not torch.strided or tensor.is_neg():
            return "a tensor is not strided"
        if not tensor.numel():
            return "a tensor is empty"
    return None
