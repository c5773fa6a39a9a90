/* The monotonic clock. */
#ifndef FR_CLOCK_H
#define FR_CLOCK_H

#include <time.h>

static inline long long fr_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

#endif
