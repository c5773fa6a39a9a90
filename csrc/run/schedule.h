/* How a call's work is divided among threads. */
#ifndef FR_SCHEDULE_H
#define FR_SCHEDULE_H

#include <stddef.h>

typedef struct {
    int threads;
    int by_units; /* each thread takes a slice of the hidden units, else of the rows */
} fr_schedule;

/* Whether a call of so many operations is worth waking other threads for. */
int fr_worth_threads(double flop);

/* For one direction: B rows, T steps, `slices` of units that can be divided, `step_flop` operations per row and step;
 * `may_meet`: whether threads may meet at every step. */
fr_schedule fr_choose_schedule(int threads, int may_meet, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices,
                               double step_flop);

/* Weights of so many bytes come fast enough at every step for the FMAs of a few rows, vectors being so long. */
size_t fr_near_bytes(int vector_bytes);

/* How many terms' input products a share of so many rows takes at once, ahead of their steps; 0: each step takes its
 * own. `tile_rows` fill a tile; `weight_bytes` are what a step reads of W_ih and W_hh, `near_bytes` what fr_near_bytes
 * says, `term_bytes` what a term that waits takes. */
ptrdiff_t fr_choose_hoisted(ptrdiff_t rows, ptrdiff_t T, int tile_rows, size_t weight_bytes, size_t near_bytes,
                            size_t term_bytes);

/* The ranks that one of `turns` threads is dealt. Rows are ranked by length: dealt to and fro, 0 1 2 2 1 0 0 1 2 ...,
 * everyone gets as much of the long ones as of the short. */
typedef struct {
    int turn, turns;
} fr_hand;

static inline int fr_place(fr_hand hand, ptrdiff_t round) {
    return round % 2 ? hand.turns - 1 - hand.turn : hand.turn;
}

/* The i-th rank of a hand. */
static inline ptrdiff_t fr_rank(fr_hand hand, ptrdiff_t i) { return i * hand.turns + fr_place(hand, i); }

/* How many ranks of a hand lie below `live`. */
static inline ptrdiff_t fr_owned(ptrdiff_t live, fr_hand hand) {
    ptrdiff_t rounds = live / hand.turns;
    return rounds + (live - rounds * hand.turns > fr_place(hand, rounds));
}

/* What is dealt to one of `size` threads: `rows` ranks, for the slices begin .. end-1 of the units. */
typedef struct {
    fr_hand hand;
    ptrdiff_t rows;
    ptrdiff_t begin, end;
} fr_part;

/* The bounds of part `index` of `size` when `total` things are dealt in runs: begin = fr_cut(index). */
static inline ptrdiff_t fr_cut(ptrdiff_t total, int index, int size) { return total * index / size; }

static inline fr_part fr_deal(int index, int size, int by_units, ptrdiff_t B, ptrdiff_t slices) {
    if (by_units)
        return (fr_part){{0, 1}, B, fr_cut(slices, index, size), fr_cut(slices, index + 1, size)};
    fr_hand hand = {index, size};
    return (fr_part){hand, fr_owned(B, hand), 0, slices};
}

#endif
