"""How parameters begin: as torch draws them, or as Keras does; and the bias of an LSTM's forget gate."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from . import checks

if TYPE_CHECKING:
    from .geometry import Array, LayerSpec

Init = Literal["torch", "keras"]
Shapes = Mapping[str, tuple[int, ...]]


def scheme(init: Any) -> Init:
    """Check the name of an initialisation."""
    if not isinstance(init, str):
        raise TypeError(f"init: expected 'torch' or 'keras', got {checks.kind(init)}")
    if init not in get_args(Init):
        raise ValueError(f"init: expected 'torch' or 'keras', got {init!r}")
    return init  # type: ignore[return-value]


def bias_value(forget_bias: Any, bias: bool) -> float | None:
    """Check the bias of the forget gate; None is the initialisation's own."""
    if forget_bias is None:
        return None
    if not isinstance(forget_bias, numbers.Real) or isinstance(forget_bias, bool):
        raise TypeError(f"forget_bias: expected a real number or None, got {checks.kind(forget_bias)}")
    if not isfinite(forget_bias):
        raise ValueError(f"forget_bias: expected a finite number, got {forget_bias}")
    if not bias:
        raise ValueError("forget_bias: expected None for a layer without biases, bias=False")
    return float(forget_bias)


def draw(
    shapes: Shapes, spec: LayerSpec, rng: np.random.Generator, init: Init, forget: float | None
) -> dict[str, Array]:
    """Parameters of these shapes, in order; both biases of a forget gate together are `forget`."""
    arrays = draw_keras(shapes, spec, rng) if init == "keras" else draw_torch(shapes, spec, rng)
    for name, array in arrays.items():
        if name.startswith("norm"):  # as torch.nn.LayerNorm begins: gains of 1, the biases of c 0
            array.reshape(-1, spec.hidden_size)[...] = [[not vector.startswith("bias")] for vector in spec.cell.vectors]
    if "f" in spec.cell.gates:
        if forget is None and init == "keras":
            forget = 1.0  # Jozefowicz et al., An empirical exploration of recurrent network architectures (2015)
        if forget is not None:
            set_forget_bias(arrays, spec, forget)
    return arrays


def draw_torch(shapes: Shapes, spec: LayerSpec, rng: np.random.Generator) -> dict[str, Array]:
    """All from U(-1/√H, 1/√H), as torch.nn draws them."""
    bound = 1 / sqrt(spec.hidden_size)
    return {name: rng.uniform(-bound, bound, shape).astype(spec.dtype) for name, shape in shapes.items()}


def draw_keras(shapes: Shapes, spec: LayerSpec, rng: np.random.Generator) -> dict[str, Array]:
    """weight_ih and weight_hr after Glorot & Bengio (2010), weight_hh orthogonal after Saxe et al. (2014), biases zero.

    As Keras does, the gates' matrices are one: Glorot's bound counts the rows of all of them as outputs, and the
    columns of the whole weight_hh are orthonormal.
    """
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.startswith(("weight_ih", "weight_hr")):
            bound = sqrt(6 / sum(shape))
            arrays[name] = rng.uniform(-bound, bound, shape).astype(spec.dtype)
        elif name.startswith("weight_hh"):
            q, r = np.linalg.qr(rng.standard_normal(shape))
            arrays[name] = np.ascontiguousarray(q * np.sign(np.diag(r)), spec.dtype)  # uniform among the orthogonal
        else:
            arrays[name] = np.zeros(shape, spec.dtype)
    return arrays


def set_forget_bias(arrays: dict[str, Array], spec: LayerSpec, value: float) -> None:
    """Make the biases of every forget gate sum to `value`."""
    f = spec.cell.gates.index("f")
    rows = slice(f * spec.hidden_size, (f + 1) * spec.hidden_size)
    for name, array in arrays.items():
        if name.startswith("bias"):
            array[rows] = value if name.startswith("bias_ih") else 0
