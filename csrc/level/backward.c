/* The backward pass. Only dh is sequential: a tile of it is dy + du W_hh of the step after, then the cell's derivative,
 * which leaves the columns' gradients in `d`. The rest are large products over the terms, (step, row) pairs, of a chunk
 * of time: dx = da W_ih, dW_ih = da' x, dW_hh = du' h_prev, taken while d is in cache (d_times_w.c, gradients.c).
 *
 * Of a cell that projects, the tiles leave dh; when a step's is whole, dh W_hr is what the derivative takes, and
 * dW_hr = dh' out is one more of the large products.
 */
#include "backward.h"
#include "cell.h"
#include "entry.h"

enum { CHUNK_BYTES = 1 << 19 }; /* of d that stay in cache until the products are taken */

/* --- The sequential part. */

/* A step as the tiles see it. */
typedef struct {
    ptrdiff_t t, live;      /* rows that have this step */
    ptrdiff_t term;         /* of its rank 0 */
    ptrdiff_t after;        /* rows that also have the step after, which this pass has just left ... */
    ptrdiff_t term_after;   /* ... and its first term */
    ptrdiff_t t_after;      /* that step */
    ptrdiff_t t_next;       /* the step that comes next, -1 after the last */
    int resumes;            /* the step before it was in another call, which left dh of the rows that go on, ... */
    int hands_on;           /* ... as this one does: dh of the step goes to dh0 */
} step;

static int is_first(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return b->run->reverse ? t == fr_length(b->batch, row) - 1 : t == 0;
}

static const real *h_before(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    if (is_first(b, t, row))
        return (const real *)b->run->h0 + row * b->P;
    return at(&b->run->y, b->run->reverse ? t + 1 : t - 1, row);
}

static const real *saved_at(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return b->saved + (t * b->batch->B + row) * fr_cells[b->cell].saved * b->H;
}

/* The units j .. j+n-1 of a part of a row's state as step t took them: `from`, or a changed copy of it in `to`. */
INLINE const real *enter_block(const backward_state *b, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n,
                               const real *from, real *to) {
    const fr_entry *e = &b->run->entry;
    if (is_reset(e, b->batch, t, row)) {
        memset(to, 0, LANES * sizeof(real));
        return to;
    }
    if (!e->scale.data)
        return from;
    vstore_n(to, vload_n(from, n) * scale_at(e, t, row, j, n), n);
    return to;
}

/* From dh of `rank` at units j .. j+LANES-1 to the gradients of its columns; of a cell that projects, from the gradient
 * of its equation's output. */
INLINE void derive_block(const int cell, const fr_options *o, const int projects, const backward_state *b,
                         const step *s, ptrdiff_t rank, ptrdiff_t j, vec dh) {
    const fr_backward_run *run = b->run;
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank), at_step = (s->t * b->batch->B + row) * H + j;
    const int n = min_lanes(H - j), width = fr_cells[cell].columns, kept = fr_cells[cell].saved;
    const int has_c = fr_cells[cell].states == 2;
    backward_units u = {.dh = dh, .lanes = n};
    real h_entered[LANES], c_entered[LANES];
    const real *c_before = NULL;
    if (!projects) {
        u.h = at(&run->y, s->t, row) + j;
        u.h_prev = h_before(b, s->t, row) + j;
        if (b->enters)
            u.h_prev = enter_block(b, s->t, row, j, n, u.h_prev, h_entered);
    }
    if (kept) {
        const real *saved = saved_at(b, s->t, row) + j;
        UNROLL(8)
        for (int k = 0; k < kept; k++)
            u.saved[k] = vload_n(saved + k * H, n);
    }
    if (has_c) {
        const real *c = is_first(b, s->t, row) ? (const real *)run->c0 + row * H
                                               : saved_at(b, run->reverse ? s->t + 1 : s->t - 1, row)
                                                     + fr_cells[cell].saved_c * H;
        u.c_prev = c_before = c + j;
        if (b->enters)
            u.c_prev = enter_block(b, s->t, row, j, n, c_before, c_entered);
        u.dc = vload_n((real *)run->dc0 + row * H + j, n);
        if (run->dc_steps)
            vstore_n((real *)run->dc_steps + at_step, u.dc, n);
    }
    if (run->dh_steps && !projects)
        vstore_n((real *)run->dh_steps + at_step, dh, n);
    if (fr_cells[cell].vectors)
        u.vectors = run->weights.vectors ? (const real *)run->weights.vectors + j : NULL, u.step = H;
    cell_backward(cell, o, &u);
    if (projects)
        vstore_n(b->out + (s->term + rank) * H + j, u.out, n);
    const ptrdiff_t p = j / panel_units(cell), block = j % panel_units(cell) / LANES;
    vec *out = b->d + (p * b->capacity + s->term + rank) * COLUMNS + block * width;
    UNROLL(8)
    for (int c = 0; c < width; c++)
        out[c] = u.d[c];
    if (fr_cells[cell].vectors && b->vectors)
        UNROLL(4)
        for (int v = 0; v < fr_cells[cell].vectors; v++)
            *vector_terms(b, p, s->term + rank, v, (int)block) = u.d_vectors[v];
    if (has_c && b->enters)
        u.dc = leave_units(&run->entry, b->batch, s->t, row, j, n, c_before - j, u.dc, run->dscale, H);
    if (has_c)
        vstore_n((real *)run->dc0 + row * H + j, u.dc, n);
    if (fr_cells[cell].carries)
        vstore_n((real *)run->dh0 + row * H + j, u.carry, n);
}

