/* The sequence of dh: a tile of it is dy + du W_hh of the step after, then the cell's derivative (derive.c), which
 * leaves the columns' gradients in `d`.
 *
 * Of a cell that projects, the tiles leave dh; when a step's is whole, dh W_hr is what the derivative takes, and
 * dW_hr = dh' out is one more of the large products.
 */
#include "backward.h"
#include "entry.h"
#include "masks.h"

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

/* What the product of some owned ranks, from the i-th on, asks for at a panel: a part of what the next step will read of
 * what is saved. */
static saved_part next_saved(const backward_state *b, const step *s, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t panel) {
    const ptrdiff_t values = fr_cells[b->cell].saved * b->H, panels = b->unit_panel_end - b->unit_panel;
    if (VEC_OVERWRITES || b->share->by_units || !values || s->t_next < 0)
        return (saved_part){.saved = NULL};
    return part_of_saved(b->batch, b->hand, saved_at(b, s->t_next, 0), values * (ptrdiff_t)sizeof(real), i, rows,
                         panel - b->unit_panel, panels);
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

/* Keeps dh of the same ranks and units until all of it is there. */
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

/* How many panels of a source's weights go together for so many rows, the first at `panel`: PAIR, if they are few. */
static int panels_together(const backward_state *b, int source, ptrdiff_t panel, ptrdiff_t end, ptrdiff_t rows) {
    const int whole = panel + PAIR <= end && wide_columns(row_length(b, source), panel + PAIR - 1) == COLUMNS;
    return whole && !b->unpacked[source] && rows <= PAIR_ROWS ? PAIR : 1;
}

/* sum (rows, panels, COLUMNS) += terms of d, or dh, times one panel of a source's weights, or PAIR of them. */
static void multiply(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel, int panels,
                     vec *sum, const saved_part *saved) {
    if (panels == PAIR)
        LEVEL(fr_d_times_w_pair)(b, source, terms, rows, panel, sum);
    else
        LEVEL(fr_d_times_w)(b, source, terms, rows, panel, sum, saved);
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
    derive_function *const function = LEVEL(fr_derive)(b);
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
    if (continues) {
        const saved_part saved = next_saved(b, s, i, rows, panel);
        multiply(b, FROM_H, terms, rows, panel, panels, dh, &saved);
    }
    if (drops)
        join_rows(b, s, i, rows, panel, panels, dh);
    if (continues && b->enters)
        leave_rows(b, s, i, rows, panel, panels, dh);
    if (s->hands_on) {
        store_dh(b, i, rows, panel, panels, dh);
        return;
    }
    if (b->keeps_dh) {
        keep_dh(b, s, i, rows, panel, panels, dh);
        return;
    }
    for (int k = 0; k < rows * panels; k++)
        function(b, s, fr_rank(b->hand, i + k / panels), (panel + k % panels) * COLUMNS * LANES, dh + k * COLUMNS,
                 wide_columns(b->H, panel + k % panels));
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
                LEVEL(fr_d_times_w)(b, FROM_H, terms, rows, panel, dh, NULL);
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
        panels = dh0 ? 1 : panels_together(b, FROM_H, panel, b->unit_panel_end, owned);
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

/* The gradients by what `source` is, of the first `owned` owned ranks' step, at the units of the panels begin .. end-1:
 * the product of those that are there already, from which `derive` goes on to the columns. Like step_rows it may leave
 * the rest. */
static void derive_rows(const backward_state *b, const step *s, ptrdiff_t owned, int source, ptrdiff_t begin,
                        ptrdiff_t end, derive_function *derive) {
    const double panel_flop = 2.0 * (double)weight_rows(b, source) * COLUMNS * LANES;
    for (ptrdiff_t panel = begin, panels; panel < end; panel += panels) {
        panels = panels_together(b, source, panel, end, owned);
        for (ptrdiff_t i = 0, rows; i < owned; i += rows) {
            vec by_source[GROUP_ROWS * COLUMNS];
            ptrdiff_t terms[GROUP_ROWS];
            rows = tile_rows(owned - i, GROUP_ROWS);
            memset(by_source, 0, (size_t)(rows * panels) * COLUMNS * sizeof *by_source);
            for (ptrdiff_t r = 0; r < rows; r++) {
                const ptrdiff_t rank = fr_rank(b->hand, i + r);
                terms[r] = s->term + rank;
                if (b->projects)
                    prefetch_saved(b, s, fr_row(b->batch, rank), panel * COLUMNS * LANES, panels * COLUMNS * LANES);
            }
            multiply(b, source, terms, (int)rows, panel, (int)panels, by_source, NULL);
            for (ptrdiff_t k = 0; k < rows * panels; k++)
                derive(b, s, fr_rank(b->hand, i + k / panels), (panel + k % panels) * COLUMNS * LANES,
                       by_source + k * COLUMNS, wide_columns(b->H, panel + k % panels));
            if (fr_share_worked(b->share, (double)(rows * panels) * panel_flop))
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

int LEVEL(fr_backward_step)(const backward_state *b, const step *s, ptrdiff_t live_before, int hands_on) {
    ptrdiff_t owned = fr_owned(s->live, b->hand), before = fr_owned(live_before, b->hand);
    ptrdiff_t continuing = fr_owned(s->after < s->live ? s->after : s->live, b->hand);
    step_rows(b, s, continuing, 0, owned, 0);
    if (has_second_phase(b->cell)) {
        if (b->share->by_units && fr_barrier_wait(b->share->barrier))
            return 1;
        derive_rows(b, s, owned, FROM_LEFT, b->unit_panel, b->unit_panel_end, LEVEL(fr_derive_second)(b));
    }
    if (is_normed(b->cell))
        LEVEL(fr_norm_backward)(b, s, owned);
    if (b->projects)
        derive_rows(b, s, owned, FROM_OUT, 0, wide_panels(b->H), LEVEL(fr_derive)(b));
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
        if (b->run->dx.data)
            b->dx[term] = at(&b->run->dx, s->t, row);
    }
    return 0;
}
