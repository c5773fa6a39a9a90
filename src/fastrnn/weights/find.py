"""Recurrent layers among named arrays, found by names and shapes, whatever the names begin with.

    torch      weight_ih_l0 (G·H, I), weight_hh_l0 (G·H, H), bias_ih_l0, bias_hh_l0, …_l1, …_reverse,
               weight_hr_l0 (P, H); a cell's without _l0
    equinox    weight_ih, weight_hh, bias, of a GRU bias_n
    keras      kernel (I, G·H), recurrent_kernel (H, G·H), bias, also with ":0", or cell/vars/0, 1, 2
    flax       ii/kernel and the like, or dense_i/kernel
    onnx       W (D, G·H, I), R (D, G·H, H), B (D, 2·G·H), or what a model's nodes take

G, the rows of a recurrent matrix over its columns, is 1 of RNN, 3 of GRU, 4 of LSTM. Conversions: the modules beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from os.path import commonprefix
from typing import Any

from ..core import checks
from . import equinox, flax, keras, onnx, reparametrised
from .found import FoundLayer
from .gates import Array, kind_of_rows
from .given import Given, short
from .kerasconfig import WAY, paired

TORCH = re.compile(r"(.*?)((?:weight|bias)_(?:ih|hh)|weight_hr|peephole|norm|alpha)_l(\d+)(_reverse)?", re.DOTALL)
CELL = re.compile(
    r"(.*?)(weight_ih|weight_hh|bias_ih|bias_hh|bias_n|bias|(?<![A-Za-z])(?:w_ih|w_hh|b_ih|b_hh))", re.DOTALL
)
RAW = re.compile(r"(.*?)((?:weight|bias)_(?:ih|hh)|weight_hr)_l(\d+)(_reverse)?_raw", re.DOTALL)
SHORT = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
SHORT_NOTE = (
    "Names such as w_ih leave the order of gates open; torch's is taken: i, f, g, o of an LSTM; r, z, n of a GRU, "
    "whose reset follows the product."
)
KERAS = re.compile(r"(.*?)(recurrent_kernel|kernel|bias)(?::0)?", re.DOTALL)
KERAS_3 = re.compile(r"(.*?(?:cell|rnn|lstm|gru)[^/]*/)vars/([012])", re.DOTALL | re.IGNORECASE)
KERAS_PARTS = dict(zip("012", ("kernel", "recurrent_kernel", "bias")))
ONNX = re.compile(r"(|.*[./_: -])([WRBP])", re.DOTALL)
FLAX = re.compile(r"(.*?)([^./]*)[./](kernel|bias)", re.DOTALL)
QUANTISED = re.compile(r"(.*?)\.?_all_weight_values\..*", re.DOTALL)  # torch.ao.nn.quantized.dynamic
NONLINEARITY = "The weights of an RNN do not tell its function: nonlinearity says it, 'tanh' or 'relu'."
KERAS_NOTE = (
    "Activations other than sigmoid and tanh, and go_backwards, are not among Keras' weights: activations and "
    "direction say them."
)
RESET_NOTE = "A GRU without biases does not tell Keras' reset_after: reset says it, 'after' if True, else 'before'."
MERGE_NOTE = (
    "Both directions' outputs are put beside each other: a merge_mode other than 'concat' is not among weights."
)


def find_layers(mapping: Mapping[str, Any], label: str = "mapping") -> list[FoundLayer]:
    """The RNN, LSTM and GRU layers in a mapping of names to arrays, in the order in which it has them.

        >>> for found in fastrnn.find_layers(fastrnn.read("model.pt")):
        ...     print(found.kind, found.name, found.input_size, found.hidden_size, found.ambiguous)
        ...     layer = found.layer(batch_first=True)

    Mappings within the mapping have names "outer/inner". Arrays are converted when a layer is made of them; of the
    mappings that `fastrnn.read` gives, none is made before. Layers that look like recurrent ones and cannot be read,
    such as quantised ones, are there with what is `refused`. What an ONNX model's nodes and the configuration in Keras'
    files say of a layer is taken from there. Raises TypeError for what is no mapping.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(
            f"{label}: expected a mapping of names to arrays, as of fastrnn.read, got {checks.kind(mapping)}"
        )
    given = Given(mapping)
    found = [*of_nodes(given), *of_torch(given), *of_cells(given), *of_keras(given), *of_flax(given), *of_onnx(given)]
    found += [*of_quantised(given), *reparametrised.layers(given)]
    place = {name: k for k, name in enumerate(given.names)}
    return sorted(found, key=lambda layer: min((place[name] for name in layer.names), default=len(place)))


