/* The micro-kernel: every large product of the package is this loop. */
#ifndef FR_PRODUCT_H
#define FR_PRODUCT_H

#include "vec.h"

#define COLUMNS 4 /* of vectors in a panel */
#define TILE_ROWS 6

/* Rows of a tile of C columns: as many as have room for their sums. At sixteen registers 3 x 4 reads 7 operands for 12
 * multiply-adds. 6 x 2, half of the columns at a time, reads 8, and half cache lines of the weights: a tenth slower
 * on a Zen 4, though it reads the weights half as often. */
INLINE int tile_limit(int C) { return TILE_SUMS / C < TILE_ROWS ? TILE_SUMS / C : TILE_ROWS; }

/* Copies n vectors of sums; n is a constant wherever this is inlined. */
INLINE void move_sums(vec *to, const vec *from, const int n) {
    UNROLL(24)
    for (int i = 0; i < n; i++)
        to[i] = from[i];
}

/* Few rows: two panels at once keep twice as many chains in flight, and share the rows' loads. */
enum { PAIR = 2, PAIR_ROWS = TILE_SUMS / (PAIR * COLUMNS) };

/* One k of R rows through n columns of vectors, C of them from each panel. */
INLINE void multiply_terms(vec *total, const int R, const int n, const real *const *row, ptrdiff_t a_at,
                           const real *const *panel, ptrdiff_t p_at, const int C) {
    if (R <= n) {
        spread value[TILE_ROWS];
        UNROLL(8)
        for (int r = 0; r < R; r++) {
            value[r] = vspread(row[r][a_at]);
            VEC_KEEP(value[r]);
        }
        UNROLL(8)
        for (int i = 0; i < n; i++) {
            vec w = vload(panel[i / C] + p_at + i % C * LANES);
            VEC_KEEP(w);
            UNROLL(8)
            for (int r = 0; r < R; r++)
                total[r * n + i] = vfma_spread(value[r], w, total[r * n + i]);
        }
    } else {
        vec weight[2 * COLUMNS];
        UNROLL(8)
        for (int i = 0; i < n; i++) {
            weight[i] = vload(panel[i / C] + p_at + i % C * LANES);
            VEC_KEEP(weight[i]);
        }
        UNROLL(8)
        for (int r = 0; r < R; r++) {
            spread value = vspread(row[r][a_at]);
            if (n > 1)
                VEC_KEEP(value);
            UNROLL(8)
            for (int i = 0; i < n; i++)
                total[r * n + i] = vfma_spread(value, weight[i], total[r * n + i]);
        }
    }
}

/* K terms of one row through n columns of vectors. It moves the pointers on: a row that is finished between products
 * leaves few registers for counters. */
INLINE void walk_row(vec *total, const int n, const real **row, const ptrdiff_t a_step, ptrdiff_t K, const real **panel,
                     const int C) {
    for (const real *end = *row + K * a_step; *row != end; *row += a_step) {
        __asm__ volatile("" : "+r"(end));
        const spread value = vspread(**row);
        UNROLL(8)
        for (int i = 0; i < n; i++)
            total[i] = vfma_spread(value, vload(panel[i / C] + i % C * LANES), total[i]);
        UNROLL(4)
        for (int q = 0; q * C < n; q++)
            panel[q] += C * LANES;
    }
}

/* What a later product or step needs from beyond the second-level cache, and this one asks for: a line every ASK_TERMS
 * terms, each time so many bytes further. Where nothing is to be asked for, `step` is 0 and `at` is in the first-level
 * cache. */
typedef struct {
    const char *at;
    ptrdiff_t step;
} ahead;

enum { ASK_TERMS = VEC_BYTES == 64 ? 2 : 8 };
INLINE void ask(ahead *next) {
    __builtin_prefetch(next->at, 0, 2);
    next->at += next->step;
}

/* The products of K terms. With AVX-512 two at a time even if it asks for nothing, because the counting takes a port of
 * the FMAs on Intel's cores; with sixteen registers two at a time would spill sums. */
INLINE void walk_terms(vec *total, const int R, const int n, const real *const *row, const ptrdiff_t a_step,
                       const real *const *panel, const int C, ptrdiff_t K, ahead *next) {
    ptrdiff_t k = 0;
    for (; ASK_TERMS == 2 && next && k < K - 1; k += 2) {
        multiply_terms(total, R, n, row, k * a_step, panel, k * (C * LANES), C);
        multiply_terms(total, R, n, row, (k + 1) * a_step, panel, (k + 1) * (C * LANES), C);
        ask(next);
    }
    while (ASK_TERMS > 2 && next && next->step && k <= K - ASK_TERMS) {
        for (const ptrdiff_t end = k + ASK_TERMS; k < end; k++)
            multiply_terms(total, R, n, row, k * a_step, panel, k * (C * LANES), C);
        ask(next);
    }
    for (; k < K; k++)
        multiply_terms(total, R, n, row, k * a_step, panel, k * (C * LANES), C);
}

