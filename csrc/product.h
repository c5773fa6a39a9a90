/* The micro-kernel: every large product of the package is this loop. */
#ifndef FR_PRODUCT_H
#define FR_PRODUCT_H

#include "vec.h"

#define COLUMNS 4 /* of vectors in a panel */

/* sum[r][q][first + c] += a[r][k * a_step] * p[q][k][c] for k = 0..K-1 in that order, one chain of fused multiply-adds
 * per element, for R rows, P panels and C columns of vectors.
 *
 * R, P, C and first are constants wherever this is inlined, so that the sums live in registers.
 *   sum      (R, P, COLUMNS) vectors
 *   p        (P, K, C) vectors, aligned, the panels `panel_step` elements apart
 */
INLINE void product(vec *sum, const int R, const int P, const int C, const int first, const real *const *a,
                    const ptrdiff_t a_step, ptrdiff_t K, const real *p, ptrdiff_t panel_step) {
    for (ptrdiff_t k = 0; k < K; k++) {
        const real *weights = p + k * (C * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vec value = vset1(a[r][k * a_step]);
#pragma GCC unroll 8
            for (int q = 0; q < P; q++)
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) {
                    vec *s = sum + (r * P + q) * COLUMNS + first + c;
                    *s = vfma(value, ((const vec *)(weights + q * panel_step))[c], *s);
                }
        }
    }
}

/* Calls CALL(R) with the constant that equals `rows`, 1..TILE_ROWS, or 1..TILE_ROWS / 2. */
#if TILE_ROWS == 6
#define FOR_TILE_ROWS(rows, CALL) \
    switch (rows) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    case 3: CALL(3); break; \
    case 4: CALL(4); break; \
    case 5: CALL(5); break; \
    default: CALL(6); break; \
    }
#define FOR_PAIR_ROWS(rows, CALL) \
    switch (rows) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    default: CALL(3); break; \
    }
#else
#define FOR_TILE_ROWS(rows, CALL) \
    switch (rows) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    default: CALL(3); break; \
    }
#define FOR_PAIR_ROWS(rows, CALL) (void)(rows), CALL(1);
#endif

/* The rows of the next tile, `most` at most: as few tiles as can be, and those alike. */
INLINE int tile_rows(ptrdiff_t remaining, int most) {
    ptrdiff_t tiles = (remaining + most - 1) / most;
    return (int)((remaining + tiles - 1) / tiles);
}

#endif
