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
#include "masks.h"

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

/* What goes past the cell where units keep a share of their state: the gradients by h_prev and c_prev. */
typedef struct {
    vec dh, dc;
    real h[LANES];
} zoned_gradients;

/* Splits dh and dc into that and the gradients by what the cell made. A cell that saves nothing reads y, which is what
 * it made where that was not kept; elsewhere the gradient is zero, and zero stands for a y of any size. */
INLINE void split_zoned(const int cell, const fr_options *o, const fr_masks *masks, ptrdiff_t t, ptrdiff_t row,
                        ptrdiff_t j, backward_units *u, zoned_gradients *past) {
    const vec h = kept_share(o, masks, 0, t, row, j, u->lanes);
    past->dh = h * u->dh, u->dh = (1 - h) * u->dh;
    if (!fr_cells[cell].saved) {
        vstore_n(past->h, select_where(h == 1, (vec){0}, take_h(u)), u->lanes);
        u->h = past->h;
    }
    if (fr_cells[cell].states == 2) {
        const vec c = kept_share(o, masks, 1, t, row, j, u->lanes);
        past->dc = c * u->dc, u->dc = (1 - c) * u->dc;
    }
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
    zoned_gradients past;
    past.dh = past.dc = (vec){0};
    if (zones(o))
        split_zoned(cell, o, &run->masks, s->t, row, j, &u, &past);
    cell_backward(cell, o, &u);
    if (zones(o)) {
        u.carry = fr_cells[cell].carries ? u.carry + past.dh : past.dh;
        if (has_c)
            u.dc += past.dc;
    }
    if (projects)
        vstore_n(b->left + (s->term + rank) * H + j, u.out, n);
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
    if (fr_cells[cell].carries || zones(o))
        vstore_n((real *)run->dh0 + row * H + j, u.carry, n);
}

/* Goes on from the gradient of what the first phase left of `rank` at units j .. j+LANES-1: completes the gradients of
 * its columns and the carry. */
