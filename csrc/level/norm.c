/* The forward step of cells that normalise. A row's products are whole before any of its units is finished: by x in the
 * hoisted chunk, by h in `between`. Then come the gates, and, once a row's c is whole, h.
 *
 * Behind the packed panels stand, for each, (COLUMNS) vectors of biases, of gains by x and of gains by h.
 */
#include "norm.h"
#include "finish.h"

enum { GAINS = 3 * COLUMNS }; /* vectors of a panel */

size_t LEVEL(fr_norm_bytes)(const fr_packed *packed) {
    return is_normed(packed->cell) ? (size_t)(packed->panels * GAINS) * VEC_BYTES : 0;
}

/* Of n rows at once, since one's sums of lanes, root and quotient would wait for themselves. */
INLINE void find_normals(const normal_row *row, const int n, const int gates, ptrdiff_t H, int each, double eps,
                         normal *found) {
    const ptrdiff_t whole = H / LANES, rest = H % LANES;
    const real *v[FROM_LEFT][COLUMNS];
    vec mean[FROM_LEFT][COLUMNS], sums[FROM_LEFT][COLUMNS] = {{{0}}};
    EACH(r, n)
        UNROLL(4)
        for (int g = 0; g < gates; g++)
            v[r][g] = row[r].base + row[r].gate[g];
    for (ptrdiff_t p = 0; p < whole; p++)
        EACH(r, n)
            UNROLL(4)
            for (int g = 0; g < gates; g++)
                sums[r][g] += vload(v[r][g] + p * row[r].panel);
    if (rest)
        EACH(r, n)
            UNROLL(4)
            for (int g = 0; g < gates; g++)
                sums[r][g] += load_part(v[r][g] + whole * row[r].panel, (int)rest);
    EACH(r, n) share_means(sums[r], gates, H, each, found[r].mean);
    EACH(r, n)
        UNROLL(4)
        for (int g = 0; g < gates; g++)
            mean[r][g] = vset1(found[r].mean[g]), sums[r][g] = (vec){0};
    for (ptrdiff_t p = 0; p < whole; p++)
        EACH(r, n)
            UNROLL(4)
            for (int g = 0; g < gates; g++) {
                const vec away = vload(v[r][g] + p * row[r].panel) - mean[r][g];
                sums[r][g] = vfma(away, away, sums[r][g]);
            }
    if (rest)
        EACH(r, n)
            UNROLL(4)
            for (int g = 0; g < gates; g++) {
                const vec away = load_part(v[r][g] + whole * row[r].panel, (int)rest) - mean[r][g];
                sums[r][g] = vfma(away, select_where(vfirst((int)rest), away, (vec){0}), sums[r][g]);
            }
    EACH(r, n) share_means(sums[r], gates, H, each, found[r].scale);
    EACH(r, n)
        UNROLL(4)
        for (int g = 0; g < gates; g++)
            found[r].scale[g] = 1 / PICK(__builtin_sqrtf, __builtin_sqrt)(found[r].scale[g] + (real)eps);
}

void LEVEL(fr_find_normals)(const normal_row *row, int gates, ptrdiff_t H, int each, double eps, normal *found) {
    if (gates == 3)
        find_normals(row, FROM_LEFT, 3, H, each, eps, found);
    else
        find_normals(row, FROM_LEFT, 4, H, each, eps, found);
}

void LEVEL(fr_find_normal_c)(const normal_row *row, ptrdiff_t H, double eps, normal *found) {
    find_normals(row, 1, 1, H, 0, eps, found);
}

static real *gains_at(const fr_packed *packed, ptrdiff_t p) {
    return (real *)packed->data + packed->panels * packed->panel_size + p * GAINS * LANES;
}

void LEVEL(fr_pack_norm)(const fr_packed *packed, const fr_weights *weights, int index, int size) {
    const real *gains = weights->vectors;
    for (ptrdiff_t p = fr_cut(packed->panels, index, size); p < fr_cut(packed->panels, index + 1, size); p++) {
        const int columns = panel_columns(packed->cell, packed->H, p);
        real *out = gains_at(packed, p);
        memset(out, 0, (size_t)GAINS * VEC_BYTES);
        set_bias(packed, weights, p, columns, out);
        add_bias_rows(packed, p, columns, out + COLUMNS * LANES, gains, FROM_X);
        add_bias_rows(packed, p, columns, out + 2 * COLUMNS * LANES, gains + fr_cells[packed->cell].gates * packed->H,
                      FROM_H);
    }
}

void LEVEL(fr_keep_products)(const forward_state *f, const vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t,
                             ptrdiff_t i) {
    (void)t;
    for (int r = 0; r < rows; r++)
        move_sums(between_at(f, p, i + r), sums + r * sum_step, fr_cells[f->weights->cell].columns);
}

