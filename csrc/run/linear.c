/* The entry points of the product before a scan: threads divide the panels of the weights, then the rows. */
#include <stdlib.h>

#include "kernels.h"

typedef struct {
    const void *task; /* fr_linear_source or fr_linear_run */
    const fr_kernels *kernels;
    ptrdiff_t N;
    int threads;
    fr_watch watch;
} linear_job;

static void pack_body(void *context, int index) {
    linear_job *j = context;
    j->kernels->linear_pack(j->task, index, j->threads, &j->watch);
}

static void linear_body(void *context, int index) {
    linear_job *j = context;
    const ptrdiff_t row = fr_cut(j->N, index, j->threads), end = fr_cut(j->N, index + 1, j->threads);
    j->kernels->linear(j->task, row, end, index == 0, &j->watch);
}

static fr_status run_linear(linear_job *j, void (*body)(void *, int), int threads, double flop,
                            fr_interrupted *interrupted) {
    j->watch = fr_watch_begin(interrupted);
    j->threads = fr_pool_reserve(fr_worth_threads(flop) ? threads : 1);
    fr_pool_run(j->threads, body, j, &j->watch);
    fr_pool_release(j->threads);
    return fr_watch_stopped(&j->watch) ? FR_INTERRUPTED : FR_OK;
}

fr_status fr_linear_pack(fr_dtype dtype, ptrdiff_t K, ptrdiff_t M, const void *w, int transposed, const void *bias,
                         int threads, fr_interrupted *interrupted, fr_linear_packed **result) {
    fr_linear_packed *packed = malloc(sizeof *packed);
    if (!packed)
        return FR_NO_MEMORY;
    *packed = (fr_linear_packed){.kernels = fr_level_kernels(dtype), .K = K, .M = M};
    if (!fr_workspace_take_for_long(&packed->memory, packed->kernels->linear_bytes(packed))) {
        free(packed);
        return FR_NO_MEMORY;
    }
    const fr_linear_source source = {.packed = packed, .w = w, .bias = bias, .transposed = transposed};
    linear_job j = {.task = &source, .kernels = packed->kernels};
    const fr_status status = run_linear(&j, pack_body, threads, FR_PACK_FLOP * (double)K * (double)M, interrupted);
    if (status == FR_OK)
        *result = packed;
    else
        fr_linear_free(packed);
    return status;
}

void fr_linear_free(fr_linear_packed *packed) {
    if (!packed)
        return;
    fr_workspace_give(&packed->memory);
    free(packed);
}

fr_status fr_linear(const fr_linear_packed *packed, ptrdiff_t N, const void *x, void *y, int threads,
                    fr_interrupted *interrupted) {
    const fr_linear_run run = {.packed = packed, .x = x, .y = y};
    linear_job j = {.task = &run, .kernels = packed->kernels, .N = N};
    const double flop = 2.0 * (double)N * (double)packed->K * (double)packed->M;
    return run_linear(&j, linear_body, N < threads ? (int)N : threads, flop, interrupted);
}
