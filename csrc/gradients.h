/* What the backward pass is made of besides its sequence: its state, the order in which d is read, and the large
 * products over the terms of a chunk.
 *
 * Terms are counted in the order of the pass, from the last visited step back, within a step by rank; the weights'
 * gradients add them up in blocks of BLOCK, whatever the chunks are, and the blocks in order: a single float32 chain
 * would lose a thousand eps over a long sequence.
 */
#ifndef FR_GRADIENTS_H
#define FR_GRADIENTS_H

#include "panels.h"
#include "product.h"

enum { BLOCK = 256, OUTER_BLOCKS = 2, OUTER_PANELS = 4, FEW_TERMS = 8 };

/* The runs of neighbouring elements in a panel of d that belong to W_ih (from_x) or W_hh: `count` of them, each
 * `length` long, the first at element `start` of a term, the others LANES apart; run g stands for the rows from row[g]
 * on of W. */
typedef struct {
    int count, length, start;
    ptrdiff_t row[COLUMNS];
} panel_runs;

typedef struct {
    const fr_backward_run *run;
    const fr_batch *batch;
    const fr_share *share;
    int cell;                /* FR_RNN_TANH for both RNNs */
    ptrdiff_t I, H;
    fr_hand hand;            /* the ranks this share owns in the sequential part */
    ptrdiff_t unit_panel, unit_panel_end; /* and its slice of dh, in panels of COLUMNS * LANES units */
    ptrdiff_t panels;        /* of d, as in the forward pass */
    panel_runs full_runs[2], last_runs[2]; /* of a panel but the last, and of the last, by from_x */
    ptrdiff_t capacity;      /* terms */
    const real **x, **h;     /* (capacity): each term's row of x and of the state before the step */
    real **dx;               /* (capacity) */
    vec *d;                  /* (panels, capacity, COLUMNS) */
    real *w_hh, *w_ih;       /* (unit panels, rows of W, COLUMNS * LANES): W's rows, in d's order, cut into panels */
    int few;                 /* at most FEW_TERMS: gradients are added to as they are; */
    int unpacked[2];         /* and W_hh, W_ih, by from_x, read so, if their rows fill a vector */
    vec *block;              /* (OUTER_PANELS, OUTER_BLOCKS, BLOCK, COLUMNS): terms of x or h; this share's own */
} backward_state;

INLINE const real *at(const fr_sequence *s, ptrdiff_t t, ptrdiff_t row) {
    return (const real *)s->data + t * s->time + row * s->row;
}
static ptrdiff_t wide_panels(ptrdiff_t n) { return (n + COLUMNS * LANES - 1) / (COLUMNS * LANES); }
static int wide_columns(ptrdiff_t n, ptrdiff_t panel) {
    ptrdiff_t columns = (n - panel * COLUMNS * LANES + LANES - 1) / LANES;
    return columns < COLUMNS ? (int)columns : COLUMNS;
}

/* --- The order in which a panel of d is read as a row of numbers. */

static panel_runs runs_of(const backward_state *b, ptrdiff_t p, int from_x) {
    panel_runs runs = {.start = from_x ? 0 : cell_first_h(b->cell) * LANES};
    ptrdiff_t unit = p * panel_units(b->cell), left = b->H - unit;
    if (cell_columns(b->cell) == 1) { /* an RNN's columns are one run of units */
        runs.count = 1;
        runs.length = (int)(left < panel_units(b->cell) ? left : panel_units(b->cell));
        runs.row[0] = unit;
        return runs;
    }
    runs.count = fed_columns(b->cell, COLUMNS);
    runs.length = min_lanes(left);
    for (int g = 0; g < runs.count; g++)
        runs.row[g] = (from_x ? cell_gate_x(b->cell, g) : g) * b->H + unit;
    return runs;
}

static ptrdiff_t weight_rows(const backward_state *b) {
    return b->H * (cell_columns(b->cell) == 1 ? 1 : fed_columns(b->cell, COLUMNS));
}

