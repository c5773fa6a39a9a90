"""The short way of a module's call: what does not change from call to call is looked up once.

A plan has views of a module's parameters, through which their changes in place are seen. It holds while they are the
same objects, of the same memory and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ref

import numpy as np
import torch

from ..backends.base import Backend
from ..core import config, stack
from ..frozen import shortcut, step_at_once
from ..spec import Weights
from .autograd import compute
from .calls import CELLS, Asked, FlatLayer, array, flat_layer, refusal, refused
from .threads import Hosted, threads

CELL_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Plan:
    """A module's parameters, as a backend takes them."""

    __slots__ = ("asked", "backend", "dtype", "grouped", "layer", "params", "places", "step", "views")

    def __init__(
        self, asked: Asked, layer: FlatLayer, backend: Backend, names: Sequence[str], params: list[torch.Tensor]
    ) -> None:
        self.asked, self.layer, self.backend, self.params = asked, layer, backend, params
        self.dtype = params[0].dtype
        self.places = [(name, param, param.data_ptr(), param.shape) for name, param in zip(names, params)]
        self.views = [array(param) for param in params]
        self.grouped: list[tuple[Weights, ...]] = layer.grouped(self.views)
        self.step: Any = None  # the way of single steps, if the backend reads the weights where they are

    def holds(self, parameters: Mapping[str, torch.Tensor | None], backend: Backend) -> bool:
        if backend is not self.backend:
            return False
        for name, own, place, shape in self.places:
            if parameters.get(name) is not own or own.data_ptr() != place or own.shape != shape:
                return False
            if not own.is_contiguous():
                return False
        return True

    def way(self, steps: int, many: int) -> Any:
        """The backend's short way through so many steps, or None."""
        if steps == 1 and self.step is not None:
            return self.step
        packed = stack.packing(self.layer.spec, self.backend, self.grouped, steps, many)
        if steps > 1:
            return shortcut(self.layer.spec, self.backend, packed)
        layers = tuple(packed)
        way = shortcut(self.layer.spec, self.backend, layers)
        if way is not None and all([layer.weights is not None for layer in layers]):
            self.step = way
        return way


# By what a module is known while it lives, beside a reference whose end takes the plan away: sooner looked up than a
# WeakKeyDictionary, which makes a reference at every call.
plans: dict[int, tuple[ref[torch.nn.Module], Plan]] = {}


def plan_for(module: torch.nn.Module, given: tuple[Any, ...], names: Any) -> Plan | None:
    """The plan of a module as it is now, or None where there is none. `given` are the parts of an Asked."""
    key, backend = id(module), config.backend()
    known = plans.get(key)
    if known is not None and known[1].asked == given and known[1].holds(module._parameters, backend):
        return known[1]
    asked, params = Asked(*given), [getattr(module, name) for name in names]
    if refused(params) or not all([param.is_contiguous() for param in params]):
        return None
    layer = flat_layer(asked, tuple([param.shape for param in params]), params[0].dtype)
    if layer is None or not hasattr(backend, "Shortcut"):
        return None
    plan = Plan(asked, layer, backend, names, params)
    plans[key] = ref(module, lambda _: plans.pop(key, None)), plan
    return plan


def plain(x: Any, dtype: torch.dtype) -> bool:
    """Whether this is a tensor of memory that may be read as it is."""
    return type(x) is torch.Tensor and x.dtype is dtype and x.is_cpu and x.layout is torch.strided and not x.is_neg()


def view(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy() if x.requires_grad else x.numpy()


def state_of(hx: Any, dtype: torch.dtype) -> Any:
    """The arrays of a state, or None where they need a closer look."""
    if type(hx) is torch.Tensor:
        return view(hx) if plain(hx, dtype) else None
    if type(hx) is not tuple or not all([plain(part, dtype) for part in hx]):
        return None
    return tuple([view(part) for part in hx])


def layer_at_once(module: Any, x: Any, hx: Any) -> Any:
    """What a module of sequences gives, (y, state); None where the call needs a closer look."""
    if (module.training and module.dropout) or refusal():
        return None
    given = module.mode.lower(), module.bias, module.num_layers, 0.0, module.bidirectional, module.batch_first
    plan = plan_for(module, given, module._flat_weights_names)
    if plan is None or not plain(x, plan.dtype) or not x.numel():
        return None
    if torch.is_grad_enabled():
        return record(plan, x, hx)
    state = None if hx is None else state_of(hx, plan.dtype)
    if hx is not None and state is None:
        return None
    torchs = threads()
    many = torchs or config.get_num_threads()
    with Hosted(plan.backend, torchs):
        way = plan.way(x.shape[1 if plan.asked.batch_first and x.dim() == 3 else 0], many)
        found = None if way is None else way.sequence(view(x), state, None, many)
    if found is None:
        return None
    y, after = found
    return torch.from_numpy(y), tensors(after)


def record(plan: Plan, x: torch.Tensor, hx: Any) -> Any:
    """(y, state) of a call that may be differentiated; None where it needs a closer look."""
    spec = plan.layer.spec
    if x.dim() != 3 or x.shape[2] != spec.input_size:
        return None
    shapes = spec.inner_state(x.shape[0 if spec.batch_first else 1])
    if hx is None:
        parts = tuple([torch.zeros(shape, dtype=plan.dtype) for shape in shapes])
    else:
        parts = hx if type(hx) is tuple else (hx,)
        if len(parts) != len(shapes) or not all([plain(p, plan.dtype) and p.shape == s for p, s in zip(parts, shapes)]):
            return None
    y, *after = compute(plan.layer, None, None, x, parts, plan.params, plan.grouped)
    return y, tuple(after) if len(after) == 2 else after[0]


def cell_at_once(module: Any, x: Any, hx: Any) -> Any:
    """What a cell gives, its next state; None where the call needs a closer look."""
    if torch.is_grad_enabled() or hx is None or module._mode not in CELLS or refusal():
        return None  # torch says what a nonlinearity is that it does not know
    mode, names = module._mode, CELL_PARAMETERS[: 4 if module.bias else 2]
    plan = plan_for(module, (mode, module.bias, 1, 0.0, False, False), names)
    if plan is None or not plain(x, plan.dtype):
        return None
    state = state_of(hx, plan.dtype)
    if state is None:
        return None
    weights = plan.views if module.bias else [*plan.views, None, None]
    after = step_at_once(plan.backend, CELLS[mode], view(x), state, *weights)
    return None if after is None else tensors(after)


def tensors(state: Any) -> Any:
    return tuple([torch.from_numpy(part) for part in state]) if type(state) is tuple else torch.from_numpy(state)
