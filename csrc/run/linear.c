/* The entry point of the product before a scan: threads pack the weights, then divide the rows. */
#include "kernels.h"

typedef struct {
    const fr_linear_run *run;
    const fr_kernels *kernels;
    int threads;
    fr_watch watch;
    void *packed;
} linear_job;

static void pack_body(void *context, int index) {
    linear_job *j = context;
    j->kernels->linear_pack(j->run, index, j->threads, &j->watch, j->packed);
}

static void linear_body(void *context, int index) {
    linear_job *j = context;
    j->kernels->linear(j->run, fr_cut(j->run->N, index, j->threads), fr_cut(j->run->N, index + 1, j->threads), index == 0,
                       &j->watch, j->packed);
}

fr_status fr_linear(const fr_linear_run *run, int threads, fr_interrupted *interrupted) {
    linear_job j = {.run = run, .kernels = fr_level_kernels(run->dtype), .watch = fr_watch_begin(interrupted)};
    fr_workspace packed;
    if (!fr_workspace_take(&packed, j.kernels->linear_bytes(run)))
        return FR_NO_MEMORY;
    j.packed = packed.data;
    if (!fr_worth_threads(2.0 * (double)run->N * (double)run->K * (double)run->M))
        threads = 1;
    const int reserved = fr_pool_reserve(run->N < threads ? (int)run->N : threads);
    j.threads = reserved;
    fr_pool_run(reserved, pack_body, &j, &j.watch);
    if (!fr_watch_stopped(&j.watch))
        fr_pool_run(reserved, linear_body, &j, &j.watch);
    fr_pool_release(reserved);
    fr_workspace_give(&packed);
    return fr_watch_stopped(&j.watch) ? FR_INTERRUPTED : FR_OK;
}
