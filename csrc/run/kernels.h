/* Inside the library: what the level-independent code (run/, instruments/yardstick.c) and the code compiled once per
 * instruction-set level and dtype (level/) know of each other. */
#ifndef FR_KERNELS_H
#define FR_KERNELS_H

#include "cells/facts.h"
#include "fastrnn.h"
#include "pool.h"
#include "scan.h"
#include "schedule.h"
#include "watch.h"
#include "workspace.h"

/* The rows of a call in the order in which the kernels take them: longest first, so that the rows which have a step t
 * are always the first `live` of them. */
typedef struct {
    ptrdiff_t T, B;
    const int64_t *lengths; /* NULL: all are T */
    const ptrdiff_t *order; /* rank -> row; NULL: the same */
} fr_batch;

/* One thread of a team that works on a run. By rows it meets nobody while going forward; by units, the team once a
 * step. */
typedef struct {
    int index, size;
    int by_units;
    fr_barrier *barrier;    /* of the team */
    char *team_scratch;     /* of a forward pass: its first member's */
    fr_watch *watch;        /* of the call */
    int counts;             /* whether this is the thread that made the call, ... */
    double row_flop;        /* ... and what it counts for one row and step */
    /* A backward pass stores dx of the first `dx_stored` steps that it visits, and adds to that of the others. */
    ptrdiff_t dx_stored;
    fr_barrier *crossing;   /* of the teams of two directions that go side by side, before either adds; else NULL */
    int zeroes_padding;     /* of dx */
} fr_share;

enum { FR_READ_UNIT = 512 };

typedef struct fr_kernels {
    int lanes;
    /* Sets the panels up, of cell, I, H and P, and returns the bytes of data; then part `index` of `size` of the
     * packing, incomplete if the call is stopped. */
    size_t (*lay_out)(fr_packed *packed);
    void (*pack)(const fr_packed *packed, const fr_weights *weights, int index, int size, fr_watch *watch);
    /* Scratch, in bytes: one thread's of a forward pass; the whole team's of a backward pass. */
    size_t (*forward_bytes)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share);
    void (*forward)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share, void *scratch);
    size_t (*backward_bytes)(const fr_backward_run *run, const fr_batch *batch, int threads);
    void (*backward)(const fr_backward_run *run, const fr_batch *batch, const fr_share *share, void *scratch);
    void (*update)(const fr_update_run *run, const fr_numbers *numbers);
    void (*scan_forward)(const fr_scan_forward_run *run, const fr_scan_part *part, void *scratch);
    void (*scan_backward)(const fr_scan_backward_run *run, const fr_scan_part *part, void *scratch);
    /* The product before a scan: the bytes of its packed weights; part `index` of `size` of the packing; rows of y. */
    size_t (*linear_bytes)(const fr_linear_packed *packed);
    void (*linear_pack)(const fr_linear_source *source, int index, int size, fr_watch *watch);
    void (*linear)(const fr_linear_run *run, ptrdiff_t row, ptrdiff_t end, int counts, fr_watch *watch);
    void (*activate)(fr_activation function, const void *from, void *to, ptrdiff_t n);
    double (*fma_block)(int64_t iterations); /* returns the flop it did */
    /* Reads `data` (bytes), aligned, in whole units of FR_READ_UNIT, so many times; returns the bytes it read. */
    double (*read_passes)(const void *data, ptrdiff_t bytes, int passes);
} fr_kernels;

/* What the watch is told: packing an element takes about as long as so many operations, since it comes from memory and
 * goes there. And how often, at the least: after so many rows of a step through one panel. */
enum { FR_PACK_FLOP = 50, FR_ASK_ROWS = 1536 };

/* Counts work; returns whether the call is to end. */
static inline int fr_share_worked(const fr_share *share, double flop) {
    if (share->counts)
        fr_watch_count(share->watch, flop);
    return fr_watch_stopped(share->watch);
}

/* The same for a step of so many rows. */
static inline int fr_share_stopped(const fr_share *share, ptrdiff_t rows) {
    return fr_share_worked(share, (double)rows * share->row_flop);
}

/* Meets the other direction's team, which may have farther to go. */
static inline void fr_share_cross(const fr_share *share) {
    fr_barrier_wait_asking(share->crossing, share->counts ? share->watch : NULL);
}

/* The kernels of the level in force. */
const fr_kernels *fr_level_kernels(fr_dtype dtype);

struct fr_packed {
    const fr_kernels *kernels;
    fr_cell cell;
    ptrdiff_t I, H, P;            /* P: features of h, fewer than H of a cell that projects */
    ptrdiff_t panels, panel_size; /* panel_size in elements */
    void *data;                   /* (panels, panel_size), and behind them W_hr's panels (level/projection.c) or the
                                     gains of a cell that normalises (level/norm.c), aligned;
                                     NULL: the kernels pack as they go, ... */
    const fr_weights *weights;    /* ... from these */
    const void *vectors;          /* (V, H), or NULL */
    int general;                  /* whether there are ... */
    fr_options options;           /* ... these */
    fr_workspace memory;          /* holds data: a mutable layer packs anew on every call, into warm memory */
};

static inline ptrdiff_t fr_row(const fr_batch *batch, ptrdiff_t rank) {
    return batch->order ? batch->order[rank] : rank;
}
static inline ptrdiff_t fr_length(const fr_batch *batch, ptrdiff_t row) {
    return batch->lengths ? (ptrdiff_t)batch->lengths[row] : batch->T;
}
/* How many rows have a step t, given how many have a neighbouring one. */
static inline ptrdiff_t fr_live(const fr_batch *batch, ptrdiff_t t, ptrdiff_t live) {
    while (live > 0 && fr_length(batch, fr_row(batch, live - 1)) <= t)
        live--;
    while (live < batch->B && fr_length(batch, fr_row(batch, live)) > t)
        live++;
    return live;
}

/* Threads divide the rows of such cells alone: by units they would meet more than once a step. */
static inline int fr_divides_rows(fr_cell cell, ptrdiff_t P, ptrdiff_t H) { return P < H || fr_cells[cell].normed; }

/* Whether h is W_hr times the cell's output. */
static inline int fr_projects(const fr_packed *packed) { return packed->P < packed->H; }
#endif
