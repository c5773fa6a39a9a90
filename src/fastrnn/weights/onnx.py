"""ONNX's RNN, LSTM and GRU: their tensors and attributes, to fastrnn's parameters and options and back.

    D  directions, 1 or 2    G  gates: 1 of RNN, 4 of LSTM, 3 of GRU    H  hidden_size    I  input_size

    W  (D, G·H, I)      R  (D, G·H, H)      B  (D, 2·G·H), the biases of W, then those of R      P  (D, 3·H)

The gates are i, o, f, c of LSTM (here i, f, g, o), z, r, h of GRU (here r, z, n), the peepholes i, o, f (here i, f, o).
W is weight_ih, R weight_hh; the second direction has the suffix _reverse. With input_forget nothing reads the rows of
f: a coupled layer has none, and they are written as zeros.

Source: the operators RNN, LSTM and GRU of ONNX (https://onnx.ai/onnx/operators/), opsets 7 to 22. Where that is silent,
as on what clip bounds and on how activation_alpha is counted off, it is as ONNX Runtime has it: clip bounds what the
activations of gates and candidate take, and those functions that have an alpha take one each, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.options import DEFAULTS
from .build import LAYERS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray

GATES = {"RNN": "a", "LSTM": "iofc", "GRU": "zrh"}  # as ONNX orders them
OURS = {"RNN": "a", "LSTM": "ifco", "GRU": "rzh"}  # the same gates, as fastrnn orders them
COUPLED = "ico"  # those of OURS["LSTM"] that a coupled layer has
PEEPHOLES = "iof"
SUFFIXES = ("", "_reverse")
DIRECTIONS = ("forward", "reverse", "bidirectional")
FUNCTIONS = {  # by ONNX's names in lower case, since ONNX Runtime takes any
    "sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid", "tanh": "tanh", "relu": "relu", "leakyrelu": "leaky_relu",
    "thresholdedrelu": "thresholded_relu", "elu": "elu", "softsign": "softsign", "softplus": "softplus",
    "affine": "affine", "scaledtanh": "scaled_tanh",
}  # fmt: skip
ONNX_NAMES = {
    "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid", "tanh": "Tanh", "relu": "Relu", "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
    "affine": "Affine", "scaled_tanh": "ScaledTanh",
}  # fmt: skip
PLAIN = {"RNN": ("tanh",), "LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
ATTRIBUTES = {  # what an operator has at opset 7 or later
    kind: {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout", *own}
    for kind, own in {"RNN": (), "LSTM": ("input_forget",), "GRU": ("linear_before_reset",)}.items()
}


# --- tensors


def to_params(
    kind: str,
    W: ArrayLike,
    R: ArrayLike,
    B: ArrayLike | None = None,
    P: ArrayLike | None = None,
    *,
    coupled: bool = False,
    layer: int = 0,
) -> dict[str, Array]:
    """The parameters of one layer, as fastrnn names them, from ONNX's tensors of one direction or two.

    kind     "RNN", "LSTM" or "GRU"
    coupled  for a layer with input_forget: without the rows of f
    layer    the number in the names: weight_ih_l0

    Without B there are no biases, without P no peepholes. The arrays are new, of the dtypes given.
    Raises TypeError or ValueError that names the tensor.
    """
    W, R, B, P = read_tensors(kind, W, R, B, P)
    theirs, ours = GATES[kind], COUPLED if coupled else OURS[kind]
    looks = "io" if coupled else "ifo"
    found: dict[str, Array] = {}
    for d, suffix in enumerate(SUFFIXES[: len(W)]):
        end = f"_l{layer}{suffix}"
        found["weight_ih" + end] = reordered(W[d], theirs, ours)
        found["weight_hh" + end] = reordered(R[d], theirs, ours)
        if B is not None:
            of_w, of_r = np.split(B[d], 2)
            found["bias_ih" + end] = reordered(of_w, theirs, ours)
            found["bias_hh" + end] = reordered(of_r, theirs, ours)
        if P is not None:
            found["peephole" + end] = reordered(P[d], PEEPHOLES, looks)
    return found


def from_params(
    kind: str, params: Mapping[str, Array], *, coupled: bool = False, layer: int = 0
) -> tuple[Array, Array, Array | None, Array | None]:
    """ONNX's W, R, B and P of one layer from its parameters: the inverse of `to_params`, in the parameters' dtype.

    B is None without biases, P without peepholes. The rows of f that a coupled layer does not have are zeros.
    """
    theirs, ours = GATES[checks.word("kind", kind, tuple(GATES))], COUPLED if coupled else OURS[kind]
    looks = "io" if coupled else "ifo"
    ends = [f"_l{layer}{suffix}" for suffix in SUFFIXES if f"weight_ih_l{layer}{suffix}" in params]
    if not ends:
        raise ValueError(f"params: expected an entry 'weight_ih_l{layer}', got {', '.join(map(repr, params))}")

    def both(name: str) -> Array:
        return np.stack([reordered(np.asarray(params[name + end]), ours, theirs) for end in ends])

    has = {name for name in ("bias_ih", "bias_hh", "peephole") if name + ends[0] in params}
    B = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1) if "bias_ih" in has else None
    P = None
    if "peephole" in has:
        P = np.stack([reordered(np.asarray(params["peephole" + end]), looks, PEEPHOLES) for end in ends])
    return both("weight_ih"), both("weight_hh"), B, P


def reordered(array: Array, before: str, after: str) -> Array:
    """The blocks of rows that `before` names, in the order of `after`; zeros for those that it does not name."""
    blocks = dict(zip(before, np.split(array, len(before))))
    return np.concatenate([blocks[gate] if gate in blocks else np.zeros_like(array[: len(blocks[before[0]])])
                           for gate in after])  # fmt: skip


def read_tensors(kind: str, W: Any, R: Any, B: Any, P: Any) -> tuple[Array, Array, Array | None, Array | None]:
    """The tensors as arrays, of shapes that fit each other."""
    gates = len(GATES[checks.word("kind", kind, tuple(GATES))])
    W, R = checks.real("W", W), checks.shaped("R", checks.real("R", R), ("D", "G·H", "H"))
    D, rows, H = R.shape
    if D not in (1, 2) or rows != gates * H or H == 0:
        raise ValueError(f"R: expected shape (1 or 2, {gates}·H, H) of {kind}, got {checks.show(R.shape)}")
    checks.shaped("W", W, (D, rows, "I"))
    if W.shape[2] == 0:
        raise ValueError(f"W: expected an input_size of at least 1, got the shape {checks.show(W.shape)}")
    if B is not None:
        B = checks.shaped("B", checks.real("B", B), (D, 2 * rows))
    if P is not None:
        if kind != "LSTM":
            raise ValueError(f"P: expected None of {kind}, since only an LSTM has peepholes")
        P = checks.shaped("P", checks.real("P", P), (D, 3 * H))
    return W, R, B, P


# --- attributes


def to_options(kind: str, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The constructor's options of each direction, from a node's attributes, whose defaults may be left out.

    Of two directions the options are the same but for `activations`, which ONNX gives to each. Layout 1 is
    batch_first=True; strings may be bytes. What is left to the call or the tensors, hidden_size, is not among them.

    Raises ValueError or TypeError that names the attribute.
    """
    checks.word("kind", kind, tuple(GATES))
    given = {name: value for name, value in attributes.items() if value is not None}
    if strange := sorted(set(given) - ATTRIBUTES[kind]):
        known = ", ".join(sorted(ATTRIBUTES[kind]))
        raise ValueError(f"{strange[0]}: expected an attribute of {kind} from opset 7 on, among {known}")
    direction = checks.word("direction", text(given.get("direction", "forward")), DIRECTIONS)
    directions = 2 if direction == "bidirectional" else 1
    shared: dict[str, Any] = {}
    if directions == 2:
        shared["bidirectional"] = True
    elif direction == "reverse":
        shared["direction"] = "reverse"
    if switch(given, "layout"):
        shared["batch_first"] = True
    if switch(given, "input_forget"):
        shared["coupled"] = True
    if kind == "GRU" and not switch(given, "linear_before_reset"):
        shared["reset"] = "before"
    if "clip" in given and given["clip"] != np.inf:
        shared["clip"] = checks.positive("clip", given["clip"])
    return [shared | activations_of(kind, functions) for functions in read_activations(kind, given, directions)]


