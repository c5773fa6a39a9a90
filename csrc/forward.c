/* The forward pass: a tile of rows x units x gates stays in registers through x W_ih, h W_hh, bias and activations. */
#include "panels.h"
#include "product.h"

typedef struct {
    const fr_forward_run *run;
    const fr_packed *weights;
    const fr_batch *batch;
    fr_hand hand;                   /* the ranks this share owns */
    ptrdiff_t rows;                 /* how many */
    ptrdiff_t panel, panel_end;     /* the panels it owns */
    const real **h_prev;            /* (rows): h before the current step */
    const real **x_terms;           /* (terms): the x rows of a hoisted chunk */
    vec *hoisted;                   /* (panels owned, terms, fed columns): their pre-activations; NULL: not hoisted */
    ptrdiff_t terms;                /* capacity of the two */
    ptrdiff_t step_term;            /* where the current step's terms begin */
} forward_state;

static ptrdiff_t owned_row(const forward_state *f, ptrdiff_t i) { return fr_row(f->batch, fr_rank(f->hand, i)); }

static real *at(const fr_sequence *s, ptrdiff_t t, ptrdiff_t row) { return (real *)s->data + t * s->time + row * s->row; }

static const real *panel_at(const forward_state *f, ptrdiff_t p) {
    return (const real *)f->weights->data + p * f->weights->panel_size;
}

static vec *hoisted_at(const forward_state *f, ptrdiff_t p, ptrdiff_t term, int fed) {
    return f->hoisted + ((p - f->panel) * f->terms * fed_columns(f->weights->cell, COLUMNS) + term * fed);
}

INLINE void move_sums(vec *to, const vec *from, const int n) {
    UNROLL(24)
    for (int i = 0; i < n; i++)
        to[i] = from[i];
}

/* x W_ih and the bias for `R` terms from `term` on, stored half-way along their chains. */
INLINE void hoist_tile(const int cell, const int R, const int C, const forward_state *f, ptrdiff_t p, ptrdiff_t term) {
    const int fed = fed_columns(cell, C);
    const real *panel = panel_at(f, p);
    vec sum[TILE_ROWS * COLUMNS], *out = hoisted_at(f, p, term, fed);
    const real *x[TILE_ROWS];
    if (R > tile_limit(fed))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++) {
        x[r] = f->x_terms[term + r];
        move_sums(sum + r * COLUMNS, (const vec *)panel, fed);
    }
    product(sum, R, 1, fed, 0, x, 1, f->weights->I, panel + C * LANES, 0);
    UNROLL(8)
    for (int r = 0; r < R; r++)
        move_sums(out + r * fed, sum + r * COLUMNS, fed);
}

/* What becomes of the pre-activations of n rows, at most SIDE_BY_SIDE, at the units of panel p in step t. */
typedef struct {
    const vec *a[SIDE_BY_SIDE]; /* (COLUMNS) each */
    ptrdiff_t p, t, row[SIDE_BY_SIDE];
    const real *h_prev[SIDE_BY_SIDE];
    unit_rows units; /* of the unit block under way */
} finish_state;

/* The stages of all unit blocks of a panel of C columns. */
INLINE int finish_stages(const int cell, const int C) { return C / cell_columns(cell) * cell_stages(cell); }

