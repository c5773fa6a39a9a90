"""The contract of base.py: pack, forward and backward."""

from fastrnn.backends.base import Given, Wanted
from fastrnn.spec import CELLS as TABLE
from fastrnn.spec import FUNCTIONS

cdef dict CELLS = {fr_cell_name(code).decode(): code for code in range(FR_CELLS)}
if list(CELLS) != list(TABLE):
    raise ImportError(f"the kernels were built for other cells than spec.py has, {', '.join(CELLS)}: install again")

# Below about 20 µs of work, taking the GIL back costs more than letting it go gives.
cdef double LEAST_FLOP_WITHOUT_GIL = 2e6
cdef double LEAST_PACKED_WITHOUT_GIL = 1e5  # elements


cdef double flop(fr_cell cell, Shape *s, ptrdiff_t directions):
    return 2.0 * fr_cells[cell].gates * directions * s.T * s.B * s.H * (s.I + s.P)


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


cdef int run_backward(
    fr_backward_run *runs, int count, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths, int threads, double flop
) except -1:
    """As `run_forward`; the work is twice as much."""
    cdef fr_status status
    cdef fr_interrupted *ask
    if 2 * flop < LEAST_FLOP_WITHOUT_GIL:
        return check(fr_backward(runs, count, T, B, lengths, threads, NULL))
    ask = asker()
    with nogil:
        status = fr_backward(runs, count, T, B, lengths, threads, ask)
    return check(status)


def host_threads(size_t parallel, int threads):
    """Have the calling thread's calls run on another library's threads, so many, or, with 0, on the pool's again.

    parallel is the address of that library's GOMP_parallel.
    """
    fr_host_set(<fr_parallel *>parallel, threads)


cdef struct States:  # the parts of a state, or of its gradient; NULL for one that is absent
    char *h
    char *c


cdef inline States states_at(Plain *parts, bint has_c, ptrdiff_t h, ptrdiff_t c) noexcept:
    """A state's parts in plain arrays, so many bytes from where those begin."""
    cdef States result
    result.h, result.c = parts[0].data + h, parts[1].data + c if has_c else NULL
    return result


cdef States states_of(object arrays, bint has_c, ptrdiff_t d, ptrdiff_t h, ptrdiff_t c, int flags=0) except *:
    """A state's parts of the d-th direction, in arrays that have so many bytes of each."""
    cdef States result
    result.h, result.c = part(arrays[0], d, h, flags), part(arrays[1], d, c, flags) if has_c else NULL
    return result


cdef inline void set_forward(
    fr_forward_run *run, fr_packed *packed, bint reverse, fr_sequence x, fr_sequence y, States before, States after,
    char *saved
) noexcept:
    """Set what every forward run has; all else of it is absent."""
    memset(run, 0, sizeof(fr_forward_run))
    run.packed, run.reverse, run.x, run.y, run.saved = packed, reverse, x, y, saved
    run.h0, run.c0, run.h, run.c = before.h, before.c, after.h, after.c


cdef inline void set_backward(
    fr_backward_run *run, fr_cell cell, fr_dtype dtype, ptrdiff_t I, ptrdiff_t H, fr_weights weights,
    fr_gradients gradients, bint overwrites, fr_sequence x, fr_sequence y, fr_sequence dx,
    States before, States d_after, States d_before, char *saved
) noexcept:
    """Set what every backward run has; all else of it is absent."""
    memset(run, 0, sizeof(fr_backward_run))
    run.cell, run.dtype, run.input_size, run.hidden_size = cell, dtype, I, H
    run.weights, run.gradients, run.overwrites = weights, gradients, overwrites
    run.x, run.y, run.dx, run.saved = x, y, dx, saved
    run.h0, run.c0, run.dh, run.dc = before.h, before.c, d_after.h, d_after.c
    run.dh0, run.dc0 = d_before.h, d_before.c


cdef fr_options *options_of(object cell, fr_options *room) except? NULL:
    """A cell's options, written to `room`; NULL for a plain cell."""
    cdef int i
    if cell.options is None:
        return NULL
    for i in range(3):
        function = cell.options.functions[i]
        room.functions[i].kind = <fr_function_kind><int>FUNCTIONS.index(function.name)
        room.functions[i].alpha, room.functions[i].beta = function.alpha, function.beta
    room.clip = cell.options.clip
    room.each_gate, room.eps = cell.options.each_gate, cell.options.eps
    zoneout = cell.options.zoneout
    for i in range(2):
        room.zoneout[i] = zoneout[i] if i < len(zoneout) else 0
    return room


