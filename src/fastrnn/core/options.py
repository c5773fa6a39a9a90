"""How a layer's cell differs from the plain one: its constructor's arguments, checked, as a row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..spec import (
    GRU,
    GRU_NORM,
    GRU_RESET_FIRST,
    LSTM,
    LSTM_COUPLED,
    LSTM_NORM,
    NORM_EPS,
    PLAIN,
    RNN_RELU,
    RNN_TANH,
    Cell,
    Function,
    Options,
)  # fmt: skip
from . import checks

# What alpha and beta are where they are not given, and whether the function takes them; ONNX's values.
DEFAULTS: dict[str, tuple[float, ...]] = {
    "sigmoid": (),
    "hard_sigmoid": (0.2, 0.5),
    "tanh": (),
    "relu": (),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "elu": (1.0,),
    "softsign": (),
    "softplus": (),
    "affine": (1.0, 0.0),
    "scaled_tanh": (1.0, 1.0),
    "linear": (),
}
NOT_NEGATIVE = ("leaky_relu", "thresholded_relu", "elu")  # alpha: else a derivative would not follow from the result
ROLES = {
    "rnn_tanh": (1,),
    "rnn_relu": (1,),
    "gru": (0, 1),
    "gru_reset_first": (0, 1),
    "lstm": (0, 1, 2),
    "lstm_coupled": (0, 1, 2),
}


def read_function(label: str, value: Any) -> Function:
    """An activation: a name, or (name, alpha) or (name, alpha, beta)."""
    name, *numbers = (value,) if isinstance(value, str) else value if isinstance(value, (tuple, list)) else (None,)
    if not isinstance(name, str):
        raise TypeError(f"{label}: expected a name, or (name, alpha, beta), got {value!r}")
    if name not in DEFAULTS:
        raise ValueError(f"{label}: expected one of {', '.join(DEFAULTS)}, got {name!r}")
    defaults = DEFAULTS[name]
    if len(numbers) > len(defaults):
        raise ValueError(f"{label}: expected at most {len(defaults)} numbers with {name!r}, got {len(numbers)}")
    found = [checks.finite(label, number) for number in numbers]
    found += defaults[len(found) :]
    if name in NOT_NEGATIVE and found[0] < 0:
        raise ValueError(f"{label}: expected an alpha of at least 0 with {name!r}, got {found[0]}")
    if name == "scaled_tanh" and found[0] == 0:
        raise ValueError(f"{label}: expected an alpha other than 0 with {name!r}, got {found[0]}")
    return Function(name, *found)


def read_functions(cell: Cell, activations: Any) -> tuple[Function, ...]:
    """The activations by role, given for those that the cell has."""
    functions = list(PLAIN)
    if cell.name == "rnn_relu":
        functions[1] = Function("relu")
    if activations is None:
        return tuple(functions)
    roles = ROLES[cell.equation]
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        raise TypeError(f"activations: expected a sequence of {len(roles)} activations, got {activations!r}")
    if len(activations) != len(roles):
        raise ValueError(f"activations: expected {len(roles)} of them, got {len(activations)}")
    for k, role in enumerate(roles):
        functions[role] = read_function(f"activations[{k}]", activations[k])
    return tuple(functions)


def read_zoneout(cell: Cell, value: Any) -> tuple[float, ...]:
    """The probabilities of zoneout of each part of the state; () if all are zero."""
    states = len(cell.states)
    if not isinstance(value, (tuple, list)):
        found = (checks.fraction("zoneout", value),) * states
    elif states == 1:
        raise TypeError(f"zoneout: expected a number for a cell whose state is h alone, got {value!r}")
    elif len(value) != states:
        raise ValueError(f"zoneout: expected a number or a pair, of h and of c, got {len(value)} items")
    else:
        found = tuple(checks.fraction(f"zoneout[{k}]", part) for k, part in enumerate(value))
    return found if any(found) else ()


def read_norm(value: Any) -> Any:
    """What `layer_norm` asks for: False, True, or "gate"."""
    return checks.word("layer_norm", value, ("gate",)) if isinstance(value, str) else checks.flag("layer_norm", value)


def with_options(
    cell: Cell,
    activations: Any = None,
    clip: Any = None,
    peephole: Any = False,
    coupled: Any = False,
    reset: Any = "after",
    zoneout: Any = 0.0,
    layer_norm: Any = False,
    norm_eps: Any = NORM_EPS,
) -> Cell:
    """The cell with its options, the table's own where there are none."""
    eps = checks.positive("norm_eps", norm_eps)
    if norm := read_norm(layer_norm):
        for name, value, default in (
            ("peephole", peephole, False),
            ("coupled", coupled, False),
            ("reset", reset, "after"),
        ):
            if value != default:
                raise ValueError(f"{name}: expected {default!r} with layer_norm={layer_norm!r}, got {value!r}")
        cell = {LSTM: LSTM_NORM, GRU: GRU_NORM}[cell]
    if checks.flag("coupled", coupled):
        cell = LSTM_COUPLED if cell == LSTM else cell
    if checks.word("reset", reset, ("after", "before")) == "before":
        cell = GRU_RESET_FIRST if cell == GRU else cell
    bound = 0.0 if clip is None else checks.positive("clip", clip)
    functions = read_functions(cell, activations)
    looks, kept = checks.flag("peephole", peephole), read_zoneout(cell, zoneout)
    options = Options(functions, bound, looks, kept, norm == "gate", eps if norm else NORM_EPS)
    if options == Options(read_functions(cell, None)):
        return cell
    return (RNN_TANH if cell == RNN_RELU else cell)._replace(options=options)  # one equation, with any function


def described(cell: Cell) -> dict[str, Any]:
    """The constructor's arguments that make the cell of a layer of its kind, as JSON has them, without the defaults."""
    found: dict[str, Any] = {"coupled": True} if cell.name == "lstm_coupled" else {}
    if cell.name == "gru_reset_first":
        found["reset"] = "before"
    if cell.normal:
        found["layer_norm"] = True
    if cell.options is None:
        return found
    functions, clip, peephole, zoneout, each_gate, eps = cell.options
    if each_gate:
        found["layer_norm"] = "gate"
    if functions != read_functions(cell, None):
        given = [functions[role] for role in ROLES[cell.equation]]
        found["activations"] = [[name, alpha, beta][: 1 + len(DEFAULTS[name])] for name, alpha, beta in given]
        found["activations"] = [value[0] if len(value) == 1 else value for value in found["activations"]]
    if clip:
        found["clip"] = clip
    if eps != NORM_EPS:
        found["norm_eps"] = eps
    if peephole:
        found["peephole"] = True
    if zoneout:
        found["zoneout"] = zoneout[0] if len(set(zoneout)) == 1 else list(zoneout)
    return found
