"""What the pickles of torch and NumPy name, each as a description: storages, tensors, arrays. Nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .arrays import Entry, add, number_entry, refused
from .narrow import held_in, widened
from .pickles import Buildable, Global, Scripted
from .source import arrange, read_shape, stride

Array = np.ndarray
DEEPEST = 200  # containers within each other


class Storage:
    """The numbers that tensors share, in the file's bytes; `data` comes later in torch's older format."""

    def __init__(self, dtype: str | None, size: int, big: bool, data: Array | None = None) -> None:
        """`size` counts elements of the dtype, or bytes where None leaves that to the tensor."""
        self.dtype = dtype
        self.size = size
        self.big = big
        self.data = data


class Tensor:
    """A view of a storage; `quantised` is what stands in the way of reading it."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> None:
        if not isinstance(storage, Storage) or type(offset) is not int or type(strides) is not tuple:
            raise ValueError("its pickle describes a tensor by other things than storage, offset and strides")
        self.storage = storage
        self.offset = offset
        self.shape = read_shape(shape, "a tensor")
        self.strides = strides
        name = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else storage.dtype
        if name is None:
            raise ValueError("its pickle describes a tensor without a dtype")
        self.dtype = name

    def entry(self, name: str) -> Entry:
        dtype = held_in(self.dtype, self.storage.big)
        if dtype is None:
            return refused(self.dtype, self.shape, f"its numbers are {self.dtype}, which NumPy cannot hold")
        assert self.storage.data is not None
        view = stride(self.storage.data, dtype, self.offset, self.shape, self.strides, repr(name))
        return Entry(self.dtype, self.shape, lambda: widened(view, self.dtype))


class Unreadable:
    """A tensor that is described and cannot be read."""

    def __init__(self, what: str, shape: tuple[int, ...] = ()) -> None:
        self.what = what
        self.shape = shape

    def entry(self, name: str) -> Entry:
        return refused(self.what, self.shape, f"it is {self.what}, which has no array of numbers")


class NumpyDtype(Buildable):
    """A dtype by its code, such as "f4"; None for one that is not of plain numbers."""

    def __init__(self, code: Any, *flags: Any) -> None:
        plain = isinstance(code, str) and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)", code)
        self.dtype = np.dtype(code).newbyteorder("<") if plain else None

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("its pickle has a dtype in an unknown state")
        if self.dtype is not None and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class NumpyArray(Buildable):
    """An array whose bytes the pickle has."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], NumpyDtype):
            raise ValueError("its pickle has an array in an unknown state")
        self.state = state

    def entry(self, name: str) -> Entry:
        if self.state is None:
            raise ValueError(f"its pickle has nothing of {name!r}")
        _, shape, held, fortran, content = self.state
        found = read_shape(shape, repr(name))
        if held.dtype is None or isinstance(content, list):
            return refused("object", found, "it holds Python objects, which are not made")
        raw = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(raw, bytes):
            raise ValueError(f"its pickle has no bytes of {name!r}")
        array = arrange(np.frombuffer(raw, np.uint8), held.dtype, found, repr(name), fortran=bool(fortran))
        return number_entry(lambda: array, held.dtype, found)


Leaf = Tensor | Unreadable | NumpyArray


def from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    """An array of a pickle of protocol 5."""
    array = NumpyArray()
    array.build((1, shape, dtype, order == "F", content))
    return array


def from_type(make: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor that has attributes of its own, which are left."""
    known = isinstance(make, Global) and make.call in (tensor, typed_tensor, same, quantised)
    if not known or type(arguments) is not tuple:
        raise ValueError("its pickle describes a tensor by an unknown function")
    return make.call(*arguments)  # one call deep: never from within itself


def tensor(storage: Any, offset: Any, size: Any, strides: Any, grad: Any = None, hooks: Any = None, meta: Any = None):
    """A tensor; `meta` says of a complex one that it is conjugated or negated only when it is read."""
    if meta:
        raise ValueError("its pickle has a tensor that is conjugated or negated as it is read")
    return Tensor(storage, offset, size, strides)


def typed_tensor(
    storage: Any, offset: Any, size: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, meta: Any = None
):
    """A tensor over a storage of bytes."""
    return Tensor(storage, offset, size, strides, dtype)


def quantised(storage: Any, offset: Any, size: Any, *rest: Any) -> Unreadable:
    return Unreadable("a quantised tensor", read_shape(size, "a tensor"))


def same(first: Any, *rest: Any) -> Any:
    """The first argument: what wraps it adds nothing to its numbers."""
    return first


def nothing(*arguments: Any) -> None:
    """Stand for a number or a name that no array has."""