/* Copies panels begin .. end-1 of the columns of W_ih (from_x) or W_hh, its rows in the order in which d is read; a narrow
 * last panel is packed tightly. Row by row, since those of one panel are far apart, each on a page of its own. Returns
 * whether the call ends. */
static int pack_rows(const backward_state *b, int from_x, ptrdiff_t begin, ptrdiff_t end) {
    const real *w = from_x ? b->run->weights.w_ih : b->run->weights.w_hh;
    const ptrdiff_t n = from_x ? b->I : b->H, panel_size = weight_rows(b) * COLUMNS * LANES;
    real *packed = from_x ? b->w_ih : b->w_hh;
    for (ptrdiff_t p = 0, row = 0; p < b->panels && begin < end; p++) {
        panel_runs runs = runs_of(b, p, from_x);
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

/* sum (R, P, COLUMNS) += panels begin .. end-1 of some terms of d times C columns of P panels, the first at w, of W_ih
 * (from_x) or W_hh. */
INLINE void d_times_weights_rows(const int R, const int P, const int C, const backward_state *b, int from_x,
                                 const ptrdiff_t *terms, const real *w, ptrdiff_t begin, ptrdiff_t end, vec *sum_out) {
    vec sum[TILE_ROWS * PAIR * COLUMNS];
    const real *a[TILE_ROWS];
    const panel_runs *full = &b->full_runs[from_x], *last = &b->last_runs[from_x];
    if (R > (P == 1 ? tile_limit(C) : PAIR_ROWS))
        return;
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        UNROLL(8)
        for (int c = 0; c < C; c++)
            sum[i * COLUMNS + c] = sum_out[i * COLUMNS + c];
    /* The runs of a full panel lie side by side: one long run. */
    const ptrdiff_t whole = end < b->panels || last->length == full->length ? end : end - 1;
    const ptrdiff_t K = (ptrdiff_t)full->count * full->length, d_step = b->capacity * COLUMNS * LANES;
    const ptrdiff_t w_step = weight_rows(b) * COLUMNS * LANES;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        a[r] = (const real *)b->d + begin * d_step + terms[r] * COLUMNS * LANES + full->start;
    if (begin < whole)
        product_of_runs(sum, R, P, C, 0, a, 1, K, whole - begin, d_step, w, w_step);
    if (whole < end) {
        w += (whole - begin) * K * C * LANES;
        UNROLL(8)
        for (int r = 0; r < R; r++)
            a[r] += (whole - begin) * d_step;
        product_of_runs(sum, R, P, C, 0, a, 1, last->length, last->count, LANES, w, w_step);
    }
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        UNROLL(8)
        for (int c = 0; c < C; c++)
            sum_out[i * COLUMNS + c] = sum[i * COLUMNS + c];
}

typedef void product_function(const backward_state *b, int from_x, const ptrdiff_t *terms, const real *w,
                              ptrdiff_t begin, ptrdiff_t end, vec *sum);

#define D_TIMES_WEIGHTS(name, R, P, C) \
    static __attribute__((noinline)) void name(const backward_state *b, int from_x, const ptrdiff_t *terms, \
                                               const real *w, ptrdiff_t begin, ptrdiff_t end, vec *sum) { \
        d_times_weights_rows(R, P, C, b, from_x, terms, w, begin, end, sum); \
    }
DEFINE_TILES(product_function, d_times_weights_1, D_TIMES_WEIGHTS, 1, 1)
DEFINE_TILES(product_function, d_times_weights_2, D_TIMES_WEIGHTS, 1, 2)
DEFINE_TILES(product_function, d_times_weights_3, D_TIMES_WEIGHTS, 1, 3)
DEFINE_TILES(product_function, d_times_weights_4, D_TIMES_WEIGHTS, 1, 4)
DEFINE_TILES(product_function, d_times_weights_pair, D_TIMES_WEIGHTS, PAIR, COLUMNS)

/* The same for one panel and all of d, with W's rows as they are, `n` elements apart from w on; `last_row` stands for the
 * last one, past whose end a vector would read. Past that of another a vector reads the next row, n being LANES at least. */
INLINE void d_times_rows_of_w(const int R, const int C, const backward_state *b, int from_x, const ptrdiff_t *terms,
                              const real *w, ptrdiff_t n, const real *last_row, vec *sum) {
    const ptrdiff_t rows = weight_rows(b);
    vec total[TILE_SUMS];
    if (R > tile_limit(C))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(8)
        for (int c = 0; c < C; c++)
            total[r * C + c] = sum[r * COLUMNS + c];
    for (ptrdiff_t p = 0; p < b->panels; p++) {
        const panel_runs runs = runs_of(b, p, from_x);
        const vec *d = b->d + p * b->capacity * COLUMNS;
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
        UNROLL(8)
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = total[r * C + c];
}

typedef void row_product_function(const backward_state *b, int from_x, const ptrdiff_t *terms, const real *w,
                                  ptrdiff_t n, const real *last_row, vec *sum);

#define D_TIMES_ROWS(name, R, C) \
    static __attribute__((noinline)) void name(const backward_state *b, int from_x, const ptrdiff_t *terms, \
                                               const real *w, ptrdiff_t n, const real *last_row, vec *sum) { \
        d_times_rows_of_w(R, C, b, from_x, terms, w, n, last_row, sum); \
    }
DEFINE_TILES(row_product_function, d_times_rows_1, D_TIMES_ROWS, 1)
DEFINE_TILES(row_product_function, d_times_rows_2, D_TIMES_ROWS, 2)
DEFINE_TILES(row_product_function, d_times_rows_3, D_TIMES_ROWS, 3)
DEFINE_TILES(row_product_function, d_times_rows_4, D_TIMES_ROWS, 4)

static void d_times_unpacked(const backward_state *b, int from_x, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                             vec *sum) {
    static row_product_function *const *const by_columns[] = {d_times_rows_1, d_times_rows_2, d_times_rows_3,
                                                              d_times_rows_4};
    const ptrdiff_t n = from_x ? b->I : b->H, j = panel * COLUMNS * LANES;
    const real *w = (const real *)(from_x ? b->run->weights.w_ih : b->run->weights.w_hh) + j;
    const int C = wide_columns(n, panel);
    real last_row[COLUMNS * LANES] = {0};
    int tile;
    memcpy(last_row, w + (weight_rows(b) - 1) * n, (size_t)(n - j < C * LANES ? n - j : C * LANES) * sizeof(real));
    for (int i = 0; i < rows; i += tile) {
        tile = tile_rows(rows - i, tile_limit(C));
        by_columns[C - 1][tile - 1](b, from_x, terms + i, w, n, last_row, sum + i * COLUMNS);
    }
}

/* Rows that share what they read of W: a part of a panel of it, small enough to stay in the second-level cache. */
enum { GROUP_ROWS = 16 * TILE_ROWS, PART_BYTES = 3 << 17 };

static const real *weights_at(const backward_state *b, int from_x, ptrdiff_t panel) {
    return (from_x ? b->w_ih : b->w_hh) + panel * weight_rows(b) * COLUMNS * LANES;
}

/* sum (rows, COLUMNS) += at most GROUP_ROWS terms of d times panel `panel` of the packed W_ih (I columns) or W_hh (H). */
static void d_times_weights(const backward_state *b, int from_x, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                            vec *sum) {
    static product_function *const *const by_columns[] = {d_times_weights_1, d_times_weights_2, d_times_weights_3,
                                                          d_times_weights_4};
    const int C = wide_columns(from_x ? b->I : b->H, panel);
    const ptrdiff_t full = (ptrdiff_t)b->full_runs[from_x].count * b->full_runs[from_x].length * C * LANES;
    const ptrdiff_t part = rows <= tile_limit(C) ? b->panels : 1 + PART_BYTES / (full * (ptrdiff_t)sizeof(real));
    const real *w = weights_at(b, from_x, panel);
    if (b->unpacked[from_x]) {
        d_times_unpacked(b, from_x, terms, rows, panel, sum);
        return;
    }
    for (ptrdiff_t p = 0; p < b->panels; p += part) {
        const ptrdiff_t end = p + part < b->panels ? p + part : b->panels;
        int tile;
        for (int i = 0; i < rows; i += tile) {
            tile = tile_rows(rows - i, tile_limit(C));
            by_columns[C - 1][tile - 1](b, from_x, terms + i, w + p * full, p, end, sum + i * COLUMNS);
        }
    }
}

/* --- The products over a chunk's terms, divided by outputs. */

/* dx of the terms begin .. end-1: stored, or added to what is there. Left unfinished where the call is to end. */
static void dx_rows(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, int adds) {
    const double panel_flop = 2.0 * (double)(end - begin) * (double)weight_rows(b) * COLUMNS * LANES;
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
            d_times_weights(b, 1, terms, rows, panel, dx);
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

/* Copies one panel of columns of the terms' x or h rows side by side, zero past the n columns there are. */
static void pack_block(const real *const *rows, ptrdiff_t terms, ptrdiff_t n, ptrdiff_t panel, vec *block) {
    const ptrdiff_t j = panel * COLUMNS * LANES;
    const int C = wide_columns(n, panel);
    for (ptrdiff_t k = 0; k < terms; k++)
        for (int c = 0; c < C; c++)
            *block++ = vload_n(rows[k] + j + c * LANES, min_lanes(n - j - c * LANES));
}

/* sum (R, COLUMNS) += R rows of W's gradient, C vectors wide, over some terms. */
INLINE void outer_rows(const int R, const int C, const real *const *d, ptrdiff_t terms, const vec *block, vec *sum_out) {
    vec sum[TILE_ROWS * COLUMNS];
    if (R > tile_limit(C))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(8)
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = sum_out[r * COLUMNS + c];
    product(sum, R, 1, C, 0, d, COLUMNS * LANES, terms, (const real *)block, 0);
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(8)
        for (int c = 0; c < C; c++)
            sum_out[r * COLUMNS + c] = sum[r * COLUMNS + c];
}

typedef void outer_function(const real *const *d, ptrdiff_t terms, const vec *block, vec *sum);

#define OUTER(name, R, C) \
    static __attribute__((noinline)) void name(const real *const *d, ptrdiff_t terms, const vec *block, vec *sum) { \
        outer_rows(R, C, d, terms, block, sum); \
    }
DEFINE_TILES(outer_function, outer_1, OUTER, 1)
DEFINE_TILES(outer_function, outer_2, OUTER, 2)
DEFINE_TILES(outer_function, outer_3, OUTER, 3)
DEFINE_TILES(outer_function, outer_4, OUTER, 4)

/* Terms that a panel of d's rows takes at once: so few that they and the block's stay in the first-level cache from tile
 * to tile. The sums wait in memory meanwhile. */
enum { OUTER_TERMS = VEC_BYTES == 64 ? 128 : 64 };

/* Adds a block's part of W_ih's (from_x) or W_hh's gradient: the rows of panel p, one panel of columns. */
static void add_outer(const backward_state *b, int from_x, ptrdiff_t term, ptrdiff_t terms, ptrdiff_t p,
                      ptrdiff_t panel, const vec *block) {
    static outer_function *const *const by_columns[] = {outer_1, outer_2, outer_3, outer_4};
    const ptrdiff_t n = from_x ? b->I : b->H, j = panel * COLUMNS * LANES;
    real *gradient = (real *)(from_x ? b->run->gradients.w_ih : b->run->gradients.w_hh) + j;
    const real *d[COLUMNS * LANES], *term_d = (const real *)(b->d + (p * b->capacity + term) * COLUMNS);
    vec sum[COLUMNS * LANES * COLUMNS];
    const panel_runs runs = runs_of(b, p, from_x);
    const int C = wide_columns(n, panel);
    int count = 0, tile;
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++, count++)
            d[count] = term_d + runs.start + g * LANES + k;
    memset(sum, 0, (size_t)count * COLUMNS * sizeof *sum);
    for (ptrdiff_t done = 0, now; done < terms; done += now) {
        now = terms - done < OUTER_TERMS ? terms - done : OUTER_TERMS;
        for (int i = 0; i < count; i += tile) {
            tile = tile_rows(count - i, tile_limit(C));
            by_columns[C - 1][tile - 1](d + i, now, block + done * C, sum + i * COLUMNS);
        }
        for (int i = 0; i < count; i++)
            d[i] += now * COLUMNS * LANES;
    }
    count = 0;
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++, count++)
            for (int c = 0; c < C; c++) {
                const int lanes = min_lanes(n - j - c * LANES);
                real *out = gradient + (runs.row[g] + k) * n + c * LANES;
                vstore_n(out, vload_n(out, lanes) + sum[count * COLUMNS + c], lanes);
            }
}

/* Adds R terms' part of a row of W's gradient: n elements. */
INLINE void add_row_terms(const int R, const real *const *x, const real *const *d, ptrdiff_t n, real *out) {
    spread value[FEW_TERMS];
    UNROLL(8)
    for (int r = 0; r < R; r++)
        value[r] = vspread(*d[r]);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const int lanes = min_lanes(n - j);
        vec sum = {0};
        UNROLL(8)
        for (int r = 0; r < R; r++)
            sum = vfma_spread(value[r], vload_n(x[r] + j, lanes), sum);
        vstore_n(out + j, vload_n(out + j, lanes) + sum, lanes);
    }
}

typedef void row_terms_function(const real *const *x, const real *const *d, ptrdiff_t n, real *out);

#define DEFINE_ROW_TERMS(R) \
    static __attribute__((noinline)) void row_terms_##R(const real *const *x, const real *const *d, ptrdiff_t n, \
                                                        real *out) { \
        add_row_terms(R, x, d, n, out); \
    }
