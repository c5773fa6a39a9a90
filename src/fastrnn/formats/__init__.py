"""Readers of other programs' files of weights: names to arrays, without the programs. They know nothing of layers.

arrays       the mapping that `read` gives        source    a file's bytes, and arrays that lie in them
safetensors  a header and arrays                  narrow    bfloat16 and numbers of eight bits
npz          NumPy's archives                     archive   the members of a zip file
torchfile    torch.save and torch.jit.save        pickles   an interpreter that calls nothing; tensors: what it knows
onnx         initialisers and constants           hdf5      Keras; kerasjson: what it says of its model
"""

from .arrays import Arrays
from .reader import read

__all__ = ["Arrays", "read"]
