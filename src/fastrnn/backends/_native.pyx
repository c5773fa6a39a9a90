# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True, binding=False
"""The bridge from the backend contract (base.py) to the C kernels (csrc/fastrnn.h): pointers, strides and the GIL.

Arrays come through the buffer protocol, so nothing here depends on NumPy's ABI. A pointer outlives its buffer view
because the caller holds the array for the whole call.

Free threading: what the module and its objects hold does not change once they are made, but for the main thread's
identity, which is atomic; the kernels are callable from any thread. Without `binding` a method is a plain descriptor,
whose references threads do not count one by one in the same place.
"""

import os
import sys

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ..spec import CELLS as TABLE


cdef extern from "fastrnn.h" nogil:
    ctypedef int fr_cell  # an enumeration
    ctypedef enum fr_dtype:
        FR_F32, FR_F64
    ctypedef enum fr_activation:
        FR_EXP, FR_SIGMOID, FR_TANH
    ctypedef enum fr_status:
        FR_OK, FR_NO_MEMORY, FR_INTERRUPTED
    ctypedef int fr_interrupted() noexcept nogil
    ctypedef struct fr_weights:
        const void *w_ih
        const void *w_hh
        const void *b_ih
        const void *b_hh
    ctypedef struct fr_gradients:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh
    ctypedef struct fr_sequence:
        void *data
        ptrdiff_t time
        ptrdiff_t row
    ctypedef struct fr_packed:
        pass
    ctypedef struct fr_forward_run:
        const fr_packed *packed
        int reverse
        fr_sequence x
        fr_sequence y
        const void *h0
        const void *c0
        void *h
        void *c
        void *saved
    ctypedef struct fr_backward_run:
        fr_cell cell
        fr_dtype dtype
        ptrdiff_t input_size
        ptrdiff_t hidden_size
        fr_weights weights
        int reverse
        fr_sequence x
        fr_sequence y
        const void *h0
        const void *c0
        const void *saved
        fr_sequence dy
        const void *dh
        const void *dc
        fr_sequence dx
        void *dh0
        void *dc0
        fr_gradients gradients
        void *dh_steps
        void *dc_steps
    fr_status fr_pack(fr_cell, fr_dtype, ptrdiff_t, ptrdiff_t, const fr_weights *, int, fr_interrupted *, fr_packed **)
    fr_status fr_unpacked(fr_cell, fr_dtype, ptrdiff_t, ptrdiff_t, const fr_weights *, fr_packed **)
    void fr_packed_free(fr_packed *)
    fr_status fr_forward(const fr_forward_run *, int, ptrdiff_t, ptrdiff_t, const int64_t *, int, fr_interrupted *)
    fr_status fr_backward(const fr_backward_run *, int, ptrdiff_t, ptrdiff_t, const int64_t *, int, fr_interrupted *)
    const char *fr_level_name(int)
    int fr_level()
    void fr_set_level(int)
    const char *fr_compiler()
    ctypedef enum fr_rule:
        FR_SGD
        FR_RMSPROP
        FR_ADAM

    ctypedef struct fr_numbers:
        double lr
        double momentum
        double share
        double alpha
        double beta1
        double beta2
        double eps
        double root
        double weight_decay
        double shrink
        int nesterov

    ctypedef struct fr_update_run:
        fr_rule rule
        ptrdiff_t n
        void *param
        const void *grad
        void *states[3]

    void fr_update(fr_dtype, const fr_update_run *, const fr_numbers *)
    void fr_activate(fr_dtype, fr_activation, const void *, void *, ptrdiff_t)
    double fr_fma_peak(fr_dtype, int, double)
    fr_status fr_read_bandwidth(size_t, int, double, double *)


cdef extern from "cells/facts.h" nogil:
    ctypedef struct fr_cell_facts:
        int gates
        int states
        int saved
    const fr_cell_facts *fr_cells

cdef extern from "run/schedule.h" nogil:
    ctypedef struct fr_schedule:
        int threads
        int by_units
    ctypedef struct fr_hand:
        pass
    ctypedef struct fr_part:
        fr_hand hand
        ptrdiff_t rows
        ptrdiff_t begin
        ptrdiff_t end
    fr_schedule fr_choose_schedule(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, double)
    ptrdiff_t fr_choose_hoisted(ptrdiff_t, ptrdiff_t, int, size_t, size_t)
    ptrdiff_t fr_rank(fr_hand, ptrdiff_t)
    fr_part fr_deal(int, int, int, ptrdiff_t, ptrdiff_t)


cdef dict CELLS = {name: code for code, name in enumerate(TABLE)}  # fr_cell has their order
cdef dict RULES = {"sgd": FR_SGD, "rmsprop": FR_RMSPROP, "adam": FR_ADAM}
cdef dict ACTIVATIONS = {"exp": FR_EXP, "sigmoid": FR_SIGMOID, "tanh": FR_TANH}
cdef dict DTYPES = {"f": FR_F32, "d": FR_F64}
cdef char NATIVE_ORDER = c"<" if sys.byteorder == "little" else c">"

