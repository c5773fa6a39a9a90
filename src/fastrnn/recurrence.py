"""The linear recurrence h_t = a_t h_(t-1) + b_t, element by element: the scan in minGRU, SRU, LRU, S5 and Mamba.

    T  time steps     B  rows of the batch     D  units

    b    (T, B, D), unbatched (T, D)
    a    shaped as b; or constant in time, (B, D) or (D,), unbatched (D,), which is read again and again, not copied
    h0   (B, D), unbatched (D,): the state before the first step that is visited; None for zeros
    h    shaped as b: the state after every step

Everything is computed in the dtype of b, float32, float64, complex64 or complex128 (else TypeError); other arrays are
converted to it, complex ones only if b is complex. A wrong shape is a ValueError and a wrong kind of value a TypeError
that names the argument. Inputs are never modified. Results are bit for bit the same on any number of threads, and those
of a row in any batch and in any chunking of its steps, forward and backward; only the gradient of a constant `a` is a
sum over steps, and over rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from .core import checks, config
from .core.geometry import Array, aligned_empty
from .core.tape import describe_fields

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
SUM_ROWS = 256  # whose sum joins a sum over rows at once: a single chain of float32 would lose more


class RecurrenceGrads(NamedTuple):
    """Gradients of a loss by the arguments of `linear_recurrence`, shaped as they are; dh0 also where h0 was None."""

    da: Array
    db: Array
    dh0: Array

    def __repr__(self) -> str:
        return describe_fields(self)


class RecurrenceTape:
    """What `linear_recurrence_backward` needs of one `linear_recurrence_forward`; it can be used any number of times.

    It refers to `a` without copying it, which has to be unchanged when the backward is called. It remembers the backend
    it is from, and can be neither copied nor pickled.
    """

    __slots__ = ("a", "backend", "batched", "factor_shape", "h", "h0", "reverse")

    def __init__(
        self, backend: Any, a: Array, h: Array, h0: Array | None, factor_shape: tuple[int, ...], reverse: bool
    ) -> None:
        self.backend, self.a, self.h, self.h0 = backend, a, h, h0  # (T, B, D), (T, B, D), (B, D)
        self.factor_shape, self.reverse, self.batched = factor_shape, reverse, True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tape of linear_recurrence can be neither copied nor pickled")

    def __repr__(self) -> str:
        T, B, D = self.h.shape
        return f"<Tape of linear_recurrence, T={T}, B={B}, D={D}, backend {self.backend.name}>"


class Arguments(NamedTuple):
    """Those of a call, checked and in the backends' layout."""

    a: Array  # (T, B, D), its strides zero where it is constant
    b: Array  # (T, B, D)
    h0: Array | None  # (B, D)
    reverse: bool
    factor_shape: tuple[int, ...]  # of `a` as it came
    batched: bool


def plain_pair(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array] | None:
    """Both, if they need no conversion and no check more: most calls, whose checks then take a third of the time."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.shape != b.shape or not 2 <= b.ndim <= 3:
        return None
    dtype, of_a, of_b = b.dtype, a.flags, b.flags
    known = dtype == a.dtype and dtype.type in DTYPES and dtype.byteorder == a.dtype.byteorder == "="
    return (a, b) if known and of_a.c_contiguous and of_a.aligned and of_b.c_contiguous and of_b.aligned else None


def checked_pair(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both as arrays of one dtype that the backends take."""
    terms = checks.shaped("b", checks.real("b", b, complex_too=True), ("T", "B", "D"), ("T", "D"))
    if terms.dtype.type not in DTYPES:
        raise TypeError(f"b: expected float32, float64, complex64 or complex128, got {terms.dtype}")
    dtype, shape = np.dtype(terms.dtype.type), terms.shape
    constant = (shape[1:], shape[2:]) if terms.ndim == 3 else (shape[1:],)
    factors = checks.shaped("a", checks.real("a", a, complex_too=dtype.kind == "c"), shape, *constant)
    return checks.strided(factors, dtype), checks.strided(terms, dtype)


def read(a: ArrayLike, b: ArrayLike, h0: ArrayLike | None, reverse: bool, copy_state: bool) -> Arguments:
    factors, terms = plain_pair(a, b) or checked_pair(a, b)
    dtype, shape, factor_shape, batched = terms.dtype, terms.shape, factors.shape, terms.ndim == 3
    if h0 is not None:
        convert = checks.converted if copy_state else checks.contiguous
        given = checks.shaped("h0", checks.real("h0", h0, complex_too=dtype.kind == "c"), shape[1:])
        h0 = convert(given, dtype).reshape(-1, shape[-1]) if given.size else None
    checks.flag("reverse", reverse)
    if not batched:
        terms = terms[:, None]
        factors = factors[:, None] if factors.ndim == 2 else factors
    if factors.ndim < 3:
        factors = np.broadcast_to(factors, terms.shape)
    return Arguments(factors, terms, h0, bool(reverse), factor_shape, batched)


