"""The short way through a stack of layers, or a cell, for arguments that need no conversion."""


cdef class Shortcut:
    """Inference by a stack of layers, or a cell, for arguments that need no conversion: one step, or a sequence.

    `layers` are results of `pack`, or an iterator of them for a single call. A layer's state has one axis more than a
    step's x, over the layers, and an output y comes with it; a cell's has neither. `ndarray` and `empty` are NumPy's,
    which this module does not import.
    """

    cdef object layers, ndarray, empty, dtype
    cdef ptrdiff_t input_size, num_layers, directions, runs
    cdef ptrdiff_t widths[2]  # of the parts of a state
    cdef Py_ssize_t item
    cdef char kind
    cdef bint has_c, cell, batch_first
    cdef tuple backward
    cdef double row_flop

    def __cinit__(self, layers, spec, ndarray, empty, cell):
        cdef double gates = len(spec.cell.gates)
        self.widths[0], self.widths[1] = spec.widths[0], spec.widths[len(spec.widths) - 1]
        self.layers, self.ndarray, self.empty, self.dtype = layers, ndarray, empty, spec.dtype
        self.input_size, self.item = spec.input_size, spec.dtype.itemsize
        self.num_layers, self.directions, self.backward = spec.num_layers, spec.directions, spec.backward
        self.runs = self.num_layers * self.directions
        self.kind = ord(spec.dtype.char)
        self.has_c, self.cell, self.batch_first = len(spec.cell.states) == 2, cell, spec.batch_first
        self.row_flop = 2 * gates * self.widths[1] * (self.input_size + self.widths[0]) * self.runs

    cdef bint plain(self, object array, Plain *result, int flags, char other=0) except -1:
        return plain_array(self.ndarray, other or self.kind, array, result, flags)

    cdef bint plain_state(self, object array, ptrdiff_t rows, ptrdiff_t width, Plain *result, int flags) except -1:
        """Whether `array` is plain and a part of a state of so many rows; -1: of an unbatched call."""
        if not self.plain(array, result, flags):
            return False
        cdef int i = 0 if self.cell else 1
        if result.ndim != i + 1 + (rows >= 0) or (i == 1 and result.shape[0] != self.runs):
            return False
        return result.shape[result.ndim - 1] == width and (rows < 0 or result.shape[i] == rows)

    cdef bint plain_states(self, object state, ptrdiff_t rows, Plain *parts, int flags) except -1:
        if not self.has_c:
            return self.plain_state(state, rows, self.widths[0], &parts[0], flags)
        if type(state) is not tuple or len(<tuple>state) != 2:
            return False
        return (self.plain_state((<tuple>state)[0], rows, self.widths[0], &parts[0], flags)
                and self.plain_state((<tuple>state)[1], rows, self.widths[1], &parts[1], flags))

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

    cdef object empty_state(self, tuple shape):
        """A state whose h has this shape."""
        cdef object h = self.empty(shape, self.dtype)
        if self.widths[0] != self.widths[1]:
            shape = (*shape[: len(shape) - 1], self.widths[1])
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
        if self.directions > 1 or self.backward:
            return None
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
            if y.ndim != x.ndim or y.shape[y.ndim - 1] != self.widths[0] or (x.ndim == 2 and y.shape[0] != x.shape[0]):
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
        cdef ptrdiff_t B = 1 if x.ndim == 1 else x.shape[0]
        cdef ptrdiff_t h = B * self.widths[0] * self.item, c = B * self.widths[1] * self.item
        cdef fr_sequence given = one_step(x.data, self.input_size), output = one_step(y.data, self.widths[0])
        cdef Packed layer
        cdef int k = 0
        for layer in self.layers:
            set_forward(
                &run, layer.directions[0], False, given, output, states_at(now, self.has_c, k * h, k * c),
                states_at(after, self.has_c, k * h, k * c), NULL,
            )
            run_forward(&run, 1, 1, B, NULL, threads, B * self.row_flop)
            given = one_step(<char *>run.h, self.widths[0])
            k += 1
        return 0

    def sequence(self, sequence, state, lengths, int threads):
        """(y, state) of a layer; None if an argument is not plain: the caller checks and converts then."""
        cdef Plain x
        cdef Plain y
        cdef Plain now[2]
        cdef Plain after[2]
        cdef fr_forward_run runs[2]
        cdef ptrdiff_t T, B = 1, rows = -1, P = self.widths[0], h, c, width = self.directions * P
        cdef const int64_t *row_lengths
        cdef fr_sequence given, output
        cdef Packed layer
        cdef int parts = 2 if self.has_c else 1, batch = 0 if self.batch_first else 1, i, k, d
        cdef bint backward
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
            state_shape, shape = (self.runs, P), (T, width)
        else:
            state_shape, shape = (self.runs, B, P), (x.shape[0], x.shape[1], width)
        after_state = self.empty_state(state_shape)
        self.plain_states(after_state, rows, after, PyBUF_WRITABLE)
        if state is None:  # the final state may be the initial one
            for i in range(parts):
                now[i] = after[i]
                memset(now[i].data, 0, now[i].bytes)
        h, c = B * P * self.item, B * self.widths[1] * self.item
        layers = iter(self.layers)
        for k in range(self.num_layers):
            check_signals()  # layers each too short to ask may be many
            target = self.empty(shape, self.dtype)
            self.plain(target, &y, PyBUF_WRITABLE)
            given, output = self.strides(&x, T, B), self.strides(&y, T, B)
            layer = next(layers)  # and nothing else holds its weights
            backward = self.backward and self.backward[k]
            for d in range(self.directions):
                i = k * self.directions + d
                set_forward(
                    &runs[d], layer.directions[d], d or backward, given, output,
                    states_at(now, self.has_c, i * h, i * c), states_at(after, self.has_c, i * h, i * c), NULL,
                )
                output.data = <char *>output.data + P * self.item
            run_forward(runs, self.directions, T, B, row_lengths, threads, T * B * self.row_flop)
            layer = None
            sequence, x = target, y
        return sequence, after_state

    cdef fr_sequence strides(self, Plain *array, ptrdiff_t T, ptrdiff_t B) noexcept:
        """A C-contiguous sequence, in the order of axes that the layer has."""
        cdef fr_sequence result
        cdef ptrdiff_t n = array.shape[array.ndim - 1]
        result.data = array.data
        result.time, result.row = (n, T * n) if self.batch_first else (B * n, n)
        return result
