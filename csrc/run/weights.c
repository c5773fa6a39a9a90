/* Weights as the kernels read them: packed for the forward pass, or as they are. */
#include <stdlib.h>
#include <string.h>

#include "cells/facts.h"
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

/* A cell with `extra` bytes behind it. */
static fr_packed *new_packed(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size,
                             const fr_weights *weights, const fr_options *options, size_t extra) {
    fr_packed *p = calloc(1, sizeof *p + extra);
    if (!p)
        return NULL;
    p->kernels = fr_level_kernels(dtype), p->cell = cell, p->I = input_size, p->H = hidden_size;
    p->P = weights->proj_size ? weights->proj_size : hidden_size;
    if (options)
        p->general = 1, p->options = *options;
    return p;
}

fr_status fr_pack(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size, const fr_weights *weights,
                  const fr_options *options, int threads, fr_interrupted *interrupted, fr_packed **packed) {
    const size_t item = dtype == FR_F64 ? sizeof(double) : sizeof(float);
    const size_t vectors = weights->vectors ? (size_t)(fr_cells[cell].vectors * hidden_size) * item : 0;
    fr_packed *p = new_packed(cell, dtype, input_size, hidden_size, weights, options, vectors);
    if (!p)
        return FR_NO_MEMORY;
    size_t bytes = p->kernels->lay_out(p);
    if (!fr_workspace_take_for_long(&p->memory, bytes)) {
        free(p);
        return FR_NO_MEMORY;
    }
    p->data = p->memory.data;
    if (vectors)
        p->vectors = memcpy(p + 1, weights->vectors, vectors);
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
                      const fr_weights *weights, const fr_options *options, fr_packed **packed) {
    fr_packed *p = new_packed(cell, dtype, input_size, hidden_size, weights, options, sizeof *weights);
    if (!p)
        return FR_NO_MEMORY;
    fr_weights *copy = (fr_weights *)(p + 1);
    *copy = *weights;
    p->weights = copy, p->vectors = weights->vectors;
    p->kernels->lay_out(p);
    *packed = p;
    return FR_OK;
}

void fr_packed_free(fr_packed *packed) {
    if (packed)
        fr_workspace_give(&packed->memory);
    free(packed);
}
