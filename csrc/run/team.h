/* The threads of a call: they form one team per direction, or, alone, visit the directions in turn. */
#ifndef FR_TEAM_H
#define FR_TEAM_H

#include "kernels.h"

enum { MAX_RUNS = 2 };

typedef struct {
    const void *run; /* fr_forward_run or fr_backward_run */
    const fr_batch *batch;
    const fr_kernels *kernels;
    fr_schedule schedule;
    fr_barrier barrier;
    char *scratch;
    size_t scratch_bytes, scratch_stride; /* of the team, and from one thread's to the next; 0: shared */
} fr_team;

typedef struct {
    fr_team teams[MAX_RUNS];
    int n_teams;
    int side_by_side; /* thread i serves team i % n_teams; else thread i serves every team */
    void (*work)(const fr_team *, const fr_share *, void *scratch);
    fr_barrier crossing; /* of all threads, side by side */
    fr_watch watch;
    double row_flop; /* of a row and step of one direction */
    int is_cut;      /* the call is a part of a backward pass */
    int together;    /* rows are not divided: each of the threads would pack all weights */
} fr_job;

/* Plans for at most so many threads, the units cut into so many slices, and reserves them; `used` is how many have
 * work. Returns what was reserved. */
int fr_reserve_job(fr_job *job, int *used, int threads, ptrdiff_t slices);
/* Runs it in the memory that `scratch` takes. */
fr_status fr_run_job(fr_job *job, fr_workspace *scratch, int used);

#endif
