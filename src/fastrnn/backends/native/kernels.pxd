# cython: language_level=3
"""What csrc/ declares, for Cython."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t


cdef extern from "fastrnn.h" nogil:
    ctypedef int fr_cell  # an enumeration
    int FR_CELLS
    const char *fr_cell_name(int)
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
        const void *vectors
        const void *w_hr
        ptrdiff_t proj_size
    ctypedef enum fr_function_kind:
        pass
    ctypedef struct fr_function:
        fr_function_kind kind
        double alpha
        double beta
    ctypedef struct fr_options:
        fr_function functions[3]
        double clip
        double zoneout[2]
        int each_gate
        double eps
    ctypedef struct fr_gradients:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh
        void *vectors
        void *w_hr
    ctypedef struct fr_sequence:
        void *data
        ptrdiff_t time
        ptrdiff_t row
    ctypedef struct fr_entry:
        const uint8_t *resets
        fr_sequence scale
        int scale_by_unit
    ctypedef struct fr_masks:
        fr_sequence drop
        fr_sequence keep[2]
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
        fr_entry entry
        fr_masks masks
        fr_sequence noise
    ctypedef struct fr_span:
        ptrdiff_t first
        ptrdiff_t last
        fr_gradients open

    ctypedef struct fr_backward_run:
        fr_cell cell
        fr_dtype dtype
        ptrdiff_t input_size
        ptrdiff_t hidden_size
        fr_weights weights
        const fr_options *options
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
        fr_entry entry
        fr_masks masks
        void *dscale
        fr_span span
        int overwrites
    fr_status fr_pack(fr_cell, fr_dtype, ptrdiff_t, ptrdiff_t, const fr_weights *, const fr_options *, int,
                      fr_interrupted *, fr_packed **)
    fr_status fr_unpacked(fr_cell, fr_dtype, ptrdiff_t, ptrdiff_t, const fr_weights *, const fr_options *,
                          fr_packed **)
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

cdef extern from "run/host.h" nogil:
    ctypedef void fr_parallel(void (*)(void *), void *, unsigned, unsigned)
    void fr_host_set(fr_parallel *, int)

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
    ptrdiff_t fr_choose_hoisted(ptrdiff_t, ptrdiff_t, int, size_t, size_t, size_t)
    ptrdiff_t fr_rank(fr_hand, ptrdiff_t)
    fr_part fr_deal(int, int, int, ptrdiff_t, ptrdiff_t)
