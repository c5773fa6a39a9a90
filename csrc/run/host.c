#include "host.h"

#include <pthread.h>

#include "pool.h"

static _Thread_local struct {
    fr_parallel *parallel;
    int threads;
} host;

/* A child of fork inherits OpenMP's list of threads, and none of the threads. */
static int inherited = 1;

static void note_fork(void) { inherited = 1; }

static __attribute__((constructor)) void watch_forks(void) {
    inherited = pthread_atfork(NULL, NULL, note_fork) != 0;
}

void fr_host_set(fr_parallel *parallel, int threads) {
    host.parallel = parallel;
    host.threads = threads;
}

int fr_hosted(void) { return host.parallel && !inherited; }

static void count(void *present) { atomic_fetch_add_explicit((atomic_int *)present, 1, memory_order_relaxed); }

/* Counts who comes, because OpenMP does not say beforehand how many it will give; who then waits for the next region
 * spins, so that this costs about a meeting. */
int fr_host_reserve(int wanted) {
    if (wanted <= 1)
        return 1;
    atomic_int present = 0;
    host.parallel(count, &present, (unsigned)host.threads, 0);
    return present < wanted ? present : wanted;
}

/* A call's run on the host's threads. */
typedef struct {
    int n;
    void (*body)(void *context, int index);
    void *context;
    fr_watch *watch;
    pthread_t caller;
    atomic_int next; /* the next member's index: the caller's is 0 */
    fr_barrier done;
} visit;

static void take_part(void *argument) {
    visit *v = argument;
    const int index = pthread_equal(pthread_self(), v->caller) ? 0 : atomic_fetch_add(&v->next, 1);
    if (index >= v->n)
        return;
    v->body(v->context, index);
    fr_barrier_wait_asking(&v->done, index ? NULL : v->watch); /* nobody asks while OpenMP waits */
}

void fr_host_run(int n, void (*body)(void *context, int index), void *context, fr_watch *watch) {
    visit v = {.n = n, .body = body, .context = context, .watch = watch, .caller = pthread_self(), .next = 1};
    fr_barrier_init(&v.done, n, NULL);
    host.parallel(take_part, &v, (unsigned)host.threads, 0);
    fr_barrier_destroy(&v.done);
}