# Below about 20 µs of work, taking the GIL back costs more than letting it go gives.
cdef double LEAST_FLOP_WITHOUT_GIL = 2e6
cdef double LEAST_PACKED_WITHOUT_GIL = 1e5  # elements


# --- long calls: Python runs the handlers of signals, Ctrl-C's among them, in its main thread, when that asks


cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    int PyErr_CheckSignals() noexcept
    int check_signals "PyErr_CheckSignals"() except -1
    int Py_AddPendingCall(int (*function)(void *) noexcept, void *argument)


cdef extern from *:
    """
    static _Atomic unsigned long main_thread; /* 0 until it is known: no thread's identity */
    """
    unsigned long main_thread


cdef int become_main_thread(void *unused) noexcept:
    global main_thread
    main_thread = PyThread_get_thread_ident()
    return 0


def after_fork():
    """Whichever thread forked is the child's main thread."""
    become_main_thread(NULL)


# Python runs a pending call in its main thread, before that calls its next function. threading.main_thread() may be
# another: the thread that first imported threading, or a greenlet of gevent's.
Py_AddPendingCall(become_main_thread, NULL)
os.register_at_fork(after_in_child=after_fork)


cdef int signalled() noexcept nogil:
    """Whether a signal's handler has raised; its exception is then under way."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef fr_interrupted *asker() noexcept:
    if PyThread_get_thread_ident() == main_thread:
        return signalled
    return NULL


cdef int check(fr_status status, what="kernels' scratch") except -1:
    if status == FR_NO_MEMORY:
        raise MemoryError(f"no memory for the {what}")
    return -1 if status == FR_INTERRUPTED else 0


cdef struct Shape:  # of a call
    ptrdiff_t T, B, I, H
    Py_ssize_t item  # bytes of an element
    fr_dtype dtype


cdef int view(object array, Py_buffer *buffer, int flags) except -1:
    """The array's pointer, shape and strides; the view itself is released at once."""
    PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | flags)
    PyBuffer_Release(buffer)
    return 0


cdef void *pointer(object array, int flags=0) except? NULL:
    """Where a contiguous array begins; NULL for None."""
    cdef Py_buffer buffer
    if array is None:
        return NULL
    view(array, &buffer, flags)
    return buffer.buf


cdef char *part(object array, ptrdiff_t d, Shape *s, int flags=0) except? NULL:
    """The d-th direction of a (D, B, H) array; NULL for None."""
    cdef char *data = <char *>pointer(array, flags)
    return NULL if data == NULL else data + d * s.B * s.H * s.item


cdef int three_axes(Py_buffer *buffer) except -1:
    if buffer.ndim != 3:
        PyBuffer_Release(buffer)
        raise ValueError("expected an array of three axes")
    return 0


cdef fr_sequence sequence(object array, Py_ssize_t first, Py_ssize_t item, int flags=0) except *:
    """A (T, B, n) array from feature `first` on; absent for None."""
    cdef Py_buffer buffer
    cdef fr_sequence result
    memset(&result, 0, sizeof(result))
    if array is None:
        return result
    PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES | flags)
    three_axes(&buffer)
    result.data = <char *>buffer.buf + first * item
    result.time = buffer.strides[0] // item
    result.row = buffer.strides[1] // item
    PyBuffer_Release(&buffer)
    return result


cdef char kind(Py_buffer *buffer) noexcept:
    """What the elements are: "f", "d", "q" for integers of 64 bits; 0: none of these in the machine's byte order.

    The same elements have several formats: "=f" where they are misaligned, "<f" where a dtype names its byte order.
    """
    cdef const char *format = buffer.format
    if format[0] == c"@" or format[0] == c"=" or format[0] == NATIVE_ORDER:
        format += 1
    if format[0] == 0 or format[1] != 0:
        return 0
    if format[0] == c"l" or format[0] == c"q":
        return c"q" if buffer.itemsize == 8 else 0
    return format[0] if format[0] == c"f" or format[0] == c"d" else 0


cdef int read_dtype(Py_buffer *buffer, fr_dtype *result) except -1:
    """The dtype of a view; one that is of neither is released."""
    cdef char found = kind(buffer)
    if found != c"f" and found != c"d":
        format = buffer.format.decode()
        PyBuffer_Release(buffer)
        raise TypeError(f"expected an array of float32 or float64, got the format {format!r}")
    result[0] = FR_F32 if found == c"f" else FR_F64
    return 0


cdef fr_dtype typed_view(object array, Py_buffer *buffer, int flags) except *:
    """As `view`; returns the dtype."""
    cdef fr_dtype dtype
    PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | PyBUF_FORMAT | flags)
    read_dtype(buffer, &dtype)
    PyBuffer_Release(buffer)
    return dtype


cdef Shape shape_of(object x, object h) except *:
    cdef Shape s
    cdef Py_buffer buffer
    PyObject_GetBuffer(x, &buffer, PyBUF_STRIDES | PyBUF_FORMAT)
    three_axes(&buffer)
    s.T, s.B, s.I, s.item = buffer.shape[0], buffer.shape[1], buffer.shape[2], buffer.itemsize
    read_dtype(&buffer, &s.dtype)
    PyBuffer_Release(&buffer)
    s.H = h.shape[2]
    return s


