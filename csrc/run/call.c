/* The entry points of a forward and a backward pass. */
#include "cells/facts.h"
#include "rows.h"
#include "team.h"

static double step_flop(fr_cell cell, ptrdiff_t I, ptrdiff_t H, ptrdiff_t P) {
    const double projection = P < H ? 2.0 * (double)H * (double)P : 0;
    return 2.0 * fr_cells[cell].gates * (double)H * (double)(I + P) + projection;
}

/* What a call allocates: the lengths and ranks of the rows, and the kernels' scratch. */
typedef struct {
    fr_workspace rows, scratch;
    fr_batch batch;
} call;

static fr_status begin_call(call *c, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths) {
    *c = (call){.batch = {.T = T, .B = B}};
    return fr_rank_rows(&c->batch, &c->rows, lengths) ? FR_OK : FR_NO_MEMORY;
}

static void end_call(call *c) {
    fr_workspace_give(&c->scratch);
    fr_workspace_give(&c->rows);
}

static void forward_work(const fr_team *t, const fr_share *share, void *scratch) {
    t->kernels->forward(t->run, t->batch, share, scratch);
}

fr_status fr_forward(const fr_forward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                     int threads, fr_interrupted *interrupted) {
    const fr_packed *packed = runs[0].packed;
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    fr_job j = {.n_teams = n_runs, .work = forward_work, .watch = fr_watch_begin(interrupted),
                .row_flop = step_flop(packed->cell, packed->I, packed->H, packed->P), .together = !packed->data};
    for (int i = 0; i < n_runs; i++)
        j.teams[i] = (fr_team){.run = &runs[i], .batch = &c.batch, .kernels = runs[i].packed->kernels};
    const ptrdiff_t slices = fr_divides_rows(packed->cell, packed->P, packed->H) ? 1 : packed->panels;
    int used, reserved = fr_reserve_job(&j, &used, threads, slices);
    for (int i = 0; i < n_runs; i++) {
        fr_team *t = &j.teams[i];
        for (int index = 0; index < t->schedule.threads; index++) {
            fr_share share = {.index = index, .size = t->schedule.threads, .by_units = t->schedule.by_units};
            size_t bytes = fr_aligned(t->kernels->forward_bytes(&runs[i], &c.batch, &share));
            t->scratch_stride = bytes > t->scratch_stride ? bytes : t->scratch_stride;
        }
        t->scratch_bytes = t->scratch_stride * (size_t)t->schedule.threads;
    }
    fr_status status = fr_run_job(&j, &c.scratch, used);
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}

static void backward_work(const fr_team *t, const fr_share *share, void *scratch) {
    t->kernels->backward(t->run, t->batch, share, scratch);
}

fr_status fr_backward(const fr_backward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                      int threads, fr_interrupted *interrupted) {
    const fr_kernels *kernels = fr_level_kernels(runs->dtype);
    const ptrdiff_t H = runs->hidden_size, P = runs->weights.proj_size ? runs->weights.proj_size : H;
    const ptrdiff_t slice = 4 * kernels->lanes;
    const ptrdiff_t slices = fr_divides_rows(runs->cell, P, H) ? 1 : (H + slice - 1) / slice;
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    fr_job j = {.n_teams = n_runs, .work = backward_work, .watch = fr_watch_begin(interrupted),
                .row_flop = 2 * step_flop(runs->cell, runs->input_size, H, P), .is_cut = runs->span.last > 0};
    for (int i = 0; i < n_runs; i++)
        j.teams[i] = (fr_team){.run = &runs[i], .batch = &c.batch, .kernels = kernels};
    int used, reserved = fr_reserve_job(&j, &used, threads, slices);
    for (int i = 0; i < n_runs; i++)
        j.teams[i].scratch_bytes =
            fr_aligned(kernels->backward_bytes(&runs[i], &c.batch, j.teams[i].schedule.threads));
    fr_status status = fr_run_job(&j, &c.scratch, used);
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}
