"""A model's recurrent modules on fastrnn, and back."""

from __future__ import annotations

from typing import TypeVar

import torch

from . import calls
from .modules import KINDS, Recurrent

M = TypeVar("M", bound=torch.nn.Module)
OURS: dict[type[torch.nn.Module], type[Recurrent]] = {kind._torch_class: kind for kind in KINDS}


def accelerate(model: M) -> M:
    """Let every torch.nn.RNN, LSTM, GRU and their cells in a model compute on fastrnn; returns the model.

    The modules and their parameters stay the same objects, so that optimisers, hooks and references keep working. A
    subclass of theirs, which may compute something else, is left as it is.
    """
    for module in modules_of(model):
        if type(module) in OURS:
            module.__class__ = OURS[type(module)]
    return model


def restore(model: M) -> M:
    """Undo `accelerate`; returns the model."""
    for module in modules_of(model):
        if type(module) in KINDS:
            module.__class__ = module._torch_class  # type: ignore[assignment]
    return model


def explain(module: torch.nn.Module) -> str:
    """Which way a call of a module would go, given an input of its parameters' dtype and device, and why."""
    kind = type(module)
    if not isinstance(module, KINDS):
        if kind in OURS:
            return f"torch: this is torch.nn.{kind.__name__}; accelerate(model) makes it one of fastrnn's"
        return f"torch: {kind.__name__} is no recurrent module of fastrnn.torch"
    params = list(module.parameters())
    why = calls.refused(params)
    return f"torch: {why}" if why else f"fastrnn: {str(params[0].dtype).removeprefix('torch.')} on the CPU"


def modules_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return list(model.modules())