cdef double flop(fr_cell cell, Shape *s, ptrdiff_t directions):
    return 2.0 * fr_cells[cell].gates * directions * s.T * s.B * s.H * (s.I + s.H)


cdef fr_weights weights_of(object w) except *:
    cdef fr_weights result
    result.w_ih, result.w_hh = pointer(w.w_ih), pointer(w.w_hh)
    result.b_ih, result.b_hh = pointer(w.b_ih), pointer(w.b_hh)
    return result


# So few steps are sooner done with weights as they are.
cdef ptrdiff_t FEW_STEPS = 1


cdef class Packed:
    """Packed weights of one layer, for one or two directions; for few steps, the weights as they are."""

    cdef fr_packed *directions[2]
    cdef int count
    cdef fr_cell cell
    cdef object weights

    def __cinit__(self, cell, weights, int threads, steps):
        cdef fr_weights w
        cdef fr_dtype dtype
        cdef fr_status status
        cdef fr_interrupted *ask
        cdef ptrdiff_t I, H
        cdef double elements
        self.cell = CELLS[cell.name]
        for direction in weights:
            w = weights_of(direction)
            dtype = DTYPES[direction.w_ih.dtype.char]
            I, H = direction.w_ih.shape[1], direction.w_hh.shape[1]
            elements = <double>(I + H) * <double>direction.w_hh.shape[0]
            if steps is not None and steps <= FEW_STEPS:
                self.weights = weights  # which the kernels read
                status = fr_unpacked(self.cell, dtype, I, H, &w, &self.directions[self.count])
            elif elements < LEAST_PACKED_WITHOUT_GIL:
                status = fr_pack(self.cell, dtype, I, H, &w, threads, NULL, &self.directions[self.count])
            else:
                ask = asker()
                with nogil:
                    status = fr_pack(self.cell, dtype, I, H, &w, threads, ask, &self.directions[self.count])
            check(status, "packed weights")
            self.count += 1

    def __dealloc__(self):
        for d in range(2):
            fr_packed_free(self.directions[d])


def pack(cell, weights, int threads, steps=None):
    return Packed(cell, weights, threads, steps)


def forward(Packed packed not None, x, state, lengths, y, out_state, saved, int threads):
    cdef Shape s = shape_of(x, state[0])
    cdef fr_forward_run runs[2]
    cdef fr_forward_run *run
    cdef const int64_t *row_lengths = <const int64_t *>pointer(lengths)
    cdef bint has_c = fr_cells[packed.cell].states == 2
    cdef ptrdiff_t saved_size = s.T * s.B * s.H * fr_cells[packed.cell].saved * s.item
    cdef char *saved_data = <char *>pointer(saved if saved_size else None, PyBUF_WRITABLE)
    cdef fr_status status
    cdef fr_interrupted *ask
    cdef int d
    for d in range(packed.count):
        run = &runs[d]
        run.packed = packed.directions[d]
        run.reverse = d
        run.x = sequence(x, 0, s.item)
        run.y = sequence(y, d * s.H, s.item, PyBUF_WRITABLE)
        run.h0 = part(state[0], d, &s)
        run.h = part(out_state[0], d, &s, PyBUF_WRITABLE)
        run.c0 = part(state[1], d, &s) if has_c else NULL
        run.c = part(out_state[1], d, &s, PyBUF_WRITABLE) if has_c else NULL
        run.saved = NULL if saved_data == NULL else saved_data + d * saved_size
    if flop(packed.cell, &s, packed.count) < LEAST_FLOP_WITHOUT_GIL:
        status = fr_forward(runs, packed.count, s.T, s.B, row_lengths, threads, NULL)
    else:
        ask = asker()
        with nogil:
            status = fr_forward(runs, packed.count, s.T, s.B, row_lengths, threads, ask)
    check(status)


def backward(cell, weights, x, y, state, lengths, saved, dy, dstate, dx, dstate0, dweights, int threads, dsteps=None):
    cdef Shape s = shape_of(x, state[0])
    cdef fr_backward_run runs[2]
    cdef fr_backward_run *run
    cdef const int64_t *row_lengths = <const int64_t *>pointer(lengths)
    cdef fr_cell code = CELLS[cell.name]
    cdef bint has_c = fr_cells[code].states == 2
    cdef ptrdiff_t saved_size = s.T * s.B * s.H * fr_cells[code].saved * s.item
    cdef char *saved_data = <char *>pointer(saved if saved_size else None)
    cdef fr_status status
    cdef fr_interrupted *ask
    cdef int d
    memset(runs, 0, sizeof(runs))
    for d in range(len(weights)):
        run = &runs[d]
        run.cell, run.dtype, run.input_size, run.hidden_size = code, s.dtype, s.I, s.H
        run.weights = weights_of(weights[d])
        run.reverse = d
        run.x = sequence(x, 0, s.item)
        run.y = sequence(y, d * s.H, s.item)
        run.dy = sequence(dy, d * s.H, s.item)
        run.dx = sequence(dx, 0, s.item, PyBUF_WRITABLE)
        run.h0 = part(state[0], d, &s)
        run.dh = part(dstate[0], d, &s)
        run.dh0 = part(dstate0[0], d, &s, PyBUF_WRITABLE)
        if has_c:
            run.c0 = part(state[1], d, &s)
            run.dc = part(dstate[1], d, &s)
            run.dc0 = part(dstate0[1], d, &s, PyBUF_WRITABLE)
        run.saved = NULL if saved_data == NULL else saved_data + d * saved_size
        run.gradients.w_ih = pointer(dweights[d].w_ih, PyBUF_WRITABLE)
        run.gradients.w_hh = pointer(dweights[d].w_hh, PyBUF_WRITABLE)
        run.gradients.b_ih = pointer(dweights[d].b_ih, PyBUF_WRITABLE)
        run.gradients.b_hh = pointer(dweights[d].b_hh, PyBUF_WRITABLE)
        if dsteps is not None:
            run.dh_steps = pointer(dsteps[0][d], PyBUF_WRITABLE)
            run.dc_steps = pointer(dsteps[1][d], PyBUF_WRITABLE) if has_c else NULL
    d = len(weights)
    ask = asker()
    with nogil:
        status = fr_backward(runs, d, s.T, s.B, row_lengths, threads, ask)
    check(status)


