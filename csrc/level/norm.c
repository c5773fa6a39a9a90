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

/* n rows, i .. i+n-1, on their way through a step. */
typedef struct {
    finish_state s;
    normal_row x[SIDE_BY_SIDE], h[SIDE_BY_SIDE];
    normal of_x[SIDE_BY_SIDE], of_h[SIDE_BY_SIDE], of_c[SIDE_BY_SIDE];
} normed_rows;

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

/* What the equation takes of the r-th row at panel p: its normalised products, and the biases. */
INLINE void normalise(const int cell, const forward_state *f, normed_rows *rows, const int r, ptrdiff_t p, vec *a) {
    const vec *gains = (const vec *)gains_at(f->weights, p);
    UNROLL(4)
    for (int c = 0; c < COLUMNS; c++)
        a[c] = gains[c];
    add_normal(cell, FROM_X, gains + COLUMNS, &rows->x[r], &rows->of_x[r], p, a, &rows->s.units, r);
    add_normal(cell, FROM_H, gains + 2 * COLUMNS, &rows->h[r], &rows->of_h[r], p, a, &rows->s.units, r);
}

/* Where the last gate and c wait until all of c is there: in the place of the products by h. */
enum { WAITING_C = 0, WAITING_O = 3 };

/* The gates of a panel, and c; of a cell without one h, too. */
INLINE void gates_panel(const int cell, const fr_options *o, const int n, const forward_state *f, normed_rows *rows,
                        ptrdiff_t p, ptrdiff_t i) {
    const int has_c = fr_cells[cell].states == 2, stages = cell_stages(cell) - has_c;
    finish_state *s = &rows->s;
    vec a[SIDE_BY_SIDE][COLUMNS];
    s->p = p;
    EACH(r, n) normalise(cell, f, rows, r, p, a[r]);
    EACH(r, n) s->a[r] = a[r];
    UNROLL(8)
    for (int stage = 0; stage < stages; stage++)
        finish_stage(cell, o, 0, stage, n, f, s);
    if (!has_c)
        return;
    EACH(r, n) {
        between_at(f, p, i + r)[WAITING_C] = s->units.c[r];
        between_at(f, p, i + r)[WAITING_O] = s->units.saved[LSTM_O][r];
    }
    keep_values(cell, 0, fr_cells[cell].saved, n, f, s, p * LANES);
}

/* h of a panel, from c. */
INLINE void output_panel(const int cell, const fr_options *o, const int n, const forward_state *f, normed_rows *rows,
                         ptrdiff_t p, ptrdiff_t i) {
    const ptrdiff_t H = f->weights->H, j = p * LANES;
    const int lanes = min_lanes(H - j);
    const vec gain = vload_n(gain_of_c(cell, f->weights->vectors, H) + j, lanes);
    const vec bias = vload_n(bias_of_c(cell, f->weights->vectors, H) + j, lanes);
    finish_state *s = &rows->s;
    forward_units *u = &s->units;
    vec c[SIDE_BY_SIDE];
    u->lanes = lanes;
    EACH(r, n) {
        c[r] = between_at(f, p, i + r)[WAITING_C];
        u->c[r] = vfma(gain, standard(&rows->of_c[r], 0, c[r]), bias);
        u->saved[LSTM_O][r] = between_at(f, p, i + r)[WAITING_O];
    }
    cell_forward(cell, o, cell_stages(cell) - 1, n, u);
    EACH(r, n) u->c[r] = c[r];
    if (zones(o)) {
        zone_units(o, 1, n, f, s, j);
        EACH(r, n) u->saved[LSTM_C][r] = u->c[r];
        keep_values(cell, LSTM_C, LSTM_C + 1, n, f, s, j);
    }
    EACH(r, n) {
        vstore_n((real *)f->run->c + s->row[r] * H + j, u->c[r], lanes);
        vstore_n(at(&f->out, s->t, s->row[r]) + j, u->h[r], lanes);
    }
}

INLINE void norm_rows(const int cell, const fr_options *o, const int n, const forward_state *f, ptrdiff_t t,
                      ptrdiff_t i) {
    const int has_c = fr_cells[cell].states == 2;
    const ptrdiff_t H = f->weights->H, panels = f->weights->panels, x_panel = f->terms * f->x_columns;
    normed_rows rows;
    rows.s.t = t, rows.s.units.vectors = NULL;
    EACH(r, n) {
        rows.s.row[r] = owned_row(f, i + r), rows.s.h_prev[r] = f->h_prev[i + r];
        rows.x[r] = products_of(cell, FROM_X, hoisted_at(f, 0, f->step_term + i + r, f->x_columns), x_panel);
        rows.h[r] = products_of(cell, FROM_H, between_at(f, 0, i + r), phase_rows(f) * COLUMNS);
        find_normal(&rows.x[r], fr_cells[cell].gates, H, o->each_gate, o->eps, &rows.of_x[r]);
        find_normal(&rows.h[r], fr_cells[cell].gates, H, o->each_gate, o->eps, &rows.of_h[r]);
    }
    for (ptrdiff_t p = 0; p < panels; p++)
        gates_panel(cell, o, n, f, &rows, p, i);
    if (!has_c)
        return;
    EACH(r, n) {
        const normal_row c = {.base = (const real *)(between_at(f, 0, i + r) + WAITING_C),
                              .panel = phase_rows(f) * COLUMNS * LANES};
        find_normal(&c, 1, H, 0, o->eps, &rows.of_c[r]);
    }
    for (ptrdiff_t p = 0; p < panels; p++)
        output_panel(cell, o, n, f, &rows, p, i);
}

#define NORMED(NAME, NORMAL, normal) \
    static void step_##normal(const forward_state *f, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) { \
        const fr_options *o = &f->weights->options; \
        for (; i + SIDE_BY_SIDE <= end; i += SIDE_BY_SIDE) \
            norm_rows(FR_##NAME, o, SIDE_BY_SIDE, f, t, i); \
        for (; i < end; i++) \
            norm_rows(FR_##NAME, o, 1, f, t, i); \
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