/* sum[r][q][first + c] += a[r][k * a_step] * p[q][k][c] for k = 0..K-1 in that order, one chain of fused multiply-adds
 * per element, for R rows, P panels and C columns of vectors. The a of `runs` such K, one after the other in p, lie
 * `run_step` elements apart. `next` is NULL, or what is asked for ahead, moved on.
 *
 * R, P, C and first are constants wherever this is inlined, so that the sums live in registers. Of each k the
 * fewer of the rows' and the columns' operands are held in registers, and the others pass by one after the other: every
 * operand is loaded once.
 *   sum      (R, P, COLUMNS) vectors
 *   p        (P, K, C) vectors, aligned, the panels `panel_step` elements apart
 */
INLINE void product_of_runs(vec *sum, const int R, const int P, const int C, const int first, const real *const *a,
                            const ptrdiff_t a_step, ptrdiff_t K, ptrdiff_t runs, ptrdiff_t run_step, const real *p,
                            ptrdiff_t panel_step, ahead *next) {
    /* Made anew for the loop: else GCC holds what only goes through it in registers, and some of these in memory. */
    const real *row[TILE_ROWS], *panel[COLUMNS];
    vec total[TILE_SUMS];
    __asm__ volatile("" : "+r"(K));
    UNROLL(4)
    for (int q = 0; q < P; q++) {
        panel[q] = p + q * panel_step;
        __asm__ volatile("" : "+r"(panel[q]));
    }
    UNROLL(8)
    for (int r = 0; r < R; r++) {
        row[r] = a[r];
        __asm__ volatile("" : "+r"(row[r]));
        UNROLL(8)
        for (int q = 0; q < P; q++)
            UNROLL(8)
            for (int c = 0; c < C; c++) {
                vec *t = total + (r * P + q) * C + c;
                *t = sum[(r * P + q) * COLUMNS + first + c];
                VEC_KEEP(*t);
            }
    }
    for (;;) {
        UNROLL(8)
        for (int r = 0; r < R && runs > 1; r++) /* of the next run, in a page of its own, which no processor foresees */
            prefetch(row[r] + run_step, K);
        if (R == 1)
            walk_row(total, P * C, &row[0], a_step, K, panel, C);
        else
            walk_terms(total, R, P * C, row, a_step, panel, C, K, next);
        if (--runs <= 0)
            break;
        UNROLL(8)
        for (int r = 0; r < R; r++)
            row[r] += run_step - (R == 1 ? K * a_step : 0);
        UNROLL(4)
        for (int q = 0; q < P && R > 1; q++)
            panel[q] += K * C * LANES;
    }
    UNROLL(24)
    for (int i = 0; i < R * P * C; i++)
        sum[i / C * COLUMNS + first + i % C] = total[i];
}

INLINE void product(vec *sum, const int R, const int P, const int C, const int first, const real *const *a,
                    const ptrdiff_t a_step, ptrdiff_t K, const real *p, ptrdiff_t panel_step, ahead *next) {
    product_of_runs(sum, R, P, C, first, a, a_step, K, 1, 0, p, panel_step, next);
}

/* More bytes of weights than these may come from beyond the second-level cache, and are asked for ahead. */
enum { AHEAD_BYTES = 1 << 19 };

/* Whether weights are asked for: AVX-512's FMAs take them twice as fast as others, for which it gained nothing. */
enum { ASKS_FOR_WEIGHTS = VEC_BYTES == 64 };

/* Whether a tile of R rows and C columns asks ahead: those of whole batches. Beside the pointers of more than four rows
 * AVX2's loop has no register for a second count. */
INLINE int asks_ahead(int R, int C) {
    return !VEC_OVERWRITES && R * C >= TILE_SUMS / 2 && (ASK_TERMS == 2 || R <= 4);
}

/* A table of the instances of TILE(name, R, ...) for 1..TILE_ROWS rows, by rows - 1. Each is a function of its own: GCC
 * shares registers out over a whole function, and has too few for several loops' sums. */
#define DEFINE_TILES(type, name, TILE, ...) \
    TILE(name##_1, 1, __VA_ARGS__) \
    TILE(name##_2, 2, __VA_ARGS__) \
    TILE(name##_3, 3, __VA_ARGS__) \
    TILE(name##_4, 4, __VA_ARGS__) \
    TILE(name##_5, 5, __VA_ARGS__) \
    TILE(name##_6, 6, __VA_ARGS__) \
    static type *const name[TILE_ROWS] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};

/* The rows of the next tile, `most` at most: as few tiles as can be, and those alike. */
INLINE int tile_rows(ptrdiff_t remaining, int most) {
    ptrdiff_t tiles = (remaining + most - 1) / most;
    return (int)((remaining + tiles - 1) / tiles);
}

#endif