# --- calls whose arguments are plain: no conversion, no Python between the layers


cdef struct Plain:  # a C-contiguous array as it came
    char *data
    int ndim
    ptrdiff_t shape[3]
    ptrdiff_t bytes


cdef bint plain_array(object ndarray, char expected, object array, Plain *result, int flags) except -1:
    """Whether `array` is of the kind expected, aligned and C-contiguous (and writable, if flags ask it)."""
    cdef Py_buffer buffer
    cdef int i
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, &buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | flags)
    except (BufferError, ValueError):
        return False
    cdef bint good = (
        kind(&buffer) == expected and 1 <= buffer.ndim <= 3 and <size_t>buffer.buf % <size_t>buffer.itemsize == 0
    )
    if good:
        result.data, result.ndim, result.bytes = <char *>buffer.buf, buffer.ndim, buffer.len
        for i in range(buffer.ndim):
            result.shape[i] = buffer.shape[i]
    PyBuffer_Release(&buffer)
    return good


cdef bint overlap(Plain *a, Plain *b) noexcept:
    return a.data < b.data + b.bytes and b.data < a.data + a.bytes


cdef struct StepCall:  # a cell's step as it was asked for
    fr_cell code
    char kind
    int parts  # of the state
    ptrdiff_t rows, B, I, H  # rows: of the weights
    Plain x, ih, hh, bias_ih, bias_hh
    Plain now[2]
    Plain after[2]