DEFINE_ROW_TERMS(1)
DEFINE_ROW_TERMS(2)
DEFINE_ROW_TERMS(3)
DEFINE_ROW_TERMS(4)
DEFINE_ROW_TERMS(5)
DEFINE_ROW_TERMS(6)
DEFINE_ROW_TERMS(7)
DEFINE_ROW_TERMS(8)

/* Adds at most FEW_TERMS terms' part of the rows of W_ih's (from_x) or W_hh's gradient that panel p of d stands for. */
static void add_few(const backward_state *b, int from_x, ptrdiff_t term, ptrdiff_t terms, ptrdiff_t p) {
    static row_terms_function *const by_terms[FEW_TERMS] = {row_terms_1, row_terms_2, row_terms_3, row_terms_4,
                                                            row_terms_5, row_terms_6, row_terms_7, row_terms_8};
    const ptrdiff_t n = from_x ? b->I : b->H;
    real *gradient = from_x ? b->run->gradients.w_ih : b->run->gradients.w_hh;
    const panel_runs runs = runs_of(b, p, from_x);
    const real *d[FEW_TERMS];
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++) {
            for (ptrdiff_t r = 0; r < terms; r++)
                d[r] = (const real *)(b->d + (p * b->capacity + term + r) * COLUMNS) + runs.start + g * LANES + k;
            by_terms[terms - 1]((from_x ? b->x : b->h) + term, d, n, gradient + (runs.row[g] + k) * n);
        }
}

