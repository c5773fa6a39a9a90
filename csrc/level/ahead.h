/* What tiles of products ask for beside their own operands: what a later product or step reads from beyond the
 * second-level cache, or writes there, a line at a time between the FMAs. All at once it would wait for itself: a core
 * has sixteen lines under way. */
#ifndef FR_AHEAD_H
#define FR_AHEAD_H

#include "panels.h"

/* The part of what a step saves that some tiles ask for, by the rows of a hand. */
typedef struct {
    const fr_batch *batch;
    fr_hand hand;
    ptrdiff_t owned;      /* rows of the hand */
    const char *saved;    /* the step's, of all rows; NULL: nothing is asked for */
    ptrdiff_t row_bytes;  /* that it saves of a row */
    ptrdiff_t begin;      /* where the part of the first tile's first row begins, row by row of the hand */
    ptrdiff_t part_bytes; /* that a tile asks for by each of its rows */
} saved_part;

/* Of some rows of a hand from the i-th on, the k-th of `parts` parts. */
INLINE saved_part part_of_saved(const fr_batch *batch, fr_hand hand, ptrdiff_t owned, const void *saved,
                                ptrdiff_t row_bytes, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t parts) {
    const ptrdiff_t part_bytes = row_bytes / parts;
    return (saved_part){batch, hand, owned, saved, row_bytes, i * row_bytes + k * rows * part_bytes, part_bytes};
}

/* What a tile of so many rows and terms asks for, whose first row is the r-th of them: nothing past a row whose successor
 * in memory is another hand's. */
INLINE ahead saved_ahead(const saved_part *part, ptrdiff_t r, int rows, ptrdiff_t terms) {
    const ptrdiff_t begin = part->begin + r * part->part_bytes, in_row = begin % part->row_bytes;
    const ptrdiff_t i = begin / part->row_bytes, row = fr_row(part->batch, fr_rank(part->hand, i));
    const int goes_on = i + 1 < part->owned && fr_row(part->batch, fr_rank(part->hand, i + 1)) == row + 1;
    const ptrdiff_t bytes = rows * part->part_bytes, left = part->row_bytes - in_row;
    return (ahead){part->saved + row * part->row_bytes + in_row, (goes_on || bytes < left ? bytes : left) / terms};
}

/* Nothing: `near` is in the first-level cache. */
INLINE ahead nothing_ahead(const void *near) { return (ahead){near, 0}; }

#endif
