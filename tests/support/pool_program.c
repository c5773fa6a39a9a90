/* Runs pool.c where threads dawdle, and exits with 0 if nothing hangs; with FORKS_UNSEEN, where no handler of forks
 * can be registered. */
#define _GNU_SOURCE /* for cores.c */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef FORKS_UNSEEN
#define pthread_atfork(before, parent, child) ((void)(child), ENOMEM)
#endif

static int dawdle(int before) {
    static _Thread_local int arrivals;
    if (before == 1 && ++arrivals % 7 == 0)
        usleep(300);
    return before;
}

/* The second to arrive at a meeting stands still before it learns whether it is the last. */
#undef atomic_fetch_add
#define atomic_fetch_add(word, n) dawdle((int)atomic_fetch_add_explicit(word, n, memory_order_seq_cst))
#include "run/pool.c"
#include "run/cores.c"
#include "run/host.c"
#include "run/thread.c"
#include "run/watch.c"

static void nothing(void *context, int index) { (void)context, (void)index; }

#ifndef FORKS_UNSEEN

static int runs_of_changing_sizes(void) {
    for (int k = 0; k < 400; k++) {
        int reserved = fr_pool_reserve(4);
        if (reserved != 4)
            return 1;
        fr_pool_run(2 + k * 7 % 3, nothing, NULL, NULL);
        fr_pool_release(reserved);
    }
    return 0;
}

/* The other thread works until the call is stopped, and only the one that has nothing to do can have it stopped. */
static void until_stopped(void *context, int index) {
    while (index && !fr_watch_stopped(context))
        usleep(1000);
}

static int yes(void) { return 1; }

static int who_waits_asks(void) {
    fr_watch watch = fr_watch_begin(yes);
    int reserved = fr_pool_reserve(2);
    fr_pool_run(reserved, until_stopped, &watch, &watch);
    fr_pool_release(reserved);
    return reserved != 2;
}

#ifdef __linux__

/* A worker that finds itself where the caller is moves, if it may run anywhere else, and may run where it might before. */
static void settle_beside_the_caller(void *context, int index) {
    int *moved = context;
    cpu_set_t before, after;
    if (index == 0 || pthread_getaffinity_np(pthread_self(), sizeof before, &before))
        return;
    const int core = fr_core();
    atomic_store(&pool.core, core);
    settle();
    pthread_getaffinity_np(pthread_self(), sizeof after, &after);
    *moved += CPU_EQUAL(&before, &after) && (fr_core() != core || CPU_COUNT(&before) == 1);
}

/* Once at least: the system may move it back at any time. */
static int stays_beside_the_caller(void) {
    int moved = 0, reserved = fr_pool_reserve(2);
    for (int k = 0; k < 20; k++)
        fr_pool_run(reserved, settle_beside_the_caller, &moved, NULL);
    fr_pool_release(reserved);
    return moved == 0;
}

#else

static int stays_beside_the_caller(void) { return 0; }

#endif

enum { HOSTED = 4 };

typedef struct {
    void (*member)(void *);
    void *data;
} guest;

static void *visit_once(void *argument) {
    guest *g = argument;
    g->member(g->data);
    return NULL;
}

/* What OpenMP does, with threads made for it. */
static void run_members(void (*member)(void *), void *data, unsigned threads, unsigned flags) {
    pthread_t others[HOSTED];
    guest g = {member, data};
    for (unsigned i = 1; i < threads; i++)
        pthread_create(&others[i], NULL, visit_once, &g);
    member(data);
    for (unsigned i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    (void)flags;
}

static void run_two_members(void (*member)(void *), void *data, unsigned threads, unsigned flags) {
    run_members(member, data, threads < 2 ? threads : 2, flags);
}

static _Thread_local int is_caller;

static void note_index(void *context, int index) {
    atomic_int *counts = context;
    atomic_fetch_add_explicit(&counts[index], 1, memory_order_relaxed);
    if (is_caller != (index == 0))
        counts[index] = 100;
}

/* The members that a run asks for take part once each, the caller as the first, and no thread of the pool does. */
static int runs_on_a_host(void) {
    atomic_int counts[HOSTED] = {0};
    const int workers = pool.size;
    is_caller = 1;
    fr_host_set(run_members, HOSTED);
    int reserved = fr_pool_reserve(3);
    fr_pool_run(reserved, note_index, counts, NULL);
    fr_pool_release(reserved);
    fr_host_set(run_two_members, HOSTED);
    const int given = fr_pool_reserve(HOSTED);
    fr_host_set(NULL, 0);
    return reserved != 3 || counts[0] != 1 || counts[1] != 1 || counts[2] != 1 || counts[3] || given != 2 ||
           pool.size != workers;
}

static int a_child_has_no_host(void) {
    int status = 1;
    fr_host_set(run_members, HOSTED);
    const pid_t child = fork();
    if (child == 0)
        _exit(fr_hosted());
    waitpid(child, &status, 0);
    const int hosted = fr_hosted();
    fr_host_set(NULL, 0);
    return status != 0 || !hosted;
}

static int failed(void) {
    return runs_on_a_host() || a_child_has_no_host() || runs_of_changing_sizes() || who_waits_asks() ||
           stays_beside_the_caller();
}

#else

/* A child would wait for workers that it does not have: there are none. */
static int failed(void) {
    int ran_on = fr_pool_reserve(4);
    fr_pool_run(ran_on, nothing, NULL, NULL);
    fr_pool_release(ran_on);
    return ran_on != 1 || pool.size != 0;
}

#endif

int main(void) {
    alarm(20);
    return failed();
}
