"""Arrays, as the kernels take them: where they lie, of which dtype and shape, in which strides."""

import sys

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.string cimport memcpy, memset

cdef dict DTYPES = {"f": FR_F32, "d": FR_F64}
cdef char NATIVE_ORDER = c"<" if sys.byteorder == "little" else c">"


cdef struct Shape:  # of a call
    ptrdiff_t T, B, I, H, P
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


cdef char *part(object array, ptrdiff_t d, ptrdiff_t size, int flags=0) except? NULL:
    """The d-th direction of an array that has so many bytes of each; NULL for None."""
    cdef char *data = <char *>pointer(array, flags)
    return NULL if data == NULL else data + d * size


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


cdef Shape shape_of(object x, object state) except *:
    """The sizes of a call, by its x and the parts of its state, of which h may have fewer features, P."""
    cdef Shape s
    cdef Py_buffer buffer
    PyObject_GetBuffer(x, &buffer, PyBUF_STRIDES | PyBUF_FORMAT)
    three_axes(&buffer)
    s.T, s.B, s.I, s.item = buffer.shape[0], buffer.shape[1], buffer.shape[2], buffer.itemsize
    read_dtype(&buffer, &s.dtype)
    PyBuffer_Release(&buffer)
    s.P, s.H = state[0].shape[2], state[len(state) - 1].shape[2]
    return s


# --- arrays that need no conversion


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


cdef inline fr_sequence one_step(char *data, ptrdiff_t features) noexcept:
    """A sequence of one step, its rows one after the other."""
    cdef fr_sequence result
    result.data, result.time, result.row = data, 0, features
    return result


cdef bint overlap(Plain *a, Plain *b) noexcept:
    return a.data < b.data + b.bytes and b.data < a.data + a.bytes