static void add_bias(const backward_state *b, int from_x, const vec *sum, ptrdiff_t p, real *gradient) {
    panel_runs runs = runs_of(b, p, from_x);
    for (int g = 0; gradient && g < runs.count; g++)
        for (int k = 0; k < runs.length; k++)
            gradient[runs.row[g] + k] += ((const real *)sum)[runs.start + g * LANES + k];
}

/* Adds few terms to the rows of W's gradients that the share owns. Returns whether the call ends. */
static int add_few_block(const backward_state *b, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size;
    for (ptrdiff_t p = fr_cut(b->panels, index, size); p < fr_cut(b->panels, index + 1, size); p++) {
        for (int from_x = 0; from_x < 2; from_x++)
            add_few(b, from_x, term, terms, p);
        if (fr_share_worked(b->share, FR_PACK_FLOP * (double)((b->I + b->H) * COLUMNS * LANES)))
            return 1;
    }
    return 0;
}

static ptrdiff_t block_terms(ptrdiff_t term, ptrdiff_t end) { return end - term < BLOCK ? end - term : BLOCK; }

/* Where the blocks lie of the wide-th panel of x or h that is packed at a time. */
static vec *blocks_of(const backward_state *b, ptrdiff_t wide) { return b->block + wide * OUTER_BLOCKS * BLOCK * COLUMNS; }

