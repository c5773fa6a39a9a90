#include "schedule.h"

/* Waking the pool costs some microseconds, and a meeting of two threads half of one; a core does about 10^5 operations
 * in a microsecond. */
static const double LEAST_FLOP_PER_CALL = 3e6, LEAST_FLOP_PER_MEETING = 9e4;

enum { ROWS_PER_THREAD = 4 }; /* so many keep the FMAs busy while their weights come from the second-level cache */

int fr_worth_threads(double flop) { return flop >= LEAST_FLOP_PER_CALL; }

fr_schedule fr_choose_schedule(int threads, int may_meet, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices,
                               double step_flop) {
    fr_schedule alone = {1, 0}, schedule = alone;
    if (threads <= 1 || !fr_worth_threads((double)T * (double)B * step_flop))
        return alone;
    /* Rows need no meetings, so they are the first choice where there are enough to fill every thread's tiles. */
    if (B >= (ptrdiff_t)threads * ROWS_PER_THREAD) {
        schedule.threads = threads;
        return schedule;
    }
    /* Units keep each slice of the weights in the cache of the core that owns it. */
    ptrdiff_t by_units = !may_meet ? 1 : threads < slices ? threads : slices;
    while (by_units > 1 && (double)B * step_flop / (double)by_units < LEAST_FLOP_PER_MEETING)
        by_units--;
    if (by_units > 1) {
        schedule.threads = (int)by_units;
        schedule.by_units = 1;
    } else {
        schedule.threads = (int)(threads < B ? threads : B);
    }
    return schedule;
}