def questions(kind: str) -> dict[str, Any]:
    """What no weights of this kind tell."""
    return {"ambiguous": (NONLINEARITY,), "undecided": ("nonlinearity",)} if kind == "RNN" else {}


# --- torch


def of_torch(given: Given) -> Iterator[FoundLayer]:
    """Layers of torch's names, fastrnn's own among them.

    Raw weights, of a layer whose weights training drops (AWD-LSTM, fastai's WeightDropout), stand in it or around it,
    as its `module`. What has the plain name then is a copy with some of them dropped, left over from training.
    """
    split = reparametrised.parts_of(given)
    raw = given.groups(RAW)
    for prefix, members in given.groups(TORCH).items():
        if prefix in split:
            continue
        before = raw.get(prefix) or raw.get(prefix.removesuffix("module."), {})
        parts = {(part, int(layer), bool(reverse)): name for (part, layer, reverse), name in (members | before).items()}
        if ("weight_ih", 0, False) in parts or ("weight_hh", 0, False) in parts:
            yield torch_layer(given, prefix, parts)


def torch_layer(given: Given, prefix: str, parts: dict[tuple[str, int, bool], str]) -> FoundLayer:
    kinds = {part for part, _, _ in parts}
    names = tuple(parts.values())
    missing = [part + "_l0" for part in ("weight_ih", "weight_hh") if (part, 0, False) not in parts]
    shapes = [given.shape(parts[part, 0, False]) for part in ("weight_ih", "weight_hh") if (part, 0, False) in parts]
    if missing or any(len(shape) != 2 for shape in shapes):
        why = f"it has no {missing[0]!r}" if missing else f"its weights have the shapes {shapes[0]} and {shapes[1]}"
        return FoundLayer("unknown", short(prefix), 0, 0, refused=why, names=names)
    (rows, inputs), (_, width) = shapes
    projected = "weight_hr" in kinds
    hidden = given.shape(parts["weight_hr", 0, False])[-1] if ("weight_hr", 0, False) in parts else width
    kind = kind_of_rows(rows, hidden)
    more: dict[str, Any] = dict(questions(kind))
    refused = given.quantised(names)
    if "peephole" in kinds and kind == "GRU":  # an LSTM without a forget gate of its own
        kind, more["options"] = "LSTM", {"coupled": True}
    if "norm" in kinds:
        more["ambiguous"] = ("Gains do not tell over which units they normalise: layer_norm says it, True or 'gate'.",)
        more["undecided"] = ("layer_norm",)
    if kind == "unknown" or "alpha" in kinds or (projected and kind != "LSTM"):
        refused = f"its recurrent matrix of {checks.show(shapes[1])} is none of an RNN, LSTM or GRU"
        refused = "it is a LeakyRNN, which LeakyRNN.from_state_dict makes" if "alpha" in kinds else refused

    def params() -> dict[str, Array]:
        return {
            f"{part}_l{layer}{'_reverse' if reverse else ''}": given.mapping[name]
            for (part, layer, reverse), name in parts.items()
        }

    return FoundLayer(
        kind, short(prefix), inputs, hidden, 1 + max(layer for _, layer, _ in parts),
        any(reverse for _, _, reverse in parts), "bias_ih" in kinds, width if projected else 0,
        refused=refused, names=names, _params=params, **more,
    )  # fmt: skip


