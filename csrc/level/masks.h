/* What masks of units do in a row's step: recurrent dropout to h on its way into the product, zoneout to what the cell
 * made. */
#ifndef FR_MASKS_H
#define FR_MASKS_H

#include "panels.h"

/* Whether units keep a share of their state; false of a plain instance, for which `o` is NULL. */
INLINE int zones(const fr_options *o) { return o && (o->zoneout[0] > 0 || o->zoneout[1] > 0); }

/* The share of a part of the state, 0 for h and 1 for c, that a row's units j .. j+n-1 keep in step t. */
INLINE vec kept_share(const fr_options *o, const fr_masks *masks, int part, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j,
                      int n) {
    const fr_sequence *keep = &masks->keep[part];
    return keep->data ? vload_n(at(keep, t, row) + j, n) : vset1((real)o->zoneout[part]);
}

/* What is left of a part of the state, `from`, and what the cell made of it. A mask's 0 and 1 leave either as it is. */
INLINE vec zoned(vec share, vec from, vec made) { return vfma(share, from, (1 - share) * made); }

/* The factors of recurrent dropout: 1 where there is none. */
INLINE vec drop_at(const fr_masks *masks, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n) {
    return masks->drop.data ? vload_n(at(&masks->drop, t, row) + j, n) : vset1(1);
}

/* to (H) = what the recurrent product of step t takes of a row's h. */
INLINE void drop_units(const fr_masks *masks, ptrdiff_t t, ptrdiff_t row, ptrdiff_t H, const real *h, real *to) {
    for (ptrdiff_t j = 0; j < H; j += LANES) {
        const int n = min_lanes(H - j);
        vstore_n(to + j, vload_n(h + j, n) * drop_at(masks, t, row, j, n), n);
    }
}

#endif
