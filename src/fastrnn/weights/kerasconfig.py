"""What the configuration in a Keras file says of the layers whose weights lie beside it.

A .keras file has the arrays of a layer where Keras' `saving_lib` puts them: layers/lstm_1/cell/vars/0, which is the
second of the class LSTM in its container. An .h5 file has them by the layer's own name:
model_weights/encoder/…/lstm_cell/kernel.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from . import keras
from .gates import by_role

CLASSES = {"SimpleRNN": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
CELLS = {name + "Cell": kind for name, kind in CLASSES.items()}
FOLDER = "model_weights/"  # of an .h5 file with its model
WAY = re.compile(r"(^|/)(forward|backward)_[^/]*")
DEEPEST = 50  # layers within each other
ELSEWHERE = "find_layers(dict(arrays)) takes its weights as those of one"


@dataclass(frozen=True, eq=False)
class Place:
    """A layer or cell of the configuration, and where its arrays are."""

    path: str  # in a .keras file
    names: tuple[str, ...]  # of the layers around it and its own, which the path in an .h5 file has
    kind: str  # or, of what is no layer of Keras' own, ""
    class_name: str
    cell: Mapping[str, Any]  # the arguments of its cell
    layer: Mapping[str, Any]  # those of the layer that runs it
    way: str = ""  # of a Bidirectional's: "forward" or "backward"
    around: Mapping[str, Any] = field(default_factory=dict)  # those of the Bidirectional


@dataclass(frozen=True)
class Said:
    """What the configuration tells of a found layer, as FoundLayer has it."""

    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: str | None = None


class Configured:
    """The layers that a configuration tells of, none where there is no configuration."""

    def __init__(self, configuration: Mapping[str, Any] | None) -> None:
        """`configuration` is that of `fastrnn.read`: see Arrays."""
        model = (configuration or {}).get("model")
        version = (configuration or {}).get("keras_version")
        self.keras_2 = isinstance(version, str) and version.partition(".")[0] in ("1", "2")
        found = [*places(model, "", ())] if is_node(model) else []
        self.paths = {place.path: place for place in found}
        self.named: dict[str, list[Place]] = {}  # by the first part of the first name
        for place in found:
            self.named.setdefault(place.names[0].partition("/")[0] if place.names else "", []).append(place)

    def place(self, prefix: str) -> Place | None:
        """What lies at a prefix of names of arrays; None where the configuration does not tell."""
        if not prefix.startswith(FOLDER):
            return self.paths.get(prefix)
        inside = prefix.removeprefix(FOLDER)
        segments = inside.rstrip("/").split("/")
        fits = {
            place: len(place.names) + (bool(place.way) and f"/{name_of(place.layer)}/" in inside) / 2
            for place in self.named.get(segments[0], ()) if lies(place, inside, segments)
        }  # fmt: skip
        best = [place for place in fits if fits[place] == max(fits.values())]
        return best[0] if len(best) == 1 else None

    def pairs(self, prefixes: Iterable[str]) -> tuple[dict[str, str], set[str]]:
        """The two directions of each Bidirectional, by the prefix of the first; and all prefixes that have a place."""
        places = {prefix: place for prefix in prefixes if (place := self.place(prefix)) is not None}
        ways = [(id(place.around), place.way, prefix) for prefix, place in places.items() if place.way]
        return paired(ways), set(places)

    def tell(self, prefixes: Sequence[str], kind: str, sizes: Mapping[str, Any]) -> Said | None:
        """What is said of a layer with its directions' arrays at these prefixes; None where nothing is.

        sizes  what the arrays tell: Keras' units and use_bias, and of a GRU with biases reset_after
        """
        found = [self.place(prefix) for prefix in prefixes]
        known = [place for place in found if place is not None]
        if not known or len(known) != len(found):
            return None
        for place in known:
            if not place.kind:
                return Said(refused=f"its configuration says that it is a {place.class_name}, none of Keras' own "
                                    f"layers, which may compute something else; {ELSEWHERE}")  # fmt: skip
            theirs = {"kind": place.kind} | {name: place.cell.get(name) for name in sizes}
            for name, value in ({"kind": kind} | dict(sizes)).items():
                if theirs[name] is not None and theirs[name] != value:
                    return Said(refused=f"its configuration says {name}={theirs[name]!r}, its weights {value!r}")
        try:
            return Said(self.options(kind, known), notes_of(known))
        except (ValueError, TypeError) as error:
            return Said(refused=str(error))

    def options(self, kind: str, known: Sequence[Place]) -> dict[str, Any]:
        """The constructor's options; ValueError or TypeError that names what fastrnn has not."""
        if len(known) == 2 and known[0].layer.get("go_backwards"):
            raise ValueError("go_backwards: expected False of a Bidirectional's forward layer, got True")
        each = []
        for place in known:
            candidate = self.function(place.cell, "activation")
            gates = None if kind == "RNN" else self.function(place.cell, "recurrent_activation")
            each.append((by_role(kind, gates, candidate), place.cell.get("recurrent_dropout") or 0.0))
        if each[-1] != each[0]:
            raise ValueError("its directions have other activations or another recurrent_dropout")
        functions, dropout = each[0]
        backwards = len(known) == 1 and known[0].layer.get("go_backwards") is True
        found = keras.options_of(kind, functions, known[0].cell.get("reset_after") is True, backwards)
        if dropout:
            found["recurrent_dropout"] = dropout
        if found.get("activations") in (["sigmoid", "tanh"], ["sigmoid", "tanh", "tanh"]):
            del found["activations"]  # those that the layer has without being told
        return found

    def function(self, cell: Mapping[str, Any], name: str) -> Any:
        if name not in cell:
            raise ValueError(f"its configuration has no {name}")
        return keras.described_activation(cell[name], name, self.keras_2)