/* The same for C blocks of units from j on. */
typedef void derive_function(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C);

/* A cell without a c has no output to project. */
#define DERIVE(name, cell, options, projects) \
    static void name(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) { \
        for (int c = 0; c < C && (!projects || fr_cells[cell].states == 2); c++, j += LANES) \
            derive_block(cell, options, projects, b, s, rank, j, dh[c]); \
    }
#define CELL(NAME, name, ...) DERIVE(derive_##name, FR_##NAME, NULL, 0)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_general_##name, FR_##NAME, &b->options, 0)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_projected_##name, FR_##NAME, NULL, 1)
#include "cells.def"
#define CELL(NAME, name, ...) DERIVE(derive_general_projected_##name, FR_##NAME, &b->options, 1)
#include "cells.def"

/* By whether the cell projects, and whether it has options. */
static derive_function *const derive[][2][2] = {
#define CELL(NAME, name, ...) \
    {{derive_##name, derive_general_##name}, {derive_projected_##name, derive_general_projected_##name}},
#include "cells.def"
};
static derive_function *derive_of(const backward_state *b) {
    return derive[b->cell][b->projects][b->run->options != NULL];
}

/* What the next step will read of what is saved, of a row's units j .. j+n-1. A row that does not have that step costs
 * nothing but the request: its memory is there. */
static void prefetch_saved(const backward_state *b, const step *s, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    for (int k = 0; k < fr_cells[b->cell].saved && s->t_next >= 0; k++)
        prefetch(saved_at(b, s->t_next, row) + k * b->H + j, n);
}

/* The same of all that it reads to take dh; where a cell projects, without what is saved. */
static void prefetch_next(const backward_state *b, const step *s, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    if (s->t_next < 0)
        return;
    if (!b->projects)
        prefetch_saved(b, s, row, j, n);
    if (b->run->dy.data)
        prefetch(at(&b->run->dy, s->t_next, row) + j, n);
    prefetch(h_before(b, s->t_next, row) + j, n);
}

/* dh of the same ranks and units, from the gradient by what the step after took: that of h itself, and dy. */
static void leave_rows(const backward_state *b, const step *s, ptrdiff_t i, int rows, ptrdiff_t panel, int panels,
                       vec *dh) {
    const fr_entry *e = &b->run->entry;
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t row = fr_row(b->batch, fr_rank(b->hand, i + k / panels));
        const ptrdiff_t first = (panel + k % panels) * COLUMNS * LANES;
        const int C = wide_columns(b->P, panel + k % panels);
        if (!e->scale.data && !is_reset(e, b->batch, s->t_after, row))
            continue;
        for (int c = 0; c < C; c++) {
            const ptrdiff_t j = first + c * LANES;
            const int n = min_lanes(b->P - j);
            vec *here = &dh[k * COLUMNS + c];
            *here = leave_units(e, b->batch, s->t_after, row, j, n, at(&b->run->y, s->t, row), *here, b->run->dscale,
                                b->H);
            if (b->run->dy.data)
                *here += vload_n(at(&b->run->dy, s->t, row) + j, n);
        }
    }
}

/* Leaves dh of the same ranks and units in dh0. */
static void store_dh(const backward_state *b, ptrdiff_t i, int rows, ptrdiff_t panel, int panels, const vec *dh) {
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t row = fr_row(b->batch, fr_rank(b->hand, i + k / panels));
        const ptrdiff_t first = (panel + k % panels) * COLUMNS * LANES;
        for (int c = 0; c < wide_columns(b->P, panel + k % panels); c++) {
            const ptrdiff_t j = first + c * LANES;
            vstore_n((real *)b->run->dh0 + row * b->P + j, dh[k * COLUMNS + c], min_lanes(b->P - j));
        }
    }
}