INLINE void derive_second_block(const int cell, const fr_options *o, const backward_state *b, const step *s,
                                ptrdiff_t rank, ptrdiff_t j, vec d_left) {
    const ptrdiff_t H = b->H, row = fr_row(b->batch, rank), p = j / panel_units(cell);
    const fr_fed *fed = &fr_cells[cell].h; /* other members read the other columns now */
    const int n = min_lanes(H - j);
    vec *columns = b->d + (p * b->capacity + s->term + rank) * COLUMNS;
    real *dh0 = (real *)b->run->dh0 + row * H + j;
    const vec drop = b->run->masks.drop.data ? drop_at(&b->run->masks, s->t, row, j, n) : vset1(1);
    backward_units u = {.d_left = drop * d_left, .lanes = n, .carry = vload_n(dh0, n)};
    real h_entered[LANES];
    u.h_prev = h_before(b, s->t, row) + j;
    if (b->enters)
        u.h_prev = enter_block(b, s->t, row, j, n, u.h_prev, h_entered);
    UNROLL(8)
    for (int k = 0; k < fr_cells[cell].saved; k++)
        u.saved[k] = vload_n(saved_at(b, s->t, row) + k * H + j, n);
    UNROLL(8)
    for (int c = fed->first; c < fed->first + fed->count; c++)
        u.d[c] = columns[c];
    cell_second_backward(cell, o, &u);
    UNROLL(8)
    for (int c = fed->first; c < fed->first + fed->count; c++)
        columns[c] = u.d[c];
    vstore_n(b->left + (s->term + rank) * H + j, drop * u.left, n);
    vstore_n(dh0, u.carry, n);
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

#define DERIVE_SECOND(name, cell, options) \
    static void name(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C) { \
        for (int c = 0; c < C; c++, j += LANES) \
            derive_second_block(cell, options, b, s, rank, j, dh[c]); \
    }
#define SECOND(NAME, name) \
    DERIVE_SECOND(second_##name, FR_##NAME, NULL) \
    DERIVE_SECOND(second_general_##name, FR_##NAME, &b->options)
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
static derive_function *const derive_second[FR_CELLS][2] = {
#define SECOND(NAME, name) [FR_##NAME] = {second_##name, second_general_##name},
#include "cells.def"
};

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

/* From the gradient by what recurrent dropout left of a row's h to that by h itself, with the carry, which waits in
 * dh0. */
INLINE vec join_dropped(const backward_state *b, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n, vec gradient) {
    const vec carry = b->carries ? vload_n((const real *)b->run->dh0 + row * b->P + j, n) : (vec){0};
    return vfma(gradient, drop_at(&b->run->masks, t, row, j, n), carry);
}

/* The same for dh of some ranks and units, with dy unless that comes after a scale. */
static void join_rows(const backward_state *b, const step *s, ptrdiff_t i, int rows, ptrdiff_t panel, int panels,
                      vec *dh) {
    const int adds = b->run->dy.data && !b->run->entry.scale.data;
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t row = fr_row(b->batch, fr_rank(b->hand, i + k / panels));
        const ptrdiff_t first = (panel + k % panels) * COLUMNS * LANES;
        for (int c = 0; c < wide_columns(b->P, panel + k % panels); c++) {
            const ptrdiff_t j = first + c * LANES;
            const int n = min_lanes(b->P - j);
            vec *here = &dh[k * COLUMNS + c];
            *here = join_dropped(b, s->t_after, row, j, n, *here);
            if (adds)
                *here += vload_n(at(&b->run->dy, s->t, row) + j, n);
        }
    }
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
    const int drops = continues && b->run->masks.drop.data;
    /* What is not multiplied comes after the product. */
    const int later = drops || (continues && b->run->entry.scale.data);
    for (int k = 0; k < rows * panels; k++) {
        const ptrdiff_t rank = fr_rank(b->hand, i + k / panels), row = fr_row(b->batch, rank);
        const ptrdiff_t j = (panel + k % panels) * COLUMNS * LANES;
        const int C = wide_columns(b->P, panel + k % panels);
        const real *dy = b->run->dy.data && !resumes ? at(&b->run->dy, s->t, row) + j : NULL;
        const real *dh0 = drops || (continues && !b->carries) ? NULL : (const real *)b->run->dh0 + row * b->P + j;
        terms[k / panels] = s->term_after + rank;
        prefetch_next(b, s, row, j, C * LANES);
        for (int c = 0; c < C; c++) {
            int n = min_lanes(b->P - j - c * LANES);
            vec start = dh0 ? vload_n(dh0 + c * LANES, n) : (vec){0};
            dh[k * COLUMNS + c] = dy && !later ? start + vload_n(dy + c * LANES, n) : start;
        }
    }
    if (continues && panels == 1)
        LEVEL(fr_d_times_w)(b, FROM_H, terms, rows, panel, dh);
    else if (continues)
        LEVEL(fr_d_times_w_pair)(b, FROM_H, terms, rows, panel, dh);
    if (drops)
        join_rows(b, s, i, rows, panel, panels, dh);
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
    const int C = wide_columns(b->P, panel), drops = b->run->masks.drop.data != NULL;
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
                    if (pass && drops)
                        dh[r * COLUMNS + c] = join_dropped(b, s->t, fr_row(b->batch, rank), j + c * LANES, n,
                                                           dh[r * COLUMNS + c]);
                    if (pass && b->enters)
                        dh[r * COLUMNS + c] = leave_units(
                            &b->run->entry, b->batch, s->t, fr_row(b->batch, rank), j + c * LANES, n,
                            h_before(b, s->t, fr_row(b->batch, rank)), dh[r * COLUMNS + c], b->run->dscale, b->H);
                    if (pass)
                        vstore_n(dh0 + c * LANES, dh[r * COLUMNS + c], n);
                    else
                        dh[r * COLUMNS + c] = b->carries && !drops ? vload_n(dh0 + c * LANES, n) : (vec){0};
                }
            }
            if (!pass)
                LEVEL(fr_d_times_w)(b, FROM_H, terms, rows, panel, dh);
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

/* The second phase of the step of the first `owned` owned ranks, in the owned panels. Like step_rows it may leave the
 * rest. */
static void second_rows(const backward_state *b, const step *s, ptrdiff_t owned) {
    const double unit_flop = 2.0 * (double)b->H * LANES;
    derive_function *const function = derive_second[b->cell][b->run->options != NULL];
    for (ptrdiff_t panel = b->unit_panel; panel < b->unit_panel_end; panel++) {
        const int C = wide_columns(b->H, panel);
        int rows;
        for (ptrdiff_t i = 0; i < owned; i += rows) {
            vec d_left[GROUP_ROWS * COLUMNS];
            ptrdiff_t terms[GROUP_ROWS];
            rows = tile_rows(owned - i, GROUP_ROWS);
            for (int r = 0; r < rows; r++)
                terms[r] = s->term + fr_rank(b->hand, i + r);
            memset(d_left, 0, (size_t)rows * COLUMNS * sizeof *d_left);
            LEVEL(fr_d_times_w)(b, FROM_LEFT, terms, rows, panel, d_left);
            for (int r = 0; r < rows; r++)
                function(b, s, fr_rank(b->hand, i + r), panel * COLUMNS * LANES, d_left + r * COLUMNS, C);
            if (fr_share_worked(b->share, unit_flop * rows * C))
                return;
        }
    }
}

/* h as the recurrent product of a term's step took it. */
static const real *fed_h(const backward_state *b, ptrdiff_t t, ptrdiff_t row, ptrdiff_t term) {
    const fr_entry *e = &b->run->entry;
    const real *h = h_before(b, t, row);
    if (!b->multiplies)
        return is_reset(e, b->batch, t, row) ? b->entered : h;
    real *to = b->entered + term * b->P;
    if (e->scale.data || is_reset(e, b->batch, t, row)) {
        enter_units(e, b->batch, t, row, 0, b->P, h, to);
        h = to;
    }
    if (b->run->masks.drop.data)
        drop_units(&b->run->masks, t, row, b->P, h, to);
    return to;
}

/* `hands_on`: the step that comes next is another call's. Returns whether the call ends; who learns it before the
 * others goes on to where they meet. */
static int backward_step(const backward_state *b, const step *s, ptrdiff_t live_before, int hands_on) {
    ptrdiff_t owned = fr_owned(s->live, b->hand), before = fr_owned(live_before, b->hand);
    ptrdiff_t continuing = fr_owned(s->after < s->live ? s->after : s->live, b->hand);
    step_rows(b, s, continuing, 0, owned, 0);
    if (has_second_phase(b->cell)) {
        if (b->share->by_units && fr_barrier_wait(b->share->barrier))
            return 1;
        second_rows(b, s, owned);
    }
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
        b->from[FROM_X][term] = at(&b->run->x, s->t, row);
        prefetch(b->from[FROM_X][term], b->I);
        b->from[FROM_H][term] = b->enters || b->multiplies ? fed_h(b, s->t, row, term) : h_before(b, s->t, row);
        b->dx[term] = at(&b->run->dx, s->t, row);
    }
    return 0;
}