/* One stage on the way from pre-activations to h, c and what is saved. */
INLINE void finish_stage(const int cell, const int stage, const int n, const forward_state *f, finish_state *s) {
    const fr_forward_run *run = f->run;
    const ptrdiff_t H = f->weights->H;
    const int stages = cell_stages(cell), block = stage / stages, kept = cell_saved(cell);
    const ptrdiff_t j = s->p * panel_units(cell) + block * LANES;
    const int lanes = min_lanes(H - j);
    unit_rows *u = &s->units;
    if (stage % stages == 0) {
        EACH(r, n) u->a[r] = s->a[r] + block * cell_columns(cell);
        if (cell == FR_LSTM)
            EACH(r, n) u->c[r] = vload_n((real *)run->c + s->row[r] * H + j, lanes);
    }
    if (cell == FR_GRU && stage % stages == stages - 1)
        EACH(r, n) u->h[r] = vload_n(s->h_prev[r] + j, lanes);
    cell_forward(cell, stage % stages, f->weights->cell == FR_RNN_RELU, n, u);
    if (stage % stages != stages - 1)
        return;
    EACH(r, n) vstore_n(at(&run->y, s->t, s->row[r]) + j, u->h[r], lanes);
    if (cell == FR_LSTM)
        EACH(r, n) vstore_n((real *)run->c + s->row[r] * H + j, u->c[r], lanes);
    if (kept && run->saved)
        EACH(r, n) {
            real *saved = (real *)run->saved + (s->t * f->batch->B + s->row[r]) * kept * H + j;
            UNROLL(8)
            for (int k = 0; k < kept; k++)
                vstore_n(saved + k * H, u->saved[k][r], lanes);
        }
}

/* n rows, i .. i+n-1, through panel p; their sums stand `sum_step` vectors apart. */
INLINE void finish_rows(const int cell, const int C, const int n, const forward_state *f, const vec *sums, int sum_step,
                        ptrdiff_t p, ptrdiff_t t, ptrdiff_t i) {
    finish_state s;
    s.p = p, s.t = t;
    EACH(r, n) s.a[r] = sums + r * sum_step, s.row[r] = owned_row(f, i + r), s.h_prev[r] = f->h_prev[i + r];
    UNROLL(8)
    for (int stage = 0; stage < finish_stages(cell, C); stage++)
        finish_stage(cell, stage, n, f, &s);
}

/* The rows i .. i+rows-1 through panel p. Kept apart from the products, whose sums need all the registers that the
 * constants of the activations would occupy. */
#define DEFINE_FINISH(name, cell, C) \
    static __attribute__((noinline)) void name##_finish(const forward_state *f, const vec *sums, int sum_step, int rows, \
                                                        ptrdiff_t p, ptrdiff_t t, ptrdiff_t i) { \
        int r = 0; \
        for (; r + SIDE_BY_SIDE <= rows; r += SIDE_BY_SIDE) \
            finish_rows(cell, C, SIDE_BY_SIDE, f, sums + r * sum_step, sum_step, p, t, i + r); \
        for (; r < rows; r++) \
            finish_rows(cell, C, 1, f, sums + r * sum_step, sum_step, p, t, i + r); \
    }
DEFINE_FINISH(rnn1, FR_RNN_TANH, 1)
DEFINE_FINISH(rnn2, FR_RNN_TANH, 2)
DEFINE_FINISH(rnn3, FR_RNN_TANH, 3)
DEFINE_FINISH(rnn4, FR_RNN_TANH, 4)
DEFINE_FINISH(lstm, FR_LSTM, 4)
DEFINE_FINISH(gru, FR_GRU, 4)

/* Rows whose sums wait to be finished together. */
enum { FINISH_ROWS = 12 };

