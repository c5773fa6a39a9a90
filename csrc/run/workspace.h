/* Memory that calls need for a while, kept from call to call: no more than 32 MB a second after the last. */
#ifndef FR_WORKSPACE_H
#define FR_WORKSPACE_H

#include <stddef.h>

enum { FR_ALIGNMENT = 64 };

static inline size_t fr_aligned(size_t bytes) { return (bytes + FR_ALIGNMENT - 1) / FR_ALIGNMENT * FR_ALIGNMENT; }

typedef struct {
    void *data; /* aligned to a cache line, its contents undefined */
} fr_workspace;

/* Return 0, with data NULL, if there is no memory; else a block of no more than about twice what was asked for, or,
 * if it is not taken for long, of no more than a megabyte beyond that. */
int fr_workspace_take(fr_workspace *workspace, size_t bytes);
int fr_workspace_take_for_long(fr_workspace *workspace, size_t bytes);
void fr_workspace_give(fr_workspace *workspace);

#endif
