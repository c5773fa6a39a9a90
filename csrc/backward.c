/* The backward pass. Only dh is sequential: a tile of it is dy + du W_hh of the step after, then the cell's derivative,
 * which leaves the columns' gradients in `d`. The rest are large products over the terms, (step, row) pairs, of a chunk
 * of time: dx = da W_ih, dW_ih = da' x, dW_hh = du' h_prev, taken while d is in cache.
 *
 * Terms are counted in the order of this pass, from the last visited step back, within a step by rank; the weights'
 * gradients add them up in blocks of BLOCK, whatever the chunks are, and the blocks in order: a single float32 chain
 * would lose a thousand eps over a long sequence.
 */
#include "panels.h"
#include "product.h"

enum { BLOCK = 256, CHUNK_BYTES = 1 << 19 };

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
    ptrdiff_t first, stride; /* the ranks this share owns in the sequential part */
    ptrdiff_t unit_panel, unit_panel_end; /* and its slice of dh, in panels of COLUMNS * LANES units */
    ptrdiff_t panels;        /* of d, as in the forward pass */
    panel_runs full_runs[2], last_runs[2]; /* of a panel but the last, and of the last, by from_x */
    ptrdiff_t capacity;      /* terms */
    const real **x, **h;     /* (capacity): each term's row of x and of the state before the step */
    real **dx;               /* (capacity) */
    vec *d;                  /* (panels, capacity, COLUMNS) */
    real *w_hh, *w_ih;       /* (unit panels, rows of W, COLUMNS * LANES): W's rows, in d's order, cut into panels */
    vec *block;              /* (BLOCK, COLUMNS): a block of x or h terms, one panel wide; this share's own */
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

/* Columns panel*64.. of W (rows, n), its rows in the order in which d is read; a narrow last panel is packed tightly. */
static void pack_rows(const backward_state *b, real *out, const real *w, ptrdiff_t n, ptrdiff_t panel, int from_x) {
    ptrdiff_t column = panel * COLUMNS * LANES;
    int columns = wide_columns(n, panel);
    ptrdiff_t width = n - column < columns * LANES ? n - column : columns * LANES;
    for (ptrdiff_t p = 0; p < b->panels; p++) {
        panel_runs runs = runs_of(b, p, from_x);
        for (int g = 0; g < runs.count; g++)
            for (int k = 0; k < runs.length; k++, out += columns * LANES) {
                memcpy(out, w + (runs.row[g] + k) * n + column, (size_t)width * sizeof(real));
                memset(out + width, 0, (size_t)(columns * LANES - width) * sizeof(real));
            }
    }
}

/* --- Products of rows of d with a packed panel of W. */