def paired(ways: Iterable[tuple[Hashable, str, str]]) -> dict[str, str]:
    """The prefix of a wrapper's forward direction to that of its backward one, from (wrapper, way, prefix).

    More than one cell a direction is a stack, whose directions meet at its end alone: none of them is a pair.
    """
    wrappers: dict[Hashable, list[tuple[str, str]]] = {}
    for wrapper, way, prefix in ways:
        wrappers.setdefault(wrapper, []).append((way, prefix))
    both = [dict(found) for found in wrappers.values() if len(found) == len(dict(found)) == 2]
    return {pair["forward"]: pair["backward"] for pair in both}


def notes_of(known: Sequence[Place]) -> tuple[str, ...]:
    """What a Keras layer does beside what fastrnn's does, in sentences."""
    notes = []
    merge = known[0].around.get("merge_mode", "concat")
    if merge != "concat":
        notes.append(f"Keras merges both directions' outputs by merge_mode={merge!r}; here they are beside each other.")
    if len(known) == 1 and known[0].layer.get("go_backwards") and known[0].layer.get("return_sequences"):
        notes.append(
            "With go_backwards Keras gives outputs from the last step to the first; here y is in time's order."
        )
    if dropout := next((place.cell["dropout"] for place in known if place.cell.get("dropout")), 0):
        notes.append(f"Keras' dropout={dropout!r} acts on the input in training, which fastrnn's layer has not.")
    return tuple(notes)


