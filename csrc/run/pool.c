#include "pool.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "cores.h"
#include "host.h"
#include "thread.h"

#if defined(__x86_64__)
#define SPIN_HINT() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define SPIN_HINT() __asm__ volatile("yield")
#endif

/* How long a thread spins before it sleeps, in nanoseconds. In a call: longer than it takes to wake a thread, or two
 * that meet at every step would take turns sleeping; short against a scheduler's time slice. Between calls: longer than
 * what a program does between a forward and a backward, since waking a core that has gone to sleep can take as long
 * as a small call. */
enum { CALL_SPIN = 200000, IDLE_SPIN = 300000, SPINS_PER_LOOK = 32 };

/* Where no step waits for it, a thread that has spun for so many nanoseconds gives its core to whoever wants it,
 * another library's pool perhaps. At the meetings of every step it would give away a whole time slice each time. */
enum { KEEPS_CORE = 20000 };
typedef enum { AT_STEP, BETWEEN_CALLS } occasion;

/* How long a thread sleeps in a call before it looks again, in nanoseconds. */
enum { LONGEST_SLEEP = 20000000 };

/* For so many nanoseconds a neighbour is expected to stay that has been seen in two calls, the second of which began at
 * most so long after the first; one alone may be a chance. */
enum { CONTENTION_LASTS = 100000000, SUSPICION_LASTS = 20000000 };

/* Spins until *word differs from `old`, for `limit` nanoseconds at most; returns whether it does. */
static int spin_while(atomic_uint *word, unsigned old, long long limit, occasion where) {
    long long begin = 0;
    for (;;) {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old)
                return 1;
            SPIN_HINT();
        }
        long long now = fr_nanoseconds();
        if (!begin)
            begin = now;
        else if (now - begin > limit)
            return 0;
        else if (where == BETWEEN_CALLS && now - begin > KEEPS_CORE)
            sched_yield();
    }
}

void fr_barrier_init(fr_barrier *barrier, int size, const atomic_int *stop) {
    barrier->size = size;
    barrier->stop = stop;
    barrier->stopped = 0;
    atomic_init(&barrier->arrived, 0);
    atomic_init(&barrier->sleepers, 0);
    atomic_init(&barrier->slept, 0);
    atomic_init(&barrier->phase, 0);
    pthread_mutex_init(&barrier->mutex, NULL);
    pthread_cond_init(&barrier->condition, NULL);
}

void fr_barrier_destroy(fr_barrier *barrier) {
    pthread_mutex_destroy(&barrier->mutex);
    pthread_cond_destroy(&barrier->condition);
}

/* A worker waits for `ticket` to change, runs the job that came with it, and meets the caller at `done`. */
typedef struct worker {
    struct worker *next;
    int index;
    atomic_uint ticket;
    atomic_int asleep;
    atomic_int core; /* during a job; else -1 */
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    void (*body)(void *context, int index);
    void *context;
} worker;

/* Only the thread that holds `reserved` touches the list, and in a job of its own the workers read it. `done` outlives
 * every run, because the last thread to reach it looks at it once more after it has let the others go. */
static struct {
    atomic_flag reserved;
    int survives_fork; /* else there are no workers: a child would wait for them */
    worker *workers; /* by falling index, size .. 1 */
    int size;
    atomic_int core; /* the caller's */
    fr_barrier done;
} pool = {.reserved = ATOMIC_FLAG_INIT};

static _Thread_local worker *self; /* NULL in callers and in a host's threads */
static _Thread_local int leads;    /* whether this is the caller in a run of the pool's */

/* For who has slept in a job: the system may have put it beside the thread that woke it. Two that meet at every step
 * then take turns on one core, and since never more than one of them is awake, nothing moves them apart: so the worker
 * moves. */
static void settle(void) {
    if (!self && !leads)
        return;
    int core = fr_core();
    atomic_store_explicit(self ? &self->core : &pool.core, core, memory_order_relaxed);
    if (!self || core < 0)
        return;
    int shared = atomic_load_explicit(&pool.core, memory_order_relaxed) == core;
    for (worker *w = pool.workers; w && !shared; w = w->next)
        shared = w != self && atomic_load_explicit(&w->core, memory_order_relaxed) == core;
    if (shared) {
        fr_leave_core(core);
        atomic_store_explicit(&self->core, fr_core(), memory_order_relaxed);
    }
}

static int look_at_stop(const fr_barrier *barrier) {
    return barrier->stop && atomic_load_explicit(barrier->stop, memory_order_relaxed);
}

static void wake(worker *w) {
    pthread_mutex_lock(&w->mutex);
    pthread_cond_signal(&w->condition);
    pthread_mutex_unlock(&w->mutex);
}

/* Sleeps, under the mutex, until woken, and looks again now and then all the same: who has a watch, to ask; all,
 * because a wake-up can be lost, that of a condition with several waiters before glibc 2.41 (its bug 25847), and a
 * call that waits for ever is worse than one that is late. */
static void sleep_at(fr_barrier *barrier, fr_watch *watch, occasion where) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); /* the clock of conditions */
    until.tv_nsec += LONGEST_SLEEP;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (pthread_cond_timedwait(&barrier->condition, &barrier->mutex, &until) != ETIMEDOUT)
        return;
    pthread_mutex_unlock(&barrier->mutex);
    const int holds_pool = where == AT_STEP || watch; /* a worker at the end of its job does not */
    for (worker *w = holds_pool ? pool.workers : NULL; w; w = w->next)
        if (atomic_load_explicit(&w->asleep, memory_order_relaxed))
            wake(w);
    if (watch)
        fr_watch_look(watch);
    pthread_mutex_lock(&barrier->mutex);
}