/* Adds at most OUTER_BLOCKS blocks of terms, one after the other, to the parts of W's gradients that the share owns,
 * panels of d times panels of x or h. So many of the latter share what they read of d, and the blocks what they read of
 * the gradients: both come from beyond the second-level cache where H is large. Returns whether the call ends. */
static int add_outer_blocks(const backward_state *b, ptrdiff_t term, ptrdiff_t end_term) {
    const int index = b->share->index, size = b->share->size;
    const ptrdiff_t x_panels = wide_panels(b->I), items = (x_panels + wide_panels(b->H)) * b->panels;
    const ptrdiff_t first = fr_cut(items, index, size), last = fr_cut(items, index + 1, size);
    const ptrdiff_t wide_end = (last + b->panels - 1) / b->panels;
    const double item_flop = 2.0 * (double)(end_term - term) * COLUMNS * LANES * COLUMNS * LANES;
    for (ptrdiff_t begin = first / b->panels, end; begin < wide_end; begin = end) {
        end = begin + OUTER_PANELS < wide_end ? begin + OUTER_PANELS : wide_end;
        for (ptrdiff_t wide = begin; wide < end; wide++) {
            const int from_x = wide < x_panels;
            vec *block = blocks_of(b, wide - begin);
            for (ptrdiff_t k = term; k < end_term; k += BLOCK, block += BLOCK * COLUMNS)
                pack_block((from_x ? b->x : b->h) + k, block_terms(k, end_term), from_x ? b->I : b->H,
                           from_x ? wide : wide - x_panels, block);
        }
        for (ptrdiff_t p = 0; p < b->panels; p++)
            for (ptrdiff_t wide = begin; wide < end; wide++) {
                const ptrdiff_t item = wide * b->panels + p;
                const int from_x = wide < x_panels;
                if (item < first || item >= last)
                    continue;
                if (fr_share_worked(b->share, item_flop))
                    return 1;
                const vec *block = blocks_of(b, wide - begin);
                for (ptrdiff_t k = term; k < end_term; k += BLOCK, block += BLOCK * COLUMNS)
                    add_outer(b, from_x, k, block_terms(k, end_term), p, from_x ? wide : wide - x_panels, block);
            }
    }
    return 0;
}