/* A row's products by a source, those of panel 0 at `columns`. */
INLINE normal_row products_of(const int cell, int source, const vec *columns, ptrdiff_t panel) {
    const fr_fed *fed = fed_part(cell, source);
    normal_row row = {.base = (const real *)columns, .panel = panel * LANES};
    for (int k = 0; k < fed->count; k++)
        row.gate[fed->gate[k]] = (fed->first + k) * LANES;
    return row;
}

/* n rows, i .. i+n-1, on their way through a step; or a row, as often as blocks of its units stand side by side. */
typedef struct {
    finish_state s;
    ptrdiff_t i;
    normal_row products[SIDE_BY_SIDE][FROM_LEFT]; /* by source */
    normal of[SIDE_BY_SIDE][FROM_LEFT], of_c[SIDE_BY_SIDE];
} normed_rows;

/* The r-th block's row among those in the struct, its row among those owned, and its panel. */
INLINE int row_of(const beside kind, const int r) { return kind == ROWS_BESIDE ? r : 0; }
INLINE ptrdiff_t owned_of(const beside kind, const normed_rows *rows, const int r) { return rows->i + row_of(kind, r); }
INLINE ptrdiff_t panel_of(const beside kind, const normed_rows *rows, const int r) {
    return kind == UNITS_BESIDE ? rows->s.p + r : rows->s.p;
}

/* Adds the normalised products of a row by a source with their gains, (COLUMNS), to its columns at panel p; keeps the
 * products among the saved values. */
INLINE void add_normal(const int cell, const int source, const vec *gains, const normal_row *row, const normal *of,
                       ptrdiff_t p, vec *a, forward_units *u, const int r) {
    const int first = fed_part(cell, source)->first, count = fed_part(cell, source)->count;
    UNROLL(4)
    for (int k = 0; k < count; k++) {
        const int g = fed_part(cell, source)->gate[k];
        const vec v = normal_value(row, g, p, LANES);
        u->saved[saved_product(cell, source, g)][r] = v;
        a[first + k] = vfma(gains[first + k], standard(of, g, v), a[first + k]);
    }
}

/* What the equation takes of the r-th block: its normalised products, and the biases. */
INLINE void normalise(const int cell, const beside kind, const forward_state *f, normed_rows *rows, const int r,
                      vec *a) {
    const ptrdiff_t p = panel_of(kind, rows, r);
    const int row = row_of(kind, r);
    const vec *gains = (const vec *)gains_at(f->weights, p);
    UNROLL(4)
    for (int c = 0; c < COLUMNS; c++)
        a[c] = gains[c];
    UNROLL(2)
    for (int k = 0; k < FROM_LEFT; k++) {
        const int source = k ? FROM_H : FROM_X;
        add_normal(cell, source, gains + (1 + k) * COLUMNS, &rows->products[row][source], &rows->of[row][source], p, a,
                   &rows->s.units, r);
    }
}

/* Where the last gate and c wait until all of c is there: in the place of the products by h. */
enum { WAITING_C = 0, WAITING_O = 3 };

/* The gates of n blocks from panel p on, and c; of a cell without one h, too. */
INLINE void gates_blocks(const int cell, const fr_options *o, const beside kind, const int n, const forward_state *f,
                         normed_rows *rows, ptrdiff_t p) {
    const int has_c = fr_cells[cell].states == 2, stages = cell_stages(cell) - has_c;
    finish_state *s = &rows->s;
    vec a[SIDE_BY_SIDE][COLUMNS];
    s->p = p;
    EACH(r, n) normalise(cell, kind, f, rows, r, a[r]);
    EACH(r, n) s->a[r] = a[r];
    UNROLL(8)
    for (int stage = 0; stage < stages; stage++)
        finish_stage(cell, o, 0, stage, kind, n, f, s);
    if (!has_c)
        return;
    EACH(r, n) {
        vec *waiting = between_at(f, panel_of(kind, rows, r), owned_of(kind, rows, r));
        waiting[WAITING_C] = s->units.c[r];
        waiting[WAITING_O] = s->units.saved[LSTM_O][r];
    }
    keep_values(cell, 0, fr_cells[cell].saved, kind, n, f, s, p * LANES);
}

/* h of n blocks, from c. */
INLINE void output_blocks(const int cell, const fr_options *o, const beside kind, const int n, const forward_state *f,
                          normed_rows *rows, ptrdiff_t p) {
    const ptrdiff_t H = f->weights->H, j = p * LANES;
    const real *gain = gain_of_c(cell, f->weights->vectors, H), *bias = bias_of_c(cell, f->weights->vectors, H);
    finish_state *s = &rows->s;
    forward_units *u = &s->units;
    vec c[SIDE_BY_SIDE];
    s->p = p;
    u->lanes = min_lanes(H - j);
    EACH(r, n) {
        const vec *waiting = between_at(f, panel_of(kind, rows, r), owned_of(kind, rows, r));
        const ptrdiff_t unit = nth_unit(kind, j, r);
        const int lanes = nth_lanes(kind, s, H, j, r);
        c[r] = waiting[WAITING_C];
        u->c[r] = vfma(vload_n(gain + unit, lanes), standard(&rows->of_c[row_of(kind, r)], 0, c[r]),
                       vload_n(bias + unit, lanes));
        u->saved[LSTM_O][r] = waiting[WAITING_O];
    }
    cell_forward(cell, o, cell_stages(cell) - 1, n, u);
    EACH(r, n) u->c[r] = c[r];
    if (zones(o)) {
        zone_units(o, 1, kind, n, f, s, j);
        EACH(r, n) u->saved[LSTM_C][r] = u->c[r];
        keep_values(cell, LSTM_C, LSTM_C + 1, kind, n, f, s, j);
    }
    keep_state(1, kind, n, f, s, j);
}

