"""Arguments: what is accepted, how it is converted, and the messages for the rest.

Every function names the argument, what was expected and what came: ValueError for a wrong value or shape, TypeError
for a wrong kind of thing. None of them modifies what it is given.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray
Shape = Sequence[int | str]  # a letter stands for any size


def kind(value: object) -> str:
    return type(value).__name__


def show(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def digits(number: int) -> str:
    """An integer for a message: Python refuses to write out those of thousands of digits."""
    return str(number) if number.bit_length() < 256 else f"an integer of {number.bit_length()} bits"


# --- plain values


def integer(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {kind(value)}")
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {digits(number)}")
    return number


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {kind(value)}")
    return bool(value)


def number(name: str, value: Any) -> float:
    """A real number as a Python float, which takes the dtype of the array that it meets; it may be infinite or NaN."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a real number, got {kind(value)}")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def probability(name: str, value: Any) -> float:
    found = number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {found}")
    return found


def fraction(name: str, value: Any) -> float:
    found = number(name, value)
    if not 0 <= found < 1:
        raise ValueError(f"{name}: expected a number of at least 0 and below 1, got {found}")
    return found


def mask_per(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"mask_per: expected 'step', 'sequence' or None, got {kind(value)}")
    if value not in (None, "step", "sequence"):
        raise ValueError(f"mask_per: expected 'step', 'sequence' or None, got {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    found = number(name, value)
    if not 0 < found < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {found}")
    return found


def finite(name: str, value: Any) -> float:
    found = number(name, value)
    if not abs(found) < float("inf"):
        raise ValueError(f"{name}: expected a finite number, got {found}")
    return found


def not_negative(name: str, value: Any) -> float:
    found = number(name, value)
    if not 0 <= found < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {found}")
    return found


def direction(value: Any, num_layers: int, bidirectional: bool) -> tuple[bool, ...]:
    """Of each layer, whether its only direction is the reverse one; () where none is."""
    if isinstance(value, str) and value == "forward":
        return ()
    words = (value,) * num_layers if isinstance(value, str) else value
    if not isinstance(words, (tuple, list)) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"direction: expected 'forward', 'reverse' or a tuple of them, got {value!r}")
    if strange := [word for word in words if word not in ("forward", "reverse")]:
        raise ValueError(f"direction: expected 'forward' or 'reverse', got {strange[0]!r}")
    if len(words) != num_layers:
        raise ValueError(f"direction: expected one for each layer, num_layers={num_layers}, got {len(words)}")
    if "reverse" not in words:
        return ()
    if bidirectional:
        raise ValueError(f"direction: expected 'forward' with bidirectional=True, got {value!r}")
    return tuple(word == "reverse" for word in words)


def word(name: str, value: Any, words: Sequence[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in words:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name}: expected {' or '.join(map(repr, words))}, got {value!r}")
    return value


def nonlinearity(value: Any) -> str:
    return word("nonlinearity", value, ("tanh", "relu"))


def float_dtype(value: DTypeLike, name: str = "dtype") -> np.dtype:
    try:
        dtype = None if value is None else np.dtype(value)
    except (TypeError, ValueError, SyntaxError):  # what NumPy makes of things that are no dtype
        dtype = None
    if dtype is None or dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {value if dtype is None else dtype}")
    return np.dtype(dtype.type)


def generator(rng: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng: expected None, a seed, a SeedSequence or a Generator, got {rng!r}: {error}") from error


# --- arrays


def real(name: str, value: ArrayLike, *, complex_too: bool = False) -> Array:
    """`value` as a plain array of real (or complex) numbers or booleans; one that masks elements is refused."""
    try:
        array = value if type(value) is Array else exported(name, value)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name}: expected an array, got {kind(value)}: {error}") from error
    except (MemoryError, Elsewhere):
        raise
    except Exception as error:  # an object that refuses, such as a tensor that records gradients
        raise TypeError(f"{name}: expected an array, got {kind(value)}: {error}") from error
    if array.dtype.kind not in ("fiubc" if complex_too else "fiub"):
        what = "real or complex" if complex_too else "real"
        raise TypeError(f"{name}: expected {what} numbers, got dtype {array.dtype}{conversion(value, array.dtype)}")
    if type(value) is not Array and masks(value):
        what = "say with lengths where rows end, or fill it" if name == "x" else "fill it"
        raise TypeError(f"{name}: expected an array without a mask, got one that masks elements; {what}")
    return array


class Elsewhere(TypeError):
    """An array that DLPack does not bring, with the argument's name in its message."""


CPU_DEVICES = (1, 3, 11, 13)  # of DLPack: the CPU's memory, and such of CUDA and ROCm as the CPU reads


def exported(name: str, value: Any) -> Array:
    """`value` as an array, without a copy by DLPack where it speaks that; a TypeError for one elsewhere."""
    kind_of = type(value)
    if isinstance(value, Array) or not (hasattr(kind_of, "__dlpack__") and hasattr(kind_of, "__dlpack_device__")):
        return np.asarray(value)
    try:
        device = value.__dlpack_device__()
    except Exception:  # a tracer, or a tensor without memory: it has its own words for it
        return np.asarray(value)
    if int(device[0]) not in CPU_DEVICES:
        raise Elsewhere(f"{name}: expected an array on the CPU, got {kind(value)} on device {tuple(map(int, device))}")
    try:
        return np.from_dlpack(value)
    except Exception as error:  # gradients are recorded, or NumPy has no such dtype: its own conversion says what of it
        if hasattr(kind_of, "__array__"):
            return np.asarray(value)
        raise Elsewhere(f"{name}: expected an array that NumPy takes by DLPack, got {kind(value)}: {error}") from error


def conversion(value: object, dtype: np.dtype) -> str:
    """For a message: how what may hold real numbers in another form is converted."""
    if dtype.kind == "O" and hasattr(value, "to_numpy"):  # a table of columns of several kinds
        return "; convert it with to_numpy(dtype=np.float32)"
    if (dtype.kind == "O" and isinstance(value, Array)) or (dtype.kind == "V" and dtype.type is not np.void):
        return "; convert it with astype(np.float32)"  # bfloat16, which is a kind of its own to NumPy
    return ""


def masks(value: object) -> bool:
    """Whether `value` is, or a list of it has in it, a masked array of which an element is masked."""
    if isinstance(value, (list, tuple)):
        for item in value:  # a loop, since lists may be long, and a generator takes twice as long
            if type(item) is not float and type(item) is not int and masks(item):
                return True
        return False
    return isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)


