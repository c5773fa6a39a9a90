/* Products with weights as they are, for a step that reads them once: blocks of rows are transposed in registers and
 * multiplied at once, in the order of the chains. */
#include "panels.h"

enum { LINE = 64 / sizeof(real) };

/* to[lane] = rows[lane][k]; apart from the products, whose registers it would need. */
static __attribute__((noinline)) void gather(vec *to, const real *const *rows, ptrdiff_t k) {
    for (int lane = 0; lane < LANES; lane++)
        ((real *)to)[lane] = rows[lane][k];
}

/* sum[r][c] += a[r][k] * rows[c][..][k] for k = 0..K-1 in that order, for R rows and C columns. */
INLINE void multiply(const int R, const int C, vec *sum, const real *const *a, const real *const (*rows)[LANES],
                     ptrdiff_t K) {
    vec total[UNPACKED_ROWS * COLUMNS];
    UNROLL(4)
    for (int r = 0; r < R; r++)
        UNROLL(4)
        for (int c = 0; c < C; c++)
            total[r * C + c] = sum[r * COLUMNS + c];
    ptrdiff_t k = 0;
    for (; k + LINE <= K; k += LINE)
        UNROLL(4)
        for (int c = 0; c < C; c++) /* whole lines of its rows: of all columns' they could push each other out of the cache */
            UNROLL(4)
            for (int from = 0; from < LINE; from += QUARTER) {
                vec block[QUARTER];
                vload_transposed(block, rows[c], k + from);
                UNROLL(4)
                for (int i = 0; i < QUARTER; i++)
                    UNROLL(4)
                    for (int r = 0; r < R; r++)
                        total[r * C + c] = vfma_spread(vspread(a[r][k + from + i]), block[i], total[r * C + c]);
            }
    for (; k < K; k++)
        UNROLL(4)
        for (int c = 0; c < C; c++) {
            vec last;
            gather(&last, rows[c], k);
            UNROLL(4)
            for (int r = 0; r < R; r++)
                total[r * C + c] = vfma_spread(vspread(a[r][k]), last, total[r * C + c]);
        }
    UNROLL(4)
    for (int r = 0; r < R; r++)
        UNROLL(4)
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = total[r * C + c];
}

#define DEFINE_MULTIPLY(R, C) \
    static __attribute__((noinline)) void multiply_##R##_##C(vec *sum, const real *const *a, \
                                                             const real *const (*rows)[LANES], ptrdiff_t K) { \
        multiply(R, C, sum, a, rows, K); \
    }
#define DEFINE_COLUMNS(R) DEFINE_MULTIPLY(R, 1) DEFINE_MULTIPLY(R, 2) DEFINE_MULTIPLY(R, 3) DEFINE_MULTIPLY(R, 4)
#define BY_COLUMNS(R) {multiply_##R##_1, multiply_##R##_2, multiply_##R##_3, multiply_##R##_4}
DEFINE_COLUMNS(1)
DEFINE_COLUMNS(2)
DEFINE_COLUMNS(3)
DEFINE_COLUMNS(4)

typedef void multiply_function(vec *, const real *const *, const real *const (*)[LANES], ptrdiff_t);

void LEVEL(fr_unpacked_sums)(const fr_packed *packed, ptrdiff_t p, int rows, const real *const *x, const real *const *h,
                             vec *sums) {
    static multiply_function *const by_size[UNPACKED_ROWS][COLUMNS] = {BY_COLUMNS(1), BY_COLUMNS(2), BY_COLUMNS(3),
                                                                       BY_COLUMNS(4)};
    const fr_weights *weights = packed->weights;
    const int columns = panel_columns(packed->cell, packed->H, p), fed = fed_columns(packed->cell, columns);
    const real *of_x[COLUMNS][LANES], *of_h[COLUMNS][LANES];
    vec bias[COLUMNS] = {{0}};
    set_bias(packed, weights, p, columns, (real *)bias);
    for (int c = 0; c < fed; c++) {
        find_rows(packed, p, c, 1, weights->w_ih, packed->I, of_x[c]);
        find_rows(packed, p, c, 0, weights->w_hh, packed->H, of_h[c]);
    }
    for (int r = 0; r < rows; r++)
        memcpy(sums + r * COLUMNS, bias, sizeof bias);
    by_size[rows - 1][fed - 1](sums, x, of_x, packed->I);
    by_size[rows - 1][fed - 1](sums + cell_first_h(packed->cell), h, of_h, packed->H);
}