def of_cells(given: Given) -> Iterator[FoundLayer]:
    """torch's cells and Equinox'."""
    for prefix, members in given.groups(CELL).items():
        parts = {SHORT.get(part, part): name for part, name in members.items()}
        if not {"weight_ih", "weight_hh"} <= parts.keys():
            continue
        w_ih, w_hh = given.shape(parts["weight_ih"]), given.shape(parts["weight_hh"])
        if len(w_ih) != 2 or len(w_hh) != 2:
            continue
        kind, theirs = kind_of_rows(*w_hh), "bias" in parts
        wrong = kind == "unknown" or (theirs and kind == "RNN")
        more = questions(kind)
        if "w_ih" in members and kind != "RNN":
            more["ambiguous"] = (SHORT_NOTE,)
        yield FoundLayer(
            kind, short(prefix), w_ih[1], w_hh[1], bias=theirs or "bias_ih" in parts,
            convention="equinox" if theirs else "torch", names=tuple(parts.values()),
            refused=f"its recurrent matrix of {checks.show(w_hh)} is none of such a cell" if wrong
            else given.quantised(parts.values()),
            _params=cell_params(given, kind, parts), **more,
        )  # fmt: skip


def cell_params(given: Given, kind: str, parts: Mapping[str, str]) -> Callable[[], dict[str, Array]]:
    def params() -> dict[str, Array]:
        arrays = {part: given.mapping[name] for part, name in parts.items()}
        if "bias" in arrays:
            return equinox.to_params(kind, **{part: a for part, a in arrays.items() if part[-3:] not in ("_ih", "_hh")},
                                     weight_ih=arrays["weight_ih"], weight_hh=arrays["weight_hh"])  # fmt: skip
        return {f"{part}_l0": array for part, array in arrays.items()}

    return params


def of_quantised(given: Given) -> Iterator[FoundLayer]:
    """torch's layers of packed integers, which are not read."""
    prefixes: dict[str, list[str]] = {}
    for name in given.names:
        if match := QUANTISED.fullmatch(name):
            prefixes.setdefault(match[1], []).append(name)
    for prefix, names in prefixes.items():
        why = "it is a dynamically quantised layer of torch's, whose weights are packed"
        yield FoundLayer("unknown", short(prefix), 0, 0, refused=why, names=tuple(names))


# --- Keras


def of_keras(given: Given) -> Iterator[FoundLayer]:
    """Layers of Keras 2's and 3's names; two directions of one wrapper are one layer."""
    groups = given.groups(KERAS)
    for prefix, members in given.groups(KERAS_3).items():
        groups.setdefault(prefix, {KERAS_PARTS[number]: name for number, name in members.items()})
    cells = {prefix: parts for prefix, parts in groups.items() if fits_keras(given, parts)}
    told, placed = given.configured.pairs(cells)
    searched = [(prefix, WAY.search(prefix)) for prefix in cells if prefix not in placed]
    together = told | paired([(prefix[: way.start()], way[2], prefix) for prefix, way in searched if way])
    together = {one: other for one, other in together.items() if same_shapes(given, cells[one], cells[other])}
    for prefix, parts in cells.items():
        if prefix in together:
            yield keras_layer(given, {prefix: parts, together[prefix]: cells[together[prefix]]})
        elif prefix not in together.values():
            yield keras_layer(given, {prefix: parts})


def fits_keras(given: Given, parts: Mapping[str, str]) -> bool:
    if not {"kernel", "recurrent_kernel"} <= parts.keys():
        return False
    kernel, recurrent = given.shape(parts["kernel"]), given.shape(parts["recurrent_kernel"])
    if len(kernel) != 2 or len(recurrent) != 2 or kernel[1] != recurrent[1]:
        return False
    return kind_of_rows(recurrent[1], recurrent[0]) != "unknown"


