/* The loads and stores around a cell's derivative. */
#ifndef FR_DERIVE_H
#define FR_DERIVE_H

#include "backward.h"
#include "cell.h"
#include "entry.h"
#include "masks.h"

/* The units j .. j+n-1 of a part of a row's state as step t took them: `from`, or a changed copy of it in `to`. */
INLINE const real *enter_block(const backward_state *b, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n,
                               const real *from, real *to) {
    const fr_entry *e = &b->run->entry;
    if (is_reset(e, b->batch, t, row)) {
        memset(to, 0, LANES * sizeof(real));
        return to;
    }
    if (!e->scale.data)
        return from;
    vstore_n(to, vload_n(from, n) * scale_at(e, t, row, j, n), n);
    return to;
}

/* What goes past the cell where units keep a share of their state: the gradients by h_prev and c_prev. */
typedef struct {
    vec dh, dc;
    real h[LANES];
} zoned_gradients;

/* Splits dh and dc into that and the gradients by what the cell made. A cell that saves nothing reads y, which is what
 * it made where that was not kept; elsewhere the gradient is zero, and zero stands for a y of any size. */
INLINE void split_zoned(const int cell, const fr_options *o, const fr_masks *masks, ptrdiff_t t, ptrdiff_t row,
                        ptrdiff_t j, backward_units *u, zoned_gradients *past) {
    const vec h = kept_share(o, masks, 0, t, row, j, u->lanes);
    past->dh = h * u->dh, u->dh = (1 - h) * u->dh;
    if (!fr_cells[cell].saved) {
        vstore_n(past->h, select_where(h == 1, (vec){0}, take_h(u)), u->lanes);
        u->h = past->h;
    }
    if (fr_cells[cell].states == 2) {
        const vec c = kept_share(o, masks, 1, t, row, j, u->lanes);
        past->dc = c * u->dc, u->dc = (1 - c) * u->dc;
    }
}

/* A block of units on its way through the derivative: what of the gradients goes past the cell, and room for the state
 * as the step took it. */
typedef struct {
    zoned_gradients past;
    real h_entered[LANES], c_entered[LANES];
    const real *c_left; /* c before the step as the step before left it */
} block_state;

/* c before step t of a row, as the forward pass left it. */
INLINE const real *c_before(const int cell, const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    if (is_first(b, t, row))
        return (const real *)b->run->c0 + row * b->H;
    return saved_at(b, b->run->reverse ? t + 1 : t - 1, row) + fr_cells[cell].saved_c * b->H;
}

/* What the derivative reads at the units j .. j+LANES-1 of `rank`, whose gradient by h is dh: of a cell that projects
 * (`projects`), by its output. */
INLINE void load_units(const int cell, const fr_options *o, int projects, const backward_state *b, const step *s,
                       ptrdiff_t rank, ptrdiff_t j, vec dh, backward_units *u, block_state *state) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank);
    const int n = min_lanes(H - j), kept = fr_cells[cell].saved, has_c = fr_cells[cell].states == 2;
    *u = (backward_units){.dh = dh, .lanes = n};
    if (!projects) {
        u->h = at(&run->y, s->t, row) + j;
        u->h_prev = h_before(b, s->t, row) + j;
        if (b->enters)
            u->h_prev = enter_block(b, s->t, row, j, n, u->h_prev, state->h_entered);
    }
    if (kept) {
        const real *saved = saved_at(b, s->t, row) + j;
        UNROLL(16)
        for (int k = 0; k < kept; k++)
            u->saved[k] = vload_n(saved + k * H, n);
    }
    if (has_c) {
        u->c_prev = state->c_left = c_before(cell, b, s->t, row) + j;
        if (b->enters)
            u->c_prev = enter_block(b, s->t, row, j, n, state->c_left, state->c_entered);
        u->dc = vload_n((real *)run->dc0 + row * H + j, n);
    }
    if (fr_cells[cell].vectors && !is_normed(cell))
        u->vectors = run->weights.vectors ? (const real *)run->weights.vectors + j : NULL, u->step = H;
    state->past.dh = state->past.dc = (vec){0};
    if (zones(o))
        split_zoned(cell, o, &run->masks, s->t, row, j, u, &state->past);
}

/* Leaves what the derivative has given: the gradients of the columns in d, those of c_prev and the carry. */
INLINE void leave_block(const int cell, const fr_options *o, const backward_state *b, const step *s, ptrdiff_t rank,
                        ptrdiff_t j, backward_units *u, const block_state *state) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank);
    const int n = u->lanes, width = fr_cells[cell].columns, has_c = fr_cells[cell].states == 2;
    const ptrdiff_t p = j / panel_units(cell), block = j % panel_units(cell) / LANES;
    vec *out = b->d + (p * b->capacity + s->term + rank) * COLUMNS + block * width;
    if (zones(o)) {
        u->carry = fr_cells[cell].carries ? u->carry + state->past.dh : state->past.dh;
        if (has_c)
            u->dc += state->past.dc;
    }
    UNROLL(8)
    for (int c = 0; c < width; c++)
        out[c] = u->d[c];
    if (has_c && run->dc_steps) /* dc0 still has what came in */
        vstore_n((real *)run->dc_steps + (s->t * b->batch->B + row) * H + j, vload_n((real *)run->dc0 + row * H + j, n),
                 n);
    if (has_c && b->enters)
        u->dc = leave_units(&run->entry, b->batch, s->t, row, j, n, state->c_left - j, u->dc, run->dscale, H);
    if (has_c)
        vstore_n((real *)run->dc0 + row * H + j, u->dc, n);
    if (fr_cells[cell].carries || zones(o))
        vstore_n((real *)run->dh0 + row * H + j, u->carry, n);
}

#endif
