/* Products of d, the gradients of the pre-activations, and W: what dh and dx are sums of. */
#include "backward.h"

panel_runs LEVEL(fr_runs_of)(const backward_state *b, ptrdiff_t p, int source) {
    if (source == FROM_OUT) {
        const ptrdiff_t first = p * COLUMNS * LANES, left = b->P - first;
        const int length = (int)(left < COLUMNS * LANES ? left : COLUMNS * LANES);
        return (panel_runs){.count = 1, .length = length, .row = {first}};
    }
    const fr_fed *fed = fed_part(b->cell, source);
    panel_runs runs = {.start = fed->first * LANES};
    ptrdiff_t unit = p * panel_units(b->cell), left = b->H - unit;
    if (fr_cells[b->cell].columns == 1) { /* an RNN's columns are one run of units */
        runs.count = 1;
        runs.length = (int)(left < panel_units(b->cell) ? left : panel_units(b->cell));
        runs.row[0] = unit;
        return runs;
    }
    runs.count = fed->count;
    runs.length = min_lanes(left);
    for (int g = 0; g < runs.count; g++)
        runs.row[g] = fed->gate[g] * b->H + unit;
    return runs;
}

/* Row by row, since those of one panel are far apart, each on a page of its own. */
int LEVEL(fr_pack_w)(const backward_state *b, int source, ptrdiff_t begin, ptrdiff_t end) {
    const real *w = weights_of(b, source);
    const ptrdiff_t n = row_length(b, source), panel_size = weight_rows(b, source) * COLUMNS * LANES;
    real *packed = b->w[source];
    for (ptrdiff_t p = 0, row = 0; p < gradient_panels(b, source) && begin < end; p++) {
        panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
        for (int g = 0; g < runs.count; g++)
            for (int k = 0; k < runs.length; k++, row++)
                for (ptrdiff_t panel = begin; panel < end; panel++) {
                    const ptrdiff_t column = panel * COLUMNS * LANES;
                    const int columns = wide_columns(n, panel);
                    const real *from = w + (runs.row[g] + k) * n + column;
                    real *to = packed + panel * panel_size + row * columns * LANES;
                    for (int c = 0; c < columns; c++)
                        vstore(to + c * LANES, vload_n(from + c * LANES, min_lanes(n - column - c * LANES)));
                }
        const double copied = (double)(runs.count * runs.length) * (double)((end - begin) * COLUMNS * LANES);
        if (fr_share_worked(b->share, FR_PACK_FLOP * copied))
            return 1;
    }
    return 0;
}

/* --- Products of rows of d with a packed panel of W. */

/* sum (R, P, COLUMNS) += panels begin .. end-1 of some terms of d, or dh, times C columns of P panels, the first at w,
 * of a source's weights. */
INLINE void d_times_weights_rows(const int R, const int P, const int C, const backward_state *b, int source,
                                 const ptrdiff_t *terms, const real *w, ptrdiff_t begin, ptrdiff_t end, vec *sum_out,
                                 ahead next) {
    ahead *const asked = P == 1 && asks_ahead(R, C) ? &next : NULL;
    vec sum[TILE_ROWS * PAIR * COLUMNS];
    const real *a[TILE_ROWS];
    const panel_runs *full = &b->full_runs[source], *last = &b->last_runs[source];
    if (R > (P == 1 ? tile_limit(C) : PAIR_ROWS))
        return;
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sum + i * COLUMNS, sum_out + i * COLUMNS, C);
    /* The runs of a full panel lie side by side: one long run. */
    const ptrdiff_t whole = end < gradient_panels(b, source) || last->length == full->length ? end : end - 1;
    const ptrdiff_t K = (ptrdiff_t)full->count * full->length, d_step = b->capacity * COLUMNS * LANES;
    const ptrdiff_t w_step = weight_rows(b, source) * COLUMNS * LANES;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        a[r] = (const real *)gradients_of(b, source) + begin * d_step + terms[r] * COLUMNS * LANES + full->start;
    if (begin < whole)
        product_of_runs(sum, R, P, C, 0, a, 1, K, whole - begin, d_step, w, w_step, asked);
    if (whole < end) {
        w += (whole - begin) * K * C * LANES;
        UNROLL(8)
        for (int r = 0; r < R; r++)
            a[r] += (whole - begin) * d_step;
        product_of_runs(sum, R, P, C, 0, a, 1, last->length, last->count, LANES, w, w_step, asked);
    }
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sum_out + i * COLUMNS, sum + i * COLUMNS, C);
}

