"""A Keras layer's loop over time on torch's tensors, by fastrnn with autograd.

B rows     T steps     I features     H units     N steps of all rows that a mask leaves
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from keras import tree
from keras.ops import convert_to_tensor

from ..core.geometry import LayerSpec
from ..core.options import with_options
from ..core.params import layer_suffixes, shapes
from ..spec import GRU, LSTM, RNN_RELU, RNN_TANH, Cell
from ..torch import autograd
from ..torch.calls import DTYPES, FlatLayer, refused
from ..weights.keras import ORDERS
from .reading import CELLS, functions_of


@lru_cache(maxsize=256)
def cell_of(kind: str, functions: tuple[Any, ...], reset_after: bool) -> Cell:
    """fastrnn's cell with the functions of a Keras cell."""
    if kind == "RNN":
        if functions == ("relu",):
            return RNN_RELU
        return with_options(RNN_TANH, functions)
    if kind == "LSTM":
        return with_options(LSTM, functions)
    return with_options(GRU, functions, reset="after" if reset_after else "before")


@lru_cache(maxsize=256)
def flat_layer(cell: Cell, I: int, H: int, bias: bool, backwards: bool, batch_first: bool, dtype: Any) -> FlatLayer:
    """What the parameters belong to."""
    spec = LayerSpec(
        cell, I, H, 1, bias, batch_first, 0.0, False, DTYPES[dtype], backward=(True,) if backwards else ()
    )  # fmt: skip
    suffixes = layer_suffixes(spec)
    known = shapes(spec, suffixes)
    return FlatLayer(spec, tuple(known), tuple(known.values()), suffixes)


def params_of(cell: Any, kind: str) -> list[torch.Tensor]:
    """The parameters in fastrnn's layout, through which gradients reach the variables."""

    def rows(matrix: torch.Tensor) -> torch.Tensor:
        if kind != "GRU":
            return matrix
        blocks = matrix.chunk(3)
        return torch.cat([blocks[k] for k in ORDERS[kind]])

    found = [rows(convert_to_tensor(variable).T) for variable in (cell.kernel, cell.recurrent_kernel)]
    if not cell.use_bias:
        return found
    bias = convert_to_tensor(cell.bias)
    of_x, of_h = bias if bias.dim() == 2 else (bias, torch.zeros_like(bias))
    return [*found, rows(of_x), rows(of_h)]


def compute(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool) -> Any:
    """(last output, outputs, [states]) as Keras' inner_loop, or None where Keras has to compute it."""
    if torch.compiler.is_compiling():
        return None
    cell = layer.cell
    kind = CELLS[type(cell)]
    params = params_of(cell, kind)
    dtype = params[0].dtype
    x = convert_to_tensor(sequences).to(dtype)
    state = [convert_to_tensor(part).to(dtype) for part in tree.flatten(initial_state)]
    if layer.stateful:  # its variables, in which the final state will be stored
        state = [part.clone() for part in state]
    mask = mask[0] if isinstance(mask, (list, tuple)) else mask
    if refused([x, *state, *params]) or (mask is not None and mask.dim() != 2):
        return None
    if training and cell.dropout:
        x = x * cell.get_dropout_mask(x[:, 0, :]).unsqueeze(1)
    functions = tuple(functions_of(cell, layer.name))
    made = cell_of(kind, functions, bool(getattr(cell, "reset_after", True)))
    backwards, places = bool(layer.go_backwards), None
    if mask is not None:
        valid = convert_to_tensor(mask).to(torch.bool)
        if not valid.any():
            return None  # no step happens
        if not valid.all():
            places = places_of(valid, backwards, layer.zero_output_for_mask)
    flat = flat_layer(made, x.shape[2], cell.units, bool(cell.use_bias), backwards, places is None, dtype)
    if places is None:
        y, *after = run(flat, None, x, state, params)
        last = after[0][0]
        outputs = (y.flip(1) if backwards else y) if layer.return_sequences else last.unsqueeze(1)
        return last, outputs, [part[0] for part in after]
    given = [part.index_select(0, places.rows) for part in state]
    packed = x.flatten(0, 1).index_select(0, places.taken)
    y, *after = run(flat, places.batch_sizes, packed, given, params)
    states = [torch.cat([new[0], old]).index_select(0, places.state) for new, old in zip(after, state)]
    found = torch.cat([y, y.new_zeros(1, y.shape[1])])  # what `places.shown` has where there is no output
    if layer.return_sequences:
        outputs = found.index_select(0, places.shown.flatten()).unflatten(0, places.shown.shape)
        return outputs[:, -1], outputs, states
    last = found.index_select(0, places.shown[:, -1])
    return last, last.unsqueeze(1), states


def run(flat: FlatLayer, batch_sizes: Any, x: Any, state: list[Any], params: list[Any]) -> tuple[torch.Tensor, ...]:
    """y and the final state, (1, B, H) each, by fastrnn."""
    parts = [part.unsqueeze(0) for part in state]
    return autograd.compute(flat, batch_sizes, None, x, parts, params)


class Places(NamedTuple):
    """Where the steps of a mask are in data that are packed as torch packs sequences, longest row first."""

    taken: torch.Tensor  # (N,): of each packed step, its place in x as (B·T, I)
    batch_sizes: torch.Tensor  # (most steps of a row,): how many rows have each step
    rows: torch.Tensor  # the rows that have steps, longest first
    state: torch.Tensor  # (B,): of each row, its place in the final states followed by the initial ones
    shown: torch.Tensor  # (B, T): of each step in the order of processing, the packed step whose output it shows; N: 0


def places_of(valid: torch.Tensor, backwards: bool, zero: bool) -> Places:
    """The places for a mask (B, T). With `zero` a step that is left out shows zeros, else what the one before does."""
    B, T = valid.shape
    lengths = valid.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    rows = order[: int((lengths > 0).sum())]
    counts = lengths[rows]
    steps = torch.argsort(~valid, dim=1, stable=True)[rows, : int(counts[0])]  # a row's valid steps first
    happens = torch.arange(steps.shape[1]) < counts[:, None]
    taken = (rows[:, None] * T + steps).T[happens.T]
    N = len(taken)
    number = torch.full((B * T,), -1)
    number[taken] = torch.arange(N)
    shown = number.view(B, T)
    shown = shown.flip(1) if backwards else shown
    if not zero:
        here = torch.where(shown >= 0, torch.arange(T), -1).cummax(1).values
        shown = torch.where(here < 0, -1, shown.gather(1, here.clamp(min=0)))
    place = len(rows) + torch.arange(B)
    place[rows] = torch.arange(len(rows))
    return Places(taken, happens.sum(0), rows, place, torch.where(shown < 0, N, shown))
