/* What becomes of a row's state between its steps: it may be multiplied, or zeroed. */
#ifndef FR_ENTRY_H
#define FR_ENTRY_H

#include "panels.h"

INLINE int changes(const fr_entry *e) { return e->resets || e->scale.data; }

INLINE int is_reset(const fr_entry *e, const fr_batch *batch, ptrdiff_t t, ptrdiff_t row) {
    return e->resets && e->resets[t * batch->B + row];
}

/* The factors of a row's units j .. j+n-1 before step t. */
INLINE vec scale_at(const fr_entry *e, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n) {
    const real *scale = at(&e->scale, t, row);
    return e->scale_by_unit ? vload_n(scale + j, n) : *scale - (vec){0};
}

/* to = the units begin .. end-1 of a part of the state as step t takes them, from what they were. */
INLINE void enter_units(const fr_entry *e, const fr_batch *batch, ptrdiff_t t, ptrdiff_t row, ptrdiff_t begin,
                        ptrdiff_t end, const real *from, real *to) {
    if (is_reset(e, batch, t, row)) {
        memset(to + begin, 0, (size_t)(end - begin) * sizeof(real));
        return;
    }
    for (ptrdiff_t j = begin; e->scale.data && j < end; j += LANES) {
        const int n = min_lanes(end - j);
        vstore_n(to + j, vload_n(from + j, n) * scale_at(e, t, row, j, n), n);
    }
}

/* From the gradient by a part of the state as step t took it, at the units j .. j+n-1, to that by what it was, `from`;
 * adds the factors' gradient to `dscale` (T, B, H). */
INLINE vec leave_units(const fr_entry *e, const fr_batch *batch, ptrdiff_t t, ptrdiff_t row, ptrdiff_t j, int n,
                       const real *from, vec gradient, real *dscale, ptrdiff_t H) {
    if (is_reset(e, batch, t, row))
        gradient = (vec){0};
    if (!e->scale.data)
        return gradient;
    real *out = dscale + (t * batch->B + row) * H + j;
    vstore_n(out, vfma(gradient, vload_n(from + j, n), vload_n(out, n)), n);
    return gradient * scale_at(e, t, row, j, n);
}

#endif