typedef void product_function(const backward_state *b, int source, const ptrdiff_t *terms, const real *w,
                              ptrdiff_t begin, ptrdiff_t end, vec *sum, ahead next);

#define D_TIMES_WEIGHTS(name, R, P, C) \
    static __attribute__((noinline)) void name(const backward_state *b, int source, const ptrdiff_t *terms, \
                                               const real *w, ptrdiff_t begin, ptrdiff_t end, vec *sum, ahead next) { \
        d_times_weights_rows(R, P, C, b, source, terms, w, begin, end, sum, next); \
    }
DEFINE_TILES(product_function, d_times_weights_1, D_TIMES_WEIGHTS, 1, 1)
DEFINE_TILES(product_function, d_times_weights_2, D_TIMES_WEIGHTS, 1, 2)
DEFINE_TILES(product_function, d_times_weights_3, D_TIMES_WEIGHTS, 1, 3)
DEFINE_TILES(product_function, d_times_weights_4, D_TIMES_WEIGHTS, 1, 4)
DEFINE_TILES(product_function, d_times_weights_pair, D_TIMES_WEIGHTS, PAIR, COLUMNS)

/* The same for one panel and all of d, with W's rows as they are, `n` elements apart from w on; `last_row` stands
 * for the last one, past whose end a vector would read. Past that of another a vector reads the next row, n being
 * LANES at least. */
INLINE void d_times_rows_of_w(const int R, const int C, const backward_state *b, int source, const ptrdiff_t *terms,
                              const real *w, ptrdiff_t n, const real *last_row, vec *sum) {
    const ptrdiff_t rows = fr_cells[b->cell].gates * b->H;
    vec total[TILE_SUMS];
    if (R > tile_limit(C))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        move_sums(total + r * C, sum + r * COLUMNS, C);
    for (ptrdiff_t p = 0; p < b->panels; p++) {
        const panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
        const vec *d = gradients_of(b, source) + p * b->capacity * COLUMNS;
        for (int g = 0; g < runs.count; g++) {
            const real *a[TILE_ROWS], *row = w + runs.row[g] * n;
            const ptrdiff_t whole = runs.row[g] + runs.length == rows ? runs.length - 1 : runs.length;
            UNROLL(8)
            for (int r = 0; r < R; r++)
                a[r] = (const real *)(d + terms[r] * COLUMNS) + runs.start + g * LANES;
            for (ptrdiff_t k = 0; k < whole; k++)
                multiply_terms(total, R, C, a, k, &row, k * n, C);
            if (whole < runs.length)
                multiply_terms(total, R, C, a, whole, &last_row, 0, C);
        }
    }
    UNROLL(8)
    for (int r = 0; r < R; r++)
        move_sums(sum + r * COLUMNS, total + r * C, C);
}

typedef void row_product_function(const backward_state *b, int source, const ptrdiff_t *terms, const real *w,
                                  ptrdiff_t n, const real *last_row, vec *sum);

#define D_TIMES_ROWS(name, R, C) \
    static __attribute__((noinline)) void name(const backward_state *b, int source, const ptrdiff_t *terms, \
                                               const real *w, ptrdiff_t n, const real *last_row, vec *sum) { \
        d_times_rows_of_w(R, C, b, source, terms, w, n, last_row, sum); \
    }
DEFINE_TILES(row_product_function, d_times_rows_1, D_TIMES_ROWS, 1)
DEFINE_TILES(row_product_function, d_times_rows_2, D_TIMES_ROWS, 2)
DEFINE_TILES(row_product_function, d_times_rows_3, D_TIMES_ROWS, 3)
DEFINE_TILES(row_product_function, d_times_rows_4, D_TIMES_ROWS, 4)

