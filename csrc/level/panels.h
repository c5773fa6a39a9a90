/* How units and gates lie in panels.
 *
 * A panel is a run of hidden units whose pre-activations are at most the COLUMNS vectors of a tile: a block of LANES
 * units with the cell's columns, or COLUMNS blocks of a cell of one column (an LSTM's 1 x 4, an RNN's 4 x 1). Packed
 * for the forward pass, panel p holds, one after the other,
 *
 *     bias     (columns) vectors     what the chains start from: b_ih + b_hh; GRU: b_in, b_r, b_z, b_hn; zero where
 *                                    the products are normalised before the bias is added
 *     x part   (I, x columns)        W_ih transposed
 *     h part   (P, h columns)        W_hh transposed
 *     left part (H, left columns)    W_hh transposed: of the gates that what the first phase leaves feeds
 *
 * Units past H are padded with zeros here and nowhere else.
 */
#ifndef FR_PANELS_H
#define FR_PANELS_H

#include "cells/facts.h"
#include "product.h"
#include "run/kernels.h"

/* FR_LEVEL and FR_TYPE come from the build: the names of one compilation of the level's sources. */
#define FR_JOIN_(name, level, type) name##_##level##_##type
#define FR_JOIN(name, level, type) FR_JOIN_(name, level, type)
#define LEVEL(name) FR_JOIN(name, FR_LEVEL, FR_TYPE)

/* A cell of one column per unit fills a panel by COLUMNS blocks of units, one of more by a single block. */
INLINE int panel_blocks(int cell) { return fr_cells[cell].columns == 1 ? COLUMNS : 1; }
INLINE ptrdiff_t panel_units(int cell) { return (ptrdiff_t)panel_blocks(cell) * LANES; }
INLINE ptrdiff_t count_panels(int cell, ptrdiff_t H) { return (H + panel_units(cell) - 1) / panel_units(cell); }
/* Columns of panel p. Only the last panel may have fewer blocks than others. */
INLINE int panel_columns(int cell, ptrdiff_t H, ptrdiff_t p) {
    ptrdiff_t blocks = (H - p * panel_units(cell) + LANES - 1) / LANES;
    return fr_cells[cell].columns * (blocks < panel_blocks(cell) ? (int)blocks : panel_blocks(cell));
}

INLINE int is_normed(int cell) { return fr_cells[cell].normed; }

/* A row's statistics, by gate (norm.h). */
typedef struct {
    real mean[COLUMNS], scale[COLUMNS];
} normal;

/* What feeds a column: h by W_hh, x by W_ih, or, in a second phase, what the first has left, by other rows of W_hh. The
 * output of a cell's equation feeds no column: W_hr makes h of it. */
enum { FROM_H, FROM_X, FROM_LEFT, FROM_OUT, SOURCES };
INLINE int has_second_phase(int cell) { return fr_cells[cell].left.count > 0; }
/* How many sources columns have, the first ones. */
INLINE int count_sources(int cell) { return has_second_phase(cell) ? FROM_OUT : FROM_LEFT; }
INLINE const fr_fed *fed_part(int cell, int source) {
    return source == FROM_X ? &fr_cells[cell].x : source == FROM_H ? &fr_cells[cell].h : &fr_cells[cell].left;
}
/* How many of a panel's columns a source feeds. */
INLINE int fed_columns(int cell, int columns, int source) {
    return source != FROM_LEFT && fr_cells[cell].columns == 1 ? columns : fed_part(cell, source)->count;
}

/* Where a row's features of step t begin. */
INLINE real *at(const fr_sequence *s, ptrdiff_t t, ptrdiff_t row) {
    return (real *)s->data + t * s->time + row * s->row;
}

INLINE int min_lanes(ptrdiff_t n) { return n < LANES ? (int)n : LANES; }

/* The first hidden unit of a fed column, the row of W that feeds it, and how many units it has. */
INLINE ptrdiff_t column_unit(const fr_packed *packed, ptrdiff_t p, int column) {
    return p * panel_units(packed->cell) + (panel_blocks(packed->cell) == 1 ? 0 : column * LANES);
}
INLINE ptrdiff_t column_row(const fr_packed *packed, ptrdiff_t p, int column, int source) {
    const int gate = fed_part(packed->cell, source)->gate[panel_blocks(packed->cell) == 1 ? column : 0];
    return gate * packed->H + column_unit(packed, p, column);
}
INLINE int column_lanes(const fr_packed *packed, ptrdiff_t p, int column) {
    return min_lanes(packed->H - column_unit(packed, p, column));
}

/* The rows of W behind a column: each lane's, and again the first one's where there is none. Returns how many there
 * are. */
INLINE int find_rows(const fr_packed *packed, ptrdiff_t p, int column, int source, const real *w, ptrdiff_t K,
                     const real **rows) {
    const real *first = w + column_row(packed, p, column, source) * K;
    const int lanes = column_lanes(packed, p, column);
    for (int lane = 0; lane < LANES; lane++)
        rows[lane] = first + (lane < lanes ? lane : 0) * K;
    return lanes;
}

/* Three times as much, kept in a register of its own. */
INLINE ptrdiff_t thrice(ptrdiff_t apart) {
    ptrdiff_t apart_3 = 3 * apart;
    __asm__("" : "+r"(apart_3));
    return apart_3;
}

/* LANES rows, `apart` apart from `first` on, by few pointers, which stay in registers. apart_3: thrice(apart). */
INLINE void spaced_rows(const real **rows, const real *first, ptrdiff_t apart, ptrdiff_t apart_3) {
    const real *base = first;
    UNROLL(16)
    for (int lane = 0; lane < LANES; lane++) {
        if (lane % 4 == 0) {
            base = lane ? base + 4 * apart : first;
            __asm__ volatile("" : "+r"(base)); /* made anew: the pointers of more rows would wait in memory */
        }
        rows[lane] = base + (lane % 4 == 3 ? apart_3 : lane % 4 * apart);
    }
}

