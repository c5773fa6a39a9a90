#include "workspace.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "thread.h"

/* Blocks wait for the next call, since fresh memory costs a page fault every 4 KB: faults can take twice as long as
 * packing weights there. So many bytes wait for ever; more, up to the most, only while calls come. */
enum { SLOTS = 16, KEEP_BYTES = 31 << 20, MOST_BYTES = 320 << 20 };

/* How often the collector looks, in nanoseconds; it gives back what has waited from one look to the next. */
enum { LOOK_EVERY = 300000000 };

/* From so many bytes on, a block is mapped: freeing it gives it back to the system, where the heap may keep it. */
enum { MAPPED_BYTES = 1 << 20 };

/* A block that waits is taken for half as much or more; scratch, which is given back soon, may waste so much. The large
 * ones wait for those who need them. */
enum { SPARE_BYTES = 1 << 20 };

/* Begins each block, one alignment before its data. */
typedef struct {
    size_t size;
    unsigned long turn; /* of those that began to wait */
} header;

/* Waiting blocks; in the low bits of each, which alignment leaves free, the exponent of its size. 0: empty. */
static atomic_uintptr_t slots[SLOTS];
static atomic_size_t waiting; /* bytes of the blocks that wait, and of those that are looked at */
static atomic_ulong turns;
static atomic_int collecting; /* whether there is a collector */
static int survives_fork;     /* else there is none: a child would rely on it */

static unsigned exponent(size_t size) { return 63 - (unsigned)__builtin_clzll(size); }

static unsigned exponent_in(uintptr_t word) { return word % FR_ALIGNMENT; }

static header *block_in(uintptr_t word) { return (header *)(word - word % FR_ALIGNMENT); }

/* Maps memory, in huge pages where the system has them: weights that are read at every step span more small ones than a
 * core keeps the addresses of. */
static void *map(size_t size) {
    void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(block, size, MADV_HUGEPAGE);
#endif
    return block;
}

static header *fresh(size_t size) {
    void *block = NULL;
    if (size >= MAPPED_BYTES) {
        block = map(size);
    } else if (posix_memalign(&block, FR_ALIGNMENT, size)) {
        block = NULL;
    }
    if (block)
        ((header *)block)->size = size;
    return block;
}

static void release(header *block) {
    if (block->size >= MAPPED_BYTES)
        munmap(block, block->size);
    else
        free(block);
}

static void stop_waiting(header *block) { atomic_fetch_sub(&waiting, block->size); }

/* Leaves a block for a later call, in place of another where no slot is empty. */
static void put(header *block) {
    const uintptr_t word = (uintptr_t)block + exponent(block->size);
    const unsigned long turn = block->turn;
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t empty = 0;
        if (atomic_compare_exchange_strong(&slots[i], &empty, word))
            return;
    }
    const uintptr_t other = atomic_exchange(&slots[turn % SLOTS], word);
    if (other) {
        stop_waiting(block_in(other));
        release(block_in(other));
    }
}

/* Takes what waits in a slot, if its exponent lies between these. */
static header *take_out(int slot, unsigned least, unsigned most) {
    uintptr_t word = atomic_load_explicit(&slots[slot], memory_order_relaxed);
    if (!word || exponent_in(word) < least || exponent_in(word) > most)
        return NULL;
    return atomic_compare_exchange_strong(&slots[slot], &word, 0) ? block_in(word) : NULL;
}

/* The smallest waiting block of `least` to `most` bytes. */
static header *best_fit(size_t least, size_t most) {
    header *best = NULL;
    for (int i = 0; i < SLOTS; i++) {
        header *block = take_out(i, exponent(least), exponent(most));
        if (block && block->size >= least && block->size <= most && (!best || block->size < best->size)) {
            header *worse = best;
            best = block;
            block = worse;
        }
        if (block)
            put(block);
    }
    if (best)
        stop_waiting(best);
    return best;
}

/* Gives mapped blocks back that began to wait before that turn, until no more than `keep` bytes wait; returns how
 * many. */
static int give_back(unsigned long turn, size_t keep) {
    int given = 0;
    for (int i = 0; i < SLOTS && atomic_load(&waiting) > keep; i++) {
        header *block = take_out(i, exponent(MAPPED_BYTES), FR_ALIGNMENT);
        if (block && block->turn < turn) {
            stop_waiting(block);
            release(block);
            given++;
        } else if (block) {
            put(block);
        }
    }
    return given;
}

/* Ends where no more wait than may wait for ever. Who leaves a block counts it and then looks for a collector, which
 * goes and then looks at the count: one of the two sees the other. */
static void *collect(void *unused) {
    const struct timespec period = {.tv_nsec = LOOK_EVERY};
    do {
        do {
            const unsigned long turn = atomic_load(&turns);
            nanosleep(&period, NULL);
            give_back(turn, KEEP_BYTES);
        } while (atomic_load(&waiting) > KEEP_BYTES);
        atomic_store(&collecting, 0);
    } while (atomic_load(&waiting) > KEEP_BYTES && !atomic_exchange(&collecting, 1));
    return unused;
}

static void start_collector(void) {
    if (atomic_load(&collecting) || atomic_exchange(&collecting, 1))
        return;
    if (!survives_fork || !fr_thread_start(collect, NULL)) {
        atomic_store(&collecting, 0);
        give_back(ULONG_MAX, KEEP_BYTES);
    }
}

/* The child has no collector, nor what other threads held; and to write to a page that the parent has too would be to
 * copy it. */
static void forget_after_fork(void) {
    size_t left = 0;
    for (int i = 0; i < SLOTS; i++) {
        header *block = take_out(i, 0, FR_ALIGNMENT);
        if (block && block->size >= MAPPED_BYTES) {
            release(block);
        } else if (block) {
            left += block->size;
            put(block);
        }
    }
    atomic_store(&waiting, left);
    atomic_store(&collecting, 0);
}

static __attribute__((constructor)) void prepare_workspace(void) {
    survives_fork = !pthread_atfork(NULL, NULL, forget_after_fork);
}

static int take(fr_workspace *workspace, size_t bytes, size_t spare) {
    const size_t size = fr_aligned(bytes) + FR_ALIGNMENT;
    workspace->data = NULL;
    if (size < bytes || size > PTRDIFF_MAX)
        return 0;
    header *block = best_fit(size, size + (size > spare ? size : spare));
    if (!block)
        block = fresh(size);
    if (!block && give_back(ULONG_MAX, 0))
        block = fresh(size);
    if (block)
        workspace->data = (char *)block + FR_ALIGNMENT;
    return block != NULL;
}

int fr_workspace_take(fr_workspace *workspace, size_t bytes) { return take(workspace, bytes, SPARE_BYTES); }

int fr_workspace_take_for_long(fr_workspace *workspace, size_t bytes) { return take(workspace, bytes, 0); }

void fr_workspace_give(fr_workspace *workspace) {
    if (!workspace->data)
        return;
    header *block = (header *)((char *)workspace->data - FR_ALIGNMENT);
    const size_t size = block->size, sum = atomic_fetch_add(&waiting, size) + size;
    if (sum > MOST_BYTES) {
        stop_waiting(block);
        release(block);
        return;
    }
    block->turn = atomic_fetch_add(&turns, 1);
    put(block);
    if (sum > KEEP_BYTES)
        start_collector();
}