/* Finds the statistics of n rows' products. */
INLINE void begin_rows(const int cell, const fr_options *o, const int n, const forward_state *f, normed_rows *rows) {
    const ptrdiff_t H = f->weights->H, x_panel = f->terms * f->x_columns;
    EACH(r, n) {
        const ptrdiff_t i = rows->i + r;
        normal_row *by = rows->products[r];
        by[FROM_X] = products_of(cell, FROM_X, hoisted_at(f, 0, f->step_term + i, f->x_columns), x_panel);
        by[FROM_H] = products_of(cell, FROM_H, between_at(f, 0, i), phase_rows(f) * COLUMNS);
        LEVEL(fr_find_normals)(by, fr_cells[cell].gates, H, o->each_gate, o->eps, rows->of[r]);
    }
}

/* Finds those of the c of n rows, once it is whole. */
INLINE void end_gates(const fr_options *o, const int n, const forward_state *f, normed_rows *rows) {
    EACH(r, n) {
        const normal_row c = {.base = (const real *)(between_at(f, 0, rows->i + r) + WAITING_C),
                              .panel = phase_rows(f) * COLUMNS * LANES};
        LEVEL(fr_find_normal_c)(&c, f->weights->H, o->eps, &rows->of_c[r]);
    }
}

/* Takes n blocks from panel p on through one of the two parts of a step: the gates, or, of a cell with c, h. */
INLINE void part_blocks(const int cell, const int part, const fr_options *o, const beside kind, const int n,
                        const forward_state *f, normed_rows *rows, ptrdiff_t p) {
    if (part == 0)
        gates_blocks(cell, o, kind, n, f, rows, p);
    else
        output_blocks(cell, o, kind, n, f, rows, p);
}

/* Takes all panels through it. */
INLINE void part_panels(const int cell, const int part, const fr_options *o, const beside kind, const forward_state *f,
                        normed_rows *rows) {
    const ptrdiff_t panels = f->weights->panels, at_once = kind == UNITS_BESIDE ? SIDE_BY_SIDE : 1;
    ptrdiff_t p = 0;
    for (; p + at_once <= panels; p += at_once)
        part_blocks(cell, part, o, kind, SIDE_BY_SIDE, f, rows, p);
    for (; kind == UNITS_BESIDE && p < panels; p++)
        part_blocks(cell, part, o, kind, 1, f, rows, p);
}

/* SIDE_BY_SIDE rows through a step, or one, as many panels of it at a time: a single block would wait for its own chain
 * of operations. */
INLINE void norm_rows(const int cell, const fr_options *o, const beside kind, const forward_state *f, ptrdiff_t t,
                      ptrdiff_t i) {
    const int n = kind == ROWS_BESIDE ? SIDE_BY_SIDE : 1;
    normed_rows rows;
    rows.i = i, rows.s.t = t, rows.s.units.vectors = NULL;
    EACH(r, SIDE_BY_SIDE) {
        const ptrdiff_t owned = owned_of(kind, &rows, r);
        rows.s.row[r] = owned_row(f, owned), rows.s.h_prev[r] = f->h_prev[owned];
    }
    begin_rows(cell, o, n, f, &rows);
    part_panels(cell, 0, o, kind, f, &rows);
    if (fr_cells[cell].states == 1)
        return;
    end_gates(o, n, f, &rows);
    part_panels(cell, 1, o, kind, f, &rows);
}

#define NORMED(NAME, NORMAL, normal) \
    static void step_##normal(const forward_state *f, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) { \
        const fr_options *o = &f->weights->options; \
        for (; i + SIDE_BY_SIDE <= end; i += SIDE_BY_SIDE) \
            norm_rows(FR_##NAME, o, ROWS_BESIDE, f, t, i); \
        for (; i < end; i++) \
            norm_rows(FR_##NAME, o, UNITS_BESIDE, f, t, i); \
    }
#include "cells.def"

void LEVEL(fr_norm_step)(const forward_state *f, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) {
    switch (f->weights->cell) {
#define NORMED(NAME, NORMAL, normal) \
    case FR_##NAME: \
        step_##normal(f, t, i, end); \
        break;
#include "cells.def"
    default:
        __builtin_unreachable();
    }
}
