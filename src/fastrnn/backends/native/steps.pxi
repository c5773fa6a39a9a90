"""One step of a cell, or of a layer of one direction, on bare arrays; and the backward of a cell's from what it left."""


cdef struct StepCall:  # a step as it was asked for
    fr_cell code
    char kind
    int parts  # of the state
    ptrdiff_t rows, B, I, H  # rows: of the weights
    int time_axis  # of a layer's x, whose length is 1, and its state has such an axis, too, the first; -1: of a cell
    Plain x, ih, hh, bias_ih, bias_hh
    Plain now[2]
    Plain after[2]


cdef double step_flop(StepCall *s) noexcept:
    """The work of a step. Its weights come from far: four times as long as their operations take."""
    return 4 * 2.0 * s.rows * s.B * (s.I + s.H)


cdef inline fr_dtype dtype_of(StepCall *s) noexcept:
    return FR_F32 if s.kind == c"f" else FR_F64


cdef inline fr_weights weights_at(StepCall *s) noexcept:
    cdef fr_weights result
    memset(&result, 0, sizeof(result))
    result.w_ih, result.w_hh, result.b_ih, result.b_hh = s.ih.data, s.hh.data, s.bias_ih.data, s.bias_hh.data
    return result


cdef object rows_of(StepCall *s, ptrdiff_t size):
    """The shape of an array with so many features for each row of a cell's x."""
    if s.x.ndim == 2:
        return (s.B, size)
    return (size,)


cdef bint fits(Plain *part, StepCall *s) noexcept:
    """Whether this has a state's features for each row of x."""
    return part.ndim == s.x.ndim and part.shape[part.ndim - 1] == s.H and (part.ndim == 1 or part.shape[0] == s.B)


