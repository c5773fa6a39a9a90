/* The entry points: what is the same at every instruction-set level and for every dtype. */
#include <stdlib.h>
#include <string.h>

#include "cells/facts.h"
#include "clock.h"
#include "kernels.h"

static double step_flop(fr_cell cell, ptrdiff_t I, ptrdiff_t H) {
    return 2.0 * fr_cells[cell].gates * (double)H * (double)(I + H);
}

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

/* Ranks the rows, longest first, ties by row, in O(T + B): `starts` has T + 2 elements of scratch. */
static void rank_rows(ptrdiff_t *order, ptrdiff_t *starts, const int64_t *lengths, ptrdiff_t T, ptrdiff_t B) {
    memset(starts, 0, (size_t)(T + 2) * sizeof *starts);
    for (ptrdiff_t row = 0; row < B; row++)
        starts[T - lengths[row] + 1]++;
    for (ptrdiff_t i = 1; i <= T; i++)
        starts[i] += starts[i - 1];
    for (ptrdiff_t row = 0; row < B; row++)
        order[starts[T - lengths[row]]++] = row;
}

/* The caller's memory may change while the kernels run: what they trust is a copy, in 0..T whatever it holds. */
static void copy_lengths(int64_t *copy, const int64_t *lengths, ptrdiff_t T, ptrdiff_t B) {
    for (ptrdiff_t row = 0; row < B; row++) {
        const int64_t length = ((const volatile int64_t *)lengths)[row];
        copy[row] = length < 0 ? 0 : length > T ? T : length;
    }
}

/* What a call allocates: the lengths and ranks of the rows, and the kernels' scratch. */
typedef struct {
    fr_workspace rows, scratch;
    fr_batch batch;
} call;

static fr_status begin_call(call *c, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths) {
    *c = (call){.batch = {.T = T, .B = B}};
    if (!lengths)
        return FR_OK;
    if (!fr_workspace_take(&c->rows, (size_t)B * sizeof(int64_t) + (size_t)(B + T + 2) * sizeof(ptrdiff_t)))
        return FR_NO_MEMORY;
    int64_t *copy = c->rows.data;
    ptrdiff_t *order = (ptrdiff_t *)(copy + B);
    copy_lengths(copy, lengths, T, B);
    rank_rows(order, order + B, copy, T, B);
    c->batch.lengths = copy, c->batch.order = order;
    return FR_OK;
}

static void end_call(call *c) {
    fr_workspace_give(&c->scratch);
    fr_workspace_give(&c->rows);
}

/* Longer than it takes to wake the threads and to move them apart, in nanoseconds. */
enum { NEIGHBOURS_SLICE = 1000000 };

/* Ends a team's meetings. On an idle machine hardly any of those at the steps lasts longer than its spin; where half of
 * what the threads add to one went by in sleep, one alone is about as fast. */
static void end_team(fr_barrier *barrier, const fr_schedule *schedule, long long begin, long long end) {
    const long long slept = atomic_load(&barrier->slept);
    if (schedule->by_units && slept > NEIGHBOURS_SLICE && 2 * slept > (end - begin) * (schedule->threads - 1))
        fr_pool_note_contention(begin);
    fr_barrier_destroy(barrier);
}

/* --- The threads form one team per direction, or, alone, visit the directions in turn. */

enum { MAX_RUNS = 2 };

/* What a core could do in the time that a row's step takes at least, by the order of magnitude. */
static const double LEAST_ROW_FLOP = 5e3;

typedef struct {
    const void *run; /* fr_forward_run or fr_backward_run */
    const fr_batch *batch;
    const fr_kernels *kernels;
    fr_schedule schedule;
    fr_barrier barrier;
    char *scratch;
    size_t scratch_bytes, scratch_stride; /* of the team, and from one thread's to the next; 0: shared */
} team;

typedef struct {
    team teams[MAX_RUNS];
    int n_teams;
    int side_by_side; /* thread i serves team i % n_teams; else thread i serves every team */
    void (*work)(const team *, const fr_share *, void *scratch);
    fr_barrier crossing; /* of all threads, side by side */
    fr_watch watch;
    double row_flop; /* of a row and step of one direction */
    int together;    /* rows are not divided: each of the threads would pack all weights */
} job;

static void job_body(void *context, int thread) {
    job *j = context;
    const ptrdiff_t T = j->teams[0].batch->T;
    for (int i = 0; i < j->n_teams; i++) {
        team *t = &j->teams[i];
        int index = j->side_by_side ? thread / j->n_teams : thread;
        if ((j->side_by_side && thread % j->n_teams != i) || index >= t->schedule.threads)
            continue;
        const int size = t->schedule.threads, by_units = t->schedule.by_units;
        fr_share share = {.index = index, .size = size, .by_units = by_units, .barrier = &t->barrier};
        share.watch = &j->watch;
        share.counts = thread == 0;
        share.row_flop = by_units ? j->row_flop / size : j->row_flop;
        if (share.row_flop < LEAST_ROW_FLOP)
            share.row_flop = LEAST_ROW_FLOP;
        share.dx_stored = i ? 0 : T;
        share.zeroes_padding = i == 0;
        if (j->side_by_side) {
            share.dx_stored = i ? T / 2 : T - T / 2;
            share.crossing = &j->crossing;
        }
        j->work(t, &share, t->scratch + (size_t)index * t->scratch_stride);
    }
}

