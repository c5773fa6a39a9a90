/* Whether a long call is to go on: its caller is asked now and then, by the thread that made the call. */
#ifndef FR_WATCH_H
#define FR_WATCH_H

#include <stdatomic.h>

#include "fpmode.h"

typedef struct {
    int (*interrupted)(void); /* NULL: nobody is asked */
    fp_mode mode;         /* the caller's, in which it is asked: a signal's handler may run there */
    atomic_int stop;
    double work;          /* operations since the clock was last looked at */
    long long asked;      /* when, in nanoseconds; 0: the clock was not looked at yet */
} fr_watch;

/* Counts the calling thread's work and asks, at most every tenth of a second. Not for other threads. */
void fr_watch_count(fr_watch *watch, double flop);

static inline int fr_watch_stopped(const fr_watch *watch) {
    return atomic_load_explicit(&watch->stop, memory_order_relaxed);
}

#endif