/* Keeps dh of the same ranks and units, of a cell that projects. */
static void keep_dh(const backward_state *b, const step *s, ptrdiff_t i, int rows, ptrdiff_t panel, int panels,
                    const vec *dh) {
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t rank = fr_rank(b->hand, i + k / panels), p = panel + k % panels;
        const ptrdiff_t at_step = (s->t * b->batch->B + fr_row(b->batch, rank)) * b->P;
        vec *out = b->dh + (p * b->capacity + s->term + rank) * COLUMNS;
        for (int c = 0; c < wide_columns(b->P, p); c++) {
            const ptrdiff_t j = p * COLUMNS * LANES + c * LANES;
            out[c] = dh[k * COLUMNS + c];
            if (b->run->dh_steps)
                vstore_n((real *)b->run->dh_steps + at_step + j, out[c], min_lanes(b->P - j));
        }
    }
}

/* dh of up to GROUP_ROWS owned ranks from the i-th on, at the units of one panel or, of PAIR_ROWS at most, of PAIR
 * whole ones. What it starts from: dy, and what dh0 holds, which is dh of the final state where a row begins
 * (`!continues`), and the carry. */
static void dh_rows(const backward_state *b, const step *s, ptrdiff_t i, int rows, ptrdiff_t panel, int panels,
                    int continues) {
    vec dh[GROUP_ROWS * COLUMNS];
    ptrdiff_t terms[GROUP_ROWS] = {0};
    const int resumes = continues && s->resumes;
    continues = continues && !resumes;
    derive_function *const function = derive_of(b);
    const int later = continues && b->run->entry.scale.data; /* dy comes after the product: it is not multiplied */
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t rank = fr_rank(b->hand, i + k / panels), row = fr_row(b->batch, rank);
        const ptrdiff_t j = (panel + k % panels) * COLUMNS * LANES;
        const int C = wide_columns(b->P, panel + k % panels);
        const real *dy = b->run->dy.data && !resumes ? at(&b->run->dy, s->t, row) + j : NULL;
        const real *dh0 = continues && !fr_cells[b->cell].carries ? NULL : (const real *)b->run->dh0 + row * b->P + j;
        terms[k / panels] = s->term_after + rank;
        prefetch_next(b, s, row, j, C * LANES);
        for (int c = 0; c < C; c++) {
            int n = min_lanes(b->P - j - c * LANES);
            vec start = dh0 ? vload_n(dh0 + c * LANES, n) : (vec){0};
            dh[k * COLUMNS + c] = dy && !later ? start + vload_n(dy + c * LANES, n) : start;
        }
    }
    if (continues && panels == 1)
        LEVEL(fr_d_times_w)(b, 0, terms, rows, panel, dh);
    else if (continues)
        LEVEL(fr_d_times_w_pair)(b, FROM_H, terms, rows, panel, dh);
    if (continues && b->enters)
        leave_rows(b, s, i, rows, panel, panels, dh);
    if (s->hands_on) {
        store_dh(b, i, rows, panel, panels, dh);
        return;
    }
    if (b->projects) {
        keep_dh(b, s, i, rows, panel, panels, dh);
        return;
    }
    for (int k = 0; k < rows * panels; k++)
        function(b, s, fr_rank(b->hand, i + k / panels), (panel + k % panels) * COLUMNS * LANES, dh + k * COLUMNS,
                 wide_columns(b->H, panel + k % panels));
}