/* Divides `threads` among the directions, the units cut into so many slices; returns how many threads have work. */
static int plan_job(job *j, int threads, ptrdiff_t slices) {
    const int n = j->n_teams;
    const fr_batch *batch = j->teams[0].batch;
    int used = 1;
    j->side_by_side = n > 1 && threads >= n && fr_worth_threads(n * (double)batch->T * (double)batch->B * j->row_flop);
    for (int i = 0; i < n; i++) {
        int members = j->side_by_side ? (threads - i + n - 1) / n : threads;
        const ptrdiff_t rows = j->together ? 1 : batch->B;
        const double row_flop = j->row_flop * (double)(batch->B / rows);
        j->teams[i].schedule = fr_choose_schedule(members, !fr_pool_contended(), batch->T, rows, slices, row_flop);
        int last = j->teams[i].schedule.threads;
        if (j->side_by_side)
            last = (last - 1) * n + i + 1;
        used = last > used ? last : used;
    }
    return used;
}

/* Plans, and plans anew where the pool has fewer threads; returns what was reserved. */
static int reserve_job(job *j, int *used, int threads, ptrdiff_t slices) {
    *used = plan_job(j, threads, slices);
    int reserved = fr_pool_reserve(*used);
    if (reserved < *used)
        *used = plan_job(j, reserved, slices);
    return reserved;
}

static fr_status run_job(job *j, call *c, int used) {
    size_t total = 0;
    int members = 0;
    for (int i = 0; i < j->n_teams; i++)
        total += j->teams[i].scratch_bytes;
    if (!fr_workspace_take(&c->scratch, total))
        return FR_NO_MEMORY;
    char *next = c->scratch.data;
    for (int i = 0; i < j->n_teams; next += j->teams[i].scratch_bytes, i++) {
        j->teams[i].scratch = next;
        members += j->teams[i].schedule.threads;
        fr_barrier_init(&j->teams[i].barrier, j->teams[i].schedule.threads, &j->watch.stop);
    }
    fr_barrier_init(&j->crossing, members, &j->watch.stop);
    const long long begin = fr_nanoseconds();
    fr_pool_run(used, job_body, j, &j->watch);
    const long long end = fr_nanoseconds();
    fr_barrier_destroy(&j->crossing);
    for (int i = 0; i < j->n_teams; i++)
        end_team(&j->teams[i].barrier, &j->teams[i].schedule, begin, end);
    return fr_watch_stopped(&j->watch) ? FR_INTERRUPTED : FR_OK;
}

static void forward_work(const team *t, const fr_share *share, void *scratch) {
    t->kernels->forward(t->run, t->batch, share, scratch);
}

fr_status fr_forward(const fr_forward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                     int threads, fr_interrupted *interrupted) {
    const fr_packed *packed = runs[0].packed;
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    job j = {.n_teams = n_runs, .work = forward_work, .watch = fr_watch_begin(interrupted),
             .row_flop = step_flop(packed->cell, packed->I, packed->H), .together = !packed->data};
    for (int i = 0; i < n_runs; i++)
        j.teams[i] = (team){.run = &runs[i], .batch = &c.batch, .kernels = runs[i].packed->kernels};
    int used, reserved = reserve_job(&j, &used, threads, packed->panels);
    for (int i = 0; i < n_runs; i++) {
        team *t = &j.teams[i];
        for (int index = 0; index < t->schedule.threads; index++) {
            fr_share share = {.index = index, .size = t->schedule.threads, .by_units = t->schedule.by_units};
            size_t bytes = fr_aligned(t->kernels->forward_bytes(runs[i].packed, &c.batch, &share));
            t->scratch_stride = bytes > t->scratch_stride ? bytes : t->scratch_stride;
        }
        t->scratch_bytes = t->scratch_stride * (size_t)t->schedule.threads;
    }
    fr_status status = run_job(&j, &c, used);
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}

static void backward_work(const team *t, const fr_share *share, void *scratch) {
    t->kernels->backward(t->run, t->batch, share, scratch);
}

fr_status fr_backward(const fr_backward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                      int threads, fr_interrupted *interrupted) {
    const fr_kernels *kernels = fr_level_kernels(runs->dtype);
    const ptrdiff_t H = runs->hidden_size, slice = 4 * kernels->lanes;
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    job j = {.n_teams = n_runs, .work = backward_work, .watch = fr_watch_begin(interrupted),
             .row_flop = 2 * step_flop(runs->cell, runs->input_size, H)};
    for (int i = 0; i < n_runs; i++)
        j.teams[i] = (team){.run = &runs[i], .batch = &c.batch, .kernels = kernels};
    int used, reserved = reserve_job(&j, &used, threads, (H + slice - 1) / slice);
    for (int i = 0; i < n_runs; i++)
        j.teams[i].scratch_bytes =
            fr_aligned(kernels->backward_bytes(&runs[i], &c.batch, j.teams[i].schedule.threads));
    fr_status status = run_job(&j, &c, used);
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}

void fr_update(fr_dtype dtype, const fr_update_run *run, const fr_numbers *numbers) {
    fr_level_kernels(dtype)->update(run, numbers);
}

void fr_activate(fr_dtype dtype, fr_activation function, const void *from, void *to, ptrdiff_t n) {
    fr_level_kernels(dtype)->activate(function, from, to, n);
}
