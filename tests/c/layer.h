/* A layer with random contents for the tests in C: every buffer is an allocation of exactly the bytes that the contract
 * names, what must not be read is NaN, and what must not be written is known. */
#ifndef LAYER_H
#define LAYER_H

#include "fastrnn.h"

/* How a sequence lies in memory. */
typedef struct {
    int batch_major;         /* the rows' steps side by side, else the steps' rows */
    int time_sign, row_sign; /* of the strides: 1, -1, or, of x and dy, 0 */
    int gap;                 /* elements between rows, which belong to nobody */
    int shift;               /* elements by which the data miss the allocation's alignment */
} layout;

typedef struct {
    fr_cell cell;
    fr_dtype dtype;
    ptrdiff_t T, B, I, H;
    ptrdiff_t P;    /* features of h where the layer projects, with two states; else 0 */
    int directions; /* 1 or 2 */
    int reverse;    /* of one direction */
    int b_ih, b_hh, lengths; /* whether they are there */
    int trains;              /* forward saves, and backward runs */
    int in_place;            /* the final state over the initial one; only without training */
    int dy_there, dh_there, dc_there, dx_there;
    int resets, scale;       /* of the entry: whether some rows are reset; 0, or 1: a factor per row, 2: per unit, where
                                there is no P */
    int drop, zoneout;       /* 0, or masks, 1: of a step, 2: of a sequence; of zoneout, which is general, 3: shares */
    int general;             /* the cell has options, and vectors that it may have */
    layout x, y, dy, dx;
    uint64_t seed; /* of the contents */
} layer_spec;

typedef struct {
    char *block;            /* `prefix` bytes that belong to nobody, then the data */
    size_t prefix, bytes;
    int written;            /* by the kernels */
    uint64_t hash;          /* of what is only read */
} buffer;

enum { MAX_BUFFERS = 56 };

typedef struct {
    layer_spec spec;
    buffer buffers[MAX_BUFFERS];
    int n_buffers;
    int64_t *row_lengths; /* or NULL */
    fr_weights weights[2];
    fr_options options;
    fr_packed *packed[2];
    fr_forward_run forward[2];
    fr_backward_run backward[2];
} layer;

/* What a call counts for, in operations, forward. */
double layer_flop(const layer_spec *spec);

/* The spec of everything plain: time-major, nothing absent. */
layer_spec plain_spec(fr_cell cell, fr_dtype dtype, ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H);

/* The same spec makes the same layer. Ends the program if there is no memory for it. */
void layer_make(layer *l, const layer_spec *spec);
void layer_free(layer *l);

fr_status layer_pack(layer *l, int threads);
fr_status layer_forward(layer *l, int threads, fr_interrupted *interrupted);
fr_status layer_backward(layer *l, int threads, fr_interrupted *interrupted);
/* All that the spec asks for. */
fr_status layer_run(layer *l, int threads);

/* NULL, or what is wrong with a layer that has run: a number that is not finite, padding that is not zero, a state
 * that a row without a step has changed, a write where there must be none. */
const char *layer_fault(const layer *l);
/* NULL, or that two layers of the same spec differ. */
const char *layer_difference(const layer *a, const layer *b);

/* Ends the program, saying why, unless `fault` is NULL. */
void expect_none(const char *fault, const layer_spec *spec, const char *where);

#endif