/* From dh of the first `owned` owned ranks, all of it, to the gradients of their columns, of a cell that projects.
 * Where the call ends, it leaves the rest. */
static void derive_rows(const backward_state *b, const step *s, ptrdiff_t owned) {
    const ptrdiff_t unit_panels = wide_panels(b->H);
    derive_function *const function = derive_of(b);
    for (ptrdiff_t panel = 0, panels; panel < unit_panels; panel += panels) {
        const int whole = panel + PAIR <= unit_panels && wide_columns(b->H, panel + PAIR - 1) == COLUMNS;
        panels = whole && owned <= PAIR_ROWS ? PAIR : 1;
        for (ptrdiff_t i = 0, rows; i < owned; i += rows) {
            vec by_out[GROUP_ROWS * COLUMNS];
            ptrdiff_t terms[GROUP_ROWS];
            rows = tile_rows(owned - i, GROUP_ROWS);
            memset(by_out, 0, (size_t)(rows * panels) * COLUMNS * sizeof *by_out);
            for (ptrdiff_t r = 0; r < rows; r++) {
                const ptrdiff_t rank = fr_rank(b->hand, i + r);
                terms[r] = s->term + rank;
                prefetch_saved(b, s, fr_row(b->batch, rank), panel * COLUMNS * LANES, panels * COLUMNS * LANES);
            }
            if (panels == PAIR)
                LEVEL(fr_d_times_w_pair)(b, FROM_OUT, terms, (int)rows, panel, by_out);
            else
                LEVEL(fr_d_times_w)(b, FROM_OUT, terms, (int)rows, panel, by_out);
            for (ptrdiff_t k = 0; k < rows * panels; k++)
                function(b, s, fr_rank(b->hand, i + k / panels), (panel + k % panels) * COLUMNS * LANES,
                         by_out + k * COLUMNS, wide_columns(b->H, panel + k % panels));
            if (fr_share_worked(b->share, 2.0 * (double)(rows * panels * b->P) * COLUMNS * LANES))
                return;
        }
    }
}

/* dh0 of the owned ranks i .. end-1, whose first step was s: what is left is its recurrent product. */
static void dh0_rows(const backward_state *b, const step *s, ptrdiff_t i, ptrdiff_t end, ptrdiff_t panel) {
    const ptrdiff_t j = panel * COLUMNS * LANES;
    const int C = wide_columns(b->P, panel);
    for (int rows; i < end; i += rows) {
        vec dh[TILE_ROWS * COLUMNS];
        ptrdiff_t terms[TILE_ROWS];
        rows = tile_rows(end - i, tile_limit(C));
        for (int pass = 0; pass < 2; pass++) {
            for (int r = 0; r < rows; r++) {
                ptrdiff_t rank = fr_rank(b->hand, i + r);
                real *dh0 = (real *)b->run->dh0 + fr_row(b->batch, rank) * b->P + j;
                terms[r] = s->term + rank;
                for (int c = 0; c < C; c++) {
                    int n = min_lanes(b->P - j - c * LANES);
                    if (pass && b->enters)
                        dh[r * COLUMNS + c] = leave_units(
                            &b->run->entry, b->batch, s->t, fr_row(b->batch, rank), j + c * LANES, n,
                            h_before(b, s->t, fr_row(b->batch, rank)), dh[r * COLUMNS + c], b->run->dscale, b->H);
                    if (pass)
                        vstore_n(dh0 + c * LANES, dh[r * COLUMNS + c], n);
                    else
                        dh[r * COLUMNS + c] = fr_cells[b->cell].carries ? vload_n(dh0 + c * LANES, n) : (vec){0};
                }
            }
            if (!pass)
                LEVEL(fr_d_times_w)(b, 0, terms, rows, panel, dh);
        }
    }
}

