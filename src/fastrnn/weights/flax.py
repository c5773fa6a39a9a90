"""The weights of a Flax cell, linen's or nnx's, and fastrnn's: both ways, as nested mappings of arrays.

    linen      LSTMCell, OptimizedLSTMCell  ii if ig io {kernel (I, H)}, hi hf hg ho {kernel (H, H), bias (H,)}
               GRUCell                      ir iz in {kernel, bias}, hr hz {kernel}, hn {kernel, bias}
               SimpleCell                   i {kernel, bias}, h {kernel}
    nnx        LSTMCell                     as linen's, `if` being named if_
               OptimizedLSTMCell            dense_i {kernel (I, 4·H)}, dense_h {kernel (H, 4·H), bias (4·H,)}: i f g o
               GRUCell                      dense_i {kernel (I, 3·H), bias (3·H,)}, dense_h {kernel}: r z n
               SimpleCell                   dense_i {kernel, bias}, dense_h {kernel}

nnx's GRUCell adds no bias within the reset gate's product, so that fastrnn's bias_hh of n is zero.
(Gates as in `flax.linen.recurrent` and `flax.nnx.nn.recurrent`; I input_size, H hidden_size.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core import checks
from .gates import Array, both_biases, gates_of, kind_of_rows, matrices

ALONE = {"LSTM": "ifgo", "GRU": "rzn", "RNN": ("",)}  # what follows i and h in linen's names, in fastrnn's order
FORMS = ("linen", "nnx", "nnx_optimized")


def unified(cell: Any) -> dict[str, Any]:
    """The mapping without the level "params", and `if` by linen's name."""
    if not isinstance(cell, Mapping):
        raise TypeError(f"params: expected a mapping of a cell's parts, got {checks.kind(cell)}")
    if set(cell) == {"params"}:
        return unified(cell["params"])
    return {"if" if name == "if_" else str(name): part for name, part in cell.items()}


def kind_of(cell: Mapping[str, Any]) -> str:
    """The kind of a cell by the names of its parts, "RNN", "LSTM" or "GRU"; ValueError for what is no such cell."""
    parts = unified(cell)
    for kind, gates in ALONE.items():
        if set(parts) == {side + gate for side in "ih" for gate in gates}:
            return kind
    if set(parts) == {"dense_i", "dense_h"}:
        kernel = checks.real("dense_h['kernel']", entry(parts, "dense_h", "kernel"))
        H = kernel.shape[0] if kernel.ndim else 0
        checks.shaped("dense_h['kernel']", kernel, (H, H), (H, 3 * H), (H, 4 * H))
        return kind_of_rows(kernel.shape[1], H)
    if set(parts) == {"if", "hf", "in", "hn"}:
        raise ValueError("params: expected a SimpleCell, LSTMCell or GRUCell, got an MGUCell, which fastrnn has not")
    raise ValueError(f"params: expected the parts of a SimpleCell, LSTMCell or GRUCell, got {', '.join(parts)}")


def entry(parts: Mapping[str, Any], name: str, leaf: str) -> Any:
    """An array of a part."""
    part = parts[name]
    if not isinstance(part, Mapping) or leaf not in part:
        raise ValueError(f"params[{name!r}]: expected a mapping with {leaf!r}, got {checks.kind(part)}")
    return part[leaf]


def has(parts: Mapping[str, Any], name: str, leaf: str) -> bool:
    return isinstance(parts[name], Mapping) and leaf in parts[name] and parts[name][leaf] is not None


def side(parts: Mapping[str, Any], names: list[str]) -> tuple[Array, Array]:
    """The rows of W and of b by the parts of one side, of x or of h; zeros for a part without a bias."""
    label = "params[{!r}][{!r}]".format
    kernels = [checks.real(label(name, "kernel"), entry(parts, name, "kernel")) for name in names]
    width = kernels[0].shape[-1] if kernels[0].ndim else 0
    shape = kernels[0].shape[:1] + (width,)
    biases = []
    for name, kernel in zip(names, kernels):
        checks.shaped(label(name, "kernel"), kernel, shape)
        if has(parts, name, "bias"):
            given = checks.real(label(name, "bias"), parts[name]["bias"])
            biases.append(checks.shaped(label(name, "bias"), given, (width,)))
        else:
            biases.append(np.zeros(width, kernel.dtype))
    return np.concatenate([kernel.T for kernel in kernels]), np.concatenate(biases)


def to_params(cell: Mapping[str, Any], suffix: str = "_l0") -> dict[str, Array]:
    """fastrnn's parameters by name from a cell's nested mapping, as linen's `variables["params"]` or of nnx's state.

    Raises ValueError for parts of another cell and for shapes that do not fit, naming the part.
    """
    kind, parts = kind_of(cell), unified(cell)
    gates = len(gates_of(kind))
    names = [["dense_" + s] if "dense_i" in parts else [s + gate for gate in ALONE[kind]] for s in "ih"]
    (w_ih, b_ih), (w_hh, b_hh) = (side(parts, own) for own in names)
    H = len(w_hh) // gates
    checks.shaped("the kernels of h, transposed", w_hh, (gates * H, H))
    checks.shaped("the kernels of x, transposed", w_ih, (gates * H, "I"))
    found = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
    return {name + suffix: array for name, array in found.items()}


def from_params(
    kind: str, params: Mapping[str, Any], suffix: str = "_l0", form: str = "linen"
) -> dict[str, dict[str, Array]]:
    """A cell's nested mapping from fastrnn's parameters of one direction; those without biases get zeros.

    `form` is "linen", "nnx", or, for the nnx OptimizedLSTMCell, "nnx_optimized". A bias that the cell adds once is the
    sum of both. Raises ValueError for the bias_hh of n that is not zero with nnx's GRUCell, which has none.
    """
    checks.word("form", form, FORMS)
    w_ih, w_hh, H = matrices(kind, params, suffix)
    of_x, of_h = both_biases(params, suffix) or (np.zeros(len(w_ih), w_ih.dtype),) * 2
    if form != "linen" and (kind != "LSTM" or form == "nnx_optimized"):
        return dense(kind, w_ih, w_hh, of_x, of_h, H)
    found: dict[str, dict[str, Array]] = {}
    for k, gate in enumerate(ALONE[kind]):
        rows = slice(k * H, (k + 1) * H)
        x = {"kernel": w_ih[rows].T}
        h = {"kernel": w_hh[rows].T}
        if kind == "LSTM":
            h["bias"] = of_x[rows] + of_h[rows]
        elif gate == "n":
            x["bias"], h["bias"] = of_x[rows], of_h[rows]
        else:
            x["bias"] = of_x[rows] + of_h[rows]
        name = "if_" if form == "nnx" and gate == "f" else "i" + gate
        found[name], found["h" + gate] = x, h
    return found


def dense(kind: str, w_ih: Array, w_hh: Array, of_x: Array, of_h: Array, H: int) -> dict[str, dict[str, Array]]:
    """nnx's form of one matrix for all gates."""
    if kind == "LSTM":
        return {"dense_i": {"kernel": w_ih.T}, "dense_h": {"kernel": w_hh.T, "bias": of_x + of_h}}
    if kind == "GRU" and of_h[2 * H :].any():
        raise ValueError("params: expected a bias_hh of zeros for n, since nnx's GRUCell has none, got others")
    return {"dense_i": {"kernel": w_ih.T, "bias": of_x + of_h}, "dense_h": {"kernel": w_hh.T}}