/* --- The whole. */

/* A source's weights, packed. */
static size_t weight_bytes(const backward_state *b, int source) {
    return (size_t)(weight_rows(b, source) * wide_panels(row_length(b, source))) * COLUMNS * VEC_BYTES;
}

/* The next `bytes` of the scratch, NULL where there is none yet; counts them. */
static void *take(char *scratch, size_t *taken, size_t bytes) {
    char *here = scratch ? scratch + *taken : NULL;
    *taken += bytes;
    return here;
}

/* The scratch laid out from `scratch` on, unless that is NULL; returns the bytes it takes. */
static size_t lay_out(backward_state *b, char *scratch) {
    const ptrdiff_t rows = b->batch->B > BLOCK ? b->batch->B : BLOCK;
    ptrdiff_t chunk = CHUNK_BYTES / (b->panels * COLUMNS * VEC_BYTES) / BLOCK * BLOCK;
    ptrdiff_t all = b->batch->T * b->batch->B;
    chunk = chunk > rows ? chunk : rows;
    b->capacity = chunk < all ? rows + chunk : all;
    const size_t pointers = fr_aligned((size_t)b->capacity * sizeof(real *));
    const size_t rows_of_h = fr_aligned((size_t)(b->capacity * b->P) * sizeof(real));
    const size_t rows_of_units = fr_aligned((size_t)(b->capacity * b->H) * sizeof(real));
    const ptrdiff_t block = OUTER_PANELS * OUTER_BLOCKS * BLOCK * COLUMNS; /* vectors of a share's */
    const size_t d_vectors = (size_t)(b->panels * b->capacity * b->vectors * panel_blocks(b->cell)) * VEC_BYTES;
    size_t taken = 0;
    b->d = take(scratch, &taken, (size_t)(b->panels * b->capacity) * COLUMNS * VEC_BYTES);
    b->dh = take(scratch, &taken, b->projects ? (size_t)(wide_panels(b->P) * b->capacity) * COLUMNS * VEC_BYTES : 0);
    for (int source = 0; source < SOURCES; source++)
        if (has_source(b, source) && !b->unpacked[source])
            b->w[source] = take(scratch, &taken, weight_bytes(b, source));
    b->block = take(scratch, &taken, b->few ? 0 : (size_t)(b->share->size * block) * VEC_BYTES);
    if (scratch)
        b->block += b->share->index * block;
    b->d_vectors = take(scratch, &taken, d_vectors);
    for (int source = 0; source < SOURCES; source++)
        b->from[source] = take(scratch, &taken, has_source(b, source) ? pointers : 0);
    b->dx = take(scratch, &taken, pointers);
    b->left = take(scratch, &taken, has_second_phase(b->cell) || b->projects ? rows_of_units : 0);
    b->entered = take(scratch, &taken, b->multiplies ? rows_of_h : b->enters ? (size_t)b->P * sizeof(real) : 0);
    return taken;
}

