/* Another library's threads as a call's team: OpenMP's, which spin on the cores after each of that library's operations,
 * so that threads of the pool's would have to share these with them. */
#ifndef FR_HOST_H
#define FR_HOST_H

#include "watch.h"

/* GOMP_parallel of libgomp, and of the libraries that take its place: runs member(data) on so many threads at once, the
 * caller among them, and returns when all have. It may use fewer, as within another parallel region. */
typedef void fr_parallel(void (*member)(void *data), void *data, unsigned threads, unsigned flags);

/* Has the calling thread's calls run on the host's threads, of which there are so many; NULL: on the pool's again. All of
 * them take part in each region, whatever the call uses, because OpenMP ends threads that a smaller region leaves out. */
void fr_host_set(fr_parallel *parallel, int threads);

int fr_hosted(void); /* whether the calling thread's calls run on a host's threads */

/* As fr_pool_reserve and fr_pool_run; nothing is held in between. */
int fr_host_reserve(int wanted);
void fr_host_run(int n, void (*body)(void *context, int index), void *context, fr_watch *watch);

#endif
