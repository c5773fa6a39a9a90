#include "workspace.h"

#include <stdatomic.h>
#include <stdlib.h>

/* A few buffers wait for the next call; a larger one than this goes back to the system. */
enum { SLOTS = 8, KEEP_BYTES = 40 << 20 };

/* Each block begins with its size, one alignment before its data. */
static _Atomic(char *) slots[SLOTS];

static void *aligned_memory(size_t bytes) {
    void *data = NULL;
    return posix_memalign(&data, FR_ALIGNMENT, bytes) ? NULL : data;
}

int fr_workspace_take(fr_workspace *workspace, size_t bytes) {
    size_t total = fr_aligned(bytes) + FR_ALIGNMENT;
    char *block = NULL;
    for (int i = 0; i < SLOTS && !block; i++)
        if (atomic_load_explicit(&slots[i], memory_order_relaxed))
            block = atomic_exchange(&slots[i], NULL);
    if (block && *(size_t *)block < total) {
        free(block);
        block = NULL;
    }
    if (!block) {
        block = total < bytes ? NULL : aligned_memory(total);
        if (block)
            *(size_t *)block = total;
    }
    workspace->data = block ? block + FR_ALIGNMENT : NULL;
    return block != NULL;
}

void fr_workspace_give(fr_workspace *workspace) {
    if (!workspace->data)
        return;
    char *block = (char *)workspace->data - FR_ALIGNMENT;
    if (*(size_t *)block <= KEEP_BYTES)
        for (int i = 0; i < SLOTS; i++) {
            char *empty = NULL;
            if (atomic_compare_exchange_strong(&slots[i], &empty, block))
                return;
        }
    free(block);
}
