/* What becomes of the sums of a panel, for each cell. Kept apart from the products, whose sums need all the
 * registers that the constants of the activations would occupy. */
#include "finish.h"

/* Keeps what the second phase reads of n rows: what the first has left, the columns that wait for its product, and, in
 * place of the columns that h feeds, the values saved so far. */
INLINE void leave_between(const int cell, const int n, const forward_state *f, const finish_state *s, ptrdiff_t i) {
    const fr_fed *fed = &fr_cells[cell].h, *waiting = &fr_cells[cell].left;
    const ptrdiff_t j = s->p * panel_units(cell);
    EACH(r, n) {
        vec *out = between_at(f, s->p, i + r);
        UNROLL(4)
        for (int k = 0; k < waiting->count; k++)
            out[waiting->first + k] = s->a[r][waiting->first + k];
        UNROLL(4)
        for (int k = 0; k < fed->count; k++)
            out[fed->first + k] = s->units.saved[k][r];
        const int lanes = s->units.lanes;
        const vec drop = drop_at(&f->run->masks, s->t, s->row[r], j, lanes);
        vstore_n(left_at(f, i + r) + j, drop * s->units.left[r], lanes);
    }
}

/* n rows, i .. i+n-1, through the blocks of panel p. */
INLINE void finish_rows(const int cell, const fr_options *o, const int n, const forward_state *f, const vec *sums,
                        int sum_step, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i) {
    const int blocks = panel_blocks(cell) == 1 ? 1 : panel_columns(cell, f->weights->H, p);
    finish_state s;
    s.p = p, s.t = t;
    EACH(r, n) s.a[r] = sums + r * sum_step, s.row[r] = owned_row(f, i + r), s.h_prev[r] = f->h_prev[i + r];
    for (int block = 0; block < blocks; block++)
        UNROLL(8)
        for (int stage = 0; stage < cell_stages(cell) - has_second_phase(cell); stage++)
            finish_stage(cell, o, block, stage, ROWS_BESIDE, n, f, &s);
    if (has_second_phase(cell))
        leave_between(cell, n, f, &s, i);
}

/* The second phase of n rows, whose columns are between the two. */
INLINE void finish_second_rows(const int cell, const fr_options *o, const int n, const forward_state *f, ptrdiff_t p,
                               ptrdiff_t t, ptrdiff_t i) {
    const fr_fed *fed = &fr_cells[cell].h;
    finish_state s;
    s.p = p, s.t = t;
    EACH(r, n) s.a[r] = between_at(f, p, i + r), s.row[r] = owned_row(f, i + r), s.h_prev[r] = f->h_prev[i + r];
    UNROLL(4)
    for (int k = 0; k < fed->count; k++)
        EACH(r, n) s.units.saved[k][r] = s.a[r][fed->first + k];
    finish_stage(cell, o, 0, cell_stages(cell) - 1, ROWS_BESIDE, n, f, &s);
}

#define FINISH(name, cell, options) \
    static void name(const forward_state *f, const vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t, \
                     ptrdiff_t i) { \
        int r = 0; \
        for (; r + SIDE_BY_SIDE <= rows; r += SIDE_BY_SIDE) \
            finish_rows(cell, options, SIDE_BY_SIDE, f, sums + r * sum_step, sum_step, p, t, i + r); \
        for (; r < rows; r++) \
            finish_rows(cell, options, 1, f, sums + r * sum_step, sum_step, p, t, i + r); \
    }
#define EQUATION(NAME, name) FINISH(finish_##name, FR_##NAME, NULL)
#include "cells.def"
#define EQUATION(NAME, name) FINISH(finish_general_##name, FR_##NAME, &f->weights->options)
#include "cells.def"

#define FINISH_SECOND(name, cell, options) \
    static void name(const forward_state *f, const vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t, \
                     ptrdiff_t i) { \
        const ptrdiff_t end = i + rows; \
        (void)sums, (void)sum_step; \
        for (; i + SIDE_BY_SIDE <= end; i += SIDE_BY_SIDE) \
            finish_second_rows(cell, options, SIDE_BY_SIDE, f, p, t, i); \
        for (; i < end; i++) \
            finish_second_rows(cell, options, 1, f, p, t, i); \
    }
#define SECOND(NAME, name) \
    FINISH_SECOND(second_##name, FR_##NAME, NULL) \
    FINISH_SECOND(second_general_##name, FR_##NAME, &f->weights->options)
#include "cells.def"

finish_function *LEVEL(fr_finish_second)(int cell, int general) {
    static finish_function *const by_cell[FR_CELLS][2] = {
#define SECOND(NAME, name) [FR_##NAME] = {second_##name, second_general_##name},
#include "cells.def"
    };
    return by_cell[cell][general];
}

finish_function *LEVEL(fr_finish)(int cell, int general) {
    static finish_function *const by_cell[FR_CELLS][2] = {
#define EQUATION(NAME, name) [FR_##NAME] = {finish_##name, finish_general_##name},
#define NORMED(NAME, NORMAL, normal) [FR_##NAME] = {LEVEL(fr_keep_products), LEVEL(fr_keep_products)},
#include "cells.def"
    };
    return by_cell[cell][general];
}
