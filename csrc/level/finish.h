/* From the pre-activations of a panel to h, c and what is saved: the cell's equation, and the loads and stores
 * around it. */
#ifndef FR_FINISH_H
#define FR_FINISH_H

#include "cell.h"
#include "forward.h"

/* What becomes of the pre-activations of n rows, at most SIDE_BY_SIDE, at the units of panel p in step t. */
typedef struct {
    const vec *a[SIDE_BY_SIDE]; /* (COLUMNS) each */
    ptrdiff_t p, t, row[SIDE_BY_SIDE];
    const real *h_prev[SIDE_BY_SIDE];
    forward_units units; /* of the block under way */
} finish_state;

/* Takes the new state of n rows, at the units from j on, through zoneout. */
INLINE void zone_units(const fr_options *o, const int has_c, const int n, const forward_state *f, finish_state *s,
                       ptrdiff_t j) {
    const fr_masks *masks = &f->run->masks;
    forward_units *u = &s->units;
    EACH(r, n) u->h[r] = zoned(kept_share(o, masks, 0, s->t, s->row[r], j, u->lanes),
                               vload_n(s->h_prev[r] + j, u->lanes), u->h[r]);
    if (has_c) {
        const real *c = (const real *)f->run->c + j;
        EACH(r, n) u->c[r] = zoned(kept_share(o, masks, 1, s->t, s->row[r], j, u->lanes),
                                   vload_n(c + s->row[r] * f->weights->H, u->lanes), u->c[r]);
    }
}

/* Keeps the values first .. end-1 of what the backward pass reads of n rows, at the units from j on, if it is wanted.
 */
INLINE void keep_values(const int cell, const int first, const int end, const int n, const forward_state *f,
                        const finish_state *s, ptrdiff_t j) {
    const ptrdiff_t H = f->weights->H;
    if (end == first || !f->run->saved)
        return;
    EACH(r, n) {
        real *saved = (real *)f->run->saved + (s->t * f->batch->B + s->row[r]) * fr_cells[cell].saved * H + j;
        UNROLL(16)
        for (int k = first; k < end; k++)
            vstore_n(saved + k * H, s->units.saved[k][r], s->units.lanes);
    }
}

/* Takes one stage of the block-th block of units. */
INLINE void finish_stage(const int cell, const fr_options *o, const int block, const int stage, const int n,
                         const forward_state *f, finish_state *s) {
    const fr_forward_run *run = f->run;
    const ptrdiff_t H = f->weights->H, j = s->p * panel_units(cell) + block * LANES;
    const int last = cell_stages(cell) - 1, has_c = fr_cells[cell].states == 2;
    const int two = has_second_phase(cell);
    const int lanes = min_lanes(H - j);
    forward_units *u = &s->units;
    if (stage == 0 || (two && stage == last)) {
        EACH(r, n) u->a[r] = s->a[r] + block * fr_cells[cell].columns;
        if (fr_cells[cell].vectors && !is_normed(cell))
            u->vectors = f->weights->vectors ? (const real *)f->weights->vectors + j : NULL, u->step = H;
        u->lanes = lanes;
        if (has_c)
            EACH(r, n) u->c[r] = vload_n((real *)run->c + s->row[r] * H + j, lanes);
    }
    if ((fr_cells[cell].carries && stage == last) || (two && stage == 0))
        EACH(r, n) u->h[r] = vload_n(s->h_prev[r] + j, lanes);
    cell_forward(cell, o, stage, n, u);
    if (stage != last)
        return;
    if (zones(o)) {
        zone_units(o, has_c, n, f, s, j);
        if (has_c)
            EACH(r, n) u->saved[fr_cells[cell].saved_c][r] = u->c[r];
    }
    EACH(r, n) vstore_n(at(&f->out, s->t, s->row[r]) + j, u->h[r], lanes);
    if (has_c)
        EACH(r, n) vstore_n((real *)run->c + s->row[r] * H + j, u->c[r], lanes);
    keep_values(cell, 0, fr_cells[cell].saved, n, f, s, j);
}

#endif