/* sum (R, COLUMNS) += the terms `term`.. of d times a panel of C columns of W_ih (from_x) or W_hh. */
INLINE void d_times_weights_rows(const int R, const int C, const backward_state *b, int from_x, const ptrdiff_t *terms,
                                 const real *w, vec *sum_out) {
    vec sum[TILE_ROWS * COLUMNS];
    const real *a[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = sum_out[r * COLUMNS + c];
    const panel_runs *full = &b->full_runs[from_x], *last = &b->last_runs[from_x];
    for (ptrdiff_t p = 0; p < b->panels; p++) {
        /* The runs of a full panel lie side by side: one long run. */
        const int whole = p + 1 < b->panels || last->length == full->length;
        const int count = whole ? 1 : last->count;
        const ptrdiff_t K = whole ? (ptrdiff_t)full->count * full->length : last->length;
        const vec *d = b->d + p * b->capacity * COLUMNS;
        for (int g = 0; g < count; g++) {
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
                a[r] = (const real *)(d + terms[r] * COLUMNS) + full->start + g * LANES;
            product(sum, R, 1, C, 0, a, 1, K, w, 0);
            w += K * C * LANES;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            sum_out[r * COLUMNS + c] = sum[r * COLUMNS + c];
}

#define DEFINE_D_TIMES_WEIGHTS(C) \
    static void d_times_weights_##C(int rows, const backward_state *b, int from_x, const ptrdiff_t *terms, \
                                    const real *w, vec *sum) { \
        FOR_TILE_ROWS(rows, d_times_weights_##C##_rows) \
    }
#define d_times_weights_1_rows(R) d_times_weights_rows(R, 1, b, from_x, terms, w, sum)
#define d_times_weights_2_rows(R) d_times_weights_rows(R, 2, b, from_x, terms, w, sum)
#define d_times_weights_3_rows(R) d_times_weights_rows(R, 3, b, from_x, terms, w, sum)
#define d_times_weights_4_rows(R) d_times_weights_rows(R, 4, b, from_x, terms, w, sum)
DEFINE_D_TIMES_WEIGHTS(1)
DEFINE_D_TIMES_WEIGHTS(2)
DEFINE_D_TIMES_WEIGHTS(3)
DEFINE_D_TIMES_WEIGHTS(4)

/* sum (rows, COLUMNS) += terms of d times panel `panel` of the packed W_ih (I columns) or W_hh (H columns). */
static void d_times_weights(const backward_state *b, int from_x, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                            vec *sum) {
    static void (*const by_columns[])(int, const backward_state *, int, const ptrdiff_t *, const real *, vec *) = {
        d_times_weights_1, d_times_weights_2, d_times_weights_3, d_times_weights_4};
    const real *w = (from_x ? b->w_ih : b->w_hh) + panel * weight_rows(b) * COLUMNS * LANES;
    by_columns[wide_columns(from_x ? b->I : b->H, panel) - 1](rows, b, from_x, terms, w, sum);
}

/* --- The sequential part. */

/* A step as the tiles see it. */
typedef struct {
    ptrdiff_t t, live;      /* rows that have this step */
    ptrdiff_t term;         /* of its rank 0 */
    ptrdiff_t after;        /* rows that also have the step after, which this pass has just left ... */
    ptrdiff_t term_after;   /* ... and its first term */
    ptrdiff_t t_next;       /* the step that comes next, -1 after the last */
} step;

static int is_first(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return b->run->reverse ? t == fr_length(b->batch, row) - 1 : t == 0;
}

static const real *h_before(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    if (is_first(b, t, row))
        return (const real *)b->run->h0 + row * b->H;
    return at(&b->run->y, b->run->reverse ? t + 1 : t - 1, row);
}

static const real *saved_at(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return (const real *)b->run->saved + (t * b->batch->B + row) * cell_saved(b->cell) * b->H;
}

/* From dh of `row` at units j .. j+n-1 to the gradients of its columns. */
INLINE void finish_block(const int cell, const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, vec dh) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank);
    const int n = min_lanes(H - j), width = cell_columns(cell), kept = cell_saved(cell);
    const real *before = h_before(b, s->t, row);
    vec keep[5], h = {0}, h_prev = {0}, c_prev = {0}, dc = {0}, carry = {0}, d[COLUMNS];
    if (kept) {
        const real *saved = saved_at(b, s->t, row) + j;
#pragma GCC unroll 8
        for (int k = 0; k < kept; k++)
            keep[k] = vload_n(saved + k * H, n);
    }
    if (cell == FR_LSTM) {
        const real *c = is_first(b, s->t, row) ? (const real *)run->c0 + row * H
                                               : saved_at(b, run->reverse ? s->t + 1 : s->t - 1, row) + 4 * H;
        c_prev = vload_n(c + j, n);
        dc = vload_n((real *)run->dc0 + row * H + j, n);
    } else if (cell == FR_GRU) {
        h_prev = vload_n(before + j, n);
    } else {
        h = vload_n(at(&run->y, s->t, row) + j, n);
    }
    cell_backward(cell, run->cell == FR_RNN_RELU, dh, h, h_prev, c_prev, keep, &dc, d, &carry);
    ptrdiff_t p = j / panel_units(cell), column = width == 1 ? j / LANES % COLUMNS : 0;
    vec *out = b->d + (p * b->capacity + s->term + rank) * COLUMNS + column;
#pragma GCC unroll 8
    for (int c = 0; c < width; c++)
        out[c] = d[c];
    if (cell == FR_LSTM)
        vstore_n((real *)run->dc0 + row * H + j, dc, n);
    if (cell_carries(cell))
        vstore_n((real *)run->dh0 + row * H + j, carry, n);
}

static void finish_blocks(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) {
    for (int c = 0; c < C; c++, j += LANES) {
        if (b->cell == FR_LSTM)
            finish_block(FR_LSTM, b, s, rank, j, dh[c]);
        else if (b->cell == FR_GRU)
            finish_block(FR_GRU, b, s, rank, j, dh[c]);
        else
            finish_block(FR_RNN_TANH, b, s, rank, j, dh[c]);
    }
}

/* What the next step will read of a row's units j .. j+n-1. A row that does not have that step costs nothing but the
 * request: its memory is there. */
static void prefetch_next(const backward_state *b, const step *s, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    if (s->t_next < 0)
        return;
    for (int k = 0; k < cell_saved(b->cell); k++)
        prefetch(saved_at(b, s->t_next, row) + k * b->H + j, n);
    if (b->run->dy.data)
        prefetch(at(&b->run->dy, s->t_next, row) + j, n);
    prefetch(h_before(b, s->t_next, row) + j, n);
}

/* dh of up to TILE_ROWS owned ranks from the i-th on, one panel of units wide. What it starts from: dy, and what
 * dh0 holds, which is dh of the final state where a row begins (`!continues`), and the carry. */
static void dh_tile(const backward_state *b, const step *s, ptrdiff_t i, int rows, ptrdiff_t panel, int continues) {
    const ptrdiff_t j = panel * COLUMNS * LANES;
    const int C = wide_columns(b->H, panel);
    vec dh[TILE_ROWS * COLUMNS];
    ptrdiff_t terms[TILE_ROWS];
    for (int r = 0; r < rows; r++) {
        ptrdiff_t rank = b->first + (i + r) * b->stride, row = fr_row(b->batch, rank);
        const real *dy = b->run->dy.data ? at(&b->run->dy, s->t, row) + j : NULL;
        const real *dh0 = continues && !cell_carries(b->cell) ? NULL : (const real *)b->run->dh0 + row * b->H + j;
        terms[r] = s->term_after + rank;
        prefetch_next(b, s, row, j, C * LANES);
        for (int c = 0; c < C; c++) {
            int n = min_lanes(b->H - j - c * LANES);
            vec start = dh0 ? vload_n(dh0 + c * LANES, n) : (vec){0};
            dh[r * COLUMNS + c] = dy ? start + vload_n(dy + c * LANES, n) : start;
        }
    }
    if (continues)
        d_times_weights(b, 0, terms, rows, panel, dh);
    for (int r = 0; r < rows; r++)
        finish_blocks(b, s, b->first + (i + r) * b->stride, j, dh + r * COLUMNS, C);
}

/* dh0 of the owned ranks i .. end-1, whose first step was s: what is left is its recurrent product. */
static void dh0_rows(const backward_state *b, const step *s, ptrdiff_t i, ptrdiff_t end, ptrdiff_t panel) {
    const ptrdiff_t j = panel * COLUMNS * LANES;
    const int C = wide_columns(b->H, panel);
    for (int rows; i < end; i += rows) {
        vec dh[TILE_ROWS * COLUMNS];
        ptrdiff_t terms[TILE_ROWS];
        rows = tile_rows(end - i, TILE_ROWS);
        for (int pass = 0; pass < 2; pass++) {
            for (int r = 0; r < rows; r++) {
                ptrdiff_t rank = b->first + (i + r) * b->stride;
                real *dh0 = (real *)b->run->dh0 + fr_row(b->batch, rank) * b->H + j;
                terms[r] = s->term + rank;
                for (int c = 0; c < C; c++) {
                    int n = min_lanes(b->H - j - c * LANES);
                    if (pass)
                        vstore_n(dh0 + c * LANES, dh[r * COLUMNS + c], n);
                    else
                        dh[r * COLUMNS + c] = cell_carries(b->cell) ? vload_n(dh0 + c * LANES, n) : (vec){0};
                }
            }
            if (!pass)
                d_times_weights(b, 0, terms, rows, panel, dh);
        }
    }
}

static void backward_step(const backward_state *b, const step *s, ptrdiff_t live_before) {
    ptrdiff_t owned = fr_owned(s->live, b->first, b->stride), before = fr_owned(live_before, b->first, b->stride);
    ptrdiff_t continuing = fr_owned(s->after < s->live ? s->after : s->live, b->first, b->stride);
    for (ptrdiff_t panel = b->unit_panel; panel < b->unit_panel_end; panel++) {
        int rows;
        for (ptrdiff_t i = 0; i < continuing; i += rows) {
            rows = tile_rows(continuing - i, TILE_ROWS);
            dh_tile(b, s, i, rows, panel, 1);
        }
        for (ptrdiff_t i = continuing; i < owned; i += rows) {
            rows = tile_rows(owned - i, TILE_ROWS);
            dh_tile(b, s, i, rows, panel, 0);
        }
    }
    if (b->share->by_units)
        fr_barrier_wait(b->share->barrier);
    for (ptrdiff_t panel = b->unit_panel; panel < b->unit_panel_end; panel++)
        dh0_rows(b, s, before < owned ? before : owned, owned, panel);
    for (ptrdiff_t i = b->share->by_units ? b->share->index : b->first; i < s->live; i += b->share->size) {
        ptrdiff_t row = fr_row(b->batch, i), term = s->term + i;
        b->x[term] = at(&b->run->x, s->t, row);
        prefetch(b->x[term], b->I);
        b->h[term] = h_before(b, s->t, row);
        b->dx[term] = (real *)at(&b->run->dx, s->t, row);
    }
}

/* --- The products over a chunk's terms, divided by outputs. */

/* dx of the terms begin .. end-1: the share's own. */
static void dx_rows(const backward_state *b, ptrdiff_t begin, ptrdiff_t end) {
    for (ptrdiff_t panel = 0; panel < wide_panels(b->I); panel++) {
        const ptrdiff_t j = panel * COLUMNS * LANES;
        const int C = wide_columns(b->I, panel);
        int rows;
        for (ptrdiff_t term = begin; term < end; term += rows) {
            vec dx[TILE_ROWS * COLUMNS];
            ptrdiff_t terms[TILE_ROWS];
            rows = tile_rows(end - term, TILE_ROWS);
            for (int r = 0; r < rows; r++) {
                terms[r] = term + r;
                for (int c = 0; c < C; c++)
                    dx[r * COLUMNS + c] = b->run->dx_add ? vload_n(b->dx[term + r] + j + c * LANES,
                                                                   min_lanes(b->I - j - c * LANES))
                                                         : (vec){0};
            }
            d_times_weights(b, 1, terms, rows, panel, dx);
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < C; c++)
                    vstore_n(b->dx[term + r] + j + c * LANES, dx[r * COLUMNS + c], min_lanes(b->I - j - c * LANES));
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

/* R rows of W's gradient, C vectors wide, over a block of terms. */
INLINE void outer_rows(const int R, const int C, const real *const *d, ptrdiff_t terms, const vec *block,
                       real *const *gradient, ptrdiff_t columns) {
    vec sum[TILE_ROWS * COLUMNS];
    const real *a[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        a[r] = d[r];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = (vec){0};
    }
    product(sum, R, 1, C, 0, a, COLUMNS * LANES, terms, (const real *)block, 0);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            int n = min_lanes(columns - c * LANES);
            real *out = gradient[r] + c * LANES;
            vstore_n(out, vload_n(out, n) + sum[r * COLUMNS + c], n);
        }
}

#define DEFINE_OUTER(C) \
    static void outer_##C(int rows, const real *const *d, ptrdiff_t terms, const vec *block, real *const *gradient, \
                          ptrdiff_t columns) { \
        FOR_TILE_ROWS(rows, outer_##C##_rows) \
    }
#define outer_1_rows(R) outer_rows(R, 1, d, terms, block, gradient, columns)
#define outer_2_rows(R) outer_rows(R, 2, d, terms, block, gradient, columns)
#define outer_3_rows(R) outer_rows(R, 3, d, terms, block, gradient, columns)
#define outer_4_rows(R) outer_rows(R, 4, d, terms, block, gradient, columns)
DEFINE_OUTER(1)
DEFINE_OUTER(2)
DEFINE_OUTER(3)
DEFINE_OUTER(4)

/* Adds a block's part of W_ih's (from_x) or W_hh's gradient: the rows of panel p, one panel of columns. */
static void add_outer(const backward_state *b, int from_x, ptrdiff_t term, ptrdiff_t terms, ptrdiff_t p,
                      ptrdiff_t panel) {
    static void (*const by_columns[])(int, const real *const *, ptrdiff_t, const vec *, real *const *, ptrdiff_t) = {
        outer_1, outer_2, outer_3, outer_4};
    const ptrdiff_t n = from_x ? b->I : b->H, j = panel * COLUMNS * LANES;
    real *gradient = (real *)(from_x ? b->run->gradients.w_ih : b->run->gradients.w_hh) + j;
    const real *d[COLUMNS * LANES], *term_d = (const real *)(b->d + (p * b->capacity + term) * COLUMNS);
    real *rows[COLUMNS * LANES];
    panel_runs runs = runs_of(b, p, from_x);
    int count = 0, tile;
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++, count++) {
            d[count] = term_d + runs.start + g * LANES + k;
            rows[count] = gradient + (runs.row[g] + k) * n;
        }
    for (int i = 0; i < count; i += tile) {
        tile = tile_rows(count - i, TILE_ROWS);
        by_columns[wide_columns(n, panel) - 1](tile, d + i, terms, b->block, rows + i, n - j);
    }
}

static void add_bias(const backward_state *b, int from_x, const vec *sum, ptrdiff_t p, real *gradient) {
    panel_runs runs = runs_of(b, p, from_x);
    for (int g = 0; gradient && g < runs.count; g++)
        for (int k = 0; k < runs.length; k++)
            gradient[runs.row[g] + k] += ((const real *)sum)[runs.start + g * LANES + k];
}

/* Adds one block of terms to the gradients that the share owns. */
static void add_block(const backward_state *b, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size;
    const fr_gradients *gradients = &b->run->gradients;
    const ptrdiff_t x_panels = wide_panels(b->I), items = (x_panels + wide_panels(b->H)) * b->panels;
    ptrdiff_t packed = -1;
    for (ptrdiff_t item = fr_cut(items, index, size); item < fr_cut(items, index + 1, size); item++) {
        ptrdiff_t wide = item / b->panels, from_x = wide < x_panels;
        if (wide != packed)
            pack_block((from_x ? b->x : b->h) + term, terms, from_x ? b->I : b->H, from_x ? wide : wide - x_panels,
                       b->block);
        packed = wide;
        add_outer(b, (int)from_x, term, terms, item % b->panels, from_x ? wide : wide - x_panels);
    }
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

/* --- The whole. */

static size_t lay_out(backward_state *b, char *scratch) {
    const ptrdiff_t rows = b->batch->B > BLOCK ? b->batch->B : BLOCK;
    ptrdiff_t chunk = CHUNK_BYTES / (b->panels * COLUMNS * VEC_BYTES) / BLOCK * BLOCK;
    ptrdiff_t all = b->batch->T * b->batch->B;
    chunk = chunk > rows ? chunk : rows;
    b->capacity = chunk < all ? rows + chunk : all;
    const size_t w = (size_t)weight_rows(b) * COLUMNS * VEC_BYTES;
    const size_t sizes[] = {(size_t)(b->panels * b->capacity) * COLUMNS * VEC_BYTES, w * (size_t)wide_panels(b->H),
                            w * (size_t)wide_panels(b->I), (size_t)b->share->size * BLOCK * COLUMNS * VEC_BYTES,
                            (size_t)b->capacity * sizeof(real *)};
    char *next = scratch;
    b->d = (vec *)next;
    b->w_hh = (real *)(next += sizes[0]);
    b->w_ih = (real *)(next += sizes[1]);
    b->block = (vec *)(next += sizes[2]) + b->share->index * BLOCK * COLUMNS;
    b->x = (const real **)(next += sizes[3]);
    b->h = (const real **)(next += sizes[4]);
    b->dx = (real **)(next += sizes[4]);
    return (size_t)(next + sizes[4] - scratch);
}

static backward_state begin(const fr_backward_run *run, const fr_batch *batch, const fr_share *share) {
    backward_state b = {.run = run, .batch = batch, .share = share, .I = run->input_size, .H = run->hidden_size};
    b.cell = run->cell == FR_RNN_RELU ? FR_RNN_TANH : run->cell;
    b.panels = count_panels(b.cell, b.H);
    fr_part part = fr_deal(share->index, share->size, share->by_units, batch->B, wide_panels(b.H));
    b.first = part.first, b.stride = part.stride;
    b.unit_panel = part.begin, b.unit_panel_end = part.end;
    for (int from_x = 0; from_x < 2; from_x++) {
        b.last_runs[from_x] = runs_of(&b, b.panels - 1, from_x);
        b.full_runs[from_x] = b.last_runs[from_x];
        b.full_runs[from_x].length = cell_columns(b.cell) == 1 ? COLUMNS * LANES : LANES;
    }
    return b;
}

size_t LEVEL(fr_backward_bytes)(const fr_backward_run *run, const fr_batch *batch, int threads) {
    fr_share share = {.index = 0, .size = threads};
    backward_state b = begin(run, batch, &share);
    return lay_out(&b, NULL);
}

static void init_row(real *out, const void *initial, ptrdiff_t row, ptrdiff_t H) {
    if (initial)
        memcpy(out + row * H, (const real *)initial + row * H, (size_t)H * sizeof(real));
    else
        memset(out + row * H, 0, (size_t)H * sizeof(real));
}

/* Packs the share's part of the weights and sets its rows' dh0, dc0 and dx up. */
static void prepare(const backward_state *b) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t x_panels = wide_panels(b->I), panel_size = weight_rows(b) * COLUMNS * LANES;
    for (ptrdiff_t i = b->share->index; i < x_panels + wide_panels(b->H); i += b->share->size) {
        if (i < x_panels)
            pack_rows(b, b->w_ih + i * panel_size, run->weights.w_ih, b->I, i, 1);
        else
            pack_rows(b, b->w_hh + (i - x_panels) * panel_size, run->weights.w_hh, b->H, i - x_panels, 0);
    }
    for (ptrdiff_t row = b->share->index; row < b->batch->B; row += b->share->size) {
        init_row(run->dh0, run->dh, row, b->H);
        if (b->cell == FR_LSTM)
            init_row(run->dc0, run->dc, row, b->H);
        for (ptrdiff_t t = fr_length(b->batch, row); t < b->batch->T && !run->dx_add; t++)
            memset((real *)at(&run->dx, t, row), 0, (size_t)b->I * sizeof(real));
    }
    fr_barrier_wait(b->share->barrier);
}

/* Moves the terms from `keep` on to the front of the buffers. */
static void keep_terms(const backward_state *b, ptrdiff_t keep, ptrdiff_t end) {
    const size_t count = (size_t)(end - keep);
    for (ptrdiff_t p = b->share->index; p < b->panels; p += b->share->size) {
        vec *d = b->d + p * b->capacity * COLUMNS;
        memmove(d, d + keep * COLUMNS, count * COLUMNS * VEC_BYTES);
    }
    if (b->share->index == 0) {
        memmove(b->x, b->x + keep, count * sizeof *b->x);
        memmove(b->h, b->h + keep, count * sizeof *b->h);
        memmove(b->dx, b->dx + keep, count * sizeof *b->dx);
    }
    fr_barrier_wait(b->share->barrier);
}

static void run_steps(const backward_state *b) {
    const fr_batch *batch = b->batch;
    ptrdiff_t fresh = 0, summed = 0, end = 0; /* terms: whose dx is due, whose weights' gradients are, how many */
    step s = {0};
    ptrdiff_t live = 0;
    for (ptrdiff_t left = batch->T; left > 0; left--) {
        s.t = b->run->reverse ? batch->T - left : left - 1;
        s.after = s.live;
        s.term_after = s.term;
        s.live = live = fr_live(batch, s.t, live);
        s.term = end;
        s.t_next = left == 1 ? -1 : b->run->reverse ? s.t + 1 : s.t - 1;
        ptrdiff_t live_before = left > 1 ? fr_live(batch, s.t_next, live) : 0;
        backward_step(b, &s, live_before);
        end += s.live;
        if (left > 1 && end + live_before <= b->capacity)
            continue;

        fr_barrier_wait(b->share->barrier);
        dx_rows(b, fresh + fr_cut(end - fresh, b->share->index, b->share->size),
                fresh + fr_cut(end - fresh, b->share->index + 1, b->share->size));
        for (; summed + BLOCK <= end; summed += BLOCK)
            add_block(b, summed, BLOCK);
        if (left == 1) {
            if (summed < end)
                add_block(b, summed, end - summed);
            break;
        }
        fr_barrier_wait(b->share->barrier);
        ptrdiff_t keep = summed < s.term ? summed : s.term;
        keep_terms(b, keep, end);
        summed -= keep;
        s.term -= keep;
        fresh = end -= keep;
    }
}

void LEVEL(fr_backward)(const fr_backward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    backward_state b = begin(run, batch, share);
    lay_out(&b, scratch);
    fp_mode mode = denormals_off();
    prepare(&b);
    run_steps(&b);
    denormals_restore(mode);
}
