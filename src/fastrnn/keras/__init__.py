"""Keras' recurrent layers, computed by fastrnn, and the weights of theirs as fastrnn's layers, and back; for Keras 3.

    lstm = fastrnn.keras.LSTM(32, return_sequences=True)  # keras.layers.LSTM, on Keras' torch backend by fastrnn
    layer = fastrnn.keras.from_keras(model.layers[1])     # a fastrnn.LSTM, with Keras' weights; from any Keras backend
    call = fastrnn.keras.freeze(model.layers[1])          # what the Keras layer computes, masks and all, in NumPy
    keras_layer = fastrnn.keras.to_keras(layer)

`explain(layer)` says whether a layer's calls go to fastrnn or to Keras' own functions, and why.
"""

try:
    import keras as _keras  # noqa: F401
except ImportError as error:
    raise ImportError("fastrnn.keras needs keras: pip install 'fastrnn[keras]'") from error

from .convert import from_keras, to_keras
from .frozen import FrozenKerasLayer, freeze
from .layers import GRU, LSTM, SimpleRNN, explain

__all__ = ["GRU", "LSTM", "FrozenKerasLayer", "SimpleRNN", "explain", "freeze", "from_keras", "to_keras"]
