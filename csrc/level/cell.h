/* A cell's equation as the loops call it, forward beside backward, on vectors of hidden units.
 *
 * Each cell has a header of its own in cells/. `cell` is a constant wherever these are inlined, so that nothing is left
 * of the choice.
 */
#ifndef FR_CELL_H
#define FR_CELL_H

#include "activations.h"
#include "cells/facts.h"
#include "fastrnn.h"
#include "product.h"

enum { MAX_SAVED = 5 };

#define SAVED(...) enum { __VA_ARGS__ };
#include "cells.def"

/* A block of LANES hidden units of n rows, at most SIDE_BY_SIDE, on its way through the forward equation. */
typedef struct {
    const vec *a[SIDE_BY_SIDE];          /* the pre-activations, a column each */
    vec h[SIDE_BY_SIDE];                 /* h_prev until the last stage, which leaves h */
    vec c[SIDE_BY_SIDE];                 /* c_prev, then c; of a cell with two states */
    vec saved[MAX_SAVED][SIDE_BY_SIDE];  /* what the backward pass reads, filled stage by stage */
} forward_units;

/* A block of hidden units of one row in the backward pass. */
typedef struct {
    int lanes;                          /* of the block's units */
    const real *h, *h_prev, *c_prev;    /* of the forward pass; c_prev of a cell with two states */
    vec saved[MAX_SAVED];               /* likewise */
    vec dh;         /* of h, whole */
    vec dc;         /* in: of c, but for what comes by way of h; out: of c_prev */
    vec d[COLUMNS]; /* out: of the columns; of one that h feeds, of the product by h */
    vec carry;      /* out: what reaches h_prev beside the recurrent product, where the cell carries */
} backward_units;

/* v = column k of the pre-activations. */
INLINE void take_column(const int n, const forward_units *u, const int k, vec *v) { EACH(r, n) v[r] = u->a[r][k]; }

/* What the derivative reads of the states: what it does not take is not loaded. */
INLINE vec take_h(const backward_units *u) { return vload_n(u->h, u->lanes); }
INLINE vec take_h_prev(const backward_units *u) { return vload_n(u->h_prev, u->lanes); }
INLINE vec take_c_prev(const backward_units *u) { return vload_n(u->c_prev, u->lanes); }

/* The derivatives of the activations, by their results. */
INLINE vec d_sigmoid(vec s) { return s * (1 - s); }
INLINE vec d_tanh(vec t) { return 1 - t * t; }

#define CELL_EQUATIONS
#include "cells.def"
#undef CELL_EQUATIONS

/* How many stages the forward equation is cut into: each takes about as long as an activation, so that other work
 * can go between them. */
INLINE int cell_stages(const int cell) {
    switch (cell) {
#define CELL(NAME, ...) \
    case FR_##NAME: \
        return NAME##_STAGES;
#include "cells.def"
    }
    __builtin_unreachable();
}

/* Takes one stage of n rows. */
INLINE void cell_forward(const int cell, const int stage, const int n, forward_units *u) {
    switch (cell) {
#define CELL(NAME, name, ...) \
    case FR_##NAME: \
        name##_forward(stage, n, u); \
        break;
#include "cells.def"
    }
}

INLINE void cell_backward(const int cell, backward_units *u) {
    switch (cell) {
#define CELL(NAME, name, ...) \
    case FR_##NAME: \
        name##_backward(u); \
        break;
#include "cells.def"
    }
}

#endif
