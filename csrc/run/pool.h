/* Threads: one pool for the process, and barriers for the teams that work in it. */
#ifndef FR_POOL_H
#define FR_POOL_H

#include <pthread.h>
#include <stdatomic.h>

#include "watch.h"

/* A meeting point for `size` threads, to be used again and again. Waiting spins first, then sleeps. */
typedef struct {
    int size;
    const atomic_int *stop; /* may be NULL */
    int stopped;            /* what the last meeting found there */
    atomic_int arrived, sleepers;
    atomic_llong slept; /* nanoseconds that waits went on after their spin, of all together */
    atomic_uint phase;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
} fr_barrier;

void fr_barrier_init(fr_barrier *barrier, int size, const atomic_int *stop);
/* Returns whether *stop was set when the last thread came: the same to all, so that they leave together. */
int fr_barrier_wait(fr_barrier *barrier);
/* For the thread that made the call, where it may have to wait for long: it asks meanwhile. watch may be NULL. */
int fr_barrier_wait_asking(fr_barrier *barrier, fr_watch *watch);
void fr_barrier_destroy(fr_barrier *barrier);

/* Reserves the pool for up to `wanted` threads, the caller among them, and returns how many it got: 1, with nothing
 * reserved, where another call holds the pool or no thread can be made. After fork the child finds an empty pool. */
int fr_pool_reserve(int wanted);
/* Runs body(context, 0 .. n-1) at the same time, 0 on the calling thread, and returns when all are done; n is what
 * fr_pool_reserve returned, or less. `watch`, which may be NULL, is asked while the others are waited for. */
void fr_pool_run(int n, void (*body)(void *context, int index), void *context, fr_watch *watch);
void fr_pool_release(int reserved);

/* Another process takes part of the cores: threads that meet at every step then wait for each other's time slices,
 * and are many times slower than one alone. Who sees that says so, and for a while no call divides its steps. */
void fr_pool_note_contention(long long begin); /* of the call, on the monotonic clock */
int fr_pool_contended(void);

#endif