cdef fr_weights weights_of(object w) except *:
    cdef fr_weights result
    result.vectors = pointer(w.vectors)
    result.w_ih, result.w_hh = pointer(w.w_ih), pointer(w.w_hh)
    result.b_ih, result.b_hh = pointer(w.b_ih), pointer(w.b_hh)
    result.w_hr, result.proj_size = pointer(w.w_hr), 0 if w.w_hr is None else len(w.w_hr)
    return result


# So few steps are sooner done with weights as they are.
cdef ptrdiff_t FEW_STEPS = 1


cdef class Packed:
    """Packed weights of one layer, for one or two directions; for few steps, the weights as they are."""

    cdef fr_packed *directions[2]
    cdef int count
    cdef fr_cell cell
    cdef readonly object weights  # those that the kernels read where they are; None where they have a copy

    def __cinit__(self, cell, weights, int threads, steps):
        cdef fr_weights w
        cdef fr_options room
        cdef fr_options *options = options_of(cell, &room)
        cdef fr_dtype dtype
        cdef fr_status status
        cdef fr_interrupted *ask
        cdef ptrdiff_t I, H
        cdef double elements
        self.cell = CELLS[cell.name]
        cdef ptrdiff_t gates = fr_cells[self.cell].gates
        for direction in weights:
            w = weights_of(direction)
            dtype = DTYPES[direction.w_ih.dtype.char]
            I, H = direction.w_ih.shape[1], direction.w_ih.shape[0] // gates
            elements = <double>(I + H) * <double>direction.w_hh.shape[0]
            if steps is not None and steps <= FEW_STEPS and direction.w_hr is None and not cell.normal:
                self.weights = weights
                status = fr_unpacked(self.cell, dtype, I, H, &w, options, &self.directions[self.count])
            elif elements < LEAST_PACKED_WITHOUT_GIL:
                status = fr_pack(self.cell, dtype, I, H, &w, options, threads, NULL, &self.directions[self.count])
            else:
                ask = asker()
                with nogil:
                    status = fr_pack(self.cell, dtype, I, H, &w, options, threads, ask, &self.directions[self.count])
            check(status, "packed weights")
            self.count += 1

    def __dealloc__(self):
        for d in range(2):
            fr_packed_free(self.directions[d])


def pack(cell, weights, int threads, steps=None):
    return Packed(cell, weights, threads, steps)


cdef void set_entry(fr_entry *entry, object steps, ptrdiff_t d, Shape *s) except *:
    """What becomes of the states of the d-th direction between steps."""
    memset(entry, 0, sizeof(fr_entry))
    if steps.resets is not None:
        entry.resets = <const uint8_t *>pointer(steps.resets) + d * s.T * s.B
    if steps.scale is not None:
        entry.scale = sequence(steps.scale, 0, s.item)
        entry.scale_by_unit = steps.scale.shape[2] == s.H


cdef void set_masks(fr_masks *masks, object steps, ptrdiff_t d, Shape *s) except *:
    """The masks of units of the d-th direction."""
    keep_h, keep_c = steps.keep
    if steps.drop is None and keep_h is None and keep_c is None:
        memset(masks, 0, sizeof(fr_masks))
        return
    masks.drop = sequence(steps.drop, d * s.P, s.item)
    masks.keep[0] = sequence(keep_h, d * s.P, s.item)
    masks.keep[1] = sequence(keep_c, d * s.H, s.item)


