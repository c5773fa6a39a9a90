/* From dh to the gradients of a step's columns: the cell's derivative. */
#include "derive.h"

/* From dh of `rank` at units j .. j+LANES-1 to the gradients of its columns; of a cell that projects, from the gradient
 * of its equation's output. */
INLINE void derive_block(const int cell, const fr_options *o, int projects, const backward_state *b,
                         const step *s, ptrdiff_t rank, ptrdiff_t j, vec dh) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, at_step = (s->t * b->batch->B + fr_row(b->batch, rank)) * H + j;
    const ptrdiff_t p = j / panel_units(cell), block = j % panel_units(cell) / LANES;
    backward_units u;
    block_state state;
    if (run->dh_steps && !projects)
        vstore_n((real *)run->dh_steps + at_step, dh, min_lanes(H - j));
    load_units(cell, o, projects, b, s, rank, j, dh, &u, &state);
    cell_backward(cell, o, &u);
    if (projects)
        vstore_n(b->left + (s->term + rank) * H + j, u.out, u.lanes);
    if (fr_cells[cell].vectors && b->vectors)
        UNROLL(4)
        for (int v = 0; v < fr_cells[cell].vectors; v++)
            *vector_terms(b, p, s->term + rank, v, (int)block) = u.d_vectors[v];
    leave_block(cell, o, b, s, rank, j, &u, &state);
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

/* Only the general instance projects, and only a cell with a c has an output to project. */
#define DERIVE(name, cell, options, may_project) \
    static void name(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) { \
        int projects = (may_project) && fr_cells[cell].states == 2 && b->projects; \
        for (int c = 0; c < C; c++, j += LANES) \
            derive_block(cell, options, projects, b, s, rank, j, dh[c]); \
    }
#define EQUATION(NAME, name) DERIVE(derive_##name, FR_##NAME, NULL, 0)
#include "cells.def"
#define EQUATION(NAME, name) DERIVE(derive_general_##name, FR_##NAME, &b->options, 1)
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
    static derive_function *const by_cell[FR_CELLS][2] = {
#define EQUATION(NAME, name) [FR_##NAME] = {derive_##name, derive_general_##name},
#include "cells.def"
    };
    return by_cell[b->cell][b->projects || b->run->options];
}

derive_function *LEVEL(fr_derive_second)(const backward_state *b) {
    static derive_function *const by_cell[FR_CELLS][2] = {
#define SECOND(NAME, name) [FR_##NAME] = {second_##name, second_general_##name},
#include "cells.def"
    };
    return by_cell[b->cell][b->run->options != NULL];
}
