/* Whether a long call is to go on: its caller is asked now and then, by the thread that made the call. */
#ifndef FR_WATCH_H
#define FR_WATCH_H

#include <stdatomic.h>

#include "fpmode.h"

typedef struct {
    int (*interrupted)(void); /* NULL: nobody is asked */
    atomic_int stop;
    double work;          /* operations since the clock was last looked at */
    long long asked;      /* when, in nanoseconds */
    fr_fp_mode mode;      /* the caller's, in which it is asked: a signal's handler may run there */
} fr_watch;

fr_watch fr_watch_begin(int (*interrupted)(void));

/* These are for the thread that made the call. */
void fr_watch_count(fr_watch *watch, double flop); /* looks at the clock after enough work */
void fr_watch_look(fr_watch *watch); /* asks, at most every tenth of a second */

static inline int fr_watch_stopped(const fr_watch *watch) {
    return atomic_load_explicit(&watch->stop, memory_order_relaxed);
}

#endif