def run(backend: Any, given: Arguments) -> Array:
    """h in the backends' layout."""
    h = aligned_empty(given.b.shape, given.b.dtype)
    if h.size:
        threads = config.get_num_threads()
        backend.scan_forward("linear", given.a, given.b, None, given.h0, h, None, None, given.reverse, threads)
    return h


def linear_recurrence(a: ArrayLike, b: ArrayLike, h0: ArrayLike | None = None, *, reverse: bool = False) -> Array:
    """h_t = a_t h_(t-1) + b_t for every step, element by element; h_(-1) is h0.

    With reverse=True the steps are visited from the last to the first: h_t = a_t h_(t+1) + b_t, and h_T is h0.
    a, b and h (T, B, D) or unbatched (T, D), h0 (B, D) or (D,); `a` may be constant in time, (B, D) or (D,). The result
    is a new array of b's dtype: float32, float64, complex64 or complex128. Raises TypeError or ValueError that names
    the argument.

        >>> h = fastrnn.linear_recurrence(np.full((100, 4, 8), 0.9), np.ones((100, 4, 8)))  # h (100, 4, 8)
    """
    given = read(a, b, h0, reverse, copy_state=False)
    h = run(config.backend(), given)
    return h if given.batched else h[:, 0]


def linear_recurrence_forward(
    a: ArrayLike, b: ArrayLike, h0: ArrayLike | None = None, *, reverse: bool = False
) -> tuple[Array, RecurrenceTape]:
    """As `linear_recurrence`, with the tape for `linear_recurrence_backward`: (h, tape).

    h, which the tape has too, is read-only. Leave `a` unchanged until the backward has been called.
    """
    given, backend = read(a, b, h0, reverse, copy_state=True), config.backend()
    h = run(backend, given)
    tape = RecurrenceTape(backend, given.a, h, given.h0, given.factor_shape, given.reverse)
    tape.batched = given.batched
    h.flags.writeable = False
    return h[...] if given.batched else h[:, 0], tape


def linear_recurrence_backward(tape: RecurrenceTape, dh: ArrayLike) -> RecurrenceGrads:
    """Gradients of a loss, (da, db, dh0), from its gradient dh by h, which is shaped as h.

    Of the last step h is the final state: what reaches that alone is added to dh there. With g_t for the whole gradient
    by h_t, dh_t and what comes from the step after it:

        db_t = g_t     da_t = conj(h_(t-1)) g_t     g_(t-1) = dh_(t-1) + conj(a_t) g_t     dh0 = conj(a_0) g_0

    A gradient by a complex number z = x + i y is dL/dx + i dL/dy, torch's convention, in and out. That of a constant
    `a` is the sum over the steps, and of one of shape (D,) over the rows too.
    """
    if not isinstance(tape, RecurrenceTape):
        raise TypeError(f"tape: expected one of linear_recurrence_forward, got {checks.kind(tape)}")
    h, dtype = tape.h, tape.h.dtype
    shape = h.shape if tape.batched else (len(h), h.shape[2])
    given = checks.strided(
        checks.shaped("dh", checks.real("dh", dh, complex_too=dtype.kind == "c"), shape), dtype
    ).reshape(h.shape)
    constant, rows = len(tape.factor_shape) < len(shape), h.shape[1:]
    da = np.zeros(rows, dtype) if constant else aligned_empty(h.shape, dtype)
    db, dh0 = aligned_empty(h.shape, dtype), np.zeros(rows, dtype)
    if h.size:
        by_step, total = (None, da) if constant else (da, None)
        before = tape.a, None, h, tape.h0, None, tape.reverse, given, None
        tape.backend.scan_backward("linear", *before, by_step, db, total, dh0, config.get_num_threads())
    if tape.batched and len(tape.factor_shape) == 1:
        da = sum_rows(da)
    return RecurrenceGrads(da.reshape(tape.factor_shape), db.reshape(shape), dh0.reshape(shape[1:]))


def sum_rows(rows: Array) -> Array:
    """The sum over the first axis, of blocks' sums: NumPy alone would add rows in one chain."""
    with np.errstate(all="ignore"):
        whole = len(rows) // SUM_ROWS * SUM_ROWS
        found = rows[whole:].sum(axis=0)
        if whole:
            found += rows[:whole].reshape(-1, SUM_ROWS, *rows.shape[1:]).sum(axis=1).sum(axis=0)
        return found