def forward(Packed packed not None, run, after, int threads):
    cdef Shape s = shape_of(run.x, run.state)
    cdef ptrdiff_t h = s.B * s.P * s.item, c = s.B * s.H * s.item
    cdef fr_forward_run runs[2]
    cdef fr_forward_run *r
    cdef const int64_t *lengths = <const int64_t *>pointer(run.steps.lengths)
    cdef bint has_c = fr_cells[packed.cell].states == 2
    cdef ptrdiff_t saved_size = s.T * s.B * s.H * fr_cells[packed.cell].saved * s.item
    cdef char *saved = <char *>pointer(run.saved if saved_size else None, PyBUF_WRITABLE)
    cdef int d
    for d in range(packed.count):
        r = &runs[d]
        set_forward(
            r, packed.directions[d], run.reverse[d], sequence(run.x, 0, s.item),
            sequence(run.y, d * s.P, s.item, PyBUF_WRITABLE), states_of(run.state, has_c, d, h, c),
            states_of(after, has_c, d, h, c, PyBUF_WRITABLE), NULL if saved == NULL else saved + d * saved_size,
        )
        set_entry(&r.entry, run.steps, d, &s)
        set_masks(&r.masks, run.steps, d, &s)
        r.noise = sequence(run.steps.noise, d * s.H, s.item)
    run_forward(runs, packed.count, s.T, s.B, lengths, threads, flop(packed.cell, &s, packed.count))


cdef fr_gradients gradients_of(object w) except *:
    cdef fr_gradients result
    result.w_ih, result.w_hh = pointer(w.w_ih, PyBUF_WRITABLE), pointer(w.w_hh, PyBUF_WRITABLE)
    result.b_ih, result.b_hh = pointer(w.b_ih, PyBUF_WRITABLE), pointer(w.b_hh, PyBUF_WRITABLE)
    result.vectors, result.w_hr = pointer(w.vectors, PyBUF_WRITABLE), pointer(w.w_hr, PyBUF_WRITABLE)
    return result


cdef void set_span(fr_backward_run *run, object span, object dweights, Py_ssize_t d) except *:
    """The part of a run that is cut; what it holds are arrays like dweights."""
    run.span.first, run.span.last = span.first, span.last
    if len(span.held) <= d:
        span.held.append(dweights._make([None if array is None else array.copy() for array in dweights]))
    run.span.open = gradients_of(span.held[d])


def backward(cell, weights, run, given, wanted, int threads):
    cdef Shape s = shape_of(run.x, run.state)
    cdef ptrdiff_t h = s.B * s.P * s.item, c = s.B * s.H * s.item
    cdef fr_backward_run runs[2]
    cdef fr_backward_run *r
    cdef const int64_t *lengths = <const int64_t *>pointer(run.steps.lengths)
    cdef fr_cell code = CELLS[cell.name]
    cdef bint has_c = fr_cells[code].states == 2
    cdef ptrdiff_t steps = s.T if run.span is None else run.span.last - run.span.first + 1
    cdef ptrdiff_t saved_size = steps * s.B * s.H * fr_cells[code].saved * s.item
    cdef char *saved = <char *>pointer(run.saved if saved_size else None)
    cdef fr_options room
    cdef fr_options *options = options_of(cell, &room)
    cdef int d, count = len(weights)
    cdef bint overwrites = wanted.fresh
    if overwrites and lengths != NULL and not run.steps.lengths.any():  # no step writes them
        wanted.clear()
        overwrites = False
    for d in range(count):
        r = &runs[d]
        set_backward(
            r, code, s.dtype, s.I, s.H, weights_of(weights[d]), gradients_of(wanted.dweights[d]), overwrites,
            sequence(run.x, 0, s.item), sequence(run.y, d * s.P, s.item),
            sequence(wanted.dx, 0, s.item, PyBUF_WRITABLE), states_of(run.state, has_c, d, h, c),
            states_of(given.dstate, has_c, d, h, c), states_of(wanted.dstate, has_c, d, h, c, PyBUF_WRITABLE),
            NULL if saved == NULL else saved + d * saved_size,
        )
        r.options, r.reverse, r.dy = options, run.reverse[d], sequence(given.dy, d * s.P, s.item)
        if run.span is not None:
            set_span(r, run.span, wanted.dweights[d], d)
        if wanted.dsteps is not None:
            r.dh_steps = pointer(wanted.dsteps[0][d], PyBUF_WRITABLE)
            r.dc_steps = pointer(wanted.dsteps[1][d], PyBUF_WRITABLE) if has_c else NULL
        set_entry(&r.entry, run.steps, d, &s)
        set_masks(&r.masks, run.steps, d, &s)
        if wanted.dscale is not None:
            r.dscale = pointer(wanted.dscale[d], PyBUF_WRITABLE)
    run_backward(runs, count, s.T, s.B, lengths, threads, flop(code, &s, count))
