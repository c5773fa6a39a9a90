/* The products of the forward pass: a tile of rows x units x gates stays in registers through x W_ih and h W_hh.
 *
 * A tile depends on its shape alone, that is on how many columns it has and which of them x and h feed: cells of the
 * same shape share it. Each number of rows is a function of its own (product.h), named by what it is an instance of:
 * hoist_3_6 takes six terms through three columns, step_x1234_h1234_6 and pair_x1234_h1234_3 six and three rows through
 * one and two panels of that shape.
 */
#include "forward.h"

/* x W_ih and the bias for R terms through `fed` columns. */
INLINE void hoist_tile(const int R, const int fed, const forward_state *f, ptrdiff_t p, int columns, ptrdiff_t term,
                       ahead next) {
    const real *panel = panel_at(f, p);
    vec sum[TILE_ROWS * COLUMNS], *out = hoisted_at(f, p, term, fed);
    const real *x[TILE_ROWS];
    if (R > tile_limit(fed))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++) {
        x[r] = f->x_terms[term + r];
        move_sums(sum + r * COLUMNS, (const vec *)panel, fed);
    }
    product(sum, R, 1, fed, 0, x, 1, f->weights->I, panel + columns * LANES, 0,
            asks_ahead(R, fed) ? &next : NULL);
    UNROLL(8)
    for (int r = 0; r < R; r++)
        move_sums(out + r * fed, sum + r * COLUMNS, fed);
}

/* Step t of the owned rows i .. i+R-1 through P panels from p on, of C columns each, X of them fed by x and H by h. */
INLINE void step_tile(const int R, const int P, const int C, const int X, const int first_h, const int H,
                      const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, vec *sums, ahead next) {
    const ptrdiff_t panel_size = f->weights->panel_size;
    const real *panel = panel_at(f, p);
    const real *x_part = panel + C * LANES, *h_part = x_part + f->weights->I * X * LANES;
    ahead *const asked = P == 1 && asks_ahead(R, X < H ? X : H) ? &next : NULL;
    vec sum[TILE_ROWS * COLUMNS];
    const real *a[TILE_ROWS];
    if (R > (P == 1 ? tile_limit(X > H ? X : H) : PAIR_ROWS))
        return;
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sum + i * COLUMNS, (const vec *)(panel + i % P * panel_size), C);
    if (f->hoisted) {
        UNROLL(8)
        for (int q = 0; q < P; q++) {
            const vec *start = hoisted_at(f, p + q, f->step_term + i, X);
            UNROLL(8)
            for (int r = 0; r < R; r++)
                move_sums(sum + (r * P + q) * COLUMNS, start + r * X, X);
        }
    } else {
        UNROLL(8)
        for (int r = 0; r < R; r++)
            a[r] = at(&f->run->x, t, owned_row(f, i + r));
        product(sum, R, P, X, 0, a, 1, f->weights->I, x_part, panel_size, asked);
    }
    if (first_h) { /* a column of sums is done and another begins, and no register is left to hold either meanwhile */
        UNROLL(8)
        for (int i = 0; i < R * P; i++)
            move_sums(sums + i * COLUMNS, sum + i * COLUMNS, C);
        __asm__ volatile("" : : : "memory");
        UNROLL(8)
        for (int i = 0; i < R * P; i++)
            move_sums(sum + i * COLUMNS, sums + i * COLUMNS, C);
    }
    UNROLL(8)
    for (int r = 0; r < R; r++)
        a[r] = f->h_fed[i + r];
    product(sum, R, P, H, first_h, a, 1, f->weights->P, h_part, panel_size, asked);
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sums + i * COLUMNS, sum + i * COLUMNS, C);
}

#define HOIST(name, R, fed) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, int columns, ptrdiff_t term, \
                                               ahead next) { \
        hoist_tile(R, fed, f, p, columns, term, next); \
    }
