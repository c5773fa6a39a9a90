/* What becomes of the sums of a panel, for each cell. Kept apart from the products, whose sums need all the
 * registers that the constants of the activations would occupy. */
#include "finish.h"

/* n rows, i .. i+n-1, through the blocks of panel p. */
INLINE void finish_rows(const int cell, const fr_options *o, const int n, const forward_state *f, const vec *sums,
                        int sum_step, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i) {
    const int blocks = panel_blocks(cell) == 1 ? 1 : panel_columns(cell, f->weights->H, p);
    finish_state s;
    s.p = p, s.t = t;
    EACH(r, n) s.a[r] = sums + r * sum_step, s.row[r] = owned_row(f, i + r), s.h_prev[r] = f->h_prev[i + r];
    for (int block = 0; block < blocks; block++)
        UNROLL(8)
        for (int stage = 0; stage < cell_stages(cell); stage++)
            finish_stage(cell, o, block, stage, n, f, &s);
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
#define CELL(NAME, name, ...) FINISH(finish_##name, FR_##NAME, NULL)
#include "cells.def"
#define CELL(NAME, name, ...) FINISH(finish_general_##name, FR_##NAME, &f->weights->options)
#include "cells.def"

finish_function *LEVEL(fr_finish)(int cell, int general) {
    static finish_function *const by_cell[][2] = {
#define CELL(NAME, name, ...) {finish_##name, finish_general_##name},
#include "cells.def"
    };
    return by_cell[cell][general];
}
