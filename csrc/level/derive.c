/* From dh to the gradients of a step's columns: the cell's derivative, and the loads and stores around it. */
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

/* From dh of `rank` at units j .. j+LANES-1 to the gradients of its columns; of a cell that projects, from the gradient
 * of its equation's output. */
INLINE void derive_block(const int cell, const fr_options *o, const int projects, const backward_state *b,
                         const step *s, ptrdiff_t rank, ptrdiff_t j, vec dh) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank), at_step = (s->t * b->batch->B + row) * H + j;
    const int n = min_lanes(H - j), width = fr_cells[cell].columns, kept = fr_cells[cell].saved;
    const int has_c = fr_cells[cell].states == 2;
    backward_units u = {.dh = dh, .lanes = n};
    real h_entered[LANES], c_entered[LANES];
    const real *c_before = NULL;
    if (!projects) {
        u.h = at(&run->y, s->t, row) + j;
        u.h_prev = h_before(b, s->t, row) + j;
        if (b->enters)
            u.h_prev = enter_block(b, s->t, row, j, n, u.h_prev, h_entered);
    }
    if (kept) {
        const real *saved = saved_at(b, s->t, row) + j;
        UNROLL(8)
        for (int k = 0; k < kept; k++)
            u.saved[k] = vload_n(saved + k * H, n);
    }
    if (has_c) {
        const real *c = is_first(b, s->t, row) ? (const real *)run->c0 + row * H
                                               : saved_at(b, run->reverse ? s->t + 1 : s->t - 1, row)
                                                     + fr_cells[cell].saved_c * H;
        u.c_prev = c_before = c + j;
        if (b->enters)
            u.c_prev = enter_block(b, s->t, row, j, n, c_before, c_entered);
        u.dc = vload_n((real *)run->dc0 + row * H + j, n);
        if (run->dc_steps)
            vstore_n((real *)run->dc_steps + at_step, u.dc, n);
    }
    if (run->dh_steps && !projects)
        vstore_n((real *)run->dh_steps + at_step, dh, n);
    if (fr_cells[cell].vectors)
        u.vectors = run->weights.vectors ? (const real *)run->weights.vectors + j : NULL, u.step = H;
    zoned_gradients past;
    past.dh = past.dc = (vec){0};
    if (zones(o))
        split_zoned(cell, o, &run->masks, s->t, row, j, &u, &past);
    cell_backward(cell, o, &u);
    if (zones(o)) {
        u.carry = fr_cells[cell].carries ? u.carry + past.dh : past.dh;
        if (has_c)
            u.dc += past.dc;
    }
    if (projects)
        vstore_n(b->left + (s->term + rank) * H + j, u.out, n);
    const ptrdiff_t p = j / panel_units(cell), block = j % panel_units(cell) / LANES;
    vec *out = b->d + (p * b->capacity + s->term + rank) * COLUMNS + block * width;
    UNROLL(8)
    for (int c = 0; c < width; c++)
        out[c] = u.d[c];
    if (fr_cells[cell].vectors && b->vectors)
        UNROLL(4)
        for (int v = 0; v < fr_cells[cell].vectors; v++)
            *vector_terms(b, p, s->term + rank, v, (int)block) = u.d_vectors[v];
    if (has_c && b->enters)
        u.dc = leave_units(&run->entry, b->batch, s->t, row, j, n, c_before - j, u.dc, run->dscale, H);
    if (has_c)
        vstore_n((real *)run->dc0 + row * H + j, u.dc, n);
    if (fr_cells[cell].carries || zones(o))
        vstore_n((real *)run->dh0 + row * H + j, u.carry, n);
}

/* Goes on from the gradient of what the first phase left of `rank` at units j .. j+LANES-1: completes the gradients of
 * its columns and the carry. */
INLINE void derive_second_block(const int cell, const fr_options *o, const backward_state *b, const step *s,
                                ptrdiff_t rank, ptrdiff_t j, vec d_left) {
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank), p = j / panel_units(cell);
    const fr_fed *fed = &fr_cells[cell].h; /* other members read the other columns now */
    const int n = min_lanes(H - j);
    vec *columns = b->d + (p * b->capacity + s->term + rank) * COLUMNS;
    real *dh0 = (real *)b->run->dh0 + row * H + j;
    const vec drop = drop_at(&b->run->masks, s->t, row, j, n);
    backward_units u = {.d_left = drop * d_left, .lanes = n, .carry = vload_n(dh0, n)};
    real h_entered[LANES];
    u.h_prev = h_before(b, s->t, row) + j;
    if (b->enters)
        u.h_prev = enter_block(b, s->t, row, j, n, u.h_prev, h_entered);
    UNROLL(8)
    for (int k = 0; k < fr_cells[cell].saved; k++)
        u.saved[k] = vload_n(saved_at(b, s->t, row) + k * H + j, n);
    UNROLL(8)
    for (int c = fed->first; c < fed->first + fed->count; c++)
        u.d[c] = columns[c];
    cell_second_backward(cell, o, &u);
    UNROLL(8)
    for (int c = fed->first; c < fed->first + fed->count; c++)
        columns[c] = u.d[c];
    vstore_n(b->left + (s->term + rank) * H + j, drop * u.left, n);
    vstore_n(dh0, u.carry, n);
}

/* A cell without a c has no output to project. */
#define DERIVE(name, cell, options, projects) \
    static void name(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) { \
        for (int c = 0; c < C && (!projects || fr_cells[cell].states == 2); c++, j += LANES) \
            derive_block(cell, options, projects, b, s, rank, j, dh[c]); \
    }
#define CELL(NAME, name, ...) DERIVE(derive_##name, FR_##NAME, NULL, 0)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_general_##name, FR_##NAME, &b->options, 0)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_projected_##name, FR_##NAME, NULL, 1)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_general_projected_##name, FR_##NAME, &b->options, 1)
#include "cells.def"

#define DERIVE_SECOND(name, cell, options) \
    static void name(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) { \
        for (int c = 0; c < C; c++, j += LANES) \
            derive_second_block(cell, options, b, s, rank, j, dh[c]); \
    }
#define SECOND(NAME, name) \
    DERIVE_SECOND(second_##name, FR_##NAME, NULL) \
    DERIVE_SECOND(second_general_##name, FR_##NAME, &b->options)
#include "cells.def"

derive_function *LEVEL(fr_derive)(const backward_state *b) {
    static derive_function *const by_cell[][2][2] = {
#define CELL(NAME, name, ...) \
    {{derive_##name, derive_general_##name}, {derive_projected_##name, derive_general_projected_##name}},
#include "cells.def"
    };
    return by_cell[b->cell][b->projects][b->run->options != NULL];
}

derive_function *LEVEL(fr_derive_second)(const backward_state *b) {
    static derive_function *const by_cell[FR_CELLS][2] = {
#define SECOND(NAME, name) [FR_##NAME] = {second_##name, second_general_##name},
#include "cells.def"
    };
    return by_cell[b->cell][b->run->options != NULL];
}
