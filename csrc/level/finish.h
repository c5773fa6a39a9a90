/* From the pre-activations of a panel to h, c and what is saved: the cell's equation, and the loads and stores
 * around it. */
#ifndef FR_FINISH_H
#define FR_FINISH_H

#include "cell.h"
#include "forward.h"

/* What stands side by side on its way through an equation: rows at the same units, or blocks of one row's units. */
typedef enum { ROWS_BESIDE, UNITS_BESIDE } beside;

/* n blocks of units of step t, at most SIDE_BY_SIDE, from their pre-activations to h. */
typedef struct {
    const vec *a[SIDE_BY_SIDE]; /* (COLUMNS) each */
    ptrdiff_t p, t, row[SIDE_BY_SIDE]; /* p: the panel, of UNITS_BESIDE the first one */
    const real *h_prev[SIDE_BY_SIDE];
    forward_units units; /* of the blocks under way */
} finish_state;

/* Where the r-th block begins, and how many units it has; the first begins at j. */
INLINE ptrdiff_t nth_unit(const beside kind, ptrdiff_t j, const int r) {
    return kind == UNITS_BESIDE ? j + r * LANES : j;
}
INLINE int nth_lanes(const beside kind, const finish_state *s, ptrdiff_t H, ptrdiff_t j, const int r) {
    return kind == UNITS_BESIDE ? min_lanes(H - nth_unit(kind, j, r)) : s->units.lanes;
}

/* Takes the new state at the units from j on through zoneout. */
INLINE void zone_units(const fr_options *o, const int has_c, const beside kind, const int n, const forward_state *f,
                       finish_state *s, ptrdiff_t j) {
    const fr_masks *masks = &f->run->masks;
    const ptrdiff_t H = f->weights->H;
    forward_units *u = &s->units;
    EACH(r, n) {
        const ptrdiff_t unit = nth_unit(kind, j, r);
        const int lanes = nth_lanes(kind, s, H, j, r);
        u->h[r] = zoned(kept_share(o, masks, 0, s->t, s->row[r], unit, lanes), vload_n(s->h_prev[r] + unit, lanes),
                        u->h[r]);
        if (has_c)
            u->c[r] = zoned(kept_share(o, masks, 1, s->t, s->row[r], unit, lanes),
                            vload_n((const real *)f->run->c + s->row[r] * H + unit, lanes), u->c[r]);
    }
}

/* Keeps the values first .. end-1 of what the backward pass reads, at the units from j on, if it is wanted. Asks for the
 * lines of the next panel's: each is a place of its own, which no processor sees coming. */
INLINE void keep_values(const int cell, const int first, const int end, const beside kind, const int n,
                        const forward_state *f, const finish_state *s, ptrdiff_t j) {
    if (end == first || !f->run->saved)
        return;
    const ptrdiff_t H = f->weights->H, next = s->t % 2 ? -f->saved_ahead : f->saved_ahead; /* as panels are taken */
    real *saved[SIDE_BY_SIDE]; /* before the first store, after which a compiler reads every pointer anew */
    EACH(r, n)
        saved[r] = (real *)f->run->saved + (s->t * f->batch->B + s->row[r]) * fr_cells[cell].saved * H
                   + nth_unit(kind, j, r);
    EACH(r, n) {
        const int lanes = nth_lanes(kind, s, H, j, r);
        if (next)
            UNROLL(16)
            for (int k = first; k < end; k++)
                __builtin_prefetch(saved[r] + k * H + next, 1, 3);
        if (lanes == LANES) /* one branch for all values */
            UNROLL(16)
            for (int k = first; k < end; k++)
                vstore(saved[r] + k * H, s->units.saved[k][r]);
        else
            UNROLL(16)
            for (int k = first; k < end; k++)
                store_part(saved[r] + k * H, s->units.saved[k][r], lanes);
    }
}

/* Keeps h, and c, at the units from j on. */
INLINE void keep_state(const int has_c, const beside kind, const int n, const forward_state *f, const finish_state *s,
                       ptrdiff_t j) {
    const ptrdiff_t H = f->weights->H;
    const forward_units *u = &s->units;
    real *h[SIDE_BY_SIDE], *c[SIDE_BY_SIDE];
    EACH(r, n) {
        h[r] = at(&f->out, s->t, s->row[r]) + nth_unit(kind, j, r);
        if (has_c)
            c[r] = (real *)f->run->c + s->row[r] * H + nth_unit(kind, j, r);
    }
    EACH(r, n) {
        const int lanes = nth_lanes(kind, s, H, j, r);
        vstore_n(h[r], u->h[r], lanes);
        if (has_c)
            vstore_n(c[r], u->c[r], lanes);
    }
}

/* Takes one stage of the block-th block of units of the panel. */
INLINE void finish_stage(const int cell, const fr_options *o, const int block, const int stage, const beside kind,
                         const int n, const forward_state *f, finish_state *s) {
    const ptrdiff_t H = f->weights->H, j = s->p * panel_units(cell) + block * LANES;
    const int last = cell_stages(cell) - 1, has_c = fr_cells[cell].states == 2;
    const int two = has_second_phase(cell);
    forward_units *u = &s->units;
    if (stage == 0 || (two && stage == last)) {
        EACH(r, n) u->a[r] = s->a[r] + block * fr_cells[cell].columns;
        if (fr_cells[cell].vectors && !is_normed(cell))
            u->vectors = f->weights->vectors ? (const real *)f->weights->vectors + j : NULL, u->step = H;
        u->lanes = min_lanes(H - j);
        if (has_c)
            EACH(r, n) u->c[r] = vload_n((const real *)f->run->c + s->row[r] * H + nth_unit(kind, j, r),
                                         nth_lanes(kind, s, H, j, r));
    }
    if ((fr_cells[cell].carries && stage == last) || (two && stage == 0))
        EACH(r, n) u->h[r] = vload_n(s->h_prev[r] + nth_unit(kind, j, r), nth_lanes(kind, s, H, j, r));
    cell_forward(cell, o, stage, n, u);
    if (stage != last)
        return;
    if (zones(o)) {
        zone_units(o, has_c, kind, n, f, s, j);
        if (has_c)
            EACH(r, n) u->saved[fr_cells[cell].saved_c][r] = u->c[r];
    }
    keep_state(has_c, kind, n, f, s, j);
    keep_values(cell, 0, fr_cells[cell].saved, kind, n, f, s, j);
}

#endif
