"""Keras' recurrent layers as fastrnn's, and back."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import keras

from ..weights import build
from ..weights import keras as arrays
from .reading import Read, params_of, read

MERGE = Literal["concat", "sum", "mul", "ave"]


def from_keras(layer: Any, **options: Any) -> Any:
    """The fastrnn.RNN, LSTM or GRU with a built Keras layer's weights, batch_first as Keras; from any Keras backend.

    layer    a SimpleRNN, LSTM, GRU, an RNN of their cells, or a Bidirectional of one; of keras.layers or fastrnn.keras
    options  further arguments of the constructor of fastrnn's layer, such as dtype or rng

    go_backwards is direction="reverse"; reset_after=False is reset="before"; functions are `activations`;
    recurrent_dropout is the layer's own, one mask for all gates where Keras draws one for each. Keras' `dropout` of
    the input, which acts in training alone, has no equal: a warning; that of the cells behind the first is `dropout`,
    with a mask for each step where Keras draws one for all. The rest is how Keras hands over results, not
    what the layer is: return_sequences, return_state, merge_mode, masks, stateful. `freeze` has them, too.

    Raises TypeError for a layer or cell of another class, whose subclasses may compute something else, ValueError for
    one that is not built, or has an activation that fastrnn has not; each names the layer.
    """
    found = read(layer)
    between = {cell.dropout for cell in found.directions[0][1:]}
    inner = len(between) == 1 and not found.cells[0].dropout
    if not inner and any(cell.dropout for cell in found.cells):
        message = f"{found.name}: dropout={found.cells[0].dropout} acts on the input in training, which forward has not"
        warnings.warn(message, stacklevel=2)
    recurrent = {cell.recurrent_dropout for cell in found.cells}
    if len(recurrent) > 1:
        raise ValueError(f"{found.name}: expected a recurrent_dropout that all cells share, got {sorted(recurrent)}")
    given = {"batch_first": True, "recurrent_dropout": recurrent.pop()} | found.options
    if inner:
        given["dropout"] = between.pop()
    given |= options
    return build.layer_of(found.kind, params_of(found), **given)


def to_keras(layer: Any, into: Any = None, *, merge_mode: MERGE | None = "concat", **options: Any) -> Any:
    """A Keras layer with the weights of a fastrnn.RNN, LSTM or GRU; or `into`, whose weights are set.

    into        a Keras layer that computes the same, built or not: sizes, functions and directions have to agree
    merge_mode  of the Bidirectional that a bidirectional layer becomes
    options     further arguments of Keras' constructors, such as return_sequences=True, return_state=True, name

    Layers on each other become a keras.layers.RNN of cells, bidirectional ones a keras.Sequential of Bidirectionals.
    recurrent_dropout is carried over; dropout between layers is Keras' `dropout` of those behind the first, which in
    training draws one mask for all steps where fastrnn draws one for each.
    Raises ValueError for an option that Keras has not, such as peephole, and for an activation without a name there.
    """
    kind = build.kind_of(layer, "Keras", allowed=("activations", "reset"))
    shared = arguments(layer, kind)
    if into is not None:
        if options:
            raise ValueError(f"{next(iter(options))}: expected no arguments of a constructor with `into`")
        return fill(layer, kind, into)
    names = {"RNN": "SimpleRNN", "LSTM": "LSTM", "GRU": "GRU"}
    fused, L = getattr(keras.layers, names[kind]), layer.num_layers
    dropouts = [{"dropout": layer.config["dropout"] if k else 0.0} for k in range(L)]
    if layer.bidirectional and L == 1:
        return fill(layer, kind, keras.layers.Bidirectional(fused(**shared, **options), merge_mode=merge_mode))
    if layer.bidirectional:
        if merge_mode != "concat":
            raise ValueError(f"merge_mode: expected 'concat' between several layers, got {merge_mode!r}")
        each = [options if k == L - 1 else {"return_sequences": True} for k in range(L)]
        rnns = [fused(**shared, **dropped, **given) for dropped, given in zip(dropouts, each)]
        model = keras.Sequential([keras.layers.Bidirectional(rnn) for rnn in rnns])
        model.build((None, None, layer.input_size))
        for k, part in enumerate(model.layers):
            set_weights(layer, kind, read(part), first=k)
        return model
    backwards = {"reverse": True, "forward": False}.get(str(layer.direction))
    if backwards is None:
        raise ValueError(f"direction: expected the same in all layers for Keras, got {layer.direction}")
    options["go_backwards"] = backwards
    if L == 1:
        return fill(layer, kind, fused(**shared, **options))
    cell = getattr(keras.layers, names[kind] + "Cell")
    return fill(
        layer,
        kind,
        keras.layers.RNN([cell(**shared, **dropped) for dropped in dropouts], dtype=shared["dtype"], **options),
    )


def arguments(layer: Any, kind: str) -> dict[str, Any]:
    """The arguments of a Keras cell's constructor."""
    functions = build.functions_of(layer)
    names = [arrays.activation_name(function, f"activations[{k}]") for k, function in enumerate(functions)]
    if kind == "LSTM" and names[1] != names[2]:
        raise ValueError(f"activations: expected the same of the candidate and of c for Keras, got {names[1:]}")
    found = {"units": layer.hidden_size, "activation": names[-1], "use_bias": layer.bias, "dtype": layer.dtype.name}
    if kind != "RNN":
        found["recurrent_activation"] = names[0]
    if kind == "GRU":
        found["reset_after"] = layer.config.get("reset", "after") == "after"
    return found | {"recurrent_dropout": layer.config["recurrent_dropout"]}


def fill(layer: Any, kind: str, into: Any) -> Any:
    """Set the weights of a Keras layer that computes what fastrnn's does; ValueError that names what differs."""
    found = read(into)
    if found.kind != kind:
        raise ValueError(f"into: expected a layer of the kind {kind}, got {found.kind}")
    if not into.built:
        into.build((None, None, layer.input_size))
    first = found.cells[0]
    theirs = build.layer_of(kind, params_of(found), **found.options)
    pairs = [(name, getattr(layer, name), getattr(theirs, name)) for name in ("input_size", "hidden_size", "bias")]
    pairs += [(name, getattr(layer, name), getattr(theirs, name)) for name in ("num_layers", "bidirectional")]
    pairs += [("direction", layer.direction, theirs.direction), ("units", layer.hidden_size, first.units)]
    pairs += [("activations", build.functions_of(layer), build.functions_of(theirs))]
    pairs += [("reset", layer.config.get("reset"), theirs.config.get("reset"))]
    for name, ours, given in pairs:
        if ours != given:
            raise ValueError(f"into: expected {found.name} with {name} {ours!r}, got {given!r}")
    set_weights(layer, kind, found)
    return into


def set_weights(layer: Any, kind: str, found: Read, first: int = 0) -> None:
    """Put the weights of the layers from `first` on into the cells of a Keras layer."""
    params, after = layer.state_dict(), layer.config.get("reset", "after") == "after"
    for cells, ending in zip(found.directions, ("", "_reverse")):
        for k, cell in enumerate(cells):
            given = arrays.from_params(kind, params, f"_l{first + k}{ending}", after)
            cell.set_weights(list(given.values()))