def ordered(pairs: Any = ()) -> dict:
    """A dict; picklers of Python 2 give its entries as a list of pairs."""
    found = {}
    for pair in pairs if type(pairs) in (list, tuple) else ():
        if type(pair) not in (list, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("its pickle has a dict of other things than pairs")
        found[pair[0]] = pair[1]
    return found


def counter(counts: Any = None) -> dict:
    """A dict of numbers."""
    if not isinstance(counts, (dict, type(None))):
        raise ValueError("its pickle has a Counter of other things than a dict")
    return counts or {}


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("its pickle has bytes in an unknown encoding")
    return text.encode("latin-1")


STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
    "uint8", "bool", "complex64", "complex128", "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz",
    "float8_e8m0fnu", "qint8", "quint8", "qint32", "per_tensor_affine", "per_channel_affine", "strided",
)  # fmt: skip
CALLS: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": ordered,
    "collections.defaultdict": lambda factory=None: {}, "collections.Counter": counter,
    "_codecs.encode": encode,
    "torch.Size": same, "torch.device": nothing, "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None, "torch.nn.parameter.Buffer": None,
    "torch._utils._rebuild_tensor": tensor, "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": typed_tensor,
    "torch._utils._rebuild_parameter": same, "torch._utils._rebuild_parameter_with_state": same,
    "torch._tensor._rebuild_from_type_v2": from_type, "torch._utils._rebuild_qtensor": quantised,
    "torch.storage.UntypedStorage": None, "torch.UntypedStorage": None,
    "torch.jit._pickle.build_intlist": same, "torch.jit._pickle.build_doublelist": same,
    "torch.jit._pickle.build_boollist": same, "torch.jit._pickle.build_tensorlist": same,
    "torch.jit._pickle.restore_type_tag": same,
    "numpy.ndarray": None, "numpy.dtype": NumpyDtype,
}  # fmt: skip
for _package in ("numpy.core", "numpy._core"):
    CALLS |= {
        f"{_package}.multiarray._reconstruct": NumpyArray,
        f"{_package}.multiarray.scalar": nothing,
        f"{_package}.numeric._frombuffer": from_buffer,
    }
FACTORIES = ("dict", "list", "int", "float", "str", "bool", "tuple")  # of a defaultdict, never called
for _package in ("builtins", "__builtin__"):
    CALLS |= {f"{_package}.{name}": None for name in FACTORIES}
    CALLS |= {f"{_package}.{name}": same for name in ("set", "frozenset", "bytearray")}
    CALLS[f"{_package}.complex"] = nothing
GLOBALS = {name: Global(name, call) for name, call in CALLS.items()}
GLOBALS |= {f"torch.{name}": Global(f"torch.{name}") for name in (*STORAGES, *DTYPES)}


def find(module: str, name: str) -> Any:
    """What a pickle names; a ValueError for what is neither tensor nor plain container."""
    if module.startswith("__torch__"):
        return Scripted
    full = f"{module}.{name}"
    if full not in GLOBALS:
        raise ValueError(
            f"expected tensors in plain containers, got {full!r}, of which nothing is run or made; in PyTorch, "
            "torch.save(model.state_dict(), path) writes tensors alone"
        )
    return GLOBALS[full]


def storage_dtype(kind: Any) -> str | None:
    """The dtype of a class of storages; None for one of bytes."""
    name = kind.name.removeprefix("torch.") if isinstance(kind, Global) else ""
    if name in ("UntypedStorage", "storage.UntypedStorage"):
        return None
    if name not in STORAGES:
        raise ValueError("its pickle refers to a storage of an unknown class")
    return STORAGES[name]


def itemsize(dtype: str | None) -> int:
    """The bytes of an element of a storage; quantised ones have as many as the integers that they are of."""
    if dtype is None:
        return 1
    held = held_in(dtype)
    return held.itemsize if held is not None else 4 if dtype == "qint32" else 1


class Collection:
    """The tensors of a structure of containers, by dotted names; and the names of what is none."""

    def __init__(self, budget: int) -> None:
        """`budget` bounds the names' length and number together: containers may be there many times in others."""
        self.entries: dict[str, Entry] = {}
        self.left_out: list[str] = []
        self.budget = budget

    def gather(self, root: Any, prefix: str = "") -> None:
        """Add what is in a container, or a lone tensor, under names that begin with `prefix`."""
        waiting: list[tuple[str, Any, int, bool]] = [(prefix, root, 0, True)]
        while waiting:
            name, value, depth, named = waiting.pop()
            if isinstance(value, Leaf):
                if not named:
                    raise ValueError(f"a tensor in {name!r} has a key that is neither text nor an integer")
                add(self.entries, name, value.entry(name))
                continue
            if isinstance(value, Scripted):
                value = value.state
            if isinstance(value, (dict, list, tuple)):
                if depth == DEEPEST:
                    raise ValueError(f"its containers are nested more than {DEEPEST} deep")
                self.spend(len(value) * (len(name) + 16))
                below = [
                    (f"{name}.{key}" if name else key, item, depth + 1, named and known)
                    for key, item, known in children(value)
                ]
                self.spend(sum(len(item[0]) - len(name) for item in below))
                waiting.extend(reversed(below))
            else:
                self.left_out.append(name)

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise ValueError("its containers are within each other too many times")


def children(container: dict | list | tuple) -> Iterator[tuple[str, Any, bool]]:
    """The items of a container with the parts of their names, and whether they have one.

    A scripted layer has its tensors a second time, in the order of torch's kernels; that list is left.
    """
    if isinstance(container, dict):
        for key, item in container.items():
            again = key == "_flat_weights" and type(item) is list and "weight_ih_l0" in container
            if not again:
                known = isinstance(key, (str, int))
                yield str(key) if known else "?", item, known
    else:
        for k, item in enumerate(container):
            yield str(k), item, True


def names_budget(size: int) -> int:
    """What the names in a file of this size may cost: enough for any that was written in earnest."""
    return 2**20 + 64 * min(size, 2**40)
