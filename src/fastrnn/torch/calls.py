"""A recurrent function as torch asks for it: what it is of, whether fastrnn computes it, and its arrays.

T time steps, B rows, I input_size, H hidden_size, L layers, D directions, P features of h
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from ..core.geometry import Array, LayerSpec
from ..spec import GRU, LSTM, RNN_RELU, RNN_TANH, Weights

CELLS = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU}
DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
PLAIN = (torch.Tensor, torch.nn.Parameter)

# Of the call under way: (T, B) booleans laid out as x, or None. torch's own forward passes none on.
resets: ContextVar[torch.Tensor | None] = ContextVar("fastrnn_torch_resets", default=None)


class Asked(NamedTuple):
    """The arguments of torch's functions that are no tensors."""

    mode: str
    bias: bool
    num_layers: int
    dropout: float  # 0 where the module does not train
    bidirectional: bool
    batch_first: bool

    @property
    def runs(self) -> int:
        return self.num_layers * (1 + self.bidirectional)


Shapes = tuple[torch.Size, ...]


@lru_cache(maxsize=1024)
def layer_spec(asked: Asked, shapes: Shapes, dtype: torch.dtype) -> LayerSpec | None:
    """What torch's flat list of parameters, of these shapes, belongs to; None where it is of no layer."""
    cell = CELLS[asked.mode]
    G, (rows, I), P = len(cell.gates), shapes[0], shapes[1][-1]
    H, D = rows // G, 1 + asked.bidirectional
    projection = [(P, H)] if P != H else []
    expected: list[tuple[int, ...]] = []
    for k in range(asked.num_layers):
        each = [(G * H, D * P if k else I), (G * H, P), *[(G * H,)] * (2 * asked.bias), *projection]
        expected += each * D
    if list(shapes) != expected or (projection and (asked.mode != "lstm" or P > H)):
        return None
    return LayerSpec(
        cell, I, H, asked.num_layers, asked.bias, asked.batch_first, asked.dropout, asked.bidirectional, DTYPES[dtype],
        proj_size=P if projection else 0,
    )  # fmt: skip


def spec_of(
    asked: Asked, x: torch.Tensor, state: Sequence[torch.Tensor], params: Sequence[torch.Tensor], packed: bool
) -> LayerSpec | None:
    """What layer this is a call of; None if sizes do not fit, so that torch raises its own error."""
    spec = layer_spec(asked, tuple([param.shape for param in params]), x.dtype)
    if spec is None or x.shape[-1] != spec.input_size:
        return None
    if packed:
        return spec
    inner = spec.inner_state(x.shape[0 if asked.batch_first else 1])
    return spec if len(state) == len(inner) and all([a.shape == b for a, b in zip(state, inner)]) else None


def array(tensor: torch.Tensor) -> Array:
    """A view of a tensor."""
    return tensor.detach().numpy()


def contiguous(tensor: torch.Tensor) -> Array:
    """The same, but a copy of what lies otherwise."""
    return np.ascontiguousarray(array(tensor))


def grouped(asked: Asked, params: Sequence[Array]) -> list[tuple[Weights, ...]]:
    """A flat list by layer and direction: w_ih, w_hh, the biases, the projection; of each what there is."""
    each = len(params) // asked.runs
    biases = 2 if asked.bias else 0
    found = []
    for k in range(asked.runs):
        w_ih, w_hh, *rest = params[k * each : (k + 1) * each]
        b_ih, b_hh = rest[:biases] or (None, None)
        found.append(Weights(w_ih, w_hh, b_ih, b_hh, None, rest[biases] if len(rest) > biases else None))  # type: ignore[arg-type]
    D = 1 + asked.bidirectional
    return [tuple(found[k : k + D]) for k in range(0, asked.runs, D)]


def threads() -> int | None:
    """torch's number of threads; None, fastrnn's own, where the environment says it."""
    return None if "FASTRNN_NUM_THREADS" in os.environ else torch.get_num_threads()


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
