/* The entry points: what is the same at every instruction-set level and for every dtype. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"

static int gates_of(fr_cell cell) { return cell == FR_LSTM ? 4 : cell == FR_GRU ? 3 : 1; }

static double step_flop(fr_cell cell, ptrdiff_t I, ptrdiff_t H) {
    return 2.0 * gates_of(cell) * (double)H * (double)(I + H);
}

fr_status fr_pack(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size, const fr_weights *weights,
                  fr_packed **packed) {
    const fr_kernels *kernels = fr_level_kernels(dtype);
    fr_packed *p = calloc(1, sizeof *p);
    if (!p || !fr_workspace_take(&p->memory, kernels->packed_bytes(cell, input_size, hidden_size))) {
        free(p);
        return FR_NO_MEMORY;
    }
    p->kernels = kernels, p->cell = cell, p->I = input_size, p->H = hidden_size, p->data = p->memory.data;
    kernels->pack(p, weights);
    *packed = p;
    return FR_OK;
}

void fr_packed_free(fr_packed *packed) {
    if (packed)
        fr_workspace_give(&packed->memory);
    free(packed);
}

/* Ranks the rows, longest first, ties by row, in O(T + B): `starts` has T + 1 elements of scratch. */
static void rank_rows(ptrdiff_t *order, ptrdiff_t *starts, const int64_t *lengths, ptrdiff_t T, ptrdiff_t B) {
    memset(starts, 0, (size_t)(T + 1) * sizeof *starts);
    for (ptrdiff_t row = 0; row < B; row++)
        starts[T - lengths[row] + 1]++; /* lengths are at least 1: the index is at most T */
    for (ptrdiff_t i = 1; i <= T; i++)
        starts[i] += starts[i - 1];
    for (ptrdiff_t row = 0; row < B; row++)
        order[starts[T - lengths[row]]++] = row;
}

/* What a call allocates: the ranks of the rows, and the kernels' scratch behind them. */
typedef struct {
    fr_workspace ranks, scratch;
    fr_batch batch;
} call;

static fr_status begin_call(call *c, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths) {
    *c = (call){.batch = {.T = T, .B = B, .lengths = lengths}};
    if (!lengths)
        return FR_OK;
    if (!fr_workspace_take(&c->ranks, (size_t)(B + T + 1) * sizeof(ptrdiff_t)))
        return FR_NO_MEMORY;
    ptrdiff_t *order = c->ranks.data;
    rank_rows(order, order + B, lengths, T, B);
    c->batch.order = order;
    return FR_OK;
}

static void end_call(call *c) {
    fr_workspace_give(&c->scratch);
    fr_workspace_give(&c->ranks);
}

/* Ends a team's meetings; on an idle machine hardly any of those at the steps lasts longer than its spin. */
static void end_team(fr_barrier *barrier, const fr_schedule *schedule, ptrdiff_t T) {
    if (schedule->by_units && atomic_load(&barrier->slept) > 2 + T / 16)
        fr_pool_note_contention();
    fr_barrier_destroy(barrier);
}

/* --- Forward: the threads form one team per direction, or, alone, visit the directions in turn. */

enum { MAX_RUNS = 2 };

typedef struct {
    const fr_forward_run *run;
    const fr_batch *batch;
    fr_schedule schedule;
    fr_barrier barrier;
    char *scratch;
    size_t scratch_stride; /* per thread */
} forward_team;

typedef struct {
    forward_team teams[MAX_RUNS];
    int n_teams;
    int side_by_side; /* thread i serves team i % n_teams; else thread i serves every team */
} forward_job;

static void forward_body(void *context, int thread) {
    forward_job *job = context;
    for (int i = 0; i < job->n_teams; i++) {
        forward_team *team = &job->teams[i];
        int index = job->side_by_side ? thread / job->n_teams : thread;
        if ((job->side_by_side && thread % job->n_teams != i) || index >= team->schedule.threads)
            continue;
        fr_share share = {index, team->schedule.threads, team->schedule.by_units, &team->barrier};
        team->run->packed->kernels->forward(team->run, team->batch, &share,
                                            team->scratch + (size_t)index * team->scratch_stride);
    }
}

/* Chooses a team's schedule; returns the scratch that all its members need. */
static size_t plan_team(forward_team *team, const fr_forward_run *run, const fr_batch *batch, int threads) {
    const fr_packed *packed = run->packed;
    team->run = run;
    team->batch = batch;
    team->schedule = fr_choose_schedule(threads, !fr_pool_contended(), batch->T, batch->B, packed->panels,
                                        step_flop(packed->cell, packed->I, packed->H));
    team->scratch_stride = 0;
    for (int i = 0; i < team->schedule.threads; i++) {
        fr_share share = {i, team->schedule.threads, team->schedule.by_units, NULL};
        size_t bytes = fr_aligned(packed->kernels->forward_bytes(packed, batch, &share));
        if (bytes > team->scratch_stride)
            team->scratch_stride = bytes;
    }
    return team->scratch_stride * (size_t)team->schedule.threads;
}