DEFINE_TILES(hoist_function, hoist_1, HOIST, 1)
DEFINE_TILES(hoist_function, hoist_2, HOIST, 2)
DEFINE_TILES(hoist_function, hoist_3, HOIST, 3)
DEFINE_TILES(hoist_function, hoist_4, HOIST, 4)

#define STEP(name, R, P, C, X, first_h, H) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, \
                                               vec *sums, ahead next) { \
        step_tile(R, P, C, X, first_h, H, f, p, t, i, sums, next); \
    }
#define SHAPE(name, C, X, first_h, H) DEFINE_TILES(tile_function, step_##name, STEP, 1, C, X, first_h, H)
#include "cells.def"
#define SHAPE(name, C, X, first_h, H) DEFINE_TILES(tile_function, pair_##name, STEP, PAIR, C, X, first_h, H)
#include "cells.def"

static const shape_tiles shapes[] = {
#define SHAPE(name, C, X, first_h, H) {C, X, first_h, H, step_##name, C == COLUMNS || first_h ? pair_##name : NULL},
#include "cells.def"
};

panel_functions LEVEL(fr_panel_functions)(int cell, int general, int columns) {
    static hoist_function *const *const hoist[] = {hoist_1, hoist_2, hoist_3, hoist_4};
    const int x = fed_columns(cell, columns, 1), h = fed_columns(cell, columns, 0), first_h = fr_cells[cell].h.first;
    const shape_tiles *s = shapes;
    while (s->columns != columns || s->x != x || s->first_h != first_h || s->h != h)
        s++;
    return (panel_functions){s, hoist[x - 1], LEVEL(fr_finish)(cell, general), LEVEL(fr_finish_second)(cell, general),
                             tile_limit(x > h ? x : h)};
}

/* --- The second phase: one column of P panels from p on, of R owned rows. */

INLINE void second_tile(const int R, const int P, const forward_state *f, ptrdiff_t p, ptrdiff_t i) {
    const fr_cell_facts *facts = &fr_cells[f->weights->cell];
    const ptrdiff_t before = facts->columns + f->weights->I * facts->x.count + f->weights->H * facts->h.count;
    const real *panel = panel_at(f, p) + before * LANES;
    const int column = facts->left.first;
    vec sum[TILE_ROWS * COLUMNS * COLUMNS];
    const real *a[TILE_ROWS];
    if (R > tile_limit(P))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++) {
        a[r] = left_at(f, i + r);
        UNROLL(4)
        for (int q = 0; q < P; q++)
            sum[(r * P + q) * COLUMNS] = between_at(f, p + q, i + r)[column];
    }
    product(sum, R, P, 1, 0, a, 1, f->weights->H, panel, f->weights->panel_size, NULL);
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(4)
        for (int q = 0; q < P; q++)
            between_at(f, p + q, i + r)[column] = sum[(r * P + q) * COLUMNS];
}

typedef void second_function(const forward_state *f, ptrdiff_t p, ptrdiff_t i);
#define SECOND_TILE(name, R, P) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, ptrdiff_t i) { \
        second_tile(R, P, f, p, i); \
    }
DEFINE_TILES(second_function, second_1, SECOND_TILE, 1)
DEFINE_TILES(second_function, second_2, SECOND_TILE, 2)
DEFINE_TILES(second_function, second_3, SECOND_TILE, 3)
DEFINE_TILES(second_function, second_4, SECOND_TILE, 4)

void LEVEL(fr_second_products)(const forward_state *f, ptrdiff_t p, ptrdiff_t p_end, ptrdiff_t i, ptrdiff_t end) {
    static second_function *const *const by_panels[] = {second_1, second_2, second_3, second_4};
    const int panels = (int)(p_end - p);
    for (int rows; i < end; i += rows) {
        rows = tile_rows(end - i, tile_limit(panels));
        by_panels[panels - 1][rows - 1](f, p, i);
    }
}