def text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def switch(attributes: Mapping[str, Any], name: str) -> bool:
    """An attribute that is 0 or 1, 0 where it is not there."""
    value = attributes.get(name, 0)
    if value not in (0, 1):
        raise ValueError(f"{name}: expected 0 or 1, got {value!r}")
    return bool(value)


def activations_of(kind: str, functions: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The option that says them, none for the plain ones; RNN's relu is that of its plain cell."""
    names = tuple(name if not numbers else (name, *numbers) for name, *numbers in functions)
    if names == PLAIN[kind]:
        return {}
    return {"nonlinearity": "relu"} if kind == "RNN" and names == ("relu",) else {"activations": names}


def read_activations(kind: str, given: Mapping[str, Any], directions: int) -> list[list[tuple[Any, ...]]]:
    """The activations of each direction, as (name, alpha, beta) with what the function takes of these."""
    each = len(PLAIN[kind])
    names = [text(name) for name in given.get("activations") or ()]
    if not names:
        for extra in ("activation_alpha", "activation_beta"):
            if len(given.get(extra) or ()):
                raise ValueError(f"{extra}: expected none without activations, since the default ones take no numbers")
        return [[(name,) for name in PLAIN[kind]]] * directions
    if len(names) != each * directions:
        raise ValueError(f"activations: expected {each * directions} of {kind}, {each} a direction, got {len(names)}")
    alphas, betas = (list(given.get(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    found = []
    for k, name in enumerate(names):
        function = FUNCTIONS.get(name.lower()) if isinstance(name, str) else None
        if function is None:
            known = ", ".join(ONNX_NAMES.values())
            raise ValueError(f"activations[{k}]: expected one of {known}, got {name!r}")
        defaults = DEFAULTS[function]
        numbers = [float(left.pop(0)) if left else default for left, default in zip((alphas, betas), defaults)]
        found.append((function, *numbers))
    for name, left in (("activation_alpha", alphas), ("activation_beta", betas)):
        if left:
            raise ValueError(f"{name}: expected one for each activation that takes it, got {len(left)} more")
    return [found[:each], found[each:]][:directions]


def from_options(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A node's attributes from a layer's `config`, but for those of its shape: the inverse of `to_options`.

    Raises ValueError that names an option which ONNX cannot say. Dropout is none of them: a call has none.
    """
    checks.word("kind", kind, tuple(GATES))
    for name, none in (("proj_size", 0), ("layer_norm", False), ("zoneout", 0.0), ("mask_per", None)):
        value = config.get(name, none)
        if value != none and not (name == "mask_per" and not config.get("zoneout")):
            raise ValueError(f"{name}: expected {none!r}, got {value!r}: ONNX's {kind} has no such thing")
    found: dict[str, Any] = {}
    functions = config.get("activations")
    if functions is None and config.get("nonlinearity", "tanh") != "tanh":
        functions = [config["nonlinearity"]]
    if functions is not None:
        found |= named_activations([(f,) if isinstance(f, str) else tuple(f) for f in functions])
        if config.get("bidirectional"):
            found = {name: values * 2 for name, values in found.items()}
    if config.get("clip") is not None:
        found["clip"] = float(config["clip"])
    if config.get("coupled"):
        found["input_forget"] = 1
    if kind == "GRU" and config.get("reset", "after") == "after":
        found["linear_before_reset"] = 1
    return found


def named_activations(functions: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """The three attributes that say these activations; linear is Affine's default, 1 v + 0."""
    functions = [("affine", 1.0, 0.0) if name == "linear" else (name, *numbers) for name, *numbers in functions]
    filled = [(name, *numbers, *DEFAULTS[name][len(numbers) :]) for name, *numbers in functions]
    found: dict[str, list[Any]] = {"activations": [ONNX_NAMES[name] for name, *_ in filled]}
    if alphas := [float(numbers[0]) for _, *numbers in filled if numbers]:
        found["activation_alpha"] = alphas
    if betas := [float(numbers[1]) for _, *numbers in filled if len(numbers) > 1]:
        found["activation_beta"] = betas
    return found


# --- both


def layer(
    kind: str,
    W: ArrayLike,
    R: ArrayLike,
    B: ArrayLike | None = None,
    P: ArrayLike | None = None,
    **attributes: Any,
) -> Any:
    """An RNN, LSTM or GRU of ONNX's tensors and attributes, in float64 if W is, else in float32.

    initial_h, initial_c and sequence_lens are arguments of its calls: the state, whose layout 1 is (B, D, H) in ONNX
    and (D, B, H) here as in layout 0, and lengths. Its y is (T, B, D·H) where ONNX's is (T, D, B, H).

    Raises NotImplementedError where the activations of two directions differ, which one layer cannot have, and
    TypeError or ValueError that names the tensor or attribute.
    """
    options = to_options(kind, attributes)
    if any(other != options[0] for other in options[1:]):
        raise NotImplementedError(
            "activations: those of the forward and the reverse direction differ; make a layer of each, with "
            "direction='forward' and direction='reverse'"
        )
    return build(kind, W, R, B, P, options[0], attributes.get("hidden_size"))


def build(kind: str, W: Any, R: Any, B: Any, P: Any, options: Mapping[str, Any], hidden_size: Any = None) -> Any:
    """A layer of ONNX's tensors with options of the constructor."""
    W, R, B, P = read_tensors(kind, W, R, B, P)
    D, _, H = R.shape
    if hidden_size is not None and hidden_size != H:
        raise ValueError(f"hidden_size: expected {H}, the last axis of R, got {hidden_size}")
    if D != (2 if options.get("bidirectional") else 1):
        way = "bidirectional" if options.get("bidirectional") else options.get("direction", "forward")
        raise ValueError(f"direction: expected {'bidirectional' if D == 2 else 'one way'}, since R has "
                         f"{D} of them, got {way!r}")  # fmt: skip
    made = LAYERS[kind](
        W.shape[2],
        H,
        bias=B is not None,
        dtype=np.float64 if W.dtype == np.float64 else np.float32,
        **({"peephole": True} if P is not None else {}),
        **options,
        rng=0,
    )
    made.load_state_dict(to_params(kind, W, R, B, P, coupled=bool(options.get("coupled"))))
    return made