/* Step t of the owned rows i .. i+R-1 through P panels from p on, of C columns each: their pre-activations. */
INLINE void forward_tile(const int cell, const int R, const int P, const int C, const forward_state *f, ptrdiff_t p,
                         ptrdiff_t t, ptrdiff_t i, vec *sums) {
    const int fed = fed_columns(cell, C), first_h = cell_first_h(cell);
    const ptrdiff_t panel_size = f->weights->panel_size;
    const real *panel = panel_at(f, p);
    const real *x_part = panel + C * LANES, *h_part = x_part + f->weights->I * fed * LANES;
    vec sum[TILE_ROWS * COLUMNS];
    const real *a[TILE_ROWS];
    if (R > (P == 1 ? tile_limit(fed) : PAIR_ROWS))
        return;
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sum + i * COLUMNS, (const vec *)(panel + i % P * panel_size), C);
    if (f->hoisted) {
        UNROLL(8)
        for (int q = 0; q < P; q++) {
            const vec *start = hoisted_at(f, p + q, f->step_term + i, fed);
            UNROLL(8)
            for (int r = 0; r < R; r++)
                move_sums(sum + (r * P + q) * COLUMNS, start + r * fed, fed);
        }
    } else {
        UNROLL(8)
        for (int r = 0; r < R; r++)
            a[r] = at(&f->run->x, t, owned_row(f, i + r));
        product(sum, R, P, fed, 0, a, 1, f->weights->I, x_part, panel_size);
    }
    if (first_h) { /* a column of sums is done and another begins, and no register is left to hold either meanwhile */
        move_sums(sums, sum, R * P * COLUMNS);
        __asm__ volatile("" : : : "memory");
        move_sums(sum, sums, R * P * COLUMNS);
    }
    UNROLL(8)
    for (int r = 0; r < R; r++)
        a[r] = f->h_prev[i + r];
    product(sum, R, P, fed, first_h, a, 1, f->weights->H, h_part, panel_size);
    UNROLL(8)
    for (int i = 0; i < R * P; i++)
        move_sums(sums + i * COLUMNS, sum + i * COLUMNS, C);
}

/* The k-th of n groups of panels that step t takes. Every other step takes them backward: then it begins with those
 * whose weights the step before has left in the cache. */
static ptrdiff_t nth(ptrdiff_t t, ptrdiff_t k, ptrdiff_t n) { return t % 2 ? n - 1 - k : k; }

typedef void hoist_function(const forward_state *f, ptrdiff_t p, ptrdiff_t term);
typedef void tile_function(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, vec *sums);

#define HOIST(name, R, cell, C) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, ptrdiff_t term) { \
        hoist_tile(cell, R, C, f, p, term); \
    }
#define STEP(name, R, cell, P, C) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, \
                                               vec *sums) { \
        forward_tile(cell, R, P, C, f, p, t, i, sums); \
    }

/* For each cell and number of columns: hoist `terms` terms through panel p; step t of the rows i .. end-1 through panel
 * p, and of `live` rows, at most PAIR_ROWS, through p and p + 1. */
#define DEFINE_PANEL(name, cell, C, fed) \
    DEFINE_TILES(hoist_function, name##_hoist_tiles, HOIST, cell, C) \
    DEFINE_TILES(tile_function, name##_step_tiles, STEP, cell, 1, C) \
    static void name##_hoist(const forward_state *f, ptrdiff_t p, ptrdiff_t terms) { \
        int rows; \
        for (ptrdiff_t i = 0; i < terms; i += rows) { \
            rows = tile_rows(terms - i, tile_limit(fed)); \
            name##_hoist_tiles[rows - 1](f, p, i); \
        } \
    } \
    static void name##_step(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) { \
        vec sums[FINISH_ROWS * COLUMNS]; \
        for (int rows, done; i < end; i += done) { \
            const int most = end - i < FINISH_ROWS ? (int)(end - i) : FINISH_ROWS; \
            for (done = 0; done < most; done += rows) { \
                rows = tile_rows(most - done, tile_limit(fed)); \
                name##_step_tiles[rows - 1](f, p, t, i + done, sums + done * COLUMNS); \
            } \
            name##_finish(f, sums, COLUMNS, done, p, t, i); \
        } \
    }
#define DEFINE_PAIR(name, cell, C) \
    DEFINE_TILES(tile_function, name##_pair_tiles, STEP, cell, PAIR, C) \
    static void name##_pair(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t live) { \
        vec sums[TILE_ROWS * COLUMNS]; \
        name##_pair_tiles[live - 1](f, p, t, 0, sums); \
        for (int q = 0; q < PAIR; q++) \
            name##_finish(f, sums + q * COLUMNS, PAIR * COLUMNS, (int)live, p + q, t, 0); \
    }
