/* What the kernels ask the system for fails, one request after the other: every call then ends with FR_NO_MEMORY, or
 * with the right bits on fewer threads; it keeps nothing, and the same call afterwards succeeds.
 *
 * Each attempt runs in a process of its own, where no workspace waits and no thread exists yet.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "layer.h"
#include "run/pool.h"
#include "run/workspace.h"

#if defined(__x86_64__)
#include <immintrin.h>
static unsigned fp_mode(void) { return _mm_getcsr() & ~0x3fu; }
#else
static unsigned fp_mode(void) { return 0; }
#endif

/* --- The requests. */

typedef enum { MEMORY, THREAD } request;

static struct {
    int inside;           /* whether the library is being called */
    int counts, until;    /* requests may fail from the `until`-th on ... */
    int lasting;          /* ... all of them, else that one */
    int failed, failed_memory;
    atomic_int live;      /* blocks the library holds */
} state;

static int fails(request kind) {
    if (!state.inside || !state.counts)
        return 0;
    const int left = state.until--;
    if (left > 0 || (left < 0 && !state.lasting))
        return 0;
    state.failed++;
    state.failed_memory += kind == MEMORY;
    return 1;
}

static void *held(void *block) {
    if (state.inside && block)
        atomic_fetch_add(&state.live, 1);
    return block;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *block, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **block, size_t alignment, size_t bytes);
void __real_free(void *block);
void *__real_mmap(void *, size_t, int, int, int, off_t);
int __real_munmap(void *, size_t);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes);
void __wrap_free(void *block);
void *__wrap_mmap(void *, size_t, int, int, int, off_t);
int __wrap_munmap(void *, size_t);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

void *__wrap_malloc(size_t bytes) { return fails(MEMORY) ? NULL : held(__real_malloc(bytes)); }
void *__wrap_calloc(size_t count, size_t bytes) { return fails(MEMORY) ? NULL : held(__real_calloc(count, bytes)); }
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return fails(MEMORY) ? NULL : held(__real_aligned_alloc(alignment, bytes));
}
void *__wrap_realloc(void *block, size_t bytes) {
    if (fails(MEMORY))
        return NULL;
    void *moved = __real_realloc(block, bytes);
    return block ? moved : held(moved);
}
int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes) {
    if (fails(MEMORY))
        return 12; /* ENOMEM */
    int error = __real_posix_memalign(block, alignment, bytes);
    if (!error)
        held(*block);
    return error;
}
void __wrap_free(void *block) {
    if (state.inside && block)
        atomic_fetch_sub(&state.live, 1);
    __real_free(block);
}
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    return fails(MEMORY) ? MAP_FAILED : held(__real_mmap(at, bytes, protection, flags, file, offset));
}
int __wrap_munmap(void *block, size_t bytes) {
    if (state.inside)
        atomic_fetch_sub(&state.live, 1);
    return __real_munmap(block, bytes);
}
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*start)(void *), void *argument) {
    return fails(THREAD) ? 11 : __real_pthread_create(t, a, start, argument); /* EAGAIN */
}

/* --- The attempts. */

typedef enum { PACK, FORWARD, BACKWARD, N_STAGES } stage;
static const char *const stage_names[] = {"pack", "forward", "backward"};

enum { THREADS = 4, DRAINED = 16 };

typedef struct {
    int failed, failed_memory, no_memory, live;
} outcome;

static fr_status run_stage(layer *l, stage s, int threads) {
    state.inside = 1;
    fr_status status = s == PACK ? layer_pack(l, threads) : s == FORWARD ? layer_forward(l, threads, NULL)
                                                                          : layer_backward(l, threads, NULL);
    state.inside = 0;
    return status;
}

static void expect_ok(fr_status status, const layer_spec *spec, const char *where) {
    expect_none(status == FR_OK ? NULL : "no success", spec, where);
}

