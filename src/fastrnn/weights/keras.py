"""The weights of a Keras layer, or of one direction, and fastrnn's: both ways, for Keras 2 and 3.

    kernel            (I, G·H)     weight_ih  its transpose     I  input_size
    recurrent_kernel  (H, G·H)     weight_hh  its transpose     H  hidden_size, Keras' units
    bias              (G·H,), of a GRU with reset_after (2, G·H): of x, of h

Gates: SimpleRNN one, LSTM i, f, c, o as fastrnn's i, f, g, o; GRU z, r, h, of which fastrnn has r, z, n. A bias that
Keras adds once is bias_ih, bias_hh being zeros. A GRU with reset_after=False is one of fastrnn's with reset="before".
(keras.io/api/layers/recurrent_layers; the order of gates as in `keras.layers.LSTMCell.call` and `GRUCell.call`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from .gates import Array, both_biases, gates_of, matrices, reorder

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ORDERS = {"RNN": (0,), "LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2)}  # one's gates in the other's order: its own inverse

# Keras' names of activations that fastrnn has; hard_sigmoid is another function in Keras 3 than it was before.
NAMES: dict[str, Any] = {
    name: name for name in ("sigmoid", "tanh", "relu", "softsign", "softplus", "linear", "elu")
}  # fmt: skip
NAMES |= {"hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5), "leaky_relu": ("leaky_relu", 0.2)}
KERAS_2 = {"hard_sigmoid": ("hard_sigmoid", 0.2, 0.5)}


def to_params(
    kind: str, kernel: ArrayLike, recurrent_kernel: ArrayLike, bias: ArrayLike | None = None, suffix: str = "_l0"
) -> dict[str, Array]:
    """fastrnn's parameters of one direction, by name; `kind` is "RNN", "LSTM" or "GRU".

    The dtype is that of the arrays. Raises ValueError for shapes that no such layer has, naming the array.
    """
    G, order = len(gates_of(kind)), ORDERS[kind]
    w_hh = checks.real("recurrent_kernel", recurrent_kernel)
    H = w_hh.shape[0] if w_hh.ndim else 0
    checks.shaped("recurrent_kernel", w_hh, (H, G * H))
    w_ih = checks.shaped("kernel", checks.real("kernel", kernel), ("I", G * H))
    found = {"weight_ih" + suffix: reorder(w_ih.T, order), "weight_hh" + suffix: reorder(w_hh.T, order)}
    if bias is None:
        return found
    shapes = [(G * H,), (2, G * H)][: 2 if kind == "GRU" else 1]
    given = checks.shaped("bias", checks.real("bias", bias), *shapes)
    of_x, of_h = given if given.ndim == 2 else (given, np.zeros_like(given))
    return found | {"bias_ih" + suffix: reorder(of_x, order), "bias_hh" + suffix: reorder(of_h, order)}


def from_params(
    kind: str, params: Mapping[str, ArrayLike], suffix: str = "_l0", reset_after: bool = True
) -> dict[str, Array]:
    """Keras' arrays of one direction: kernel, recurrent_kernel and, for a layer with biases, bias.

    `reset_after` is Keras' argument of a GRU, whose bias is (2, 3·H) with it. Elsewhere the bias is the sum of both.
    """
    order = ORDERS[kind] if kind in ORDERS else ()
    w_ih, w_hh, _ = matrices(kind, params, suffix)
    found = {"kernel": reorder(w_ih.T, order, axis=1), "recurrent_kernel": reorder(w_hh.T, order, axis=1)}
    if biases := both_biases(params, suffix):
        of_x, of_h = (reorder(bias, order) for bias in biases)
        found["bias"] = np.stack([of_x, of_h]) if kind == "GRU" and reset_after else of_x + of_h
    return found


def activation(name: str, label: str = "activation", keras_2: bool = False) -> str | tuple[Any, ...]:
    """What fastrnn's `activations` takes for a name of Keras'; ValueError, with the label, for one without such."""
    names = NAMES | (KERAS_2 if keras_2 else {})
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"{label}: expected one of {', '.join(names)}, which fastrnn has, got {name!r}")
    return names[name]


def described_activation(given: Any, label: str = "activation", keras_2: bool = False) -> str | tuple[Any, ...]:
    """What fastrnn's `activations` takes for an activation as Keras' configurations have it, a name or a layer.

    Raises ValueError, with the label, for another, a function of the user's own among them.
    """
    if isinstance(given, Mapping):
        config = given.get("config")
        if given.get("module") in (None, "keras.layers") and isinstance(config, Mapping):
            if given.get("class_name") == "Activation":
                return described_activation(config.get("activation"), label, keras_2)
            if given.get("class_name") == "LeakyReLU":
                return "leaky_relu", checks.finite(label, config.get("negative_slope", config.get("alpha")))
            if given.get("class_name") == "ELU":
                return "elu", checks.finite(label, config.get("alpha"))
        name = config if isinstance(config, str) else given.get("class_name")
        return activation(f"{name} of its own", label)
    return activation("linear" if given is None else given, label, keras_2)


def activation_name(function: tuple[str, float, float], label: str = "activation") -> str:
    """Keras 3's name of one of fastrnn's functions, (name, alpha, beta); ValueError for one without such."""
    name, alpha, beta = function
    given = NAMES.get(name)
    if isinstance(given, tuple):
        same = np.allclose((alpha, beta)[: len(given) - 1], given[1:], rtol=1e-6, atol=0)
    else:
        same = given is not None and (name != "elu" or alpha == 1)
    if not same:
        raise ValueError(f"{label}: expected a function that Keras has a name of, got {name!r} ({alpha}, {beta})")
    return name


def options_of(
    kind: str, functions: Sequence[Any], reset_after: bool = True, go_backwards: bool = False
) -> dict[str, Any]:
    """The arguments of fastrnn's constructor for what Keras' layer has, `functions` as `by_role` gives them."""
    options: dict[str, Any] = {"activations": list(functions)}
    if kind == "RNN" and list(functions) in (["tanh"], ["relu"]):
        options = {"nonlinearity": functions[0]}
    if kind == "GRU":
        options["reset"] = "after" if reset_after else "before"
    if go_backwards:
        options["direction"] = "reverse"
    return options
