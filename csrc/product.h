/* The micro-kernel: every large product of the package is this loop. */
#ifndef FR_PRODUCT_H
#define FR_PRODUCT_H

#include "vec.h"

/* sum[r][first + c] += a[r][k * a_step] * p[k][first_p + c] for k = 0..K-1 in that order, one chain of fused
 * multiply-adds per element, for R rows and C columns of vectors.
 *
 * R, C and the offsets are constants wherever this is inlined, so that the sums live in registers.
 *   sum      (R, COLUMNS) vectors
 *   p        (K, p_columns) vectors, aligned
 */
INLINE void product(vec *sum, const int R, const int C, const int first, const real *const *a, const ptrdiff_t a_step,
                    ptrdiff_t K, const real *p, const int p_columns) {
    for (ptrdiff_t k = 0; k < K; k++) {
        const vec *weights = (const vec *)(p + k * (p_columns * LANES));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vec value = vset1(a[r][k * a_step]);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++)
                sum[r * 4 + first + c] = vfma(value, weights[c], sum[r * 4 + first + c]);
        }
    }
}

/* Calls CALL(R) with the constant that equals `rows`, 1..TILE_ROWS. */
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
#else
#define FOR_TILE_ROWS(rows, CALL) \
    switch (rows) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    default: CALL(3); break; \
    }
#endif

/* The rows of the next tile: as few tiles as can be, and those alike. */
INLINE int tile_rows(ptrdiff_t remaining) {
    ptrdiff_t tiles = (remaining + TILE_ROWS - 1) / TILE_ROWS;
    return (int)((remaining + tiles - 1) / tiles);
}

#endif