DEFINE_PANEL(rnn1, FR_RNN_TANH, 1, 1)
DEFINE_PANEL(rnn2, FR_RNN_TANH, 2, 2)
DEFINE_PANEL(rnn3, FR_RNN_TANH, 3, 3)
DEFINE_PANEL(rnn4, FR_RNN_TANH, 4, 4)
DEFINE_PANEL(lstm, FR_LSTM, 4, 4)
DEFINE_PANEL(gru, FR_GRU, 4, 3)
DEFINE_PAIR(rnn4, FR_RNN_TANH, 4)
DEFINE_PAIR(lstm, FR_LSTM, 4)
DEFINE_PAIR(gru, FR_GRU, 4)

/* --- A share of one row: its panels wait for each other's activations, whose latency would stand alone. So the stages
 * that finish P panels are slipped in between the products of the next P; not where they overwrite each other's operands:
 * the temporaries would push the sums to memory. */

typedef int row_function(forward_state *, ptrdiff_t t, ptrdiff_t steps, fr_barrier *);

#if VEC_OVERWRITES
#define ROW(name) NULL
#else

/* Step f->step_term of the hoisted chunk through P panels from p on, whose pre-activations go to `sums` and so to `now`;
 * meanwhile the panels in `last`, unless it is NULL, are finished. The two may be the same. */
INLINE void row_panels(const int cell, const int P, const int C, const forward_state *f, ptrdiff_t p, vec *sums,
                       finish_state *now, finish_state *last) {
    const int fed = fed_columns(cell, C), first_h = cell_first_h(cell), stages = finish_stages(cell, C);
    const ptrdiff_t H = f->weights->H, panel_size = f->weights->panel_size;
    const real *panel = panel_at(f, p);
    const real *h_part = panel + (C + f->weights->I * fed) * LANES;
    vec sum[PAIR * COLUMNS];
    UNROLL(2)
    for (int q = 0; q < P; q++) {
        const vec *start = hoisted_at(f, p + q, f->step_term, fed);
        UNROLL(4)
        for (int c = 0; c < C; c++)
            sum[q * COLUMNS + c] = c < fed ? start[c] : ((const vec *)(panel + q * panel_size))[c];
    }
    const int parts = last ? P * stages : 1;
    UNROLL(16)
    for (int part = 0; part < parts; part++) {
        const ptrdiff_t k = H * part / parts, end = H * (part + 1) / parts;
        const real *h = now->h_prev[0] + k;
        product(sum, 1, P, fed, first_h, &h, 1, end - k, h_part + k * fed * LANES, panel_size);
        if (last)
            finish_stage(cell, part % stages, 1, f, last + part / stages);
    }
    UNROLL(2)
    for (int q = 0; q < P; q++) {
        move_sums(sums + q * COLUMNS, sum + q * COLUMNS, C);
        now[q].p = p + q;
    }
}

/* `steps` steps from t on of a hoisted chunk, through all owned panels, P at a time. Returns whether the call ends. */
INLINE int row_steps(const int cell, const int P, const int C, forward_state *f, ptrdiff_t t, ptrdiff_t steps,
                     fr_barrier *barrier) {
    const ptrdiff_t groups = (f->panel_end - f->panel) / P, row = owned_row(f, 0);
    for (; f->step_term < steps; f->step_term++, t += f->run->reverse ? -1 : 1) {
        finish_state under_way[PAIR];
        vec sums[PAIR * COLUMNS];
        UNROLL(2)
        for (int q = 0; q < P; q++)
            under_way[q].a[0] = sums + q * COLUMNS, under_way[q].row[0] = row, under_way[q].t = t,
            under_way[q].h_prev[0] = f->h_prev[0];
        row_panels(cell, P, C, f, f->panel + nth(t, 0, groups) * P, sums, under_way, NULL);
        for (ptrdiff_t k = 1; k < groups; k++)
            row_panels(cell, P, C, f, f->panel + nth(t, k, groups) * P, sums, under_way, under_way);
        UNROLL(2)
        for (int q = 0; q < P; q++)
            UNROLL(8)
            for (int stage = 0; stage < finish_stages(cell, C); stage++)
                finish_stage(cell, stage, 1, f, under_way + q);
        f->h_prev[0] = at(&f->run->y, t, row);
        if (barrier && fr_barrier_wait(barrier))
            return 1;
    }
    return 0;
}