def is_node(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value of the configuration is a layer, or another object that has arguments."""
    return isinstance(value, Mapping) and isinstance(value.get("class_name"), str) and isinstance(
        value.get("config"), Mapping
    )  # fmt: skip


def snake(name: str) -> str:
    """A class's name as Keras' paths have it: SimpleRNN is simple_rnn."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def class_of(node: Mapping[str, Any]) -> str:
    """The class of Keras' own that a layer is, or fastrnn.keras' of the same name; "" for another's."""
    package, _, name = node["class_name"].rpartition(">")
    registered, module = node.get("registered_name"), node.get("module")
    if "fastrnn" in (package, str(registered).partition(">")[0]):
        return name
    own = not package and registered is None and (module is None or str(module).partition(".")[0] == "keras")
    return name if own else ""


def places(node: Mapping[str, Any], path: str, names: tuple[str, ...], depth: int = 0) -> Iterator[Place]:
    """The recurrent layers in a layer's or model's configuration, and the layers that are no class of Keras' own."""
    config, name = node["config"], class_of(node)
    if depth > DEEPEST:
        return
    if name == "Bidirectional" and is_node(config.get("layer")):
        yield from both(config, path, names, depth + 1)
    elif name in CLASSES:
        yield Place(f"{path}cell/", names, CLASSES[name], name, config, config)
    elif name == "RNN" and is_node(config.get("cell")):
        yield from cells(config["cell"], f"{path}cell/", names, config)
    else:
        if "units" in config:
            yield Place(f"{path}cell/", names, "", node["class_name"], config, config)
        for key, value in config.items():
            if is_node(value):
                yield from places(value, f"{path}{key}/", (*names, name_of(value["config"])), depth + 1)
            elif isinstance(value, list):
                for place, child in numbered(value):
                    yield from places(child, f"{path}{key}/{place}/", (*names, name_of(child["config"])), depth + 1)


def name_of(config: Mapping[str, Any]) -> str:
    return str(config.get("name", ""))


def numbered(nodes: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Layers of a container with the names that Keras' paths give them: the second LSTM is lstm_1."""
    used: dict[str, int] = {}
    for node in filter(is_node, nodes):
        place = snake(node["class_name"].rpartition(">")[2])
        count = used[place] = used.get(place, -1) + 1
        yield (f"{place}_{count}" if count else place), node


def both(config: Mapping[str, Any], path: str, names: tuple[str, ...], depth: int) -> Iterator[Place]:
    """The layers of a Bidirectional; the second, where it is not said, is the first in the other direction."""
    first, second = config["layer"], config.get("backward_layer")
    if not is_node(second):
        name = "backward_" + name_of(first["config"]).removeprefix("forward_")
        turned = {"go_backwards": not first["config"].get("go_backwards"), "name": name}
        second = {**first, "config": {**first["config"], **turned}}
    for way, node in (("forward", first), ("backward", second)):
        for place in places(node, f"{path}{way}_layer/", names, depth):
            yield Place(place.path, place.names, place.kind, place.class_name, place.cell, place.layer, way, config)


def cells(node: Mapping[str, Any], path: str, names: tuple[str, ...], layer: Mapping[str, Any]) -> Iterator[Place]:
    """The cells of a layer RNN: one, or those of StackedRNNCells, which an .h5 file has by their names."""
    name, config = class_of(node), node["config"]
    if name == "StackedRNNCells" and isinstance(config.get("cells"), list):
        for place, child in numbered(config["cells"]):
            kind, label, inner = CELLS.get(class_of(child), ""), child["class_name"], child["config"]
            yield Place(f"{path}cells/{place}/", (*names, name_of(child["config"])), kind, label, inner, layer)
    else:
        yield Place(path, names, CELLS.get(name, ""), node["class_name"], config, layer)


def lies(place: Place, path: str, segments: Sequence[str]) -> bool:
    """Whether a place may be that of a path in an .h5 file."""
    if not within(place.names, path):
        return False
    if not place.kind:
        return place.names[-1] in segments[-2:]
    way = WAY.search(path)
    return not place.way or f"/{name_of(place.layer)}/" in path or (way is not None and way[2] == place.way)


def within(names: Sequence[str], path: str) -> bool:
    """Whether a path begins with the first name and has the others behind it, in their order."""
    if not names or not path.startswith(names[0] + "/"):
        return False
    rest = path[len(names[0]) :]
    for name in names[1:]:
        before, found, rest = rest.partition(f"/{name}/")
        if not found:
            return False
        rest = "/" + rest
    return True
