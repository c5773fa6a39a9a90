"""The contract of base.py: pack, forward and backward."""

from fastrnn.spec import CELLS as TABLE

cdef dict CELLS = {fr_cell_name(code).decode(): code for code in range(FR_CELLS)}
if list(CELLS) != list(TABLE):
    raise ImportError(f"the kernels were built for other cells than spec.py has, {', '.join(CELLS)}: install again")

# Below about 20 µs of work, taking the GIL back costs more than letting it go gives.
cdef double LEAST_FLOP_WITHOUT_GIL = 2e6
cdef double LEAST_PACKED_WITHOUT_GIL = 1e5  # elements


cdef double flop(fr_cell cell, Shape *s, ptrdiff_t directions):
    return 2.0 * fr_cells[cell].gates * directions * s.T * s.B * s.H * (s.I + s.H)


cdef int run_forward(
    fr_forward_run *runs, int count, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths, int threads, double flop
) except -1:
    """The directions of a layer, of so much work: without the GIL where that is worth it."""
    cdef fr_status status
    cdef fr_interrupted *ask
    if flop < LEAST_FLOP_WITHOUT_GIL:
        return check(fr_forward(runs, count, T, B, lengths, threads, NULL))
    ask = asker()
    with nogil:
        status = fr_forward(runs, count, T, B, lengths, threads, ask)
    return check(status)


cdef void set_state(fr_forward_run *run, bint has_c, Plain *now, Plain *after, ptrdiff_t offset) noexcept:
    """The state before and after the run, each part from so many bytes on."""
    run.h0, run.h = now[0].data + offset, after[0].data + offset
    if has_c:
        run.c0, run.c = now[1].data + offset, after[1].data + offset


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
    run_forward(runs, packed.count, s.T, s.B, row_lengths, threads, flop(packed.cell, &s, packed.count))


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