cdef class CellStep:
    """One step of a cell on bare arrays that need no conversion, with weights that are read once, as they are.

    `ndarray`, `empty` and `zeros` are NumPy's; `dtypes` are float32 and float64.
    """

    cdef object ndarray, empty, zeros, single, double

    def __cinit__(self, ndarray, empty, zeros, dtypes):
        self.ndarray, self.empty, self.zeros = ndarray, empty, zeros
        self.single, self.double = dtypes

    cdef bint matrix(self, char kind, object array, Plain *result, ptrdiff_t rows) except -1:
        """Whether `array` is a plain matrix that is not empty, of so many rows; -1: of any number."""
        return (plain_array(self.ndarray, kind, array, result, 0) and result.ndim == 2 and result.bytes > 0
                and (rows < 0 or result.shape[0] == rows))

    cdef bint bias(self, char kind, object array, Plain *result, ptrdiff_t rows) except -1:
        """Whether `array` is None, or a plain vector of so many."""
        result.data = NULL
        return array is None or (
            plain_array(self.ndarray, kind, array, result, 0) and result.ndim == 1 and result.shape[0] == rows
        )

    cdef bint vectors(self, char kind, object array, Plain *result, Plain *x, ptrdiff_t size) except -1:
        """Whether `array` is plain, with so many features for each row of x."""
        return (plain_array(self.ndarray, kind, array, result, 0) and result.ndim == x.ndim
                and result.shape[x.ndim - 1] == size and (x.ndim == 1 or result.shape[0] == x.shape[0]))

    cdef bint read(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, StepCall *s) except -1:
        """Whether all arguments are plain and fit together; else the caller checks and converts."""
        s.code = CELLS[cell.name]
        s.parts = fr_cells[s.code].states
        cdef ptrdiff_t gates = fr_cells[s.code].gates
        s.kind = c"f"
        if not self.matrix(s.kind, w_hh, &s.hh, -1):
            s.kind = c"d"
            if not self.matrix(s.kind, w_hh, &s.hh, -1):
                return False
        s.H, s.rows = s.hh.shape[1], s.hh.shape[0]
        if s.rows != gates * s.H or not self.matrix(s.kind, w_ih, &s.ih, s.rows):
            return False
        s.I = s.ih.shape[1]
        if not self.bias(s.kind, b_ih, &s.bias_ih, s.rows) or not self.bias(s.kind, b_hh, &s.bias_hh, s.rows):
            return False
        if not plain_array(self.ndarray, s.kind, x, &s.x, 0) or s.x.ndim > 2 or s.x.bytes == 0:
            return False
        if s.x.shape[s.x.ndim - 1] != s.I:
            return False
        s.B = s.x.shape[0] if s.x.ndim == 2 else 1
        if state is None:
            return True
        if s.parts == 1:
            return self.vectors(s.kind, state, &s.now[0], &s.x, s.H)
        return (type(state) is tuple and len(<tuple>state) == 2
                and self.vectors(s.kind, (<tuple>state)[0], &s.now[0], &s.x, s.H)
                and self.vectors(s.kind, (<tuple>state)[1], &s.now[1], &s.x, s.H))

    cdef object array(self, StepCall *s, object shape, Plain *result):
        cdef object made = self.empty(shape, self.single if s.kind == c"f" else self.double)
        plain_array(self.ndarray, s.kind, made, result, PyBUF_WRITABLE)
        return made

    cdef int step(self, StepCall *s, void *y, void *saved, int threads) except -1:
        """From s.now to s.after."""
        cdef fr_weights weights
        cdef fr_forward_run run
        cdef fr_packed *packed = NULL
        cdef fr_status status
        cdef fr_interrupted *ask
        weights.w_ih, weights.w_hh, weights.b_ih, weights.b_hh = s.ih.data, s.hh.data, s.bias_ih.data, s.bias_hh.data
        memset(&run, 0, sizeof(run))
        check(fr_unpacked(s.code, FR_F32 if s.kind == c"f" else FR_F64, s.I, s.H, &weights, &packed), "weights")
        run.packed, run.saved = packed, saved
        run.x.data, run.x.row = s.x.data, s.I
        run.y.data, run.y.row = y, s.H
        run.h0, run.h = s.now[0].data, s.after[0].data
        if s.parts == 2:
            run.c0, run.c = s.now[1].data, s.after[1].data
        if 2.0 * s.rows * s.B * (s.I + s.H) < LEAST_FLOP_WITHOUT_GIL / 4:  # the weights come from far
            status = fr_forward(&run, 1, 1, s.B, NULL, threads, NULL)
        else:
            ask = asker()
            with nogil:
                status = fr_forward(&run, 1, 1, s.B, NULL, threads, ask)
        fr_packed_free(packed)
        return check(status)

    def __call__(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, int threads):
        """The next state; None if an argument is not plain or does not fit."""
        cdef StepCall s
        cdef object shape, h, c = None
        cdef int i
        if not self.read(cell, x, state, w_ih, w_hh, b_ih, b_hh, &s):
            return None
        shape = (s.H,)
        if s.x.ndim == 2:
            shape = (s.B, s.H)
        h = self.array(&s, shape, &s.after[0])
        if s.parts == 2:
            c = self.array(&s, shape, &s.after[1])
        if state is None:
            zero = self.array(&s, shape, &s.now[0])  # h before the step is read while h after it is written
            s.now[1] = s.after[1]  # c is not
            for i in range(s.parts):
                memset(s.now[i].data, 0, s.now[i].bytes)
        self.step(&s, s.after[0].data, NULL, threads)
        return h if s.parts == 1 else (h, c)

    def record(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, int threads):
        """(the next state, y, the state before, saved) for a tape, the latter as a backend's backward takes them.

        None if an argument is not plain or does not fit.
        """
        cdef StepCall s
        cdef Plain y, saved
        cdef char *given
        cdef object shape, inner, kept = None
        cdef list after = [], before = []
        cdef int i
        if not self.read(cell, x, state, w_ih, w_hh, b_ih, b_hh, &s):
            return None
        inner = (1, s.B, s.H)
        shape = inner[1 if s.x.ndim == 2 else 2:]
        for i in range(s.parts):
            after.append(self.array(&s, shape, &s.after[i]))
            given = s.now[i].data
            before.append(self.array(&s, inner, &s.now[i]))  # a copy: the caller's state may change meanwhile
            if state is None:
                memset(s.now[i].data, 0, s.now[i].bytes)
            else:
                memcpy(s.now[i].data, given, s.now[i].bytes)
        output = self.array(&s, inner, &y)
        saved.data = NULL
        if cell.saved:
            kept = self.array(&s, (s.B * fr_cells[s.code].saved, s.H), &saved)
            kept = kept.reshape((1, 1, s.B, len(cell.saved), s.H))
        self.step(&s, y.data, saved.data, threads)
        return after[0] if s.parts == 1 else tuple(after), output, tuple(before), kept

    def backprop(self, cell, weights, run, bint batched, given, int threads):
        """(dx, dstate, dweights) of a step that a tape's `run` is of, by its dh, or dh and dc, one of which may be None.

        None if one is not plain or does not fit, or there is none.
        """
        cdef Shape s = shape_of(run.x, run.state[0])
        cdef Plain gradient
        cdef object inner = (1, s.B, s.H), inner_x = (1, s.B, s.I)
        cdef int outer = 1 if batched else 2  # axes that the caller's arrays do not have
        cdef object dtype = self.single if s.dtype == FR_F32 else self.double
        cdef list dafter = [], before = [], dweights = []
        cdef bint some = False
        for array in given:
            if array is not None:
                some = True
                if not plain_array(self.ndarray, c"f" if s.dtype == FR_F32 else c"d", array, &gradient, 0):
                    return None
                if gradient.ndim != 1 + batched or gradient.shape[batched] != s.H or (batched and gradient.shape[0] != s.B):
                    return None
                array = array.reshape(inner)
            dafter.append(array)
            before.append(self.empty(inner[outer:], dtype))
        if not some:
            return None
        dx = self.empty(inner_x[outer:], dtype)
        for array in weights:
            dweights.append(None if array is None else self.zeros(array.shape, dtype))
        sums = type(weights)._make(dweights)
        backward(cell, (weights,), run.x, run.y, run.state, None, run.saved, None, dafter, dx.reshape(inner_x),
                 [array.reshape(inner) for array in before], (sums,), threads)
        return dx, before[0] if len(before) == 1 else tuple(before), sums


