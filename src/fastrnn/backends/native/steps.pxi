"""One step of a cell on bare arrays, forward and backward, and its backward from a tape."""


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
        if cell.options is not None or cell.vectors:
            return False
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
        weights.w_ih, weights.w_hh, weights.b_ih, weights.b_hh = s.ih.data, s.hh.data, s.bias_ih.data, s.bias_hh.data
        memset(&run, 0, sizeof(run))
        weights.vectors, weights.w_hr, weights.proj_size = NULL, NULL, 0
        check(fr_unpacked(s.code, FR_F32 if s.kind == c"f" else FR_F64, s.I, s.H, &weights, NULL, &packed), "weights")
        run.packed, run.saved = packed, saved
        run.x.data, run.x.row = s.x.data, s.I
        run.y.data, run.y.row = y, s.H
        set_state(&run, s.parts == 2, s.now, s.after, 0, 0)
        try:  # the weights come from far: four times as long as their operations take
            return run_forward(&run, 1, 1, s.B, NULL, threads, 4 * 2.0 * s.rows * s.B * (s.I + s.H))
        finally:
            fr_packed_free(packed)

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
        cdef Shape s = shape_of(run.x, run.state)
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
        wanted = Wanted(dx.reshape(inner_x), [array.reshape(inner) for array in before], (sums,))
        backward(cell, (weights,), run, Given(None, dafter), wanted, threads)
        return dx, before[0] if len(before) == 1 else tuple(before), sums
