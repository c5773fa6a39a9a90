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

enum { HOIST_BYTES = 1 << 18, HOIST_STEPS = 48, LARGE_BYTES = 12 << 20, LARGE_TERMS = 48, LARGE_ROWS = 128 };

/* With AVX-512 an Intel core multiplies twice as fast as others, by two ports, and the last cache of its servers gives it a
 * sixth of the second-level one's rate: 8 to 12 bytes a cycle, where a tile takes 21. */
enum { INTEL_BYTES = 3 << 19, INTEL_ROWS = 48 };

size_t fr_near_bytes(int vector_bytes) {
#if defined(__x86_64__)
    if (vector_bytes == 64 && __builtin_cpu_is("intel"))
        return INTEL_BYTES;
#endif
    (void)vector_bytes;
    return LARGE_BYTES;
}

/* Whichever ceiling binds decides:
 *   few rows     leave a tile half empty, and its FMAs wait for loads and for each other; several steps' terms fill it.
 *                As many as HOIST_BYTES hold, beside the weights in the second-level cache.
 *   far weights  come too slowly at every step, W_ih as well as W_hh: from memory, since a core's share of the last cache
 *                does not hold LARGE_BYTES, or from a slow last cache. W_ih read once for LARGE_TERMS, whose FMAs take
 *                several times as long, halves what a step reads; a waiting term is written and read once, which is
 *                2 / I of the weights that it saves. From LARGE_ROWS rows on, of the last cache INTEL_ROWS, the FMAs of a
 *                single step take as long. */
ptrdiff_t fr_choose_hoisted(ptrdiff_t rows, ptrdiff_t T, int tile_rows, size_t weight_bytes, size_t near_bytes,
                            size_t term_bytes) {
    const int far = weight_bytes > near_bytes;
    const ptrdiff_t enough = weight_bytes > LARGE_BYTES ? LARGE_ROWS : INTEL_ROWS;
    ptrdiff_t terms = far ? LARGE_TERMS : (ptrdiff_t)(HOIST_BYTES / term_bytes), most = rows * HOIST_STEPS;
    if (rows >= tile_rows) {
        if (!far || rows > enough || T == 1)
            return 0;
        terms = terms > 2 * rows ? terms : 2 * rows;
    }
    terms = terms > 2 * tile_rows ? terms : 2 * tile_rows;
    return terms < most ? terms : most;
}
