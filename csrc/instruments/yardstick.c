/* The yardsticks: what the cores' arithmetic and the caches reach on this machine, for the benchmark's ceilings. */
#include <string.h>

#include "run/clock.h"
#include "run/kernels.h"

enum { MAX_YARDSTICK_THREADS = 64, LEAST_READ = 4 << 20 };

typedef struct yardstick {
    const fr_kernels *kernels;
    double (*stretch)(const struct yardstick *job, int thread); /* some work, for 0.02 ms or more; returns how much */
    double seconds;
    const char *data; /* (threads, part): what is read */
    ptrdiff_t part;   /* bytes */
    int passes;
    double rate[MAX_YARDSTICK_THREADS];
} yardstick;

static double seconds_now(void) { return 1e-9 * (double)fr_nanoseconds(); }

/* The best of many short stretches: the peak, not the average of a shared machine. */
static void yardstick_body(void *context, int thread) {
    yardstick *job = context;
    double begin = seconds_now(), now = begin, best = 0;
    while (now < begin + job->seconds) {
        double start = now, work = job->stretch(job, thread);
        now = seconds_now();
        double rate = work / (now - start);
        best = rate > best ? rate : best;
    }
    job->rate[thread] = best;
}

/* What `threads` of the reserved ones reach together. */
static double run_yardstick(yardstick *job, int threads) {
    double sum = 0;
    fr_pool_run(threads, yardstick_body, job, NULL);
    for (int i = 0; i < threads; i++)
        sum += job->rate[i];
    return sum;
}

static int reserve_yardstick(int threads) {
    return fr_pool_reserve(threads < MAX_YARDSTICK_THREADS ? threads : MAX_YARDSTICK_THREADS);
}

static double fma_stretch(const yardstick *job, int thread) {
    (void)thread;
    return job->kernels->fma_block(20000);
}

double fr_fma_peak(fr_dtype dtype, int threads, double seconds) {
    yardstick job = {.kernels = fr_level_kernels(dtype), .stretch = fma_stretch, .seconds = seconds};
    int reserved = reserve_yardstick(threads);
    double rate = run_yardstick(&job, reserved);
    fr_pool_release(reserved);
    return rate;
}

static double read_stretch(const yardstick *job, int thread) {
    return job->kernels->read_passes(job->data + thread * job->part, job->part, job->passes);
}

fr_status fr_read_bandwidth(size_t bytes, int threads, double seconds, double *rate) {
    yardstick job = {.kernels = fr_level_kernels(FR_F32), .stretch = read_stretch, .seconds = seconds};
    fr_workspace memory;
    int reserved = reserve_yardstick(threads);
    size_t part = (bytes + (size_t)reserved - 1) / (size_t)reserved;
    part = (part + FR_READ_UNIT - 1) / FR_READ_UNIT * FR_READ_UNIT;
    fr_status status = fr_workspace_take(&memory, part * (size_t)reserved) ? FR_OK : FR_NO_MEMORY;
    if (status == FR_OK) {
        memset(memory.data, 1, part * (size_t)reserved); /* pages never written are all the same zero page */
        job.data = memory.data;
        job.part = (ptrdiff_t)part;
        job.passes = 2 * (1 + (int)(LEAST_READ / (2 * part)));
        *rate = run_yardstick(&job, reserved);
        fr_workspace_give(&memory);
    }
    fr_pool_release(reserved);
    return status;
}
