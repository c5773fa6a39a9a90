/* The state of a forward pass in one thread, and what its parts are to each other: tiles of products (tiles.c), what
 * becomes of their sums (finish.c), both interleaved for a single row (row.c), and the order of it all (forward.c). */
#ifndef FR_FORWARD_H
#define FR_FORWARD_H

#include "panels.h"

typedef struct forward_state forward_state;

/* Leaves x W_ih and the bias of some terms from `term` on at the fed ones of panel p's columns, half-way along their
 * chains. */
typedef void hoist_function(const forward_state *f, ptrdiff_t p, int columns, ptrdiff_t term, ahead next);
/* sums = the pre-activations of step t of some owned rows from the i-th on through panel p, or p and p + 1. */
typedef void tile_function(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, vec *sums, ahead next);
/* Takes the owned rows i .. i+rows-1 of step t from pre-activations at panel p, `sum_step` vectors apart, to h, c
 * and what is saved. */
typedef void finish_function(const forward_state *f, const vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t,
                             ptrdiff_t i);
/* Takes the only owned row through the steps of a hoisted chunk up to `steps`, its next one being t. Returns whether
 * the call ends. */
typedef int row_function(forward_state *f, ptrdiff_t t, ptrdiff_t steps, fr_barrier *barrier);

/* The tiles of one shape, each by the number of its rows - 1. */
typedef struct {
    int columns, x, first_h, h; /* as cells.def has them */
    tile_function *const *step, *const *pair; /* pair: NULL where a panel may be narrower than COLUMNS */
} shape_tiles;

/* How a panel is computed. */
typedef struct {
    const shape_tiles *tiles;
    hoist_function *const *hoist;
    finish_function *finish, *finish_second; /* the latter of a cell of two phases; the former of its first then */
    int limit; /* rows of a tile */
} panel_functions;

struct forward_state {
    const fr_forward_run *run;
    const fr_packed *weights;
    const fr_batch *batch;
    panel_functions full, last;     /* of all panels but the last, and of the last */
    fr_hand hand;                   /* the ranks this share owns */
    ptrdiff_t rows;                 /* how many */
    ptrdiff_t panel, panel_end;     /* the panels it owns */
    const real **h_prev;            /* (rows): h before the current step */
    const real **h_fed;             /* (rows): h as the recurrent product takes it: h_prev, or rows of `dropped` */
    real *entering;                 /* (rows, P): h as the step takes it, where the entry changes it */
    real *dropped;                  /* (rows, P): h after recurrent dropout, if there is any */
    fr_sequence out;                /* where a step's outputs go: y; of a cell that projects, scratch, (B, H) */
    const real **x_terms;           /* (terms): the x rows of a hoisted chunk */
    vec *hoisted;                   /* (panels owned, terms, fed columns): their pre-activations; NULL: not hoisted */
    int x_columns;                  /* fed columns of a whole panel */
    ptrdiff_t terms;                /* capacity of the two */
    ptrdiff_t step_term;            /* where the current step's terms begin */
    ptrdiff_t saved_ahead;          /* how far ahead of its place the next panel's saved values are asked for; 0: not */
    /* Of a step in two parts, for at most PHASE_ROWS owned rows at a time: */
    vec *between;                   /* (panels owned, rows, COLUMNS): columns that wait for the second; the products by
                                       h that are to be normalised */
    real *left;                     /* (rows, H): what the first of two phases has left; by units the team's */
    vec *zeros;                     /* (rows, fed columns): what products that are to be normalised start from */
};

enum { PHASE_ROWS = 96 };
INLINE ptrdiff_t phase_rows(const forward_state *f) { return f->rows < PHASE_ROWS ? f->rows : PHASE_ROWS; }
INLINE real *left_at(const forward_state *f, ptrdiff_t i) { return f->left + i % PHASE_ROWS * f->weights->H; }
INLINE vec *between_at(const forward_state *f, ptrdiff_t p, ptrdiff_t i) {
    return f->between + ((p - f->panel) * phase_rows(f) + i % PHASE_ROWS) * COLUMNS;
}

INLINE ptrdiff_t owned_row(const forward_state *f, ptrdiff_t i) { return fr_row(f->batch, fr_rank(f->hand, i)); }

INLINE const real *panel_at(const forward_state *f, ptrdiff_t p) {
    return (const real *)f->weights->data + p * f->weights->panel_size;
}

INLINE vec *hoisted_at(const forward_state *f, ptrdiff_t p, ptrdiff_t term, int fed) {
    return f->hoisted + ((p - f->panel) * f->terms * f->x_columns + term * fed);
}

/* Sets h_prev and c of the first `live` owned rows to what step t takes of them. */
void LEVEL(fr_enter_step)(const forward_state *f, ptrdiff_t t, ptrdiff_t live);
INLINE void enter_step(const forward_state *f, ptrdiff_t t, ptrdiff_t live) {
    if (f->entering)
        LEVEL(fr_enter_step)(f, t, live);
}

/* y of step t of the first `live` owned rows from their outputs, of a cell that projects. Returns whether the call is
 * to end. */
int LEVEL(fr_project)(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live);

/* A step of a cell that normalises, of the owned rows i .. end-1, at most PHASE_ROWS, from its products by x and by h:
 * the latter are where fr_keep_products has left them. */
finish_function LEVEL(fr_keep_products);
void LEVEL(fr_norm_step)(const forward_state *f, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end);

/* The k-th of n groups of panels that step t takes. Every other step takes them backward: then it begins with those
 * whose weights the step before has left in the cache. */
INLINE ptrdiff_t nth(ptrdiff_t t, ptrdiff_t k, ptrdiff_t n) { return t % 2 ? n - 1 - k : k; }

/* How panels of so many columns of a cell are computed. */
panel_functions LEVEL(fr_panel_functions)(int cell, int general, int columns);
/* `general`: for a cell with options. */
finish_function *LEVEL(fr_finish)(int cell, int general);
finish_function *LEVEL(fr_finish_second)(int cell, int general);
/* Adds the product of what the first phase has left of the owned rows i .. end-1, at most PHASE_ROWS, to the columns
 * that wait for it at the panels p .. p_end-1, at most COLUMNS. */
void LEVEL(fr_second_products)(const forward_state *f, ptrdiff_t p, ptrdiff_t p_end, ptrdiff_t i, ptrdiff_t end);
/* NULL: the cell has none for panels of so many columns, one or two (`pair`) at a time. */
row_function *LEVEL(fr_row_function)(int cell, int general, int columns, int pair);

#endif
