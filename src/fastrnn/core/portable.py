"""Arrays and generators pickled so that every NumPy from 1.26 on loads what another has written.

Pickled by NumPy itself, a generator names classes that NumPy 1.26 does not take, and an array under protocol 5 names a
module that it does not have.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from . import checks
from .geometry import Array


class PortableArray:
    """An array on its way; where it is loaded, `array` is the loaded one, which may be memory-mapped or another's.

    Up to protocol 4 the array goes as it is, for joblib to write apart. From 5 on its buffer goes, which may travel out
    of band.
    """

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def own(self, dtype: np.dtype) -> Array:
        """A C-contiguous, writable array with memory of its own; a copy only where it has to be."""
        array = checks.contiguous(self.array, dtype)
        return array if array.flags.owndata and array.flags.writeable else np.array(array)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < 5:
            return PortableArray, (self.array,)
        array = np.ascontiguousarray(self.array)
        return read_buffer, (pickle.PickleBuffer(array.data), array.dtype.str, array.shape)


def read_buffer(buffer: Any, dtype: str, shape: tuple[int, ...]) -> PortableArray:
    return PortableArray(np.frombuffer(buffer, dtype).reshape(shape))


class PortableGenerator:
    """A generator that pickles as the name of its bit generator and the state of that.

    Those that NumPy does not have pickle in their own way. What shares a generator shares the copy of it, in a copy and
    in a pickle: two layers would otherwise draw the same masks.
    """

    __slots__ = ("__weakref__", "generator")

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def __deepcopy__(self, memo: dict[int, Any]) -> PortableGenerator:
        return portable(copy.deepcopy(self.generator, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        bits = self.generator.bit_generator
        name = type(bits).__name__
        if type(self.generator) is np.random.Generator and type(bits) is getattr(np.random, name, None):
            return read_generator, (name, pack_state(bits.state))
        return portable, (self.generator,)


# While it lives, the generator does too: the keys are never another's.
_portable: WeakValueDictionary[tuple[type, int], PortableGenerator] = WeakValueDictionary()


def portable(generator: np.random.Generator) -> PortableGenerator:
    """The one PortableGenerator of this generator."""
    return _portable.setdefault((type(generator), id(generator.bit_generator)), PortableGenerator(generator))


def pack_state(state: Any) -> Any:
    """The state of a bit generator, its arrays as what every NumPy loads."""
    if isinstance(state, dict):
        return {name: pack_state(value) for name, value in state.items()}
    return PortableArray(state) if isinstance(state, np.ndarray) else state


def unpack_state(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: unpack_state(value) for name, value in state.items()}
    return state.array if isinstance(state, PortableArray) else state


def read_generator(name: str, state: dict[str, Any]) -> PortableGenerator:
    bits = getattr(np.random, name)(0)
    bits.state = unpack_state(state)
    return portable(np.random.Generator(bits))
