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
    const char *saved;    /* the step's, of all rows; NULL: nothing is asked for */
    ptrdiff_t row_bytes;  /* that it saves of a row */
    ptrdiff_t begin;      /* where the part of the first tile's first row begins, row by row of the hand */
    ptrdiff_t part_bytes; /* that a tile asks for by each of its rows */
} saved_part;

/* Of some rows of a hand from the i-th on, the k-th of `parts` parts. */
INLINE saved_part part_of_saved(const fr_batch *batch, fr_hand hand, const void *saved, ptrdiff_t row_bytes,
                                ptrdiff_t i, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t parts) {
    const ptrdiff_t part_bytes = row_bytes / parts;
    return (saved_part){batch, hand, saved, row_bytes, i * row_bytes + k * rows * part_bytes, part_bytes};
}

/* Nothing: `near` is in the first-level cache. */
INLINE ahead nothing_ahead(const void *near) { return (ahead){near, 0}; }

/* What a tile of so many rows and terms asks for, whose first row is the r-th of them. If the hand's rows are not
 * neighbours in memory, no more than is left of the first one. `near` as above. */
INLINE ahead part_ahead(const saved_part *part, ptrdiff_t r, int rows, ptrdiff_t terms, const void *near) {
    if (!part->saved)
        return nothing_ahead(near);
    const ptrdiff_t begin = part->begin + r * part->part_bytes, in_row = begin % part->row_bytes;
    const ptrdiff_t row = fr_row(part->batch, fr_rank(part->hand, begin / part->row_bytes));
    const ptrdiff_t wanted = rows * part->part_bytes, left = part->row_bytes - in_row;
    const int neighbours = part->hand.turns == 1 && !part->batch->order;
    const ptrdiff_t step = (neighbours || wanted < left ? wanted : left) * ASK_TERMS / terms;
    return step ? (ahead){part->saved + row * part->row_bytes + in_row, step} : nothing_ahead(near);
}

#endif