static backward_state begin(const fr_backward_run *run, const fr_batch *batch, const fr_share *share) {
    backward_state b = {.run = run, .batch = batch, .share = share, .I = run->input_size, .H = run->hidden_size};
    b.P = run->weights.proj_size ? run->weights.proj_size : b.H;
    b.projects = b.P < b.H;
    b.cell = run->cell;
    b.enters = changes(&run->entry);
    b.multiplies = run->entry.scale.data || run->masks.drop.data;
    b.carries = fr_cells[b.cell].carries || zones(run->options);
    b.vectors = run->gradients.vectors ? fr_cells[b.cell].vectors : 0;
    b.panels = count_panels(b.cell, b.H);
    b.sources = count_sources(b.cell);
    b.first = run->span.first;
    b.last = run->span.last ? run->span.last : batch->T;
    b.few = batch->T * batch->B <= FEW_TERMS && !run->span.last;
    b.saved = run->saved;
    if (run->span.last && run->saved)
        b.saved -= (run->reverse ? batch->T - b.last : b.first - 1) * batch->B * fr_cells[b.cell].saved * b.H;
    fr_part part = fr_deal(share->index, share->size, share->by_units, batch->B, wide_panels(b.P));
    b.hand = part.hand;
    b.unit_panel = part.begin, b.unit_panel_end = part.end;
    for (int source = 0; source < SOURCES; source++) {
        if (!has_source(&b, source))
            continue;
        const int wide = fr_cells[b.cell].columns == 1 || source == FROM_OUT;
        b.unpacked[source] = b.few && source != FROM_OUT && row_length(&b, source) >= LANES;
        b.last_runs[source] = LEVEL(fr_runs_of)(&b, gradient_panels(&b, source) - 1, source);
        b.full_runs[source] = b.last_runs[source];
        b.full_runs[source].length = wide ? COLUMNS * LANES : LANES;
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
    for (int source = 0; source < SOURCES; source++) {
        if (!has_source(b, source))
            continue;
        const ptrdiff_t panels = b->unpacked[source] ? 0 : wide_panels(row_length(b, source));
        if (LEVEL(fr_pack_w)(b, source, fr_cut(panels, b->share->index, b->share->size),
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
    const int last_source = b->projects ? FROM_OUT : FROM_LEFT;
    for (ptrdiff_t k = b->share->index; has_source(b, last_source) && k < b->capacity; k += b->share->size)
        b->from[last_source][k] = b->left + k * b->H;
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
        for (int source = 0; source < FROM_LEFT; source++)
            memmove(b->from[source], b->from[source] + keep, count * sizeof *b->from[source]);
        memmove(b->dx, b->dx + keep, count * sizeof *b->dx);
        if (has_second_phase(b->cell) || b->projects)
            memmove(b->left, b->left + keep * b->H, count * (size_t)b->H * sizeof(real));
        if (b->multiplies) {
            memmove(b->entered, b->entered + keep * b->P, count * (size_t)b->P * sizeof(real));
            for (size_t k = 0; k < count; k++)
                b->from[FROM_H][k] = b->entered + (ptrdiff_t)k * b->P;
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
