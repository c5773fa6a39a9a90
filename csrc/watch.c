#include "watch.h"

#include "clock.h"

/* A look at the clock every few milliseconds; a question, which may have to wait for the caller's locks, rarely. */
static const double FLOP_PER_LOOK = 2e8;
enum { ASK_EVERY = 100000000 };

void fr_watch_count(fr_watch *watch, double flop) {
    watch->work += flop;
    if (!watch->interrupted || watch->work < FLOP_PER_LOOK)
        return;
    watch->work = 0;
    long long now = fr_nanoseconds();
    if (!watch->asked)
        watch->asked = now;
    if (now - watch->asked < ASK_EVERY)
        return;
    watch->asked = now;
    const fp_mode kernels = fp_mode_now();
    denormals_restore(watch->mode);
    const int interrupted = watch->interrupted();
    denormals_restore(kernels);
    if (interrupted)
        atomic_store_explicit(&watch->stop, 1, memory_order_relaxed);
}