/* A sleeper counts itself and then looks at the phase; the last arrival moves the phase and then looks for sleepers:
 * in the total order of these four accesses one of the two sees the other, so no wake-up is lost.
 *
 * The pool's meetings differ in who comes: while one thread is still leaving, others may prepare the next without it.
 * So who has arrived reads nothing but the phase, and `stopped` only where there is a `stop`: in a team, all come. */
static int wait_at(fr_barrier *barrier, fr_watch *watch, occasion where) {
    const int size = barrier->size;
    if (size == 1)
        return look_at_stop(barrier);
    unsigned phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
    if (atomic_fetch_add(&barrier->arrived, 1) + 1 == size) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        if (barrier->stop)
            barrier->stopped = look_at_stop(barrier);
        atomic_store(&barrier->phase, phase + 1);
        if (atomic_load(&barrier->sleepers)) {
            pthread_mutex_lock(&barrier->mutex);
            pthread_cond_broadcast(&barrier->condition);
            pthread_mutex_unlock(&barrier->mutex);
        }
    } else if (!spin_while(&barrier->phase, phase, CALL_SPIN, where)) {
        const long long begin = fr_nanoseconds();
        pthread_mutex_lock(&barrier->mutex);
        atomic_fetch_add(&barrier->sleepers, 1);
        while (atomic_load(&barrier->phase) == phase)
            sleep_at(barrier, watch, where);
        atomic_fetch_sub(&barrier->sleepers, 1);
        pthread_mutex_unlock(&barrier->mutex);
        if (where == AT_STEP) {
            atomic_fetch_add_explicit(&barrier->slept, fr_nanoseconds() - begin, memory_order_relaxed);
            settle();
        }
    }
    return barrier->stop && barrier->stopped;
}

int fr_barrier_wait(fr_barrier *barrier) { return wait_at(barrier, NULL, AT_STEP); }

int fr_barrier_wait_asking(fr_barrier *barrier, fr_watch *watch) { return wait_at(barrier, watch, AT_STEP); }

static void *work(void *argument) {
    worker *w = self = argument;
    unsigned seen = 0;
    for (;;) {
        if (!spin_while(&w->ticket, seen, IDLE_SPIN, BETWEEN_CALLS)) {
            pthread_mutex_lock(&w->mutex);
            atomic_store(&w->asleep, 1);
            while (atomic_load(&w->ticket) == seen)
                pthread_cond_wait(&w->condition, &w->mutex);
            atomic_store(&w->asleep, 0);
            pthread_mutex_unlock(&w->mutex);
            settle();
        }
        seen++;
        w->body(w->context, w->index);
        atomic_store_explicit(&w->core, -1, memory_order_relaxed);
        wait_at(&pool.done, NULL, BETWEEN_CALLS);
    }
    return NULL;
}

/* The threads of the parent do not exist in the child, and their locks may be held for ever: forget them all. */
static void forget_after_fork(void) {
    pool.workers = NULL;
    pool.size = 0;
    fr_barrier_init(&pool.done, 1, NULL);
    atomic_flag_clear(&pool.reserved);
}

/* When the library is loaded, not when the pool is first reserved: another thread may fork just then. */
static __attribute__((constructor)) void prepare_pool(void) {
    fr_barrier_init(&pool.done, 1, NULL);
    pool.survives_fork = !pthread_atfork(NULL, NULL, forget_after_fork);
}

static int add_worker(void) {
    worker *w = calloc(1, sizeof *w);
    if (!w)
        return 0;
    w->index = pool.size + 1;
    atomic_init(&w->core, -1);
    w->next = pool.workers;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->condition, NULL);
    if (!fr_thread_start(work, w)) {
        pthread_cond_destroy(&w->condition);
        pthread_mutex_destroy(&w->mutex);
        free(w);
        return 0;
    }
    pool.workers = w;
    pool.size++;
    return 1;
}

int fr_pool_reserve(int wanted) {
    if (fr_hosted())
        return fr_host_reserve(wanted);
    if (wanted <= 1 || !pool.survives_fork || atomic_flag_test_and_set(&pool.reserved))
        return 1;
    while (pool.size < wanted - 1 && add_worker())
        ;
    if (pool.size == 0) {
        atomic_flag_clear(&pool.reserved);
        return 1;
    }
    return pool.size < wanted - 1 ? pool.size + 1 : wanted;
}

void fr_pool_run(int n, void (*body)(void *context, int index), void *context, fr_watch *watch) {
    if (n == 1) {
        body(context, 0);
        return;
    }
    if (fr_hosted()) {
        fr_host_run(n, body, context, watch);
        return;
    }
    pool.done.size = n;
    atomic_store_explicit(&pool.core, fr_core(), memory_order_relaxed);
    for (worker *w = pool.workers; w; w = w->next) {
        if (w->index >= n)
            continue;
        w->body = body;
        w->context = context;
        atomic_fetch_add(&w->ticket, 1);
        if (atomic_load(&w->asleep))
            wake(w);
    }
    leads = 1;
    body(context, 0);
    leads = 0;
    wait_at(&pool.done, watch, BETWEEN_CALLS);
}

void fr_pool_release(int reserved) {
    if (reserved > 1 && !fr_hosted())
        atomic_flag_clear(&pool.reserved);
}

static _Atomic long long suspected_until, contended_until;

void fr_pool_note_contention(long long begin) {
    const long long now = fr_nanoseconds();
    if (begin < atomic_exchange(&suspected_until, now + SUSPICION_LASTS))
        atomic_store(&contended_until, now + CONTENTION_LASTS);
}

int fr_pool_contended(void) {
    long long until = atomic_load_explicit(&contended_until, memory_order_relaxed);
    return until && fr_nanoseconds() < until;
}
