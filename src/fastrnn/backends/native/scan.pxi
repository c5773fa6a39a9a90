"""The contract of backends/scan.py: the scans and the product before them."""

cdef extern from "scans.h" nogil:
    ctypedef enum fr_scan_kind:
        FR_SCAN_LINEAR, FR_SCAN_MINGRU, FR_SCAN_MINLSTM, FR_SCAN_INDRNN_TANH, FR_SCAN_INDRNN_RELU
    ctypedef struct fr_scan:
        fr_scan_kind kind
        fr_dtype dtype
        int pairs
        int reverse
        ptrdiff_t T
        ptrdiff_t B
        ptrdiff_t D
        const int64_t *lengths
        fr_sequence a
        const void *u
        const void *h0
        fr_sequence h
    ctypedef struct fr_scan_forward_run:
        fr_scan scan
        fr_sequence b
        void *last
    ctypedef struct fr_scan_backward_run:
        fr_scan scan
        fr_sequence dy
        const void *dlast
        fr_sequence da
        fr_sequence db
        void *sum
        void *dh0
    ctypedef struct fr_linear_packed:
        pass
    fr_status fr_linear_pack(
        fr_dtype, ptrdiff_t, ptrdiff_t, const void *, int, const void *, int, fr_interrupted *, fr_linear_packed **
    )
    void fr_linear_free(fr_linear_packed *)
    fr_status fr_linear(const fr_linear_packed *, ptrdiff_t, const void *, void *, int, fr_interrupted *)
    fr_status fr_scan_forward(const fr_scan_forward_run *, int, fr_interrupted *)
    fr_status fr_scan_backward(const fr_scan_backward_run *, int, fr_interrupted *)

cdef dict SCANS = {
    "linear": FR_SCAN_LINEAR,
    "mingru": FR_SCAN_MINGRU,
    "minlstm": FR_SCAN_MINLSTM,
    "indrnn_tanh": FR_SCAN_INDRNN_TANH,
    "indrnn_relu": FR_SCAN_INDRNN_RELU,
}

# Below about 20 µs of work, taking the GIL back costs more than letting it go gives.
cdef double LEAST_NUMBERS_WITHOUT_GIL = 1e5


cdef fr_sequence pairs_of(fr_sequence sequence):
    """A sequence of complex numbers as one of real numbers, twice as many."""
    sequence.time *= 2
    sequence.row *= 2
    return sequence


cdef int set_scan(fr_scan *scan, kind, a, u, h0, h, lengths, bint reverse) except -1:
    cdef ptrdiff_t item = h.itemsize
    memset(scan, 0, sizeof(scan[0]))
    scan.kind = SCANS[kind]
    scan.pairs = h.dtype.kind == "c"
    scan.dtype = FR_F64 if h.dtype.char in "dD" else FR_F32
    scan.T, scan.B, scan.D = h.shape
    scan.reverse = reverse
    scan.lengths = <const int64_t *>pointer(lengths)
    scan.a, scan.h = sequence(a, 0, item), sequence(h, 0, item)
    scan.u, scan.h0 = pointer(u), pointer(h0)
    if scan.pairs:
        scan.D *= 2
        scan.a, scan.h = pairs_of(scan.a), pairs_of(scan.h)
    return 0


cdef bint is_short(fr_scan *scan) noexcept:
    return <double>scan.T * <double>scan.B * <double>scan.D < LEAST_NUMBERS_WITHOUT_GIL


def scan_forward(kind, a, b, u, h0, h, last, lengths, bint reverse, int threads):
    cdef fr_scan_forward_run run
    cdef fr_status status
    cdef fr_interrupted *ask
    set_scan(&run.scan, kind, a, u, h0, h, lengths, reverse)
    run.b, run.last = sequence(b, 0, h.itemsize), pointer(last, PyBUF_WRITABLE)
    if run.scan.pairs:
        run.b = pairs_of(run.b)
    if is_short(&run.scan):
        check(fr_scan_forward(&run, threads, NULL))
        return
    ask = asker()
    with nogil:
        status = fr_scan_forward(&run, threads, ask)
    check(status)


def scan_backward(kind, a, u, h, h0, lengths, bint reverse, dy, dlast, da, db, total, dh0, int threads):
    cdef fr_scan_backward_run run
    cdef fr_status status
    cdef fr_interrupted *ask
    cdef ptrdiff_t item = h.itemsize
    set_scan(&run.scan, kind, a, u, h0, h, lengths, reverse)
    run.dy, run.dlast = sequence(dy, 0, item), pointer(dlast)
    run.da, run.db = sequence(da, 0, item, PyBUF_WRITABLE), sequence(db, 0, item, PyBUF_WRITABLE)
    run.sum, run.dh0 = pointer(total, PyBUF_WRITABLE), pointer(dh0, PyBUF_WRITABLE)
    if run.scan.pairs:
        run.dy, run.da, run.db = pairs_of(run.dy), pairs_of(run.da), pairs_of(run.db)
    if is_short(&run.scan):
        check(fr_scan_backward(&run, threads, NULL))
        return
    ask = asker()
    with nogil:
        status = fr_scan_backward(&run, threads, ask)
    check(status)


cdef class PackedLinear:
    """The packed weights of a product."""

    cdef fr_linear_packed *packed
    cdef ptrdiff_t K, M

    def __cinit__(self, w, bias, bint transposed, int threads):
        cdef fr_dtype dtype = DTYPES[w.dtype.char]
        cdef const void *weights = pointer(w)
        cdef const void *start = pointer(bias)
        cdef fr_status status
        cdef fr_interrupted *ask
        self.K, self.M = w.shape if transposed else w.shape[::-1]
        if <double>self.K * self.M < LEAST_PACKED_WITHOUT_GIL:
            status = fr_linear_pack(dtype, self.K, self.M, weights, transposed, start, threads, NULL, &self.packed)
        else:
            ask = asker()
            with nogil:
                status = fr_linear_pack(dtype, self.K, self.M, weights, transposed, start, threads, ask, &self.packed)
        check(status, "packed weights")

    def __dealloc__(self):
        fr_linear_free(self.packed)


def pack_linear(w, bias, bint transposed, int threads):
    return PackedLinear(w, bias, transposed, threads)


def linear(PackedLinear packed not None, x, y, int threads):
    cdef const void *given = pointer(x)
    cdef void *result = pointer(y, PyBUF_WRITABLE)
    cdef ptrdiff_t N = len(x)
    cdef fr_status status
    cdef fr_interrupted *ask
    if 2.0 * N * packed.K * packed.M < LEAST_FLOP_WITHOUT_GIL:
        check(fr_linear(packed.packed, N, given, result, threads, NULL))
        return
    ask = asker()
    with nogil:
        status = fr_linear(packed.packed, N, given, result, threads, ask)
    check(status)
