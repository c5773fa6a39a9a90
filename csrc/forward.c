/* The forward pass: a tile of rows x units x gates stays in registers through x W_ih, h W_hh, bias and activations. */
#include "panels.h"
#include "product.h"

enum { HOIST_BYTES = 1 << 18, HOIST_STEPS = 48 };

typedef struct {
    const fr_forward_run *run;
    const fr_packed *weights;
    const fr_batch *batch;
    ptrdiff_t first, stride;        /* the ranks this share owns */
    ptrdiff_t rows;                 /* how many */
    ptrdiff_t panel, panel_end;     /* the panels it owns */
    const real **h_prev;            /* (rows): h before the current step */
    const real **x_terms;           /* (terms): the x rows of a hoisted chunk */
    vec *hoisted;                   /* (panels owned, terms, fed columns): their pre-activations; NULL: not hoisted */
    ptrdiff_t terms;                /* capacity of the two */
    ptrdiff_t step_term;            /* where the current step's terms begin */
} forward_state;

static ptrdiff_t owned_row(const forward_state *f, ptrdiff_t i) { return fr_row(f->batch, f->first + i * f->stride); }

static real *at(const fr_sequence *s, ptrdiff_t t, ptrdiff_t row) { return (real *)s->data + t * s->time + row * s->row; }

static vec *hoisted_at(const forward_state *f, ptrdiff_t p, ptrdiff_t term, int fed) {
    return f->hoisted + ((p - f->panel) * f->terms * fed_columns(f->weights->cell, COLUMNS) + term * fed);
}

/* x W_ih and the bias for `R` terms from `term` on, stored half-way along their chains. */
INLINE void hoist_tile(const int cell, const int R, const int C, const forward_state *f, ptrdiff_t p, ptrdiff_t term) {
    const int fed = fed_columns(cell, C);
    const real *panel = (const real *)f->weights->data + p * f->weights->panel_size;
    vec sum[TILE_ROWS * COLUMNS], *out = hoisted_at(f, p, term, fed);
    const real *x[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        x[r] = f->x_terms[term + r];
#pragma GCC unroll 8
        for (int c = 0; c < fed; c++)
            sum[r * COLUMNS + c] = ((const vec *)panel)[c];
    }
    product(sum, R, fed, 0, x, 1, f->weights->I, panel + C * LANES, fed);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < fed; c++)
            out[r * fed + c] = sum[r * COLUMNS + c];
}

/* From pre-activations to h, c and what is saved, for one row and the unit blocks of panel p. */
INLINE void finish_row(const int cell, const int C, const forward_state *f, const vec *sum, ptrdiff_t p, ptrdiff_t t,
                       ptrdiff_t row, const real *h_prev) {
    const fr_forward_run *run = f->run;
    const ptrdiff_t H = f->weights->H;
    const int width = cell_columns(cell), kept = cell_saved(cell);
    real *y = at(&run->y, t, row);
    real *saved = run->saved ? (real *)run->saved + (t * f->batch->B + row) * kept * H : NULL;
#pragma GCC unroll 8
    for (int block = 0; block < C / width; block++) {
        ptrdiff_t j = p * panel_units(cell) + block * LANES;
        int n = min_lanes(H - j);
        real *c = cell == FR_LSTM ? (real *)run->c + row * H + j : NULL;
        vec c_new = {0}, keep[5];
        if (cell == FR_LSTM)
            c_new = vload_n(c, n);
        vec h_old = cell == FR_GRU ? vload_n(h_prev + j, n) : (vec){0};
        vec h = cell_forward(cell, f->weights->cell == FR_RNN_RELU, sum + block * width, h_old, &c_new, keep);
        vstore_n(y + j, h, n);
        if (cell == FR_LSTM)
            vstore_n(c, c_new, n);
        if (kept && saved)
#pragma GCC unroll 8
            for (int s = 0; s < kept; s++)
                vstore_n(saved + s * H + j, keep[s], n);
    }
}

