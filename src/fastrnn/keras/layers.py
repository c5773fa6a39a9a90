"""Keras' layers whose loop over time is fastrnn's where Keras runs on torch: the rest of a call is Keras' own."""

from __future__ import annotations

from typing import Any

import keras

from .reading import functions_of


class Recurrent:
    """What the layers share: Keras calls `inner_loop` for what depends on the backend."""

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """As Keras': (last output, outputs, [states])."""
        if keras.backend.backend() == "torch" and why_keras(self, training) is None:
            from . import kernels  # which imports torch

            found = kernels.compute(self, sequences, initial_state, mask, training)
            if found is not None:
                return found
        return super().inner_loop(sequences, initial_state, mask, training)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="fastrnn")
class SimpleRNN(Recurrent, keras.layers.SimpleRNN):
    """keras.layers.SimpleRNN on fastrnn."""


@keras.saving.register_keras_serializable(package="fastrnn")
class LSTM(Recurrent, keras.layers.LSTM):
    """keras.layers.LSTM on fastrnn."""


@keras.saving.register_keras_serializable(package="fastrnn")
class GRU(Recurrent, keras.layers.GRU):
    """keras.layers.GRU on fastrnn."""


def why_keras(layer: Any, training: bool) -> str | None:
    """Why the calls of a layer go to Keras' own functions whatever tensors they are given, or None."""
    if (backend := keras.backend.backend()) != "torch":
        return f"Keras runs on {backend}, not on torch"
    cell = layer.cell
    try:
        functions_of(cell, f"layer {layer.name!r}")
    except ValueError as error:
        return str(error)
    if training and cell.recurrent_dropout:
        return f"in training recurrent_dropout={cell.recurrent_dropout} has a mask for each gate"
    if training and cell.dropout and getattr(cell, "dropout_mask_count", None) is not None:
        return f"in training dropout={cell.dropout} with implementation=1 has a mask for each gate"
    return None


def explain(layer: Any) -> str:
    """Which way calls of a layer go, given inputs on the CPU, and why; of a Bidirectional both of its layers'."""
    if isinstance(layer, keras.layers.Bidirectional):
        ways = {explain(layer.forward_layer), explain(layer.backward_layer)}
        return "; ".join(sorted(ways))
    if not isinstance(layer, Recurrent):
        return f"keras: {type(layer).__name__} is no layer of fastrnn.keras"
    why = why_keras(layer, training=False)
    if why is None and layer.compute_dtype not in ("float32", "float64"):  # type: ignore[attr-defined]
        why = f"{layer.compute_dtype} is neither float32 nor float64"  # type: ignore[attr-defined]
    if why is not None:
        return f"keras: {why}"
    found = f"fastrnn: {layer.compute_dtype} on the CPU"  # type: ignore[attr-defined]
    training = why_keras(layer, training=True)
    return f"{found}; keras: {training}" if training else found