#define ROW(name) name
#define DEFINE_ROW(name, cell, P, C) \
    static int name(forward_state *f, ptrdiff_t t, ptrdiff_t steps, fr_barrier *barrier) { \
        return row_steps(cell, P, C, f, t, steps, barrier); \
    }
DEFINE_ROW(rnn1_row, FR_RNN_TANH, 1, 1)
DEFINE_ROW(rnn2_row, FR_RNN_TANH, 1, 2)
DEFINE_ROW(rnn3_row, FR_RNN_TANH, 1, 3)
DEFINE_ROW(rnn4_row, FR_RNN_TANH, 1, 4)
DEFINE_ROW(rnn4_row_pair, FR_RNN_TANH, 2, 4)
DEFINE_ROW(lstm_row, FR_LSTM, 1, 4)
DEFINE_ROW(lstm_row_pair, FR_LSTM, 2, 4)
DEFINE_ROW(gru_row, FR_GRU, 1, 4)
DEFINE_ROW(gru_row_pair, FR_GRU, 2, 4)
#endif

typedef struct {
    void (*hoist)(const forward_state *, ptrdiff_t p, ptrdiff_t terms);
    void (*step)(const forward_state *, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end);
    void (*pair)(const forward_state *, ptrdiff_t p, ptrdiff_t t, ptrdiff_t live);
    void (*finish)(const forward_state *, const vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i);
    row_function *row, *row_pair; /* all panels, one or two at a time */
} panel_functions;

static const panel_functions *functions_of(const forward_state *f, ptrdiff_t p) {
    static const panel_functions rnn[] = {
        {rnn1_hoist, rnn1_step, NULL, rnn1_finish, ROW(rnn1_row), NULL},
        {rnn2_hoist, rnn2_step, NULL, rnn2_finish, ROW(rnn2_row), NULL},
        {rnn3_hoist, rnn3_step, NULL, rnn3_finish, ROW(rnn3_row), NULL},
        {rnn4_hoist, rnn4_step, rnn4_pair, rnn4_finish, ROW(rnn4_row), ROW(rnn4_row_pair)},
    };
    static const panel_functions lstm = {lstm_hoist, lstm_step, lstm_pair, lstm_finish, ROW(lstm_row), ROW(lstm_row_pair)};
    static const panel_functions gru = {gru_hoist, gru_step, gru_pair, gru_finish, ROW(gru_row), ROW(gru_row_pair)};
    switch (f->weights->cell) {
    case FR_LSTM:
        return &lstm;
    case FR_GRU:
        return &gru;
    default:
        return &rnn[panel_columns(f->weights->cell, f->weights->H, p) - 1];
    }
}

/* Step t of the first `live` owned rows through one panel, some rows after others. Returns whether the call is to end. */
static int panel_step(const forward_state *f, const fr_share *share, ptrdiff_t p, ptrdiff_t t, ptrdiff_t live) {
    const double row_flop = share->row_flop / (double)(f->panel_end - f->panel);
    for (ptrdiff_t i = 0; i < live; i += FR_ASK_ROWS) {
        const ptrdiff_t rows = live - i < FR_ASK_ROWS ? live - i : FR_ASK_ROWS;
        functions_of(f, p)->step(f, p, t, i, i + rows);
        if (fr_share_worked(share, (double)rows * row_flop))
            return 1;
    }
    return 0;
}

/* Step t of the first `live` owned rows with weights that are read as they are. Returns whether the call is to end. */
static int unpacked_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live) {
    const double panel_flop = FR_PACK_FLOP * (double)f->weights->panel_size;
    const real *x[UNPACKED_ROWS];
    vec sums[UNPACKED_ROWS * COLUMNS];
    for (ptrdiff_t i = 0, rows; i < live; i += rows) {
        rows = live - i < UNPACKED_ROWS ? live - i : UNPACKED_ROWS;
        for (ptrdiff_t r = 0; r < rows; r++)
            x[r] = at(&f->run->x, t, owned_row(f, i + r));
        for (ptrdiff_t p = f->panel; p < f->panel_end; p++) {
            LEVEL(fr_unpacked_sums)(f->weights, p, (int)rows, x, f->h_prev + i, sums);
            functions_of(f, p)->finish(f, sums, COLUMNS, (int)rows, p, t, i);
            if (fr_share_worked(share, panel_flop + (double)rows * share->row_flop / (double)(f->panel_end - f->panel)))
                return 1;
        }
    }
    return fr_watch_stopped(share->watch);
}

