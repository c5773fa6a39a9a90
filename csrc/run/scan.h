/* Inside the library: what run/scan.c and level/scan.c know of each other. */
#ifndef FR_RUN_SCAN_H
#define FR_RUN_SCAN_H

#include "scans.h"
#include "watch.h"
#include "workspace.h"

struct fr_kernels;
struct fr_linear_packed {
    const struct fr_kernels *kernels;
    ptrdiff_t K, M;
    fr_workspace memory; /* the panels */
};

/* One product. */
typedef struct {
    const fr_linear_packed *packed;
    const void *x;
    void *y;
} fr_linear_run;

/* One packing. */
typedef struct {
    const fr_linear_packed *packed;
    const void *w, *bias;
    int transposed;
} fr_linear_source;

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
enum { FR_SCAN_BYTES = 65536, FR_SCAN_BYTES_CACHED = 4096 };

#endif