cdef class Shortcut:
    """Inference by a stack of layers, or a cell, for arguments that need no conversion: one step, or a sequence.

    `layers` are results of `pack`, or an iterator of them for a single call. A layer's state has one axis more than a
    step's x, over the layers, and an output y comes with it; a cell's has neither. `ndarray` and `empty` are NumPy's,
    which this module does not import.
    """

    cdef object layers, ndarray, empty, dtype
    cdef ptrdiff_t input_size, hidden_size, num_layers, directions, runs
    cdef Py_ssize_t item
    cdef char kind
    cdef bint has_c, cell, batch_first
    cdef double row_flop

    def __cinit__(self, layers, spec, ndarray, empty, cell):
        cdef double gates = len(spec.cell.gates)
        self.layers, self.ndarray, self.empty, self.dtype = layers, ndarray, empty, spec.dtype
        self.input_size, self.hidden_size, self.item = spec.input_size, spec.hidden_size, spec.dtype.itemsize
        self.num_layers, self.directions = spec.num_layers, spec.directions
        self.runs = self.num_layers * self.directions
        self.kind = ord(spec.dtype.char)
        self.has_c, self.cell, self.batch_first = len(spec.cell.states) == 2, cell, spec.batch_first
        self.row_flop = 2 * gates * self.hidden_size * (self.input_size + self.hidden_size) * self.runs

    cdef bint plain(self, object array, Plain *result, int flags, char other=0) except -1:
        return plain_array(self.ndarray, other or self.kind, array, result, flags)

    cdef bint plain_state(self, object array, ptrdiff_t rows, Plain *result, int flags) except -1:
        """Whether `array` is plain and a part of a state of so many rows; -1: of an unbatched call."""
        if not self.plain(array, result, flags):
            return False
        cdef int i = 0 if self.cell else 1
        if result.ndim != i + 1 + (rows >= 0) or (i == 1 and result.shape[0] != self.runs):
            return False
        return result.shape[result.ndim - 1] == self.hidden_size and (rows < 0 or result.shape[i] == rows)

    cdef bint plain_states(self, object state, ptrdiff_t rows, Plain *parts, int flags) except -1:
        if not self.has_c:
            return self.plain_state(state, rows, &parts[0], flags)
        if type(state) is not tuple or len(<tuple>state) != 2:
            return False
        return (self.plain_state((<tuple>state)[0], rows, &parts[0], flags)
                and self.plain_state((<tuple>state)[1], rows, &parts[1], flags))

    cdef bint plain_lengths(self, object lengths, ptrdiff_t T, ptrdiff_t B, const int64_t **result) except -1:
        """Whether `lengths` is None or a plain array of B int64 from 0 to T."""
        cdef Plain steps
        cdef ptrdiff_t i
        result[0] = NULL
        if lengths is None:
            return True
        if not self.plain(lengths, &steps, 0, c"q") or steps.ndim != 1 or steps.shape[0] != B:
            return False
        result[0] = <const int64_t *>steps.data
        for i in range(B):
            if not 0 <= result[0][i] <= T:
                return False
        return True

    cdef object empty_state(self, object shape):
        cdef object h = self.empty(shape, self.dtype)
        return (h, self.empty(shape, self.dtype)) if self.has_c else h

    def step(self, x_t, state, out, int threads):
        """(y, state), or for a cell the state; None if an argument is not plain: the caller checks and converts then.

        out: None, or (y, state) to write into, which is returned.
        """
        cdef Plain x
        cdef Plain y
        cdef Plain now[2]
        cdef Plain after[2]
        cdef int parts = 2 if self.has_c else 1, i, k
        if not self.plain(x_t, &x, 0) or x.ndim > 2 or x.bytes == 0 or x.shape[x.ndim - 1] != self.input_size:
            return None
        cdef ptrdiff_t rows = x.shape[0] if x.ndim == 2 else -1
        if not self.plain_states(state, rows, now, 0):
            return None
        if out is None:
            shape = (state[0] if self.has_c else state).shape
            out_state = self.empty_state(shape)
            if self.cell:
                out = out_state
            else:
                out = self.empty(shape[1:], self.dtype), out_state
                self.plain(out[0], &y, PyBUF_WRITABLE)
            self.plain_states(out_state, rows, after, PyBUF_WRITABLE)
        else:
            if type(out) is not tuple or len(<tuple>out) != 2 or not self.plain(out[0], &y, PyBUF_WRITABLE):
                return None
            if y.ndim != x.ndim or y.shape[y.ndim - 1] != self.hidden_size or (x.ndim == 2 and y.shape[0] != x.shape[0]):
                return None
            if not self.plain_states(out[1], rows, after, PyBUF_WRITABLE) or overlap(&y, &x):
                return None
            for i in range(parts):
                if overlap(&y, &now[i]) or overlap(&y, &after[i]) or overlap(&x, &after[i]):
                    return None
                for k in range(parts):
                    if overlap(&after[i], &now[k]) and (i != k or after[i].data != now[k].data):
                        return None
            if parts == 2 and overlap(&after[0], &after[1]):
                return None
        self.advance(&x, now, &after[0] if self.cell else &y, after, threads)
        return out

    cdef int advance(self, Plain *x, Plain *now, Plain *y, Plain *after, int threads) except -1:
        """All layers, y serving the lower ones as scratch: a layer's new h is its output, which the next one reads."""
        cdef fr_forward_run run
        cdef ptrdiff_t B = 1 if x.ndim == 1 else x.shape[0], size = B * self.hidden_size * self.item
        cdef int k = 0
        memset(&run, 0, sizeof(run))
        run.x.data, run.x.row = x.data, self.input_size
        run.y.data, run.y.row = y.data, self.hidden_size
        for layer in self.layers:
            self.set_state(&run, now, after, k * size)
            self.run(layer, &run, 1, B, NULL, threads)
            run.x.data, run.x.row = run.h, self.hidden_size
            k += 1
        return 0

    cdef void set_state(self, fr_forward_run *run, Plain *now, Plain *after, ptrdiff_t offset) noexcept:
        run.h0, run.h = now[0].data + offset, after[0].data + offset
        if self.has_c:
            run.c0, run.c = now[1].data + offset, after[1].data + offset

    cdef int run(
        self, Packed layer, fr_forward_run *runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths, int threads
    ) except -1:
        """One layer: its directions' runs, but for the weights."""
        cdef fr_status status
        cdef fr_interrupted *ask
        cdef int d
        for d in range(layer.count):
            runs[d].packed, runs[d].reverse = layer.directions[d], d
        if T * B * self.row_flop < LEAST_FLOP_WITHOUT_GIL:
            status = fr_forward(runs, layer.count, T, B, lengths, threads, NULL)
        else:
            ask = asker()
            with nogil:
                status = fr_forward(runs, layer.count, T, B, lengths, threads, ask)
        return check(status)

    def sequence(self, sequence, state, lengths, int threads):
        """(y, state) of a layer; None if an argument is not plain: the caller checks and converts then."""
        cdef Plain x
        cdef Plain y
        cdef Plain now[2]
        cdef Plain after[2]
        cdef fr_forward_run runs[2]
        cdef ptrdiff_t T, B = 1, rows = -1, size, width = self.directions * self.hidden_size
        cdef const int64_t *row_lengths
        cdef int parts = 2 if self.has_c else 1, batch = 0 if self.batch_first else 1, i, k, d
        cdef tuple state_shape, shape
        if not self.plain(sequence, &x, 0) or x.ndim < 2 or x.bytes == 0 or x.shape[x.ndim - 1] != self.input_size:
            return None
        T = x.shape[0 if x.ndim == 2 else 1 - batch]
        if x.ndim == 3:
            B = rows = x.shape[batch]
        if state is not None and not self.plain_states(state, rows, now, 0):
            return None
        if not self.plain_lengths(lengths, T, rows, &row_lengths):
            return None
        if rows < 0:
            state_shape, shape = (self.runs, self.hidden_size), (T, width)
        else:
            state_shape, shape = (self.runs, B, self.hidden_size), (x.shape[0], x.shape[1], width)
        after_state = self.empty_state(state_shape)
        self.plain_states(after_state, rows, after, PyBUF_WRITABLE)
        if state is None:  # the final state may be the initial one
            for i in range(parts):
                now[i] = after[i]
                memset(now[i].data, 0, now[i].bytes)
        memset(runs, 0, sizeof(runs))
        size = B * self.hidden_size * self.item
        layers = iter(self.layers)
        for k in range(self.num_layers):
            check_signals()  # layers each too short to ask may be many
            target = self.empty(shape, self.dtype)
            self.plain(target, &y, PyBUF_WRITABLE)
            for d in range(self.directions):
                runs[d].x = self.strides(&x, T, B)
                runs[d].y = self.strides(&y, T, B)
                runs[d].y.data = y.data + d * self.hidden_size * self.item
                self.set_state(&runs[d], now, after, (k * self.directions + d) * size)
            self.run(next(layers), runs, T, B, row_lengths, threads)  # and nothing holds its weights
            sequence, x = target, y
        return sequence, after_state

    cdef fr_sequence strides(self, Plain *array, ptrdiff_t T, ptrdiff_t B) noexcept:
        """A C-contiguous sequence, in the order of axes that the layer has."""
        cdef fr_sequence result
        cdef ptrdiff_t n = array.shape[array.ndim - 1]
        result.data = array.data
        result.time, result.row = (n, T * n) if self.batch_first else (B * n, n)
        return result


