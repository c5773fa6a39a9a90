/* Weights as the kernels read them: packed for the forward pass, or as they are. */
#include <stdlib.h>

#include "kernels.h"

typedef struct {
    const fr_packed *packed;
    const fr_weights *weights;
    int size;
    fr_watch watch;
} pack_job;

static void pack_body(void *context, int index) {
    pack_job *job = context;
    job->packed->kernels->pack(job->packed, job->weights, index, job->size, &job->watch);
}

/* Packing moves some bytes a nanosecond: fewer than these are not worth another thread. */
enum { LEAST_BYTES_TO_SHARE = 1 << 20 };

fr_status fr_pack(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size, const fr_weights *weights,
                  int threads, fr_interrupted *interrupted, fr_packed **packed) {
    fr_packed *p = calloc(1, sizeof *p);
    if (!p)
        return FR_NO_MEMORY;
    p->kernels = fr_level_kernels(dtype), p->cell = cell, p->I = input_size, p->H = hidden_size;
    size_t bytes = p->kernels->lay_out(p);
    if (!fr_workspace_take_for_long(&p->memory, bytes)) {
        free(p);
        return FR_NO_MEMORY;
    }
    p->data = p->memory.data;
    pack_job job = {p, weights, fr_pool_reserve(bytes < LEAST_BYTES_TO_SHARE ? 1 : threads),
                    fr_watch_begin(interrupted)};
    fr_pool_run(job.size, pack_body, &job, &job.watch);
    fr_pool_release(job.size);
    if (fr_watch_stopped(&job.watch)) {
        fr_packed_free(p);
        return FR_INTERRUPTED;
    }
    *packed = p;
    return FR_OK;
}

fr_status fr_unpacked(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size,
                      const fr_weights *weights, fr_packed **packed) {
    fr_packed *p = calloc(1, sizeof *p + sizeof *weights);
    if (!p)
        return FR_NO_MEMORY;
    fr_weights *copy = (fr_weights *)(p + 1);
    *copy = *weights;
    p->kernels = fr_level_kernels(dtype), p->cell = cell, p->I = input_size, p->H = hidden_size, p->weights = copy;
    p->kernels->lay_out(p);
    *packed = p;
    return FR_OK;
}

void fr_packed_free(fr_packed *packed) {
    if (packed)
        fr_workspace_give(&packed->memory);
    free(packed);
}
