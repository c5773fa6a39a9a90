/* The micro-kernel: every large product of the package is this loop. */
#ifndef FR_PRODUCT_H
#define FR_PRODUCT_H

#include "vec.h"

#define COLUMNS 4 /* of vectors in a panel */
#define TILE_ROWS 6

/* Rows of a tile of C columns: as many as have room for their sums. At sixteen registers 3 x 4 reads 7 operands for 12
 * multiply-adds. 6 x 2, half of the columns at a time, reads 8, and half cache lines of the weights: a tenth slower on a
 * Zen 4, though it reads the weights half as often. */
INLINE int tile_limit(int C) { return TILE_SUMS / C < TILE_ROWS ? TILE_SUMS / C : TILE_ROWS; }

/* sum[r][q][first + c] += a[r][k * a_step] * p[q][k][c] for k = 0..K-1 in that order, one chain of fused multiply-adds
 * per element, for R rows, P panels and C columns of vectors.
 *
 * R, P, C and first are constants wherever this is inlined, so that the sums live in registers. Of each k the
 * fewer of the rows' and the columns' operands are held in registers, and the others pass by one after the other: every
 * operand is loaded once.
 *   sum      (R, P, COLUMNS) vectors
 *   p        (P, K, C) vectors, aligned, the panels `panel_step` elements apart
 */
INLINE void product(vec *sum, const int R, const int P, const int C, const int first, const real *const *a,
                    const ptrdiff_t a_step, ptrdiff_t K, const real *p, ptrdiff_t panel_step) {
    /* Made anew for the loop: else GCC holds what only goes through it in registers, and some of these in memory. */
    const real *row[TILE_ROWS], *panel[2];
    vec total[TILE_SUMS];
    __asm__ volatile("" : "+r"(K));
    UNROLL(2)
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
    if (R == 1) { /* walks: a row that is finished between products leaves few registers for their counters */
        for (const real *end = row[0] + K * a_step; row[0] != end; row[0] += a_step) {
            __asm__ volatile("" : "+r"(end));
            const spread value = vspread(*row[0]);
            UNROLL(8)
            for (int i = 0; i < P * C; i++)
                total[i] = vfma_spread(value, ((const vec *)panel[i / C])[i % C], total[i]);
            UNROLL(2)
            for (int q = 0; q < P; q++)
                panel[q] += C * LANES;
        }
        K = 0;
    }
    for (ptrdiff_t k = 0; k < K; k++) {
        const ptrdiff_t at = k * (C * LANES);
        if (R <= P * C) {
            spread value[TILE_ROWS];
            UNROLL(8)
            for (int r = 0; r < R; r++) {
                value[r] = vspread(row[r][k * a_step]);
                VEC_KEEP(value[r]);
            }
            UNROLL(8)
            for (int i = 0; i < P * C; i++) {
                vec w = ((const vec *)(panel[i / C] + at))[i % C];
                VEC_KEEP(w);
                UNROLL(8)
                for (int r = 0; r < R; r++)
                    total[r * P * C + i] = vfma_spread(value[r], w, total[r * P * C + i]);
            }
        } else {
            vec weight[2 * COLUMNS];
            UNROLL(8)
            for (int i = 0; i < P * C; i++) {
                weight[i] = ((const vec *)(panel[i / C] + at))[i % C];
                VEC_KEEP(weight[i]);
            }
            UNROLL(8)
            for (int r = 0; r < R; r++) {
                spread value = vspread(row[r][k * a_step]);
                if (P * C > 1)
                    VEC_KEEP(value);
                UNROLL(8)
                for (int i = 0; i < P * C; i++)
                    total[r * P * C + i] = vfma_spread(value, weight[i], total[r * P * C + i]);
            }
        }
    }
    UNROLL(24)
    for (int i = 0; i < R * P * C; i++)
        sum[i / C * COLUMNS + first + i % C] = total[i];
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