/* Divides `threads` among the directions; returns how many of them have work. */
static int plan_forward(forward_job *job, const fr_forward_run *runs, const fr_batch *batch, int threads,
                        size_t *scratch) {
    const int n = job->n_teams;
    const fr_packed *packed = runs[0].packed;
    double flop = n * (double)batch->T * (double)batch->B * step_flop(packed->cell, packed->I, packed->H);
    int used = 1;
    job->side_by_side = n > 1 && threads >= n && fr_worth_threads(flop);
    for (int i = 0; i < n; i++) {
        int members = job->side_by_side ? (threads - i + n - 1) / n : threads;
        scratch[i] = plan_team(&job->teams[i], &runs[i], batch, members);
        int last = job->teams[i].schedule.threads;
        if (job->side_by_side)
            last = (last - 1) * n + i + 1;
        used = last > used ? last : used;
    }
    return used;
}

fr_status fr_forward(const fr_forward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                     int threads) {
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    forward_job job = {.n_teams = n_runs};
    size_t scratch[MAX_RUNS], total = 0;
    int used = plan_forward(&job, runs, &c.batch, threads, scratch), reserved = fr_pool_reserve(used);
    if (reserved < used)
        used = plan_forward(&job, runs, &c.batch, reserved, scratch);
    for (int i = 0; i < n_runs; i++)
        total += scratch[i];
    fr_status status = fr_workspace_take(&c.scratch, total) ? FR_OK : FR_NO_MEMORY;
    if (status == FR_OK) {
        char *next = c.scratch.data;
        for (int i = 0; i < n_runs; next += scratch[i], i++) {
            job.teams[i].scratch = next;
            fr_barrier_init(&job.teams[i].barrier, job.teams[i].schedule.threads);
        }
        fr_pool_run(used, forward_body, &job);
        for (int i = 0; i < n_runs; i++)
            end_team(&job.teams[i].barrier, &job.teams[i].schedule, T);
    }
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}

/* --- Backward: one direction, all threads. */

typedef struct {
    const fr_backward_run *run;
    const fr_kernels *kernels;
    const fr_batch *batch;
    fr_schedule schedule;
    fr_barrier barrier;
    void *scratch;
} backward_job;

static void backward_body(void *context, int thread) {
    backward_job *job = context;
    fr_share share = {thread, job->schedule.threads, job->schedule.by_units, &job->barrier};
    job->kernels->backward(job->run, job->batch, &share, job->scratch);
}

static void plan_backward(backward_job *job, int threads) {
    const fr_backward_run *run = job->run;
    ptrdiff_t slice = 4 * job->kernels->lanes, slices = (run->hidden_size + slice - 1) / slice;
    job->schedule = fr_choose_schedule(threads, !fr_pool_contended(), job->batch->T, job->batch->B, slices,
                                       2 * step_flop(run->cell, run->input_size, run->hidden_size));
}

fr_status fr_backward(const fr_backward_run *run, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths, int threads) {
    call c;
    if (begin_call(&c, T, B, lengths) != FR_OK)
        return FR_NO_MEMORY;
    backward_job job = {.run = run, .kernels = fr_level_kernels(run->dtype), .batch = &c.batch};
    plan_backward(&job, threads);
    int reserved = fr_pool_reserve(job.schedule.threads);
    if (reserved < job.schedule.threads)
        plan_backward(&job, reserved);
    size_t bytes = job.kernels->backward_bytes(run, &c.batch, job.schedule.threads);
    fr_status status = fr_workspace_take(&c.scratch, bytes) ? FR_OK : FR_NO_MEMORY;
    if (status == FR_OK) {
        job.scratch = c.scratch.data;
        fr_barrier_init(&job.barrier, job.schedule.threads);
        fr_pool_run(job.schedule.threads, backward_body, &job);
        end_team(&job.barrier, &job.schedule, T);
    }
    fr_pool_release(reserved);
    end_call(&c);
    return status;
}

/* --- The yardstick. */

typedef struct {
    const fr_kernels *kernels;
    double seconds;
    double flop[64];
} peak_job;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The best of many short stretches: the peak, not the average of a shared machine. */
static void peak_body(void *context, int thread) {
    peak_job *job = context;
    double begin = seconds_now(), now = begin, best = 0;
    while (now < begin + job->seconds) {
        double start = now, flop = job->kernels->fma_block(20000);
        now = seconds_now();
        double rate = flop / (now - start);
        best = rate > best ? rate : best;
    }
    job->flop[thread] = best;
}

double fr_fma_peak(fr_dtype dtype, int threads, double seconds) {
    peak_job job = {.kernels = fr_level_kernels(dtype), .seconds = seconds};
    int reserved = fr_pool_reserve(threads < 64 ? threads : 64);
    fr_pool_run(reserved, peak_body, &job);
    fr_pool_release(reserved);
    double sum = 0;
    for (int i = 0; i < reserved; i++)
        sum += job.flop[i];
    return sum;
}
