#include "watch.h"

#include "clock.h"

/* A look at the clock every few milliseconds; a question, which may have to wait for the caller's locks, rarely. */
static const double FLOP_PER_LOOK = 2e8;
enum { ASK_EVERY = 100000000 };

fr_watch fr_watch_begin(int (*interrupted)(void)) {
    const long long now = interrupted ? fr_nanoseconds() : 0;
    return (fr_watch){.interrupted = interrupted, .asked = now, .mode = fr_fp_mode_get()};
}

/* What answers may be any program, whose denormals count. */
static int ask(const fr_watch *watch) {
    fr_fp_mode kernels = fr_fp_mode_get();
    fr_fp_mode_set(watch->mode);
    int answer = watch->interrupted();
    fr_fp_mode_set(kernels);
    return answer;
}

void fr_watch_look(fr_watch *watch) {
    if (!watch->interrupted || fr_watch_stopped(watch))
        return;
    watch->work = 0;
    if (fr_nanoseconds() - watch->asked < ASK_EVERY)
        return;
    if (ask(watch))
        atomic_store_explicit(&watch->stop, 1, memory_order_relaxed);
    watch->asked = fr_nanoseconds();
}

void fr_watch_count(fr_watch *watch, double flop) {
    watch->work += flop;
    if (watch->work >= FLOP_PER_LOOK)
        fr_watch_look(watch);
}
