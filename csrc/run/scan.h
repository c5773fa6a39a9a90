/* Inside the library: what run/scan.c and level/scan.c know of each other. */
#ifndef FR_RUN_SCAN_H
#define FR_RUN_SCAN_H

#include "scans.h"
#include "watch.h"

/* What one thread computes: some rows at some units. */
typedef struct {
    ptrdiff_t row, row_end, unit, unit_end;
    ptrdiff_t block; /* bytes */
    int streams; /* whether what is written goes past the caches */
    int counts;  /* whether this is the thread that made the call */
    fr_watch *watch;
} fr_scan_part;

/* Bytes of each of a thread's three scratch arrays, and of a block's states: they stay in the first-level cache, or,
 * where arrays come from memory and long runs of it count for more, in the second-level one. On a Zen 4 64 KB take a
 * quarter less time there than 8. */
enum { FR_SCAN_BYTES = 65536, FR_SCAN_BYTES_CACHED = 8192 };

#endif