/* Step t of the first `live` owned rows through all owned panels. Returns whether the call is to end. */
static int forward_step(forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live) {
    if (!f->weights->data)
        return unpacked_step(f, share, t, live);
    const int width = live <= PAIR_ROWS ? PAIR : 1;
    const ptrdiff_t groups = (f->panel_end - f->panel + width - 1) / width;
    for (ptrdiff_t k = 0; k < groups && live; k++) {
        ptrdiff_t p = f->panel + nth(t, k, groups) * width, end = p + width;
        if (width == PAIR && end <= f->panel_end && functions_of(f, end - 1)->pair) {
            functions_of(f, p)->pair(f, p, t, live);
            if (fr_share_worked(share, (double)live * share->row_flop / (double)groups))
                return 1;
        } else {
            for (; p < end && p < f->panel_end; p++)
                if (panel_step(f, share, p, t, live))
                    return 1;
        }
    }
    return fr_watch_stopped(share->watch);
}

/* The steps in the order of the visit. */
static ptrdiff_t visit(const forward_state *f, ptrdiff_t s) { return f->run->reverse ? f->batch->T - 1 - s : s; }

/* Hoists the input product of `terms` terms, or leaves it unfinished where the call is to end. */
static void hoist(forward_state *f, const fr_share *share, ptrdiff_t terms) {
    const double panel_flop = 2.0 * (double)terms * (double)f->weights->I * COLUMNS * LANES;
    for (ptrdiff_t p = f->panel; p < f->panel_end && !fr_share_worked(share, panel_flop); p++)
        functions_of(f, p)->hoist(f, p, terms);
    f->step_term = 0;
}

/* Hoists the input product of as many steps from the s-th visited on as the chunk holds; returns how many. */
static ptrdiff_t hoist_chunk(forward_state *f, const fr_share *share, ptrdiff_t s, ptrdiff_t live) {
    ptrdiff_t steps = 0, terms = 0;
    for (; s + steps < f->batch->T; steps++) {
        ptrdiff_t t = visit(f, s + steps);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->hand);
        if (terms + rows > f->terms)
            break;
        for (ptrdiff_t i = 0; i < rows; i++)
            f->x_terms[terms++] = at(&f->run->x, t, owned_row(f, i));
    }
    hoist(f, share, terms);
    return steps;
}

/* How a share of one row takes its panels: all alike. NULL: as several rows do, also where an RNN's last panel is
 * narrower than others. */
static row_function *row_function_of(const forward_state *f) {
    const panel_functions *functions = functions_of(f, 0);
    if (f->rows != 1 || !f->weights->data || functions != functions_of(f, f->weights->panels - 1))
        return NULL;
    return functions->row_pair && (f->panel_end - f->panel) % PAIR == 0 ? functions->row_pair : functions->row;
}

/* Large weights may come from memory at every step, at a tenth of a core's peak. */
static const double UNASKED_FLOP = 1e8;