def shaped(name: str, array: Array, *expected: Shape) -> Array:
    """`array`, whose shape is one of those expected."""
    given = array.shape
    for shape in expected:
        if len(shape) == len(given):
            for e, n in zip(shape, given):  # a loop, since a generator costs as much as a step of a small layer
                if e != n and not isinstance(e, str):
                    break
            else:
                return array
    raise ValueError(f"{name}: expected shape {' or '.join(map(show, expected))}, got {show(array.shape)}")


def columns(name: str, array: Array) -> Array:
    """`array`, which has a last dimension that is not empty."""
    if array.shape[-1:] in ((), (0,)):
        raise ValueError(f"{name}: expected a matrix of at least one column, got shape {show(array.shape)}")
    return array


def strided(array: Array, dtype: np.dtype) -> Array:
    """`array` in `dtype` with contiguous features, aligned; a copy only where it has to be."""
    size = dtype.itemsize
    fits = array.strides[-1] == size and not any(stride % size for stride in array.strides)
    if fits and array.dtype == dtype and array.flags.aligned:
        return plain(array, dtype)
    return converted(array, dtype)


def plain(array: Array, dtype: np.dtype) -> Array:
    """`array`, whose dtype equals `dtype`, without a byte order that it names outright: results would inherit it."""
    return array if array.dtype.byteorder == "=" else array.view(dtype)


def converted(array: Array, dtype: np.dtype) -> Array:
    """A C-contiguous copy in `dtype`; a MemoryError also for what no address could hold."""
    try:
        return plain(np.array(array, dtype, order="C"), dtype)
    except ValueError as error:
        raise MemoryError(f"cannot convert an array of shape {array.shape} to {dtype}: {error}") from error


