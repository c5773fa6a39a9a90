/* Scratch memory of a call, kept from call to call. */
#ifndef FR_WORKSPACE_H
#define FR_WORKSPACE_H

#include <stddef.h>

typedef struct {
    void *data; /* aligned to a cache line, its contents undefined */
    size_t bytes;
} fr_workspace;

/* Returns 0, with data NULL, if there is no memory. */
int fr_workspace_take(fr_workspace *workspace, size_t bytes);
void fr_workspace_give(fr_workspace *workspace);

/* Aligned memory of its own. */
void *fr_aligned_alloc(size_t bytes);

#endif