def levels():
    """The instruction-set levels this machine can run, best first."""
    names = []
    while fr_level_name(len(names)) != NULL:
        names.append(fr_level_name(len(names)).decode())
    return names


def level():
    """The level in force."""
    return levels()[fr_level()]


def set_level(name):
    """Make `name`, one of levels(), the level of what is packed, and run backward, from now on."""
    names = levels()
    if name not in names:
        raise ValueError(f"name: expected one of {names}, got {name!r}")
    fr_set_level(names.index(name))


def compiler():
    """The compiler that built the kernels."""
    return fr_compiler().decode()


def update(rule, arrays, numbers):
    """Change parameters and their states in place by a formula of fastrnn/train/formulas.py, the same bits in one pass.

    `arrays` has a tuple (param, grad, *states) for each, C-contiguous and of one size and dtype, None for a state that
    is not kept; `numbers` the formula's by name.
    """
    cdef fr_update_run run
    cdef fr_numbers given
    cdef fr_dtype dtype
    cdef Py_buffer buffer
    cdef int k
    memset(&given, 0, sizeof(given))
    given.shrink = numbers.get("shrink", 1.0)
    given.lr, given.momentum, given.share = numbers["lr"], numbers.get("momentum", 0.0), numbers.get("share", 1.0)
    given.alpha, given.beta1, given.beta2 = numbers.get("alpha", 0.0), numbers.get("beta1", 0.0), numbers.get("beta2", 0.0)
    given.eps, given.root = numbers.get("eps", 0.0), numbers.get("root", 1.0)
    given.weight_decay, given.nesterov = numbers.get("weight_decay", 0.0), numbers.get("nesterov", False)
    memset(&run, 0, sizeof(run))
    run.rule = RULES[rule]
    for param, grad, *states in arrays:
        dtype = typed_view(param, &buffer, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        run.n, run.param = buffer.len // buffer.itemsize, buffer.buf
        for k, array in enumerate((grad, *states)):
            if array is not None and (array.size != run.n or array.dtype != param.dtype):
                raise ValueError(f"expected {run.n} elements of {param.dtype}, got {array.size} of {array.dtype}")
        run.grad = pointer(grad)
        for k in range(3):
            run.states[k] = pointer(states[k], PyBUF_WRITABLE) if k < len(states) else NULL
        with nogil:
            fr_update(dtype, &run, &given)


def activate(name, v, result):
    """result[i] = exp, sigmoid or tanh of v[i], as the kernels of the level in force compute it, denormals as zero.

    Both are C-contiguous arrays of one dtype, float32 or float64, and as many elements. exp stays where it is at the
    ends of the range in which e^v is a normal number.
    """
    cdef Py_buffer given, filled
    cdef fr_activation function = ACTIVATIONS[name]
    cdef fr_dtype dtype = typed_view(v, &given, PyBUF_C_CONTIGUOUS)
    if dtype != typed_view(result, &filled, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) or given.len != filled.len:
        raise ValueError(f"result: expected {v.size} elements of {v.dtype}, got {result.size} of {result.dtype}")
    with nogil:
        fr_activate(dtype, function, given.buf, filled.buf, given.len // given.itemsize)


def fma_peak(dtype, int threads, double seconds):
    """The peak rate of fused multiply-adds of `threads` threads at the level in force, in flop/s, measured now.

    dtype is a NumPy dtype, float32 or float64.
    """
    cdef fr_dtype kind = DTYPES[dtype.char]
    cdef double rate
    with nogil:
        rate = fr_fma_peak(kind, threads, seconds)
    return rate


def read_bandwidth(ptrdiff_t bytes, int threads, double seconds):
    """The rate at which `threads` threads together read `bytes` bytes again and again, in bytes/s, measured now.

    Each reads its own part of them with the vectors of the level in force: from the caches, where the parts fit.
    """
    cdef double rate
    cdef fr_status status
    if bytes < 1:
        raise ValueError(f"bytes: expected at least 1, got {bytes}")
    with nogil:
        status = fr_read_bandwidth(<size_t>bytes, threads, seconds, &rate)
    if status != FR_OK:
        raise MemoryError(f"no memory to read {bytes} bytes from")
    return rate


def hoisted_terms(ptrdiff_t rows, ptrdiff_t T, int tile_rows, size_t weight_bytes, size_t term_bytes):
    """How many terms' input products a share of so many rows would take at once; 0: each step its own."""
    return fr_choose_hoisted(rows, T, tile_rows, weight_bytes, term_bytes)


def schedule(int threads, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices, double step_flop):
    """How a call would be divided: for each thread the rows it takes, ranked by falling length, and the slices
    of the units.

    `step_flop` is the work of one row and step.
    """
    cdef fr_schedule chosen = fr_choose_schedule(threads, 1, T, B, slices, step_flop)
    cdef fr_part part
    parts = []
    for index in range(chosen.threads):
        part = fr_deal(index, chosen.threads, chosen.by_units, B, slices)
        parts.append(([fr_rank(part.hand, i) for i in range(part.rows)], range(part.begin, part.end)))
    return parts