cdef class CellStep:
    """One step on bare arrays that need no conversion, with weights that are read once, as they are.

    `ndarray` and `empty` are NumPy's; `dtypes` are float32 and float64.
    """

    cdef object ndarray, empty, single, double

    def __cinit__(self, ndarray, empty, dtypes):
        self.ndarray, self.empty = ndarray, empty
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

    cdef bint rows(self, object array, StepCall *s, Plain *result, int axis, ptrdiff_t size) except -1:
        """Whether `array` is plain and not empty, with so many features for each row; of a layer without its axis."""
        if not plain_array(self.ndarray, s.kind, array, result, 0) or result.bytes == 0:
            return False
        if s.time_axis >= 0 and (result.ndim == 1 or result.shape[0 if result.ndim == 2 else axis] != 1):
            return False
        if result.ndim == 3:
            if s.time_axis < 0:
                return False
            result.shape[0], result.shape[1], result.ndim = result.shape[1 - axis], result.shape[2], 2
        return result.shape[result.ndim - 1] == size

    cdef bint part(self, object array, StepCall *s, Plain *result, bint batched) except -1:
        """Whether `array` is plain and a part of a state that fits x."""
        return (self.rows(array, s, result, 0, s.H) and fits(result, s)
                and (s.time_axis < 0 or batched == (array.ndim == 3)))

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
        if not self.rows(x, s, &s.x, s.time_axis, s.I):
            return False
        s.B = s.x.shape[0] if s.x.ndim == 2 else 1
        if state is None:
            return True
        cdef bint batched = x.ndim == 3
        if s.parts == 1:
            return self.part(state, s, &s.now[0], batched)
        return (type(state) is tuple and len(<tuple>state) == 2
                and self.part((<tuple>state)[0], s, &s.now[0], batched)
                and self.part((<tuple>state)[1], s, &s.now[1], batched))

    cdef object array(self, StepCall *s, object shape, Plain *result):
        """A new array, whose elements are anything."""
        cdef object made = self.empty(shape, self.dtype(s))
        plain_array(self.ndarray, s.kind, made, result, PyBUF_WRITABLE)
        return made

    cdef object dtype(self, StepCall *s):
        return self.single if s.kind == c"f" else self.double

    cdef int step(self, StepCall *s, char *y, char *saved, int threads) except -1:
        """From s.now to s.after."""
        cdef fr_weights weights = weights_at(s)
        cdef fr_forward_run run
        cdef fr_packed *packed = NULL
        check(fr_unpacked(s.code, dtype_of(s), s.I, s.H, &weights, NULL, &packed), "weights")
        set_forward(
            &run, packed, False, one_step(s.x.data, s.I), one_step(y, s.H), states_at(s.now, s.parts == 2, 0, 0),
            states_at(s.after, s.parts == 2, 0, 0), saved,
        )
        try:
            return run_forward(&run, 1, 1, s.B, NULL, threads, step_flop(s))
        finally:
            fr_packed_free(packed)

    cdef object advance(self, StepCall *s, bint from_zeros, object shape, Plain *y, int threads):
        """The next state, of this shape. y: where it goes besides, or NULL."""
        cdef object h = self.array(s, shape, &s.after[0]), c = None, zero = None
        cdef int i
        if s.parts == 2:
            c = self.array(s, shape, &s.after[1])
        if from_zeros:
            zero = self.array(s, shape, &s.now[0])  # h before the step is read while h after it is written
            s.now[1] = s.after[1]  # c is not
            for i in range(s.parts):
                memset(s.now[i].data, 0, s.now[i].bytes)
        self.step(s, s.after[0].data if y == NULL else y.data, NULL, threads)
        return h if s.parts == 1 else (h, c)

    def __call__(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, int threads):
        """The next state; None if an argument is not plain or does not fit."""
        cdef StepCall s
        s.time_axis = -1
        if not self.read(cell, x, state, w_ih, w_hh, b_ih, b_hh, &s):
            return None
        return self.advance(&s, state is None, rows_of(&s, s.H), NULL, threads)

    def layer(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, bint batch_first, int threads):
        """(y, state) of a layer of one direction and a sequence of one step, as `__call__`."""
        cdef StepCall s
        cdef Plain y
        cdef object shape, outputs
        s.time_axis = 1 if batch_first else 0
        if not self.read(cell, x, state, w_ih, w_hh, b_ih, b_hh, &s):
            return None
        shape = (1, s.H)
        outputs = self.array(&s, (*x.shape[: len(x.shape) - 1], s.H), &y)
        if y.ndim == 3:
            shape = (1, s.B, s.H)
        return outputs, self.advance(&s, state is None, shape, &y, threads)

    def record(self, cell, x, state, w_ih, w_hh, b_ih, b_hh, int threads):
        """(the next state, the RecordedStep); None if an argument is not plain or does not fit."""
        cdef RecordedStep made = RecordedStep.__new__(RecordedStep)
        cdef StepCall *s = &made.call
        cdef Plain kept
        cdef ptrdiff_t part
        cdef char *given
        cdef object shape, h, c = None
        cdef int i
        s.time_axis = -1
        if not self.read(cell, x, state, w_ih, w_hh, b_ih, b_hh, s):
            return None
        shape = rows_of(s, s.H)
        made.way = self
        made.arrays = x, w_ih, w_hh, b_ih, b_hh
        made.kept = self.array(s, ((1 + s.parts + fr_cells[s.code].saved) * s.B, s.H), &kept)
        part = s.B * s.H * (4 if s.kind == c"f" else 8)
        made.y, made.saved = kept.data, kept.data + (1 + s.parts) * part
        h = self.array(s, shape, &s.after[0])
        if s.parts == 2:
            c = self.array(s, shape, &s.after[1])
        for i in range(s.parts):
            given = s.now[i].data
            s.now[i].data = kept.data + (1 + i) * part
            if state is None:
                memset(s.now[i].data, 0, part)
            else:
                memcpy(s.now[i].data, given, part)
        self.step(s, made.y, made.saved if fr_cells[s.code].saved else NULL, threads)
        return h if s.parts == 1 else (h, c), made