/* out[k][lane] = rows[lane][k] of LANES rows `apart` apart, by whole quarters; returns how many k that is. */
INLINE ptrdiff_t transpose_whole(real *out, ptrdiff_t step, const real *first, ptrdiff_t apart, ptrdiff_t K) {
    const ptrdiff_t apart_3 = thrice(apart);
    ptrdiff_t k = 0;
    for (; k + QUARTER <= K; k += QUARTER) {
        const real *rows[LANES];
        vec block[QUARTER];
        spaced_rows(rows, first + k, apart, apart_3);
        vload_transposed(block, rows, 0);
        UNROLL(4)
        for (int i = 0; i < QUARTER; i++)
            *(vec *)(out + (k + i) * step) = block[i];
    }
    return k;
}

/* out[k][lane] = rows[lane][k] for the first `lanes` lanes, zero in the others; out's rows lie `step` apart. All lanes'
 * rows are as far apart as the first two. */
INLINE void transpose(real *out, ptrdiff_t step, const real *const *rows, ptrdiff_t K, int lanes) {
    const ivec mask = vfirst(lanes);
    ptrdiff_t k = lanes == LANES ? transpose_whole(out, step, rows[0], rows[1] - rows[0], K) : 0;
    for (; k + QUARTER <= K; k += QUARTER) {
        vec block[QUARTER];
        vload_transposed(block, rows, k);
        UNROLL(4)
        for (int i = 0; i < QUARTER; i++)
            *(vec *)(out + (k + i) * step) = (vec)((ivec)block[i] & mask);
    }
    for (; k < K; k++)
        for (int lane = 0; lane < LANES; lane++)
            out[k * step + lane] = lane < lanes ? rows[lane][k] : 0;
}

/* Adds b's rows for the columns that a source feeds into the panel's bias. */
INLINE void add_bias_rows(const fr_packed *packed, ptrdiff_t p, int columns, real *bias, const real *b, int source) {
    const int first = fed_part(packed->cell, source)->first;
    for (int column = 0; b && column < fed_columns(packed->cell, columns, source); column++) {
        const real *rows = b + column_row(packed, p, column, source);
        for (int lane = 0; lane < column_lanes(packed, p, column); lane++)
            bias[(first + column) * LANES + lane] += rows[lane];
    }
}

/* What the chains of panel p start from, in its `columns` vectors. */
INLINE void set_bias(const fr_packed *packed, const fr_weights *weights, ptrdiff_t p, int columns, real *bias) {
    memset(bias, 0, (size_t)columns * VEC_BYTES);
    for (int source = count_sources(packed->cell) - 1; source >= 0; source--)
        add_bias_rows(packed, p, columns, bias, source == FROM_X ? weights->b_ih : weights->b_hh, source);
}

size_t LEVEL(fr_lay_out)(fr_packed *packed);
void LEVEL(fr_pack)(const fr_packed *packed, const fr_weights *weights, int index, int size,
                    fr_watch *watch);
/* The bytes of W_hr's panels, 0 if there is none, and part `index` of `size` of their packing. */
size_t LEVEL(fr_projection_bytes)(const fr_packed *packed);
void LEVEL(fr_pack_projection)(const fr_packed *packed, const fr_weights *weights, int index, int size,
                               fr_watch *watch);
/* The bytes of the gains of a cell that normalises, 0 of others, and part `index` of `size` of their packing. */
size_t LEVEL(fr_norm_bytes)(const fr_packed *packed);
void LEVEL(fr_pack_norm)(const fr_packed *packed, const fr_weights *weights, int index, int size);
/* sums (rows, COLUMNS) = the pre-activations at panel p's units, by weights that are read once, as they are: for at
 * most UNPACKED_ROWS rows of x and h. */
enum { UNPACKED_ROWS = 96 };
void LEVEL(fr_unpacked_sums)(const fr_packed *packed, ptrdiff_t p, int rows, const real *const *x, const real *const *h,
                             vec *sums);
/* sums (rows, COLUMNS) += in the columns that it feeds, the product of what the first phase has left, likewise. */
void LEVEL(fr_unpacked_second_sums)(const fr_packed *packed, ptrdiff_t p, int rows, const real *const *left, vec *sums);
size_t LEVEL(fr_forward_bytes)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share);
void LEVEL(fr_forward)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share, void *scratch);
size_t LEVEL(fr_backward_bytes)(const fr_backward_run *run, const fr_batch *batch, int threads);
void LEVEL(fr_backward)(const fr_backward_run *run, const fr_batch *batch, const fr_share *share, void *scratch);
void LEVEL(fr_update)(const fr_update_run *run, const fr_numbers *numbers);
void LEVEL(fr_scan_forward)(const fr_scan_forward_run *run, const fr_scan_part *part, void *scratch);
void LEVEL(fr_scan_backward)(const fr_scan_backward_run *run, const fr_scan_part *part, void *scratch);
size_t LEVEL(fr_linear_bytes)(const fr_linear_packed *packed);
void LEVEL(fr_linear_pack)(const fr_linear_source *source, int index, int size, fr_watch *watch);
void LEVEL(fr_linear)(const fr_linear_run *run, ptrdiff_t row, ptrdiff_t end, int counts, fr_watch *watch);
void LEVEL(fr_activate)(fr_activation function, const void *from, void *to, ptrdiff_t n);
double LEVEL(fr_fma_block)(int64_t iterations);
double LEVEL(fr_read_passes)(const void *data, ptrdiff_t bytes, int passes);

#endif