def contiguous(array: Array, dtype: np.dtype) -> Array:
    """`array` in `dtype`, C-contiguous and aligned; a copy only where it has to be."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return plain(array, dtype)
    return converted(array, dtype)


def lengths(value: ArrayLike | None, T: int, B: int, batched: bool) -> Array | None:
    """The valid steps of each row, (B,) int64: a copy, since the kernels trust what was checked."""
    if value is None:
        return None
    if not batched:
        raise ValueError("lengths: expected None for an unbatched x (T, input_size), got lengths")
    for n in value if isinstance(value, (list, tuple)) else ():  # what NumPy would make floats or objects of
        if isinstance(n, int) and n.bit_length() > 63:
            raise ValueError(f"lengths: expected integers from 0 to T = {T}, got {digits(n)}")
    array = real("lengths", value)
    if array.dtype.kind == "b":
        raise TypeError("lengths: expected integers, got dtype bool; of a mask give its sum over time")
    if array.dtype.kind not in "iu" and not (array.size == 0 and isinstance(value, (list, tuple))):
        raise TypeError(f"lengths: expected integers, got dtype {array.dtype}")
    array = shaped("lengths", array, (B,)).copy()
    if B and not (0 <= array.min() and array.max() <= T):
        wrong = next(n for n in array.tolist() if not 0 <= n <= T)
        raise ValueError(f"lengths: expected integers from 0 to T = {T}, got {wrong}")
    return contiguous(array, np.dtype(np.int64))


def booleans(name: str, value: ArrayLike, shape: Shape) -> Array:
    """An array of True and False: numbers are refused, since they might be lengths or places."""
    array = real(name, value)
    if array.dtype.kind != "b" and array.size:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    return shaped(name, array, shape).astype(bool, copy=False)


def parts(name: str, value: Any, states: int) -> Sequence[tuple[str, Any]]:
    """What a state consists of, (h,) or (h, c), each with its name."""
    if states == 1:
        return ((name, value),)
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a pair (h, c), got {kind(value)}")
    if len(value) != 2:
        raise ValueError(f"{name}: expected a pair (h, c), got {len(value)} items")
    return (f"{name}[0]", value[0]), (f"{name}[1]", value[1])


def part(
    name: str, value: ArrayLike, shape: Shape, inner: tuple[int, ...], dtype: np.dtype, copy: bool = False
) -> Array:
    """A part of a state, of `shape`, as a C-contiguous array of the shape `inner`."""
    convert = converted if copy else contiguous
    return convert(shaped(name, real(name, value), shape), dtype).reshape(inner)


def state(
    value: Any, shapes: Sequence[Shape], inner: Sequence[tuple[int, ...]], dtype: np.dtype, copy: bool
) -> tuple[Array, ...]:
    """The parts of an initial state, of `shapes`."""
    named = parts("state", value, len(shapes))
    together = zip(named, shapes, inner)
    return tuple([part(name, given, shape, own, dtype, copy) for (name, given), shape, own in together])


def gradients(
    named: Sequence[tuple[str, Any]], shapes: Sequence[Shape], inner: Sequence[tuple[int, ...]], dtype: np.dtype
) -> tuple[Array | None, ...]:
    """The parts of a final state's gradient; None stays None."""
    together = zip(named, shapes, inner)
    return tuple(
        None if given is None else part(name, given, shape, own, dtype) for (name, given), shape, own in together
    )


def some_gradient(names: str, *given: object) -> None:
    if all(gradient is None for gradient in given):
        raise ValueError(f"{names}: expected at least one gradient, got None")


def output(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype, *, contiguous: bool) -> Array:
    """An array to write into: its own elements, as a plain array where it is of a subclass with rules of its own."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an array, got {kind(array)}")
    if type(array) is not Array and masks(array):
        raise TypeError(f"{name}: expected an array without a mask, got one that masks elements; give its data")
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {array.dtype}")
    shaped(name, array, shape)
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if contiguous and not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {array.strides}")
    return plain(array if type(array) is np.ndarray else array.view(np.ndarray), dtype)


def disjoint(name: str, y: Array, after: Sequence[Array], x: Array, now: Sequence[Array]) -> None:
    """No two of these C-contiguous arrays overlap, except that each of `after` may be its counterpart in `now`."""
    arrays = [y, *after, x, *[old for old, new in zip(now, after) if old is not new]]
    if len(set(map(id, arrays))) == len(arrays) and not [None for array in arrays if array.base is not None]:
        return  # each owns its memory
    others = [old for old, new in zip(now, after) if not same_memory(old, new)]
    arrays = [y, *after, x, *others]
    for k, array in enumerate(arrays[: 1 + len(after)]):
        if any(np.may_share_memory(array, other) for other in arrays[k + 1 :]):
            raise ValueError(f"{name}: expected arrays that overlap neither each other nor x_t, got some that do")


def own_memory(name: str, array: Array, others: Iterable[tuple[str, Array | None]]) -> None:
    """No two elements of `array` are the same memory, nor any of them one of the others'."""
    if overlaps_itself(array):
        raise ValueError(f"{name}: expected an array of its own, got one that overlaps itself")
    for what, other in others:
        if other is not None and np.may_share_memory(array, other) and np.shares_memory(array, other):
            raise ValueError(f"{name}: expected an array of its own, got one that overlaps {what}")


def overlaps_itself(array: Array) -> bool:
    """Whether strides are zero or so small that elements may lie on each other: those of an axis span the next."""
    if array.flags.c_contiguous:
        return False
    extent = array.itemsize
    for stride, n in sorted((abs(stride), n) for stride, n in zip(array.strides, array.shape) if n > 1):
        if stride < extent:
            return True
        extent += stride * (n - 1)
    return False


def same_memory(a: Array, b: Array) -> bool:
    """Whether two C-contiguous arrays begin and end alike."""
    return a.nbytes == b.nbytes and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def names(what: str, given: Mapping, expected: Sequence[str]) -> None:
    """The keys of `given` are those expected, in any order."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what}: expected a mapping of names to arrays, got {kind(given)}")
    faults = [f"{name} is missing" for name in expected if name not in given]
    faults += [f"{name} is unexpected" for name in given if name not in expected]
    if faults:
        raise ValueError(f"{what}: expected exactly {', '.join(expected)}; {', '.join(faults)}")