static void run_row(forward_state *f, const fr_share *share, row_function *run_steps) {
    fr_barrier *barrier = share->by_units ? share->barrier : NULL;
    const ptrdiff_t row = owned_row(f, 0), length = fr_length(f->batch, row), direction = f->run->reverse ? -1 : 1;
    const ptrdiff_t unasked = 1 + (ptrdiff_t)(UNASKED_FLOP / share->row_flop);
    ptrdiff_t t = f->run->reverse ? length - 1 : 0;
    for (ptrdiff_t left = length, steps; left > 0; left -= steps) {
        steps = left < f->terms ? left : f->terms;
        for (ptrdiff_t s = 0; s < steps; s++)
            f->x_terms[s] = at(&f->run->x, t + s * direction, row);
        hoist(f, share, steps);
        for (ptrdiff_t until = 0; until < steps;) {
            const ptrdiff_t more = steps - until < unasked ? steps - until : unasked;
            const int stopped = fr_share_stopped(share, more); /* a team that meets decides there */
            until += more;
            if (run_steps(f, t, until, barrier) || (stopped && !barrier))
                return;
            t += more * direction;
        }
    }
}

static void run_rows(forward_state *f, const fr_share *share) {
    ptrdiff_t live = 0, hoisted_until = 0;
    for (ptrdiff_t s = 0; s < f->batch->T; s++) {
        ptrdiff_t t = visit(f, s);
        if (f->hoisted && s == hoisted_until)
            hoisted_until += hoist_chunk(f, share, s, live);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->hand);
        const int stopped = forward_step(f, share, t, rows);
        for (ptrdiff_t i = 0; i < rows; i++)
            f->h_prev[i] = at(&f->run->y, t, owned_row(f, i));
        f->step_term += rows;
        if (share->by_units ? fr_barrier_wait(share->barrier) : stopped)
            return;
    }
}

/* What the share owns, and its scratch laid out from `scratch` on, unless that is NULL; returns the bytes it takes. */
static size_t lay_out(forward_state *f, const fr_share *share, char *scratch) {
    const fr_packed *weights = f->weights;
    fr_part part = fr_deal(share->index, share->size, share->by_units, f->batch->B, weights->panels);
    f->hand = part.hand, f->rows = part.rows;
    f->panel = part.begin, f->panel_end = part.end;

    ptrdiff_t panels = f->panel_end - f->panel;
    const size_t term = (size_t)(panels * fed_columns(weights->cell, COLUMNS)) * VEC_BYTES;
    const size_t read = (size_t)(panels * weights->panel_size) * sizeof(real);
    /* Weights that are packed as they are used are read once in any case. */
    f->terms = weights->data ? fr_choose_hoisted(f->rows, f->batch->T, TILE_ROWS, read, term) : 0;
    const size_t hoisted = (size_t)f->terms * term;
    if (scratch) {
        f->hoisted = f->terms ? (vec *)scratch : NULL;
        f->h_prev = (const real **)(scratch + hoisted);
        f->x_terms = f->h_prev + f->rows;
    }
    return hoisted + (size_t)(f->rows + f->terms) * sizeof(real *);
}

size_t LEVEL(fr_forward_bytes)(const fr_packed *packed, const fr_batch *batch, const fr_share *share) {
    forward_state f = {.weights = packed, .batch = batch};
    return lay_out(&f, share, NULL);
}

/* Sets the owned slice up: c in place, y zero past a row's end. */
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

/* Hands out the final h of the owned slice. */
static void end_rows(const forward_state *f, ptrdiff_t j, ptrdiff_t units) {
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        real *h = (real *)f->run->h + owned_row(f, i) * f->weights->H;
        if (h != f->h_prev[i]) /* of a single step, y may be the final state itself */
            memcpy(h + j, f->h_prev[i] + j, (size_t)units * sizeof(real));
    }
}

void LEVEL(fr_forward)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    const fr_packed *weights = run->packed;
    const ptrdiff_t H = weights->H;
    forward_state f = {.run = run, .weights = weights, .batch = batch};
    lay_out(&f, share, scratch);

    ptrdiff_t j = f.panel * panel_units(weights->cell), end = f.panel_end * panel_units(weights->cell);
    ptrdiff_t units = (end < H ? end : H) - j;
    fr_fp_mode mode = fr_fp_mode_enter();
    begin_rows(&f, j, units);
    row_function *row = row_function_of(&f);
    if (row)
        run_row(&f, share, row);
    else
        run_rows(&f, share);
    end_rows(&f, j, units);
    fr_fp_mode_set(mode);
}