/* dh of the owned ranks i .. end-1 in one panel, or PAIR of them. */
static void dh_range(const backward_state *b, const step *s, ptrdiff_t i, ptrdiff_t end, ptrdiff_t panel, int panels,
                     int continues) {
    for (int rows; i < end; i += rows) {
        rows = tile_rows(end - i, GROUP_ROWS / panels);
        dh_rows(b, s, i, rows, panel, panels, continues);
    }
}

static ptrdiff_t clip(ptrdiff_t i, ptrdiff_t first, ptrdiff_t last) { return i < first ? first : i > last ? last : i; }

/* dh of the owned ranks in the owned panels, the first `continuing` of which go on; or dh0 of those from `starting` on.
 * Between parts of a long step it learns whether the call ends: then it leaves the rest. */
static void step_rows(const backward_state *b, const step *s, ptrdiff_t continuing, ptrdiff_t starting, ptrdiff_t owned,
                      int dh0) {
    const double row_flop = b->share->row_flop / (double)(b->unit_panel_end - b->unit_panel);
    int panels;
    for (ptrdiff_t panel = b->unit_panel; panel < b->unit_panel_end; panel += panels) {
        const int whole = panel + PAIR <= b->unit_panel_end && wide_columns(b->P, panel + PAIR - 1) == COLUMNS;
        panels = whole && !dh0 && !b->unpacked[0] && owned <= PAIR_ROWS ? PAIR : 1;
        for (ptrdiff_t i = dh0 ? starting : 0, end; i < owned; i = end) {
            end = owned - i < FR_ASK_ROWS ? owned : i + FR_ASK_ROWS;
            if (dh0) {
                dh0_rows(b, s, i, end, panel);
            } else {
                dh_range(b, s, i, clip(continuing, i, end), panel, panels, 1);
                dh_range(b, s, clip(continuing, i, end), end, panel, panels, 0);
            }
            /* The step itself is counted after it. */
            const int last = end == owned && panel + panels == b->unit_panel_end;
            if (!last && fr_share_worked(b->share, (double)(end - i) * panels * row_flop))
                return;
        }
    }
}

/* h as a term's step took it. */
static const real *entered_h(const backward_state *b, ptrdiff_t t, ptrdiff_t row, ptrdiff_t term) {
    const fr_entry *e = &b->run->entry;
    const real *h = h_before(b, t, row);
    if (!e->scale.data)
        return is_reset(e, b->batch, t, row) ? b->entered : h;
    real *to = b->entered + term * b->P;
    enter_units(e, b->batch, t, row, 0, b->P, h, to);
    return to;
}

/* `hands_on`: the step that comes next is another call's. Returns whether the call ends; who learns it before the
 * others goes on to where they meet. */
static int backward_step(const backward_state *b, const step *s, ptrdiff_t live_before, int hands_on) {
    ptrdiff_t owned = fr_owned(s->live, b->hand), before = fr_owned(live_before, b->hand);
    ptrdiff_t continuing = fr_owned(s->after < s->live ? s->after : s->live, b->hand);
    step_rows(b, s, continuing, 0, owned, 0);
    if (b->projects)
        derive_rows(b, s, owned);
    if (b->share->by_units && fr_barrier_wait(b->share->barrier))
        return 1;
    step_rows(b, s, 0, before < owned ? before : owned, owned, 1);
    if (hands_on) {
        const step next = {.t = s->t_next, .live = live_before, .after = s->live, .term_after = s->term,
                           .t_after = s->t, .t_next = -1, .hands_on = 1};
        continuing = before < owned ? before : owned;
        step_rows(b, &next, continuing, 0, continuing, 0);
    }
    for (ptrdiff_t i = b->share->index; i < s->live; i += b->share->size) {
        ptrdiff_t row = fr_row(b->batch, i), term = s->term + i;
        b->x[term] = at(&b->run->x, s->t, row);
        prefetch(b->x[term], b->I);
        b->h[term] = b->enters ? entered_h(b, s->t, row, term) : h_before(b, s->t, row);
        b->dx[term] = at(&b->run->dx, s->t, row);
    }
    return 0;
}

/* --- The whole. */

