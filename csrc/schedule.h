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

/* For one direction: B rows, T steps, `slices` of units that can be divided, `step_flop` operations per row and step. */
fr_schedule fr_choose_schedule(int threads, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices, double step_flop);

#endif