/* Step t of the owned rows i .. i+R-1 through panel p, of C columns. */
INLINE void forward_tile(const int cell, const int R, const int C, const forward_state *f, ptrdiff_t p, ptrdiff_t t,
                         ptrdiff_t i) {
    const int fed = fed_columns(cell, C), first_h = cell_first_h(cell);
    const real *panel = (const real *)f->weights->data + p * f->weights->panel_size;
    const real *x_part = panel + C * LANES, *h_part = x_part + f->weights->I * fed * LANES;
    vec sum[TILE_ROWS * COLUMNS];
    const real *a[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = ((const vec *)panel)[c];
    if (f->hoisted) {
        const vec *start = hoisted_at(f, p, f->step_term + i, fed);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int c = 0; c < fed; c++)
                sum[r * COLUMNS + c] = start[r * fed + c];
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            a[r] = at(&f->run->x, t, owned_row(f, i + r));
        product(sum, R, fed, 0, a, 1, f->weights->I, x_part, fed);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        a[r] = f->h_prev[i + r];
    product(sum, R, fed, first_h, a, 1, f->weights->H, h_part, fed);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        finish_row(cell, C, f, sum + r * COLUMNS, p, t, owned_row(f, i + r), a[r]);
}

/* One panel: `live` rows of step t, or `live` terms of a chunk to be hoisted (t < 0). */
#define DEFINE_PANEL(name, cell, C) \
    static void name(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t live) { \
        int rows; \
        for (ptrdiff_t i = 0; i < live; i += rows) { \
            rows = tile_rows(live - i); \
            FOR_TILE_ROWS(rows, name##_rows) \
        } \
    }
#define lstm_panel_rows(R) t < 0 ? hoist_tile(FR_LSTM, R, 4, f, p, i) : forward_tile(FR_LSTM, R, 4, f, p, t, i)
#define gru_panel_rows(R) t < 0 ? hoist_tile(FR_GRU, R, 4, f, p, i) : forward_tile(FR_GRU, R, 4, f, p, t, i)
#define rnn1_panel_rows(R) t < 0 ? hoist_tile(FR_RNN_TANH, R, 1, f, p, i) : forward_tile(FR_RNN_TANH, R, 1, f, p, t, i)
#define rnn2_panel_rows(R) t < 0 ? hoist_tile(FR_RNN_TANH, R, 2, f, p, i) : forward_tile(FR_RNN_TANH, R, 2, f, p, t, i)
#define rnn3_panel_rows(R) t < 0 ? hoist_tile(FR_RNN_TANH, R, 3, f, p, i) : forward_tile(FR_RNN_TANH, R, 3, f, p, t, i)
#define rnn4_panel_rows(R) t < 0 ? hoist_tile(FR_RNN_TANH, R, 4, f, p, i) : forward_tile(FR_RNN_TANH, R, 4, f, p, t, i)
DEFINE_PANEL(lstm_panel, FR_LSTM, 4)
DEFINE_PANEL(gru_panel, FR_GRU, 4)
DEFINE_PANEL(rnn1_panel, FR_RNN_TANH, 1)
DEFINE_PANEL(rnn2_panel, FR_RNN_TANH, 2)
DEFINE_PANEL(rnn3_panel, FR_RNN_TANH, 3)
DEFINE_PANEL(rnn4_panel, FR_RNN_TANH, 4)

static void forward_panels(const forward_state *f, ptrdiff_t t, ptrdiff_t live) {
    static void (*const rnn_panel[])(const forward_state *, ptrdiff_t, ptrdiff_t, ptrdiff_t) = {
        rnn1_panel, rnn2_panel, rnn3_panel, rnn4_panel};
    for (ptrdiff_t p = f->panel; p < f->panel_end; p++) {
        if (f->weights->cell == FR_LSTM)
            lstm_panel(f, p, t, live);
        else if (f->weights->cell == FR_GRU)
            gru_panel(f, p, t, live);
        else
            rnn_panel[panel_columns(f->weights->cell, f->weights->H, p) - 1](f, p, t, live);
    }
}

/* The steps in the order of the visit. */
static ptrdiff_t visit(const forward_state *f, ptrdiff_t s) { return f->run->reverse ? f->batch->T - 1 - s : s; }

/* Hoists the input product of as many steps from the s-th visited on as the chunk holds; returns how many. */
static ptrdiff_t hoist_chunk(forward_state *f, ptrdiff_t s, ptrdiff_t live) {
    ptrdiff_t steps = 0, terms = 0;
    for (; steps < HOIST_STEPS && s + steps < f->batch->T; steps++) {
        ptrdiff_t t = visit(f, s + steps);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->first, f->stride);
        if (terms + rows > f->terms)
            break;
        for (ptrdiff_t i = 0; i < rows; i++)
            f->x_terms[terms++] = at(&f->run->x, t, owned_row(f, i));
    }
    forward_panels(f, -1, terms);
    f->step_term = 0;
    return steps;
}

static void run_steps(forward_state *f, fr_barrier *barrier) {
    ptrdiff_t live = 0, hoisted_until = 0;
    for (ptrdiff_t s = 0; s < f->batch->T; s++) {
        ptrdiff_t t = visit(f, s);
        if (f->hoisted && s == hoisted_until)
            hoisted_until += hoist_chunk(f, s, live);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->first, f->stride);
        forward_panels(f, t, rows);
        for (ptrdiff_t i = 0; i < rows; i++)
            f->h_prev[i] = at(&f->run->y, t, owned_row(f, i));
        f->step_term += rows;
        if (barrier)
            fr_barrier_wait(barrier);
    }
}