/* The scratch laid out from `scratch` on, unless that is NULL; returns the bytes it takes. */
static size_t lay_out(backward_state *b, char *scratch) {
    const ptrdiff_t rows = b->batch->B > BLOCK ? b->batch->B : BLOCK;
    ptrdiff_t chunk = CHUNK_BYTES / (b->panels * COLUMNS * VEC_BYTES) / BLOCK * BLOCK;
    ptrdiff_t all = b->batch->T * b->batch->B;
    chunk = chunk > rows ? chunk : rows;
    b->capacity = chunk < all ? rows + chunk : all;
    const size_t w_hh = (size_t)weight_rows(b, 0) * COLUMNS * VEC_BYTES;
    const size_t w_ih = (size_t)weight_rows(b, 1) * COLUMNS * VEC_BYTES;
    const ptrdiff_t block = OUTER_PANELS * OUTER_BLOCKS * BLOCK * COLUMNS; /* vectors of a share's */
    const size_t d_vectors = (size_t)(b->panels * b->capacity * b->vectors * panel_blocks(b->cell)) * VEC_BYTES;
    const ptrdiff_t entered = b->run->entry.scale.data ? b->capacity : 1;
    const size_t sizes[] = {(size_t)(b->panels * b->capacity) * COLUMNS * VEC_BYTES,
                            b->unpacked[0] ? 0 : w_hh * (size_t)wide_panels(b->P),
                            b->unpacked[1] ? 0 : w_ih * (size_t)wide_panels(b->I),
                            b->few ? 0 : (size_t)(b->share->size * block) * VEC_BYTES,
                            (size_t)b->capacity * sizeof(real *), d_vectors,
                            b->enters ? (size_t)(entered * b->P) * sizeof(real) : 0,
                            b->projects ? (size_t)(wide_panels(b->P) * b->capacity) * COLUMNS * VEC_BYTES : 0,
                            b->projects ? (size_t)(wide_panels(b->H) * b->P) * COLUMNS * VEC_BYTES : 0,
                            b->projects ? (size_t)(b->capacity * b->H) * sizeof(real) : 0,
                            b->projects ? (size_t)b->capacity * sizeof(real *) : 0};
    if (scratch) {
        char *next = scratch;
        b->d = (vec *)next;
        b->w_hh = (real *)(next += sizes[0]);
        b->w_ih = (real *)(next += sizes[1]);
        b->block = (vec *)(next += sizes[2]) + b->share->index * block;
        b->d_vectors = (vec *)(next += sizes[3]);
        b->dh = (vec *)(next += sizes[5]);
        b->w_hr = (real *)(next += sizes[7]);
        b->x = (const real **)(next += sizes[8]);
        b->h = (const real **)(next += sizes[4]);
        b->dx = (real **)(next += sizes[4]);
        b->out_rows = (const real **)(next += sizes[4]);
        b->entered = (real *)(next += sizes[10]);
        b->out = (real *)(next + sizes[6]);
    }
    return sizes[0] + sizes[1] + sizes[2] + sizes[3] + 3 * sizes[4] + sizes[5] + sizes[6] + sizes[7] + sizes[8] +
           sizes[9] + sizes[10];
}

