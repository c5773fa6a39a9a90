/* y = x W' + b for many rows of x: the products of a whole sequence that no recurrence waits for.
 *
 * Packed, panel p holds its bias, then K rows of its columns' weights, as a panel of panels.h does; every output is one
 * chain, from the bias through k = 0 .. K-1.
 */
#include "panels.h"
#include "run/scan.h"

/* So many rows of x and y at a time, which stay in the second-level cache from panel to panel. */
enum { LINEAR_ROWS = 96, LINEAR_UNITS = COLUMNS * LANES };

static int linear_columns(ptrdiff_t M, ptrdiff_t p) {
    const ptrdiff_t blocks = (M - p * LINEAR_UNITS + LANES - 1) / LANES;
    return blocks < COLUMNS ? (int)blocks : COLUMNS;
}

static ptrdiff_t linear_panels(const fr_linear_packed *to) { return (to->M + LINEAR_UNITS - 1) / LINEAR_UNITS; }
static ptrdiff_t linear_panel_size(const fr_linear_packed *to) { return (to->K + 1) * LINEAR_UNITS; }

size_t LEVEL(fr_linear_bytes)(const fr_linear_packed *packed) {
    return (size_t)linear_panels(packed) * (size_t)linear_panel_size(packed) * sizeof(real);
}

static void pack_linear(const fr_linear_source *source, ptrdiff_t p, real *panel) {
    const ptrdiff_t K = source->packed->K, M = source->packed->M;
    const int columns = linear_columns(M, p);
    const real *w = source->w, *bias = source->bias;
    for (int c = 0; c < columns; c++) {
        const ptrdiff_t first = p * LINEAR_UNITS + c * LANES;
        const int lanes = min_lanes(M - first);
        real *out = panel + c * LANES;
        vstore(out, bias ? vload_n(bias + first, lanes) : (vec){0});
        out += columns * LANES;
        if (source->transposed) {
            for (ptrdiff_t k = 0; k < K; k++)
                vstore(out + k * columns * LANES, vload_n(w + k * M + first, lanes));
        } else {
            const real *rows[LANES];
            for (int lane = 0; lane < LANES; lane++)
                rows[lane] = w + (first + (lane < lanes ? lane : 0)) * K;
            transpose(out, columns * LANES, rows, K, lanes);
        }
    }
}

void LEVEL(fr_linear_pack)(const fr_linear_source *source, int index, int size, fr_watch *watch) {
    fr_fp_mode mode = fr_fp_mode_enter();
    const ptrdiff_t panels = linear_panels(source->packed), panel_size = linear_panel_size(source->packed);
    for (ptrdiff_t p = fr_cut(panels, index, size); p < fr_cut(panels, index + 1, size); p++) {
        pack_linear(source, p, (real *)source->packed->memory.data + p * panel_size);
        if (index == 0)
            fr_watch_count(watch, FR_PACK_FLOP * (double)panel_size);
        if (fr_watch_stopped(watch))
            break;
    }
    fr_fp_mode_set(mode);
}

INLINE void linear_tile(const int R, const int C, const fr_linear_run *run, const real *panel, ptrdiff_t row,
                        ptrdiff_t unit) {
    const ptrdiff_t K = run->packed->K, M = run->packed->M;
    vec sum[TILE_ROWS * COLUMNS];
    const real *x[TILE_ROWS];
    if (R > tile_limit(C))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++) {
        x[r] = (const real *)run->x + (row + r) * K;
        move_sums(sum + r * COLUMNS, (const vec *)panel, C);
    }
    product(sum, R, 1, C, 0, x, 1, K, panel + C * LANES, 0, NULL);
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(8)
        for (int c = 0; c < C; c++) {
            real *y = (real *)run->y + (row + r) * M + unit + c * LANES;
            vstore_n(y, sum[r * COLUMNS + c], c < C - 1 ? LANES : min_lanes(M - unit - c * LANES));
        }
}

typedef void linear_function(const fr_linear_run *run, const real *panel, ptrdiff_t row, ptrdiff_t unit);
#define LINEAR(name, R, C) \
    static __attribute__((noinline)) void name(const fr_linear_run *run, const real *panel, ptrdiff_t row, \
                                               ptrdiff_t unit) { \
        linear_tile(R, C, run, panel, row, unit); \
    }
DEFINE_TILES(linear_function, linear_1, LINEAR, 1)
DEFINE_TILES(linear_function, linear_2, LINEAR, 2)
DEFINE_TILES(linear_function, linear_3, LINEAR, 3)
DEFINE_TILES(linear_function, linear_4, LINEAR, 4)

void LEVEL(fr_linear)(const fr_linear_run *run, ptrdiff_t row, ptrdiff_t end, int counts, fr_watch *watch) {
    static linear_function *const *const tiles[] = {linear_1, linear_2, linear_3, linear_4};
    const fr_linear_packed *packed = run->packed;
    const ptrdiff_t panels = linear_panels(packed), panel_size = linear_panel_size(packed);
    fr_fp_mode mode = fr_fp_mode_enter();
    for (; row < end && !fr_watch_stopped(watch); row += LINEAR_ROWS) {
        const ptrdiff_t last = row + LINEAR_ROWS < end ? row + LINEAR_ROWS : end;
        for (ptrdiff_t p = 0; p < panels && !fr_watch_stopped(watch); p++) {
            const int columns = linear_columns(packed->M, p);
            for (ptrdiff_t r = row; r < last;) {
                const int rows = tile_rows(last - r, tile_limit(columns));
                tiles[columns - 1][rows - 1](run, (const real *)packed->memory.data + p * panel_size, r,
                                             p * LINEAR_UNITS);
                r += rows;
            }
            if (counts)
                fr_watch_count(watch, 2.0 * LINEAR_UNITS * (double)(last - row) * (double)packed->K);
        }
    }
    fr_fp_mode_set(mode);
}
