#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* affinity */
#endif
#include "cores.h"

#ifdef __linux__

#include <pthread.h>
#include <sched.h>

int fr_core(void) { return sched_getcpu(); }

void fr_leave_core(int core) {
    cpu_set_t allowed, others;
    if (pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR((size_t)core, &others);
    if (CPU_COUNT(&others) && !pthread_setaffinity_np(pthread_self(), sizeof others, &others))
        pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
}

#else

int fr_core(void) { return -1; }

void fr_leave_core(int core) { (void)core; }

#endif