static void d_times_unpacked(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                             vec *sum) {
    static row_product_function *const *const by_columns[] = {d_times_rows_1, d_times_rows_2, d_times_rows_3,
                                                              d_times_rows_4};
    const ptrdiff_t n = row_length(b, source), j = panel * COLUMNS * LANES, rows_of_w = fr_cells[b->cell].gates * b->H;
    const real *w = weights_of(b, source) + j;
    const int C = wide_columns(n, panel);
    real last_row[COLUMNS * LANES] = {0};
    int tile;
    memcpy(last_row, w + (rows_of_w - 1) * n,
           (size_t)(n - j < C * LANES ? n - j : C * LANES) * sizeof(real));
    for (int i = 0; i < rows; i += tile) {
        tile = tile_rows(rows - i, tile_limit(C));
        by_columns[C - 1][tile - 1](b, source, terms + i, w, n, last_row, sum + i * COLUMNS);
    }
}

/* The part of a panel of W that a group of rows reads in turns: small enough to stay in the second-level cache. */
enum { PART_BYTES = 3 << 17 };

static const real *weights_at(const backward_state *b, int source, ptrdiff_t panel) {
    return b->w[source] + panel * weight_rows(b, source) * COLUMNS * LANES;
}

/* What the tile of `tile` of some rows from the i-th on asks for of the part after its own, which is as large and C
 * vectors wide: the parts lie in the order in which they are taken. */
static ahead part_after(const real *w, ptrdiff_t size, int C, int i, int tile, int rows) {
    return (ahead){(const char *)(w + size * i / rows), (ptrdiff_t)(ASK_TERMS * C * VEC_BYTES) * tile / rows};
}

void LEVEL(fr_d_times_w)(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                         vec *sum, const saved_part *saved) {
    static product_function *const *const by_columns[] = {d_times_weights_1, d_times_weights_2, d_times_weights_3,
                                                          d_times_weights_4};
    const int C = wide_columns(row_length(b, source), panel);
    const ptrdiff_t panels = gradient_panels(b, source);
    const ptrdiff_t full = (ptrdiff_t)b->full_runs[source].count * b->full_runs[source].length * C * LANES;
    const ptrdiff_t part = rows <= tile_limit(C) ? panels : 1 + PART_BYTES / (full * (ptrdiff_t)sizeof(real));
    const real *w = weights_at(b, source, panel);
    if (b->unpacked[source]) {
        d_times_unpacked(b, source, terms, rows, panel, sum);
        return;
    }
    for (ptrdiff_t p = 0; p < panels; p += part) {
        const ptrdiff_t end = p + part < panels ? p + part : panels;
        int tile;
        for (int i = 0; i < rows; i += tile) {
            tile = tile_rows(rows - i, tile_limit(C));
            const ahead next = b->far[source] ? part_after(w + end * full, (end - p) * full, C, i, tile, rows)
                               : saved && !p ? part_ahead(saved, i, tile, end * full / (C * LANES), sum)
                                              : nothing_ahead(sum);
            by_columns[C - 1][tile - 1](b, source, terms + i, w + p * full, p, end, sum + i * COLUMNS, next);
        }
    }
}

void LEVEL(fr_d_times_w_pair)(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                              vec *sum) {
    d_times_weights_pair[rows - 1](b, source, terms, weights_at(b, source, panel), 0, gradient_panels(b, source), sum,
                                   (ahead){NULL, 0});
}

/* --- dx. */

void LEVEL(fr_dx_rows)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, int adds) {
    const double panel_flop = 2.0 * (double)(end - begin) * (double)weight_rows(b, FROM_X) * COLUMNS * LANES;
    for (ptrdiff_t panel = 0; panel < wide_panels(b->I) && !fr_share_worked(b->share, panel_flop); panel++) {
        const ptrdiff_t j = panel * COLUMNS * LANES;
        const int C = wide_columns(b->I, panel);
        int rows;
        for (ptrdiff_t term = begin; term < end; term += rows) {
            vec dx[GROUP_ROWS * COLUMNS];
            ptrdiff_t terms[GROUP_ROWS];
            rows = tile_rows(end - term, GROUP_ROWS);
            for (int r = 0; r < rows; r++) {
                terms[r] = term + r;
                for (int c = 0; c < C; c++)
                    dx[r * COLUMNS + c] = (vec){0};
            }
            LEVEL(fr_d_times_w)(b, FROM_X, terms, rows, panel, dx, NULL);
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < C; c++) {
                    const int n = min_lanes(b->I - j - c * LANES);
                    real *out = b->dx[term + r] + j + c * LANES;
                    vec sum = dx[r * COLUMNS + c];
                    vstore_n(out, adds ? vload_n(out, n) + sum : sum, n);
                }
        }
    }
}