/* The whole of a layer, whose stage `s` asks in vain for its `until`-th request (none: -1). */
static outcome attempt(const layer_spec *spec, stage s, int until, int lasting) {
    layer l, reference;
    fr_workspace waiting[DRAINED];
    outcome o = {0};
    layer_make(&l, spec);
    layer_make(&reference, spec);
    for (int earlier = PACK; earlier < (int)s; earlier++)
        expect_ok(run_stage(&l, (stage)earlier, 1), spec, "an earlier stage");
    state.inside = 1;
    for (int i = 0; i < DRAINED; i++) /* what waits from the earlier stages */
        expect_none(fr_workspace_take(&waiting[i], 1) ? NULL : "no success", spec, "draining");

    const unsigned mode = fp_mode();
    state.counts = until >= 0, state.until = until, state.lasting = lasting;
    fr_status status = run_stage(&l, s, THREADS);
    state.counts = 0;
    expect_none(fp_mode() == mode ? NULL : "the floating-point mode has changed", spec, stage_names[s]);
    o.failed = state.failed, o.failed_memory = state.failed_memory, o.no_memory = status == FR_NO_MEMORY;
    expect_none(status == FR_OK || status == FR_NO_MEMORY ? NULL : "another status", spec, stage_names[s]);

    state.inside = 1;
    expect_none(fr_pool_reserve(THREADS) == THREADS ? NULL : "the pool is held", spec, stage_names[s]);
    fr_pool_release(THREADS);
    if (o.no_memory)
        expect_ok(run_stage(&l, s, THREADS), spec, "the same call again");
    for (int later = (int)s + 1; later < N_STAGES; later++)
        expect_ok(run_stage(&l, (stage)later, THREADS), spec, "a later stage");
    state.inside = 1;
    expect_ok(layer_run(&reference, 1), spec, "the reference");
    state.inside = 0;
    expect_none(layer_difference(&l, &reference), spec, stage_names[s]);
    state.inside = 1;
    for (int i = 0; i < DRAINED; i++)
        fr_workspace_give(&waiting[i]);
    for (int d = 0; d < spec->directions; d++) {
        fr_packed_free(l.packed[d]), l.packed[d] = NULL;
        fr_packed_free(reference.packed[d]), reference.packed[d] = NULL;
    }
    state.inside = 0;
    o.live = atomic_load(&state.live);
    layer_free(&l);
    layer_free(&reference);
    return o;
}

static outcome attempt_apart(const layer_spec *spec, stage s, int until, int lasting) {
    outcome *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (shared == MAP_FAILED || child < 0)
        abort();
    if (child == 0) {
        *shared = attempt(spec, s, until, lasting);
        exit(0);
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child || status) {
        fprintf(stderr, "%s: request %d in vain: status %d\n", stage_names[s], until, status);
        abort();
    }
    outcome o = *shared;
    munmap(shared, sizeof *shared);
    return o;
}

/* All requests of a stage in turn; returns how many there are. */
static int fail_each(const layer_spec *spec, stage s, int lasting) {
    const int live = attempt_apart(spec, s, -1, 0).live;
    for (int until = 0;; until++) {
        outcome o = attempt_apart(spec, s, until, lasting);
        if (!o.failed) {
            expect_none(o.no_memory ? "no memory, though nothing failed" : NULL, spec, stage_names[s]);
            return until;
        }
        expect_none(o.live == live ? NULL : "a block is kept, or freed twice", spec, stage_names[s]);
        expect_none(o.no_memory && !o.failed_memory ? "a thread that cannot be made ends the call" : NULL, spec,
                    stage_names[s]);
    }
}

int main(void) {
    layer_spec specs[3] = {plain_spec(FR_LSTM, FR_F32, 6, 24, 128, 200), plain_spec(FR_GRU, FR_F32, 12, 8, 300, 300)};
    specs[0].lengths = 1; /* ranks and scratch; packed by several threads; by rows */
    specs[1].directions = 2, specs[1].lengths = 1;
    specs[2] = plain_spec(FR_RNN_TANH, FR_F64, 3, 2, 5, 7); /* one thread */
    /* Requests: of pack the handle and the panels, once per direction; of the others scratch, and ranks where there are
     * lengths. Where threads are used, of each of three threads its memory and itself. */
    const int requests[3][N_STAGES] = {{2 + 6, 2 + 6, 2 + 6}, {4 + 6, 2 + 6, 2 + 6}, {2, 1, 1}};
    int total = 0;
    for (int i = 0; i < 3; i++)
        for (int s = 0; s < N_STAGES; s++)
            for (int lasting = 0; lasting < 2; lasting++) {
                int found = fail_each(&specs[i], (stage)s, lasting);
                if (!lasting && found != requests[i][s]) {
                    fprintf(stderr, "%s of case %d: %d requests, not %d\n", stage_names[s], i, found, requests[i][s]);
                    return 1;
                }
                total += found;
            }
    printf("%d requests failed in turn\n", total);
    return 0;
}
