#include "workspace.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* A few buffers wait for the next call; a larger one than this goes back to the system. */
enum { SLOTS = 8, KEEP_BYTES = 40 << 20 };

/* Each block begins with its size, one alignment before its data. */
static _Atomic(char *) slots[SLOTS];

static void *aligned_memory(size_t bytes) {
    void *data = NULL;
    return posix_memalign(&data, FR_ALIGNMENT, bytes) ? NULL : data;
}

static size_t size_of(const char *block) { return *(const size_t *)block; }

/* Leaves a block for a later call; frees it where no slot is empty. */
static void put(char *block) {
    for (int i = 0; i < SLOTS; i++) {
        char *empty = NULL;
        if (atomic_compare_exchange_strong(&slots[i], &empty, block))
            return;
    }
    free(block);
}

/* The smallest waiting block that holds `total` bytes and at most `spare` more: the large ones wait for those who need
 * them, since fresh memory costs a page fault every 4 KB. */
static char *best_fit(size_t total, size_t spare) {
    char *best = NULL;
    for (int i = 0; i < SLOTS; i++) {
        char *block = atomic_load_explicit(&slots[i], memory_order_relaxed) ? atomic_exchange(&slots[i], NULL) : NULL;
        const size_t size = block ? size_of(block) : 0;
        if (size >= total && size - total <= spare && (!best || size < size_of(best))) {
            char *worse = best;
            best = block;
            block = worse;
        }
        if (block)
            put(block);
    }
    return best;
}

static int take(fr_workspace *workspace, size_t bytes, int for_long) {
    size_t total = fr_aligned(bytes) + FR_ALIGNMENT;
    char *block = total < bytes ? NULL : best_fit(total, for_long ? total : SIZE_MAX);
    if (!block && total >= bytes) {
        block = aligned_memory(total);
        if (block)
            *(size_t *)block = total;
    }
    workspace->data = block ? block + FR_ALIGNMENT : NULL;
    return block != NULL;
}

int fr_workspace_take(fr_workspace *workspace, size_t bytes) { return take(workspace, bytes, 0); }

int fr_workspace_take_for_long(fr_workspace *workspace, size_t bytes) { return take(workspace, bytes, 1); }

void fr_workspace_give(fr_workspace *workspace) {
    if (!workspace->data)
        return;
    char *block = (char *)workspace->data - FR_ALIGNMENT;
    if (size_of(block) <= KEEP_BYTES)
        put(block);
    else
        free(block);
}