def same_shapes(given: Given, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether the arrays of two directions may be those of one layer."""
    shapes = [{part: given.shape(name) for part, name in parts.items()} for parts in (one, other)]
    return shapes[0] == shapes[1]


def keras_layer(given: Given, cells: Mapping[str, Mapping[str, str]]) -> FoundLayer:
    """The layer of a direction's arrays, or of both directions', by the prefix of their names."""
    prefix, ways = next(iter(cells)), list(cells.values())
    inputs = given.shape(ways[0]["kernel"])[0]
    hidden, columns = given.shape(ways[0]["recurrent_kernel"])
    kind, bias = kind_of_rows(columns, hidden), "bias" in ways[0]
    sizes: dict[str, Any] = {"units": hidden, "use_bias": bias}
    if kind == "GRU" and bias:
        sizes["reset_after"] = len(given.shape(ways[0]["bias"])) == 2
    said = given.configured.tell(list(cells), kind, sizes)
    notes, undecided = ((), ()) if said else keras_questions(kind, bias, len(ways))
    options = dict(said.options) if said else {}
    if "reset_after" in sizes:
        options["reset"] = "after" if sizes["reset_after"] else "before"
    names = tuple(name for parts in ways for name in parts.values())

    def params() -> dict[str, Array]:
        found: dict[str, Array] = {}
        for parts, suffix in zip(ways, ("_l0", "_l0_reverse")):
            found |= keras.to_params(kind, **{part: given.mapping[n] for part, n in parts.items()}, suffix=suffix)
        return found

    way = WAY.search(prefix)
    name = commonprefix(list(cells)).rpartition("/")[0] if len(ways) == 2 else prefix
    if said is None and way and len(ways) == 1 and way[2] == "backward":
        options["direction"] = "reverse"
    return FoundLayer(
        kind, short(name), inputs, hidden, bidirectional=len(ways) == 2, bias=bias, convention="keras",
        options=options, ambiguous=said.notes if said else notes, undecided=undecided, names=names,
        refused=said.refused if said and said.refused else given.quantised(names), _params=params,
    )  # fmt: skip


def keras_questions(kind: str, bias: bool, directions: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What Keras' weights without a configuration leave open, and the arguments that have to say it."""
    notes = (KERAS_NOTE,) + (MERGE_NOTE,) * (directions == 2)
    if kind == "RNN":
        return (NONLINEARITY, *notes), ("nonlinearity",)
    if kind == "GRU" and not bias:
        return (RESET_NOTE, *notes), ("reset",)
    return notes, ()


# --- Flax


def of_flax(given: Given) -> Iterator[FoundLayer]:
    """Cells of Flax' names."""
    for prefix, members in given.groups(FLAX).items():
        nested: dict[str, dict[str, str]] = {}
        for (part, leaf), name in members.items():
            nested.setdefault(part, {})[leaf] = name
        parts = flax.unified(nested)
        alone = [kind for kind, own in flax.ALONE.items() if set(parts) == {side + g for side in "ih" for g in own}]
        if not alone and set(parts) != {"dense_i", "dense_h"}:
            continue
        gate = flax.ALONE[alone[0]][0] if alone else ""
        first, hidden = (f"i{gate}", f"h{gate}") if alone else ("dense_i", "dense_h")
        if "kernel" not in parts[first] or "kernel" not in parts[hidden]:
            continue
        x, h = given.shape(parts[first]["kernel"]), given.shape(parts[hidden]["kernel"])
        if len(x) != 2 or len(h) != 2 or kind_of_rows(h[1], h[0]) == "unknown" or (alone and h[0] != h[1]):
            continue
        kind = alone[0] if alone else kind_of_rows(h[1], h[0])
        names = tuple(members.values())
        yield FoundLayer(
            kind, short(prefix), x[0], h[0], bias=any("bias" in part for part in parts.values()), convention="flax",
            names=names, refused=given.quantised(names), _params=flax_params(given, parts), **questions(kind),
        )  # fmt: skip


def flax_params(given: Given, parts: Mapping[str, Mapping[str, str]]) -> Callable[[], dict[str, Array]]:
    return lambda: flax.to_params(
        {part: {leaf: given.mapping[name] for leaf, name in leaves.items()} for part, leaves in parts.items()}
    )


# --- ONNX


def of_nodes(given: Given) -> Iterator[FoundLayer]:
    """The recurrent nodes of an ONNX model, whose attributes tell what arrays do not."""
    for node in given.nodes:
        W, R, B, P = ([*node.inputs, *[""] * 8][k] for k in (1, 2, 3, 7))
        names = tuple(name for name in (W, R, B, P) if name)
        kind = node.op_type
        refused, options = None, {}
        if absent := [name for name in names if name not in given.mapping]:
            refused = f"its tensor {absent[0]!r} is computed by the graph: fastrnn.onnx.from_onnx reads such models"
        elif kind not in onnx.GATES:
            refused = f"it is a {kind}, whose weights are quantised: fastrnn.onnx.from_onnx reads such models"
        elif not fits_onnx(given, W, R):
            refused = f"its tensors have the shapes {checks.show(given.shape(W))} and {checks.show(given.shape(R))}"
        else:
            try:
                each = onnx.to_options(kind, node.attributes)
                options = {option: value for option, value in each[0].items() if option != "bidirectional"}
                refused = given.quantised(names) if each[-1] == each[0] else "its directions have other activations"
            except (ValueError, TypeError) as error:
                refused = str(error)
        held = tuple(name for name in names if name in given.mapping)
        readable = refused is None and kind in onnx.GATES
        D, H, I = (*given.shape(R)[::2], given.shape(W)[2]) if readable else (1, 0, 0)
        yield FoundLayer(
            kind if kind in onnx.GATES else "unknown", node.name, I, H, bidirectional=D == 2, bias=bool(B),
            convention="onnx", options=options, names=held, refused=refused,
            _params=onnx_params(given, kind, dict(zip("WRBP", (W, R, B, P))), options),
        )  # fmt: skip


def fits_onnx(given: Given, W: str, R: str) -> bool:
    w, r = given.shape(W), given.shape(R)
    return len(w) == len(r) == 3 and w[:2] == r[:2] and r[0] in (1, 2) and kind_of_rows(r[1], r[2]) != "unknown"


def of_onnx(given: Given) -> Iterator[FoundLayer]:
    """Tensors of ONNX's names, without a node that says what it does with them."""
    taken = {name for node in given.nodes for name in node.inputs}
    for prefix, parts in given.groups(ONNX).items():
        if not {"W", "R"} <= parts.keys() or not fits_onnx(given, parts["W"], parts["R"]) or taken & {*parts.values()}:
            continue
        D, rows, H = given.shape(parts["R"])
        kind = kind_of_rows(rows, H)
        notes, undecided = [], []
        if kind == "RNN":
            notes, undecided = [NONLINEARITY], ["nonlinearity"]
        if kind == "GRU":
            notes.append(
                "Tensors do not tell linear_before_reset: reset says it, 'before' if 0, as by default, else 'after'."
            )
            undecided.append("reset")
        if D == 1:
            notes.append("Tensors of one direction do not tell which: direction says it, 'forward' or 'reverse'.")
            undecided.append("direction")
        names = tuple(parts.values())
        yield FoundLayer(
            kind, prefix.rstrip("./_: -"), given.shape(parts["W"])[2], H, bidirectional=D == 2, bias="B" in parts,
            convention="onnx", ambiguous=tuple(notes), undecided=tuple(undecided), names=names,
            refused=given.quantised(names), _params=onnx_params(given, kind, parts, {}),
        )  # fmt: skip


def onnx_params(
    given: Given, kind: str, parts: Mapping[str, str], options: Mapping[str, Any]
) -> Callable[[], dict[str, Array]]:
    def params() -> dict[str, Array]:
        tensors = {part: given.mapping[name] for part, name in parts.items() if name}
        return onnx.to_params(kind, **tensors, coupled=bool(options.get("coupled")))

    return params
