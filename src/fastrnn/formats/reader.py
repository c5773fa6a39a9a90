"""`read`: a file's format by its content, and its arrays."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from ..core import checks
from . import hdf5, npz, onnx, safetensors, torchfile
from .archive import Archive
from .arrays import Arrays, Entry
from .kerasjson import Configuration
from .source import map_file

Array = np.ndarray
KNOWN = "safetensors, .npz, .pt, .pth, .bin, .onnx, .h5 or .keras"


def read(path: str | os.PathLike[str]) -> Arrays:
    """The arrays of a file of another program's, by name: a read-only mapping, each made when it is asked for.

        >>> arrays = fastrnn.read("model.pt")
        >>> arrays["encoder.rnn.weight_ih_l0"]  # (4·H, I)

    What a file is shows in its content, whatever its name:

    safetensors   views of the mapped file
    .npz          views of the mapped file where members are not compressed; Python objects are refused
    torch         files of torch.save, also of versions before 1.6, and of torch.jit.save; views of the mapped file.
                  Names are those of a state_dict; containers within each other make dotted ones,
                  "model.rnn.weight_ih_l0". The file's pickle is never run: only plain containers, numbers, strings,
                  tensors and NumPy arrays are made of it, and any other thing that it names, such as the class of a
                  whole module, is a ValueError. Pickles of such containers by themselves are read likewise
    ONNX          initialisers and constants, of graphs within nodes as "node/name"; files beside the model only from
                  its folder. Needs onnx: pip install 'fastrnn[onnx]'
    Keras         .h5, .weights.h5 and .keras: names are the paths within; what the file says of its model is
                  `configuration`. Needs h5py: pip install 'fastrnn[keras]'

    Numbers keep their dtype, but bfloat16 and floats of eight bits become float32, which has all of their values.

    Raises OSError for what cannot be opened, and ValueError that names `path` for a file that is truncated, damaged or
    of another kind; nothing is allocated because a file says so. `fastrnn.load` reads fastrnn's own files.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a path, got {checks.kind(path)}")
    name = os.fspath(path)
    label = name if isinstance(name, str) else os.fsdecode(name)
    try:
        return read_known(label, map_file(path))
    except Misread as error:
        raise ValueError(f"path: expected a whole {error.kind} file, got {label!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"path: expected a file of weights ({KNOWN}), got {label!r}: {error}") from error


class Misread(ValueError):
    """A file of a known kind that cannot be read."""

    def __init__(self, kind: str, reason: object) -> None:
        super().__init__(str(reason))
        self.kind = kind


def read_known(path: str, data: Array) -> Arrays:
    """The arrays of a file, by what its content says that it is."""
    kind, reader = recognise(path, data)
    try:
        return reader()
    except ValueError as error:
        raise Misread(kind, error) from error


def recognise(path: str, data: Array) -> tuple[str, Callable[[], Arrays]]:
    """The kind of a file, and what reads it."""
    if data[:4].tobytes() in (b"PK\x03\x04", b"PK\x05\x06"):
        return recognise_archive(path, data)
    if torchfile.is_old(data):
        return "torch", lambda: Arrays(path, *torchfile.read_old(data))
    if torchfile.is_pickle(data):
        return "pickle", lambda: Arrays(path, *torchfile.read_pickle(data))
    if hdf5.is_hdf5(data):
        return "Keras", lambda: of_keras(path, *hdf5.read(data))
    if safetensors.is_safetensors(data):
        return "safetensors", lambda: Arrays(path, "safetensors", safetensors.read(data))
    if onnx.is_onnx(data):

        def read_onnx() -> Arrays:
            entries, nodes = onnx.read(path, data)
            return Arrays(path, "ONNX", entries, nodes=nodes)

        return "ONNX", read_onnx
    raise ValueError(foreign(data))


def recognise_archive(path: str, data: Array) -> tuple[str, Callable[[], Arrays]]:
    try:
        archive = Archive(data)
    except ValueError as error:
        raise Misread("zip", error) from error
    if torchfile.is_torch(archive):
        return "torch", lambda: Arrays(path, *torchfile.read_zip(archive))
    if hdf5.is_keras(archive):
        return "Keras", lambda: of_keras(path, *hdf5.read_keras(archive))
    if npz.is_npz(archive):
        return "npz", lambda: Arrays(path, "npz", npz.read(archive))
    raise ValueError("it is a zip archive without data.pkl, model.weights.h5 or .npy members")


def of_keras(path: str, entries: dict[str, Entry], configuration: Configuration | None) -> Arrays:
    return Arrays(path, "Keras", entries, configuration=configuration)


def foreign(data: Array) -> str:
    """Say what a file that is not read may be."""
    if data[:6].tobytes() == b"\x93NUMPY":
        return "it is one array, which numpy.load reads"
    if data[257:262].tobytes() == b"ustar":
        return "it is a tar archive; if it is torch's of 2017, torch.save(torch.load(path), path) makes a new one"
    if data[4:8].tobytes() == b"TFL3":
        return "it is a TensorFlow Lite model"
    return "it begins as none of these"
