"""fastrnn's layers as operators that torch.compile keeps whole in its graphs, with their gradients.

The lists are: of `infer` y and the parts of the state; of `record` the same, then what `kept` describes of each layer;
of `backprop` the gradients by x, unless by_x is False, by the parts of the state, and by the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..backends.base import Run
from ..core import config, stack
from ..core.geometry import Array, Call, LayerSpec, time_major
from ..core.tape import Tape
from . import autograd
from .calls import DTYPES, Asked, array, differentiates, flat_layer

Tensors = Sequence[torch.Tensor]

ASKED = "str mode, bool bias, int num_layers, float dropout, bool bidirectional, bool batch_first"
INPUTS = f"Tensor x, Tensor? batch_sizes, Tensor? resets, Tensor[] state, Tensor[] params, {ASKED}"


def compute(
    asked: Asked, batch_sizes: torch.Tensor | None, resets: torch.Tensor | None, x: torch.Tensor, state: Tensors,
    params: Tensors,
) -> tuple[torch.Tensor, ...] | None:  # fmt: skip
    """(y, *state) of a call that is being compiled, or None where torch has to compute it."""
    tensors = [x, *state, *params]
    if torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu") or x.dtype not in DTYPES:
        return None
    if any([tensor.device.type != "cpu" or tensor.dtype != x.dtype for tensor in tensors]):
        return None
    rows = x.shape[0 if asked.batch_first else 1] if batch_sizes is None else state[0].shape[1]
    if x.shape[-1] != params[0].shape[-1] or any([part.shape[1] != rows for part in state]):
        return None  # it says what does not fit
    found = (record if differentiates(tensors) else infer)(x, batch_sizes, resets, list(state), list(params), *asked)
    return tuple(found[: 1 + len(state)])


def kept(spec: LayerSpec, T: int, B: int) -> Iterator[tuple[int, str, tuple[int, ...], torch.dtype]]:
    """What `record` gives of each layer k, after y and the state: k, what it is, its shape and its dtype."""
    D, dtype = spec.directions, torch.float32 if spec.dtype.itemsize == 4 else torch.float64
    for k in range(spec.num_layers):
        if spec.cell.saved:
            yield k, "saved", (D, T, B, len(spec.cell.saved), spec.hidden_size), dtype
        if k < spec.num_layers - 1:
            yield k, "y", (T, B, spec.output_size), dtype
        if k and spec.dropout:
            yield k, "kept", (T, B, spec.output_size), torch.bool


def known_layer(x: torch.Tensor, params: Tensors, asked: tuple[Any, ...]) -> Any:
    """The layer of a call that `compute` has let through."""
    shapes = tuple([torch.Size(map(int, param.shape)) for param in params])  # never symbols: a layer has its sizes
    layer = flat_layer(Asked(*asked), shapes, x.dtype)
    if layer is None:
        raise ValueError(f"params: expected those of {asked[0]} in {asked[2]} layers, got the shapes {shapes}")
    return layer


def optional(tensor: torch.Tensor | None) -> Array | None:
    return None if tensor is None else array(tensor)


@torch.library.custom_op("fastrnn::infer", mutates_args=(), schema=f"({INPUTS}) -> Tensor[]")
def infer(
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any
) -> list[torch.Tensor]:
    layer = known_layer(x, params, asked)
    return list(autograd.infer(layer.spec, autograd.begin(layer, batch_sizes, optional(resets), x, state, params)))


@torch.library.custom_op("fastrnn::record", mutates_args=(), schema=f"({INPUTS}) -> Tensor[]")
def record(
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any
) -> list[torch.Tensor]:
    layer = known_layer(x, params, asked)
    begun = autograd.begin(layer, batch_sizes, optional(resets), x, state, params)
    y, after, tape = autograd.forward(layer.spec, begun)
    found = [y, *map(torch.from_numpy, after)]
    for k, what, shape, dtype in kept(layer.spec, *tape.call.x.shape[:2]):
        if not tape.runs:
            found.append(torch.empty(shape, dtype=dtype))
        else:
            found.append(torch.from_numpy(tape.kept[k] if what == "kept" else getattr(tape.runs[k], what)))
    return found


@torch.library.custom_op(
    "fastrnn::backprop", mutates_args=(),
    schema=f"(Tensor? dy, Tensor?[] dstate, Tensor[] recorded, bool by_x, {INPUTS}) -> Tensor[]",
)  # fmt: skip
def backprop(
    dy: torch.Tensor | None, dstate: Sequence[torch.Tensor | None], recorded: Tensors, by_x: bool,
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any,
) -> list[torch.Tensor]:  # fmt: skip
    layer = known_layer(x, params, asked)
    packing, call, weights = autograd.begin(layer, batch_sizes, optional(resets), x, state, params)
    y = array(recorded[0])
    y = time_major(y, layer.spec.batch_first) if packing is None else packing.spread(y)
    tape = rebuild(layer.spec, call, weights, y, recorded[1 + len(state) :])
    dx, others = autograd.backward(layer, tape, packing, dy, dstate, by_x)
    return [*others] if dx is None else [dx, *others]


def rebuild(spec: LayerSpec, call: Call, weights: Any, y: Array, recorded: Tensors) -> Tape:
    """The tape of what `record` gave."""
    found: list[dict[str, Array]] = [{} for _ in range(spec.num_layers)]
    for (k, what, *_), tensor in zip(kept(spec, *call.x.shape[:2]), recorded):
        found[k][what] = array(tensor)
    found[-1]["y"] = y
    runs, source = [], call.x
    for k, (steps, reverse) in enumerate(stack.layer_steps(spec, call)):
        if "kept" in found[k]:
            source = stack.drop(source, found[k]["kept"], spec.dropout)
        before = stack.layer_state(call.state, k, spec.directions)
        runs.append(Run(source, before, steps, reverse, found[k]["y"], found[k].get("saved")))
        source = found[k]["y"]
    runs = runs if call.x.size else []
    masks = [layer.get("kept") for layer in found]
    return Tape(autograd.OWNER, spec, config.backend(), weights, call, runs, masks, [None] * len(runs))


@infer.register_fake
def fake_infer(
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any
) -> list[torch.Tensor]:
    spec = known_layer(x, params, asked).spec
    return [x.new_empty((*x.shape[:-1], spec.output_size)), *[torch.empty_like(part) for part in state]]


@record.register_fake
def fake_record(
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any
) -> list[torch.Tensor]:
    spec = known_layer(x, params, asked).spec
    T, B = x.shape[1 if spec.batch_first else 0] if batch_sizes is None else len(batch_sizes), state[0].shape[1]
    rest = [x.new_empty(shape, dtype=dtype) for _, _, shape, dtype in kept(spec, T, B)]
    return [*fake_infer(x, batch_sizes, resets, state, params, *asked), *rest]


@backprop.register_fake
def fake_backprop(
    dy: Any, dstate: Any, recorded: Any, by_x: bool,
    x: torch.Tensor, batch_sizes: Any, resets: Any, state: Tensors, params: Tensors, *asked: Any,
) -> list[torch.Tensor]:  # fmt: skip
    return [tensor.new_empty(tensor.shape) for tensor in ([x] if by_x else []) + [*state, *params]]


def set_up(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    x, ctx.batch_sizes, ctx.resets, state, params, *ctx.asked = inputs
    ctx.sizes = len(state), len(params)
    ctx.save_for_backward(x, *state, *params, *output)


def differentiate(ctx: Any, gradients: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    parts, many = ctx.sizes
    state, params, recorded = rest[:parts], rest[parts : parts + many], rest[parts + many :]
    by_x, dstate = ctx.needs_input_grad[0], list(gradients[1 : 1 + parts])
    inputs = x, ctx.batch_sizes, ctx.resets, state, params, *ctx.asked
    found = list(backprop(gradients[0], dstate, recorded, by_x, *inputs))
    dx = found.pop(0) if by_x else None
    return dx, None, None, found[:parts], found[parts:], *[None] * len(ctx.asked)


record.register_autograd(differentiate, setup_context=set_up)