static ptrdiff_t hoisted_terms(const fr_packed *weights, ptrdiff_t rows, ptrdiff_t panels) {
    size_t term = (size_t)panels * fed_columns(weights->cell, COLUMNS) * VEC_BYTES;
    ptrdiff_t terms = (ptrdiff_t)(HOIST_BYTES / term);
    ptrdiff_t least = rows > 2 * TILE_ROWS ? rows : 2 * TILE_ROWS, most = rows * HOIST_STEPS;
    return terms < least ? least : terms > most ? most : terms;
}

/* Few rows leave a tile half empty, but the input product of several steps fills it. */
static int hoists(ptrdiff_t rows) { return rows < TILE_ROWS; }

/* What the share owns, and its scratch laid out from `scratch` on; returns the bytes that takes. */
static size_t lay_out(forward_state *f, const fr_share *share, char *scratch) {
    const fr_packed *weights = f->weights;
    f->first = share->by_units ? 0 : share->index;
    f->stride = share->by_units ? 1 : share->size;
    f->rows = fr_owned(f->batch->B, f->first, f->stride);
    f->panel = share->by_units ? fr_cut(weights->panels, share->index, share->size) : 0;
    f->panel_end = share->by_units ? fr_cut(weights->panels, share->index + 1, share->size) : weights->panels;

    ptrdiff_t panels = f->panel_end - f->panel;
    f->terms = hoists(f->rows) ? hoisted_terms(weights, f->rows, panels) : 0;
    size_t hoisted = (size_t)(f->terms * panels * fed_columns(weights->cell, COLUMNS)) * VEC_BYTES;
    f->hoisted = f->terms ? (vec *)scratch : NULL;
    f->h_prev = (const real **)(scratch + hoisted);
    f->x_terms = f->h_prev + f->rows;
    return hoisted + (size_t)(f->rows + f->terms) * sizeof(real *);
}

size_t LEVEL(fr_forward_bytes)(const fr_packed *packed, const fr_batch *batch, const fr_share *share) {
    forward_state f = {.weights = packed, .batch = batch};
    return lay_out(&f, share, NULL);
}

/* Sets the owned slice up (c in place, y zero past a row's end), or, at the end, hands out the final h. */
static void begin_rows(const forward_state *f, ptrdiff_t j, ptrdiff_t units) {
    const fr_forward_run *run = f->run;
    const ptrdiff_t H = f->weights->H;
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        ptrdiff_t row = owned_row(f, i), start = row * H + j;
        f->h_prev[i] = (const real *)run->h0 + row * H;
        if (run->c && run->c != run->c0)
            memcpy((real *)run->c + start, (const real *)run->c0 + start, (size_t)units * sizeof(real));
        for (ptrdiff_t t = fr_length(f->batch, row); t < f->batch->T; t++)
            memset(at(&run->y, t, row) + j, 0, (size_t)units * sizeof(real));
    }
}

static void end_rows(const forward_state *f, ptrdiff_t j, ptrdiff_t units) {
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        ptrdiff_t row = owned_row(f, i);
        memcpy((real *)f->run->h + row * f->weights->H + j, f->h_prev[i] + j, (size_t)units * sizeof(real));
    }
}

void LEVEL(fr_forward)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    const fr_packed *weights = run->packed;
    const ptrdiff_t H = weights->H;
    forward_state f = {.run = run, .weights = weights, .batch = batch};
    lay_out(&f, share, scratch);

    ptrdiff_t j = f.panel * panel_units(weights->cell), end = f.panel_end * panel_units(weights->cell);
    ptrdiff_t units = (end < H ? end : H) - j;
    fp_mode mode = denormals_off();
    begin_rows(&f, j, units);
    run_steps(&f, share->by_units ? share->barrier : NULL);
    end_rows(&f, j, units);
    denormals_restore(mode);
}
