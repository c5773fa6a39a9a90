/* Products with weights as they are, for a step that reads them once, in the order of the chains. */
#include "panels.h"

/* --- One row: W's rows are transposed in registers and multiplied at once. */

enum { LINE = 64 / sizeof(real) };

/* sum (C) += the whole lines of one row, a, times C columns, whose LANES rows lie K apart from first[c] on; returns
 * how many terms that is. A column's rows are read a whole line after the other: those of all columns, a power of
 * two apart, could push each other out of the cache. */
INLINE ptrdiff_t add_lines(const int C, vec *sum, const real *a, const real *const *first, ptrdiff_t K) {
    vec total[COLUMNS];
    UNROLL(4)
    for (int c = 0; c < C; c++)
        total[c] = sum[c];
    const ptrdiff_t K3 = thrice(K);
    ptrdiff_t k = 0;
    for (; k + LINE <= K; k += LINE)
        UNROLL(4)
        for (int c = 0; c < C; c++) {
            const real *rows[LANES];
            spaced_rows(rows, first[c] + k, K, K3);
            UNROLL(4)
            for (int from = 0; from < LINE; from += QUARTER) {
                vec block[QUARTER];
                vload_transposed(block, rows, from);
                UNROLL(4)
                for (int i = 0; i < QUARTER; i++)
                    total[c] = vfma_spread(vspread(a[k + from + i]), block[i], total[c]);
            }
        }
    UNROLL(4)
    for (int c = 0; c < C; c++)
        sum[c] = total[c];
    return k;
}

typedef ptrdiff_t row_function(vec *sum, const real *a, const real *const *first, ptrdiff_t K);

#define DEFINE_ROW(C) \
    static __attribute__((noinline)) ptrdiff_t row_##C(vec *sum, const real *a, const real *const *first, \
                                                       ptrdiff_t K) { \
        return add_lines(C, sum, a, first, K); \
    }
DEFINE_ROW(1)
DEFINE_ROW(2)
DEFINE_ROW(3)
DEFINE_ROW(4)

/* Columns' rows up to so much are read together: each waits for its chain of sums. Of more the processor does not fetch
 * ahead of so many rows, and two columns go at a time. */
enum { TOGETHER_BYTES = 1 << 15 };

/* --- Any number of rows: a block of W at a time is transposed into the first-level cache and multiplied from there. */

enum { BLOCK_TERMS = 64 };

typedef void multiply_function(vec *sums, const real *const *a, ptrdiff_t k, ptrdiff_t terms, const real *block);

/* sums (R, COLUMNS) += elements k .. k+terms-1 of R rows times a block of as many terms, C vectors wide. */
#define MULTIPLY(name, R, C) \
    static __attribute__((noinline)) void name(vec *sums, const real *const *a, ptrdiff_t k, ptrdiff_t terms, \
                                               const real *block) { \
        const real *from[TILE_ROWS]; \
        if (R > tile_limit(C)) \
            return; \
        UNROLL(8) for (int r = 0; r < R; r++) from[r] = a[r] + k; \
        product(sums, R, 1, C, 0, from, 1, terms, block, 0, NULL); \
    }
DEFINE_TILES(multiply_function, multiply_1, MULTIPLY, 1)
DEFINE_TILES(multiply_function, multiply_2, MULTIPLY, 2)
DEFINE_TILES(multiply_function, multiply_3, MULTIPLY, 3)
DEFINE_TILES(multiply_function, multiply_4, MULTIPLY, 4)

/* sums (rows, COLUMNS) += a (rows, K) times the first `fed` columns of panel p that a source feeds. */
static void multiply(const fr_packed *packed, ptrdiff_t p, int fed, int source, int rows, const real *const *a,
                     vec *sums) {
    static multiply_function *const *const by_columns[] = {multiply_1, multiply_2, multiply_3, multiply_4};
    static row_function *const row_of[] = {row_1, row_2, row_3, row_4};
    const fr_weights *weights = packed->weights;
    const ptrdiff_t K = source == FROM_X ? packed->I : packed->H;
    const real *w[COLUMNS][LANES], *first[COLUMNS];
    vec block[BLOCK_TERMS * COLUMNS];
    int lanes[COLUMNS], tile;
    int whole = rows == 1;
    for (int c = 0; c < fed; c++) {
        lanes[c] = find_rows(packed, p, c, source, source == FROM_X ? weights->w_ih : weights->w_hh, K, w[c]);
        first[c] = w[c][0];
        whole &= lanes[c] == LANES;
    }
    ptrdiff_t k = 0;
    const ptrdiff_t together = fed * LANES * K * (ptrdiff_t)sizeof(real) <= TOGETHER_BYTES ? fed : PAIR;
    for (int c = 0, columns; whole && c < fed; c += columns) {
        columns = fed - c < together ? fed - c : together;
        k = row_of[columns - 1](sums + c, *a, first + c, K);
    }
    for (int c = 0; c < fed; c++)
        for (int lane = 0; lane < LANES; lane++)
            w[c][lane] += k;
    for (ptrdiff_t terms; k < K; k += terms) {
        terms = K - k < BLOCK_TERMS ? K - k : BLOCK_TERMS;
        for (int c = 0; c < fed; c++) {
            transpose((real *)(block + c), fed * LANES, w[c], terms, lanes[c]);
            for (int lane = 0; lane < LANES; lane++)
                w[c][lane] += terms;
        }
        for (int r = 0; r < rows; r += tile) {
            tile = tile_rows(rows - r, tile_limit(fed));
            by_columns[fed - 1][tile - 1](sums + r * COLUMNS, a + r, k, terms, (const real *)block);
        }
    }
}

void LEVEL(fr_unpacked_sums)(const fr_packed *packed, ptrdiff_t p, int rows, const real *const *x, const real *const *h,
                             vec *sums) {
    const int columns = panel_columns(packed->cell, packed->H, p);
    vec bias[COLUMNS] = {{0}};
    set_bias(packed, packed->weights, p, columns, (real *)bias);
    for (int r = 0; r < rows; r++)
        memcpy(sums + r * COLUMNS, bias, sizeof bias);
    multiply(packed, p, fed_columns(packed->cell, columns, FROM_X), FROM_X, rows, x, sums);
    multiply(packed, p, fed_columns(packed->cell, columns, FROM_H), FROM_H, rows, h,
             sums + fed_part(packed->cell, FROM_H)->first);
}

void LEVEL(fr_unpacked_second_sums)(const fr_packed *packed, ptrdiff_t p, int rows, const real *const *left,
                                    vec *sums) {
    const fr_fed *fed = fed_part(packed->cell, FROM_LEFT);
    multiply(packed, p, fed->count, FROM_LEFT, rows, left, sums + fed->first);
}