/* Adds a block of terms to the biases' gradients that the share owns. */
static void add_biases(const backward_state *b, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size;
    const fr_gradients *gradients = &b->run->gradients;
    if (!gradients->b_ih && !gradients->b_hh)
        return;
    for (ptrdiff_t p = fr_cut(b->panels, index, size); p < fr_cut(b->panels, index + 1, size); p++) {
        vec sum[COLUMNS] = {{0}};
        const vec *d = b->d + (p * b->capacity + term) * COLUMNS;
        for (ptrdiff_t k = 0; k < terms * COLUMNS; k++)
            sum[k % COLUMNS] += d[k];
        add_bias(b, 1, sum, p, gradients->b_ih);
        add_bias(b, 0, sum, p, gradients->b_hh);
    }
}

/* Adds the terms begin .. end-1 to the gradients that the share owns, block by block. */
static void add_terms(const backward_state *b, ptrdiff_t begin, ptrdiff_t end) {
    for (ptrdiff_t next; begin < end; begin = next) {
        next = end - begin < OUTER_BLOCKS * BLOCK ? end : begin + OUTER_BLOCKS * BLOCK;
        if (b->few ? add_few_block(b, begin, next - begin) : add_outer_blocks(b, begin, next))
            return;
        for (ptrdiff_t term = begin; term < next; term += BLOCK)
            add_biases(b, term, block_terms(term, next));
    }
}

#endif
