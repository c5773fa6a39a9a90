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
#include "functions.h"
#include "masks.h"

#define SAVED(...) enum { __VA_ARGS__ };
#define LIMITS(...) enum { __VA_ARGS__ };
#include "cells.def"

/* A block of LANES hidden units of n rows, at most SIDE_BY_SIDE, on its way through the forward equation. */
typedef struct {
    const vec *a[SIDE_BY_SIDE];          /* the pre-activations, a column each */
    vec h[SIDE_BY_SIDE];                 /* h_prev until the last stage, which leaves h */
    vec c[SIDE_BY_SIDE];                 /* c_prev, then c; of a cell with two states */
    vec left[SIDE_BY_SIDE];              /* what the first of two phases leaves; the last stage is the second */
    vec saved[MAX_SAVED][SIDE_BY_SIDE];  /* what the backward pass reads, filled stage by stage */
    const real *vectors;                 /* of the block's units, `step` apart; NULL where the cell does without */
    ptrdiff_t step;
    int lanes;                           /* of the block's units */
} forward_units;

/* A block of hidden units of one row in the backward pass. */
typedef struct {
    int lanes;                          /* of the block's units */
    const real *h, *h_prev, *c_prev;    /* of the forward pass; c_prev of a cell with two states */
    const real *vectors;                /* of the block's units, `step` apart; NULL where the cell does without */
    ptrdiff_t step;
    vec saved[MAX_SAVED];               /* likewise */
    vec dh;         /* of the equation's h, whole */
    vec dc;         /* in: of c, but for what comes by way of h; out: of c_prev */
    int dc_is_whole; /* in: dc has that too, and d that of h's gate: a cell that normalises has done both */
    vec d[COLUMNS]; /* out: of the columns; of one that h feeds, of the product by h */
    vec d_vectors[MAX_VECTORS]; /* out: of the vectors, by this row and step */
    vec out;        /* out: of a cell with two states, the h of its equation again, for W_hr's gradient */
    vec carry;      /* out: what reaches h_prev beside the recurrent product, where the cell carries */
    /* Of a cell of two phases, whose second_backward changes d and carry once d_left is known: */
    vec d_left;     /* in: of what the first phase left */
    vec left;       /* out: that itself */
} backward_units;

/* v = column k of the pre-activations. */
INLINE void take_column(const int n, const forward_units *u, const int k, vec *v) { EACH(r, n) v[r] = u->a[r][k]; }

/* The k-th of the block's vectors. */
INLINE vec take_vector(const real *vectors, ptrdiff_t step, int k, int lanes) {
    return vload_n(vectors + k * step, lanes);
}

/* Whether a cell with options has peepholes: a plain one has none. */
INLINE int has_peepholes(const fr_options *o, const real *vectors) { return o && vectors; }

/* v += p c, by the k-th of the peepholes, if there are any. */
INLINE void look_at_c(const fr_options *o, const int k, const int n, const forward_units *u, vec *v) {
    if (!has_peepholes(o, u->vectors))
        return;
    const vec p = take_vector(u->vectors, u->step, k, u->lanes);
    EACH(r, n) v[r] = vfma(p, u->c[r], v[r]);
}

/* Whether a cell with options calls its activations, which are long. 0 where other work goes between their operations
 * (row.c): there those of the plain cell are inlined. */
#ifndef CALLS_ACTIVATIONS
#define CALLS_ACTIVATIONS 1
#endif

/* result = an activation of v: of a plain instance (o is NULL) the sigmoid of a gate and the tanh of all else. The two
 * may be the same; v is clipped where o says so. */
INLINE void activate(const fr_options *o, const int role, const int n, vec *v, vec *result) {
    if (o && (CALLS_ACTIVATIONS || is_called(o, role))) {
        LEVEL(fr_call_function)(o, role, n, v, result);
        return;
    }
    clip(o, role, n, v);
    if (role == FR_GATES)
        vsigmoid(n, v, result);
    else
        vtanh(n, v, result);
}

/* What the derivative reads of the states: what it does not take is not loaded. */
INLINE vec take_h(const backward_units *u) { return vload_n(u->h, u->lanes); }
INLINE vec take_h_prev(const backward_units *u) { return vload_n(u->h_prev, u->lanes); }
INLINE vec take_c_prev(const backward_units *u) { return vload_n(u->c_prev, u->lanes); }

/* The derivative of an activation, by its result; zero where it was clipped. */
INLINE vec d_activate(const fr_options *o, const int role, vec result) {
    const vec d = is_called(o, role) ? LEVEL(fr_derivative)(&o->functions[role], result)
                  : role == FR_GATES ? d_sigmoid(result)
                                     : d_tanh(result);
    if (!clips(o, role))
        return d;
    return select_where((result == (real)o->ends[role][0]) | (result == (real)o->ends[role][1]), (vec){0}, d);
}

#define CELL_EQUATIONS
#include "cells.def"
#undef CELL_EQUATIONS

/* How many stages the forward equation is cut into: each takes about as long as an activation, so that other work
 * can go between them. */
INLINE int cell_stages(const int cell) {
    switch (cell) {
#define EQUATION(NAME, ...) \
    case FR_##NAME: \
        return NAME##_STAGES;
#define NORMED(NAME, NORMAL, normal) \
    case FR_##NAME: \
        return NORMAL##_STAGES;
#include "cells.def"
    }
    __builtin_unreachable();
}

/* Takes one stage of n rows. */
INLINE void cell_forward(const int cell, const fr_options *o, const int stage, const int n, forward_units *u) {
    switch (cell) {
#define EQUATION(NAME, name) \
    case FR_##NAME: \
        name##_forward(o, stage, n, u); \
        break;
#define NORMED(NAME, NORMAL, normal) EQUATION(NAME, normal)
#include "cells.def"
    }
}

INLINE void cell_backward(const int cell, const fr_options *o, backward_units *u) {
    switch (cell) {
#define EQUATION(NAME, name) \
    case FR_##NAME: \
        name##_backward(o, u); \
        break;
#define NORMED(NAME, NORMAL, normal) EQUATION(NAME, normal)
#include "cells.def"
    }
}

/* Goes on from d_left. */
INLINE void cell_second_backward(const int cell, const fr_options *o, backward_units *u) {
    switch (cell) {
#define SECOND(NAME, name) \
    case FR_##NAME: \
        name##_second_backward(o, u); \
        break;
#include "cells.def"
    }
}

#endif
