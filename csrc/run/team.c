/* How a call's threads are planned, reserved and run. */
#include "team.h"

#include "clock.h"

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

/* What a core could do in the time that a row's step takes at least, by the order of magnitude. */
static const double LEAST_ROW_FLOP = 5e3;

static void job_body(void *context, int thread) {
    fr_job *j = context;
    const ptrdiff_t T = j->teams[0].batch->T;
    for (int i = 0; i < j->n_teams; i++) {
        fr_team *t = &j->teams[i];
        int index = j->side_by_side ? thread / j->n_teams : thread;
        if ((j->side_by_side && thread % j->n_teams != i) || index >= t->schedule.threads)
            continue;
        const int size = t->schedule.threads, by_units = t->schedule.by_units;
        fr_share share = {.index = index, .size = size, .by_units = by_units, .barrier = &t->barrier,
                          .team_scratch = t->scratch};
        share.watch = &j->watch;
        share.counts = thread == 0;
        share.row_flop = by_units ? j->row_flop / size : j->row_flop;
        if (share.row_flop < LEAST_ROW_FLOP)
            share.row_flop = LEAST_ROW_FLOP;
        share.dx_stored = i ? 0 : T;
        share.zeroes_padding = i == 0;
        if (j->side_by_side || (j->is_cut && j->n_teams > 1))
            share.dx_stored = i ? T / 2 : T - T / 2;
        if (j->side_by_side)
            share.crossing = &j->crossing;
        j->work(t, &share, t->scratch + (size_t)index * t->scratch_stride);
    }
}

/* Divides `threads` among the directions, the units cut into so many slices; returns how many threads have work. */
static int plan_job(fr_job *j, int threads, ptrdiff_t slices) {
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

/* Plans anew where the pool has fewer threads. */
int fr_reserve_job(fr_job *j, int *used, int threads, ptrdiff_t slices) {
    *used = plan_job(j, threads, slices);
    int reserved = fr_pool_reserve(*used);
    if (reserved < *used)
        *used = plan_job(j, reserved, slices);
    return reserved;
}

fr_status fr_run_job(fr_job *j, fr_workspace *scratch, int used) {
    size_t total = 0;
    int members = 0;
    for (int i = 0; i < j->n_teams; i++)
        total += j->teams[i].scratch_bytes;
    if (!fr_workspace_take(scratch, total))
        return FR_NO_MEMORY;
    char *next = scratch->data;
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
