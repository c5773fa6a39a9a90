/* How a call's work is divided among threads. */
#ifndef FR_SCHEDULE_H
#define FR_SCHEDULE_H

#include <stddef.h>

typedef struct {
    int threads;
    int by_units; /* each thread takes a slice of the hidden units, else of the rows */
} fr_schedule;

/* Whether a call of so many operations is worth waking other threads for. */
int fr_worth_threads(double flop);

/* For one direction: B rows, T steps, `slices` of units that can be divided, `step_flop` operations per row and step;
 * `may_meet`: whether threads may meet at every step. */
fr_schedule fr_choose_schedule(int threads, int may_meet, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices,
                               double step_flop);

/* What is dealt to one of `size` threads: the ranks first, first + stride, ... (`rows` of them), since rows are ranked by
 * length and so everyone gets long and short ones, for the slices begin .. end-1 of the units. */
typedef struct {
    ptrdiff_t first, stride, rows;
    ptrdiff_t begin, end;
} fr_part;

/* The bounds of part `index` of `size` when `total` things are dealt in runs: begin = fr_cut(index). */
static inline ptrdiff_t fr_cut(ptrdiff_t total, int index, int size) { return total * index / size; }

/* How many of the ranks first, first + stride, ... lie below `live`. */
static inline ptrdiff_t fr_owned(ptrdiff_t live, ptrdiff_t first, ptrdiff_t stride) {
    return live > first ? (live - first - 1) / stride + 1 : 0;
}

static inline fr_part fr_deal(int index, int size, int by_units, ptrdiff_t B, ptrdiff_t slices) {
    if (by_units)
        return (fr_part){0, 1, B, fr_cut(slices, index, size), fr_cut(slices, index + 1, size)};
    return (fr_part){index, size, fr_owned(B, index, size), 0, slices};
}

#endif
