/* Of a cell that normalises: the gradients of its gains and biases, which are sums over terms of d and of d times what
 * it multiplied; and, since what they read is then in cache, the gradients by the products by x, in the place of d.
 *
 * The sums of a block of terms that is not full wait in `sums`: whether a single thread goes over a step at a time or
 * a team over a chunk, the same is added in the same order. The threads divide the panels. */
#include "backward.h"
#include "norm.h"

INLINE ptrdiff_t first_panel(const backward_state *b) { return fr_cut(b->panels, b->share->index, b->share->size); }
INLINE ptrdiff_t end_panel(const backward_state *b) { return fr_cut(b->panels, b->share->index + 1, b->share->size); }

/* Adds the normalised products by a source of a term, times d, to the sums of the gains at a panel; turns the columns
 * that x feeds into the gradients by its products. */
INLINE void sum_gains(const int cell, const int source, const backward_state *b, const normed_term *term, ptrdiff_t j,
                      panel_sums *sums, vec *d) {
    const ptrdiff_t H = b->H;
    const int n = min_lanes(H - j);
    const fr_fed *fed = fed_part(cell, source);
    const normal *of = &term->of[source];
    UNROLL(4)
    for (int k = 0; k < fed->count; k++) {
        const int g = fed->gate[k];
        const vec normed = standard(of, g, vload_n(term->saved + saved_product(cell, source, g) * H + j, n));
        vec *column = &d[fed->first + k];
        sums->gains[source][k] = vfma(*column, normed, sums->gains[source][k]);
        if (source == FROM_X) {
            const real *gains = gains_by(cell, FROM_X, b->run->weights.vectors, H);
            *column = d_standard(of, &term->by_x, g, vload_n(gains + g * H + j, n) * *column, normed);
        }
    }
}

/* Goes over the terms begin .. end-1, of one block: h first, since x's part overwrites the columns that both feed. */
INLINE void sum_terms(const int cell, const backward_state *b, ptrdiff_t begin, ptrdiff_t end) {
    for (ptrdiff_t p = first_panel(b); p < end_panel(b); p++) {
        panel_sums sums = b->sums[p];
        for (ptrdiff_t i = begin; i < end; i++) {
            vec *d = b->d + (p * b->capacity + i) * COLUMNS;
            UNROLL(4)
            for (int c = 0; c < fr_cells[cell].columns; c++)
                sums.d[c] += d[c];
            sum_gains(cell, FROM_H, b, &b->normed[i], p * LANES, &sums, d);
            sum_gains(cell, FROM_X, b, &b->normed[i], p * LANES, &sums, d);
            if (fr_cells[cell].states == 2 && b->vectors)
                UNROLL(2)
                for (int v = 0; v < 2; v++)
                    sums.of_c[v] += *vector_terms(b, p, i, v, 0);
        }
        b->sums[p] = sums;
    }
}

/* A sum's way at n units: from the open ones or back to them, or to the gradients; `place` there, or NULL. */
INLINE void move_sum(open_ends ends, vec *sum, real *place, int n) {
    if (place && ends.begin)
        *sum = vload_n(place, n);
    else if (place)
        vstore_n(place, ends.stay ? *sum : added_to(ends, place, n) + *sum, n);
}

/* Moves the sums of the share's panels. */
static void move_panels(const backward_state *b, open_ends ends) {
    const ptrdiff_t H = b->H;
    const fr_gradients *gradients = ends.begin || ends.stay ? &b->run->span.open : &b->run->gradients;
    for (ptrdiff_t p = first_panel(b); p < end_panel(b); p++) {
        const ptrdiff_t j = p * LANES;
        const int n = min_lanes(H - j);
        real *vectors = gradients->vectors ? (real *)gradients->vectors + j : NULL;
        panel_sums *sums = &b->sums[p];
        for (int source = FROM_H; source <= FROM_X; source++) {
            const fr_fed *fed = fed_part(b->cell, source);
            real *bias = bias_in(gradients, source);
            const ptrdiff_t gains = source == FROM_X ? 0 : fr_cells[b->cell].gates;
            for (int k = 0; k < fed->count; k++) {
                move_sum(ends, &sums->gains[source][k], vectors ? vectors + (gains + fed->gate[k]) * H : NULL, n);
                move_sum(ends, &sums->d[fed->first + k], bias ? bias + fed->gate[k] * H + j : NULL, n);
            }
        }
        for (int v = 0; v < b->vectors; v++)
            move_sum(ends, &sums->of_c[v], vectors + (2 * fr_cells[b->cell].gates + v) * H, n);
    }
}

void LEVEL(fr_begin_sums)(const backward_state *b, ptrdiff_t before) {
    memset(b->sums + first_panel(b), 0, (size_t)(end_panel(b) - first_panel(b)) * sizeof *b->sums);
    if (before % BLOCK)
        move_panels(b, (open_ends){.begin = 1});
}

void LEVEL(fr_sum_normed)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t before) {
    for (ptrdiff_t next; begin < end; begin = next) {
        const ptrdiff_t filled = before % BLOCK;
        next = end - begin < BLOCK - filled ? end : begin + BLOCK - filled;
        if (!filled)
            memset(b->sums + first_panel(b), 0, (size_t)(end_panel(b) - first_panel(b)) * sizeof *b->sums);
        switch (b->cell) {
#define NORMED(NAME, NORMAL, normal) \
    case FR_##NAME: \
        sum_terms(FR_##NAME, b, begin, next); \
        break;
#include "cells.def"
        default:
            __builtin_unreachable();
        }
        before += next - begin;
        if (before % BLOCK == 0)
            move_panels(b, (open_ends){.writes = b->run->overwrites && before == BLOCK});
    }
}

void LEVEL(fr_end_sums)(const backward_state *b, ptrdiff_t terms, int stays) {
    if (terms % BLOCK)
        move_panels(b, (open_ends){.stay = stays, .writes = b->run->overwrites && terms < BLOCK});
}