static backward_state begin(const fr_backward_run *run, const fr_batch *batch, const fr_share *share) {
    backward_state b = {.run = run, .batch = batch, .share = share, .I = run->input_size, .H = run->hidden_size};
    b.P = run->weights.proj_size ? run->weights.proj_size : b.H;
    b.projects = b.P < b.H;
    b.cell = run->cell;
    b.enters = changes(&run->entry);
    b.vectors = run->gradients.vectors ? fr_cells[b.cell].vectors : 0;
    b.panels = count_panels(b.cell, b.H);
    b.first = run->span.first;
    b.last = run->span.last ? run->span.last : batch->T;
    b.few = batch->T * batch->B <= FEW_TERMS && !run->span.last;
    b.saved = run->saved;
    if (run->span.last && run->saved)
        b.saved -= (run->reverse ? batch->T - b.last : b.first - 1) * batch->B * fr_cells[b.cell].saved * b.H;
    b.unpacked[0] = b.few && b.P >= LANES, b.unpacked[1] = b.few && b.I >= LANES;
    fr_part part = fr_deal(share->index, share->size, share->by_units, batch->B, wide_panels(b.P));
    b.hand = part.hand;
    b.unit_panel = part.begin, b.unit_panel_end = part.end;
    for (int from_x = 0; from_x < (b.projects ? SOURCES : FROM_OUT); from_x++) {
        b.last_runs[from_x] = LEVEL(fr_runs_of)(&b, gradient_panels(&b, from_x) - 1, from_x);
        b.full_runs[from_x] = b.last_runs[from_x];
        b.full_runs[from_x].length = fr_cells[b.cell].columns == 1 || from_x == FROM_OUT ? COLUMNS * LANES : LANES;
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

/* Packs the share's part of the weights and sets its rows' dh0, dc0 and dx up. Returns whether the call ends. */
static int prepare(const backward_state *b) {
    const fr_backward_run *run = b->run;
    for (int from_x = 0; from_x < (b->projects ? SOURCES : FROM_OUT); from_x++) {
        const ptrdiff_t panels = b->unpacked[from_x] ? 0 : wide_panels(weight_columns(b, from_x));
        if (LEVEL(fr_pack_w)(b, from_x, fr_cut(panels, b->share->index, b->share->size),
                             fr_cut(panels, b->share->index + 1, b->share->size)))
            break;
    }
    for (ptrdiff_t row = b->share->index; row < b->batch->B && b->last == b->batch->T; row += b->share->size) {
        init_row(run->dh0, run->dh, row, b->P);
        if (fr_cells[b->cell].states == 2)
            init_row(run->dc0, run->dc, row, b->H);
        for (ptrdiff_t t = fr_length(b->batch, row); t < b->batch->T && b->share->zeroes_padding; t++)
            memset(at(&run->dx, t, row), 0, (size_t)b->I * sizeof(real));
    }
    if (b->enters && b->share->index == 0)
        memset(b->entered, 0, (size_t)b->P * sizeof(real));
    for (ptrdiff_t term = b->share->index; b->projects && term < b->capacity; term += b->share->size)
        b->out_rows[term] = b->out + term * b->H;
    return fr_barrier_wait(b->share->barrier);
}

/* Moves the terms from `keep` on to the front of the buffers. Returns whether the call ends. */
static int keep_terms(const backward_state *b, ptrdiff_t keep, ptrdiff_t end) {
    const size_t count = (size_t)(end - keep);
    for (ptrdiff_t p = b->share->index; p < b->panels; p += b->share->size) {
        vec *d = b->d + p * b->capacity * COLUMNS;
        memmove(d, d + keep * COLUMNS, count * COLUMNS * VEC_BYTES);
        if (b->vectors)
            memmove(vector_terms(b, p, 0, 0, 0), vector_terms(b, p, keep, 0, 0),
                    count * (size_t)(b->vectors * panel_blocks(b->cell)) * VEC_BYTES);
    }
    for (ptrdiff_t p = b->share->index; b->projects && p < wide_panels(b->P); p += b->share->size) {
        vec *dh = b->dh + p * b->capacity * COLUMNS;
        memmove(dh, dh + keep * COLUMNS, count * COLUMNS * VEC_BYTES);
    }
    if (b->share->index == 0) {
        if (b->projects)
            memmove(b->out, b->out + keep * b->H, count * (size_t)b->H * sizeof(real));
        memmove(b->x, b->x + keep, count * sizeof *b->x);
        memmove(b->h, b->h + keep, count * sizeof *b->h);
        memmove(b->dx, b->dx + keep, count * sizeof *b->dx);
        if (b->run->entry.scale.data) {
            memmove(b->entered, b->entered + keep * b->P, count * (size_t)b->P * sizeof(real));
            for (size_t k = 0; k < count; k++)
                b->h[k] = b->entered + (ptrdiff_t)k * b->P;
        }
    }
    return fr_barrier_wait(b->share->barrier);
}

/* The share's part of dx of the terms begin .. end-1, added to what is there from the term `stored` on. Two directions
 * come from both ends of time: each stores the half it meets first, so after one meeting there is something to add
 * to. */
static void dx_part(const backward_state *b, ptrdiff_t begin, ptrdiff_t stored, ptrdiff_t end, int *met) {
    const fr_share *share = b->share;
    const ptrdiff_t bounds[] = {begin, stored < begin ? begin : stored > end ? end : stored, end};
    for (int adds = 0; adds < 2; adds++) {
        const ptrdiff_t first = bounds[adds], terms = bounds[adds + 1] - first;
        if (adds && terms && share->crossing && !*met) {
            fr_share_cross(share);
            *met = 1;
        }
        LEVEL(fr_dx_rows)(b, first + fr_cut(terms, share->index, share->size),
                          first + fr_cut(terms, share->index + 1, share->size), adds);
    }
}

/* How many terms the calls before this one had. */
static ptrdiff_t terms_before(const backward_state *b) {
    const ptrdiff_t steps = b->batch->T - b->last;
    ptrdiff_t terms = 0;
    for (ptrdiff_t row = 0; row < b->batch->B && steps; row++) {
        const ptrdiff_t length = fr_length(b->batch, row), past = length > b->last ? length - b->last : 0;
        terms += !b->run->reverse ? past : length < steps ? length : steps;
    }
    return terms;
}

/* The steps from the last visited back, and the products whenever a chunk of terms is full. Whoever learns that the
 * call ends goes to the team's next meeting, which tells all alike. */
static void run_steps(const backward_state *b, int *met) {
    const fr_batch *batch = b->batch;
    fr_barrier *team = b->share->barrier;
    ptrdiff_t fresh = 0, summed = 0, end = 0; /* terms: whose dx is due, whose weights' gradients are, how many */
    ptrdiff_t stored = 0;                     /* terms of the steps whose dx is stored, not added */
    ptrdiff_t opened = terms_before(b) % BLOCK;
    step s = {.resumes = b->last < batch->T};
    ptrdiff_t live = s.resumes ? fr_live(batch, b->run->reverse ? batch->T - 1 - b->last : b->last, 0) : 0;
    s.live = live;
    for (ptrdiff_t left = b->last; left > b->first; left--, s.resumes = 0) {
        const int ends = left == b->first + 1; /* the call */
        s.t = b->run->reverse ? batch->T - left : left - 1;
        s.after = s.live;
        s.term_after = s.term;
        s.t_after = s.t + (b->run->reverse ? -1 : 1);
        s.live = live = fr_live(batch, s.t, live);
        s.term = end;
        s.t_next = left == 1 ? -1 : b->run->reverse ? s.t + 1 : s.t - 1;
        ptrdiff_t live_before = left > 1 ? fr_live(batch, s.t_next, live) : 0;
        if (backward_step(b, &s, live_before, ends && left > 1))
            return;
        end += s.live;
        if (batch->T - left < b->share->dx_stored)
            stored = end;
        if (!fr_share_stopped(b->share, fr_owned(s.live, b->hand)) && !ends && end + live_before <= b->capacity)
            continue;

        if (fr_barrier_wait(team))
            return;
        dx_part(b, fresh, stored, end, met);
        ptrdiff_t whole = (opened + end - summed) / BLOCK * BLOCK - opened + summed;
        whole = ends ? end : whole > summed ? whole : summed;
        LEVEL(fr_add_terms)(b, summed, whole, opened, ends && live_before > 0);
        if (ends)
            return;
        opened = whole > summed ? 0 : opened;
        summed = whole;
        ptrdiff_t keep = summed < s.term ? summed : s.term;
        if (fr_barrier_wait(team) || keep_terms(b, keep, end))
            return;
        summed -= keep;
        stored -= keep;
        s.term -= keep;
        fresh = end -= keep;
    }
}

void LEVEL(fr_backward)(const fr_backward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    backward_state b = begin(run, batch, share);
    lay_out(&b, scratch);
    fr_fp_mode mode = fr_fp_mode_enter();
    int met = 0;
    if (run->options) {
        b.options = *run->options;
        LEVEL(fr_set_ends)(&b.options);
    }
    if (!prepare(&b))
        run_steps(&b, &met);
    if (share->crossing && !met)
        fr_share_cross(share);
    fr_fp_mode_set(mode);
}