cdef class RecordedStep:
    """What the backward of a step needs: the caller's arrays, and what the step made of them.

    It points to the arrays' memory as it was: what shapes and dtypes the caller gives them later does not matter.
    """

    cdef StepCall call  # its `now` lies in `kept`
    cdef CellStep way  # that made this
    cdef tuple arrays  # x, w_ih, w_hh, b_ih, b_hh, whose memory `call` points to
    cdef object kept  # ((1 + parts + saved) * B, H): y, the state before, which the caller may change, what was saved
    cdef char *y
    cdef char *saved

    @property
    def sizes(self):
        """I, H, whether there is a bias, the dtype, whether there is a batch."""
        bias = self.arrays[3] is not None or self.arrays[4] is not None
        return self.call.I, self.call.H, bias, self.way.dtype(&self.call), self.call.x.ndim == 2

    @property
    def contents(self):
        """(x, the weights, the state before, y, saved), as the backend contract has them."""
        cdef ptrdiff_t B = self.call.B, I = self.call.I, H = self.call.H
        cdef int parts = self.call.parts, i
        cdef ptrdiff_t G = self.call.rows
        shapes = (1, B, I), (G, I), (G, H), (G,), (G,)
        dtype = self.way.dtype(&self.call)
        as_given = [array if array is None else self.way.ndarray(shape, dtype, array)
                    for shape, array in zip(shapes, self.arrays)]
        rows = self.kept.reshape((-1, 1, B, H))
        saved = self.kept[(1 + parts) * B :].reshape((1, 1, B, -1, H)) if len(rows) > 1 + parts else None
        return as_given[0], as_given[1:], tuple([rows[1 + i] for i in range(parts)]), rows[0], saved

    cdef object array(self, object shape, Plain *result):
        return self.way.array(&self.call, shape, result)

    def backprop(self, tuple given, int threads):
        """(dx, dstate, (dw_ih, dw_hh, db_ih, db_hh)) by dh, or dh and dc, one of which may be None.

        None if one is not plain or does not fit, or there is none.
        """
        cdef StepCall *s = &self.call
        cdef Plain gradients[2]
        cdef Plain d_before[2]
        cdef Plain d_x
        cdef Plain made
        cdef fr_gradients d_weights
        cdef fr_backward_run run
        cdef bint has_c = s.parts == 2, some = False
        cdef object shape = rows_of(s, s.H), dh, dc = None, db_ih = None, db_hh = None
        cdef int i
        if len(given) != s.parts:
            return None
        for i in range(s.parts):
            gradients[i].data = NULL
            if given[i] is None:
                continue
            some = True
            if not plain_array(self.way.ndarray, s.kind, given[i], &gradients[i], 0) or not fits(&gradients[i], s):
                return None
        if not some:
            return None
        dx = self.array(rows_of(s, s.I), &d_x)
        dh = self.array(shape, &d_before[0])
        if has_c:
            dc = self.array(shape, &d_before[1])
        memset(&d_weights, 0, sizeof(d_weights))
        dw_ih = self.array((s.rows, s.I), &made)
        d_weights.w_ih = made.data
        dw_hh = self.array((s.rows, s.H), &made)
        d_weights.w_hh = made.data
        if s.bias_ih.data != NULL:
            db_ih = self.array((s.rows,), &made)
            d_weights.b_ih = made.data
        if s.bias_hh.data != NULL:
            db_hh = self.array((s.rows,), &made)
            d_weights.b_hh = made.data
        set_backward(
            &run, s.code, dtype_of(s), s.I, s.H, weights_at(s), d_weights, True, one_step(s.x.data, s.I),
            one_step(self.y, s.H), one_step(d_x.data, s.I), states_at(s.now, has_c, 0, 0),
            states_at(gradients, has_c, 0, 0), states_at(d_before, has_c, 0, 0),
            self.saved if fr_cells[s.code].saved else NULL,
        )
        run_backward(&run, 1, 1, s.B, NULL, threads, step_flop(s))
        return dx, (dh, dc) if has_c else dh, (dw_ih, dw_hh, db_ih, db_hh)
