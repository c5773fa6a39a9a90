/* The state of a backward pass in one thread, and what its parts are to each other: the sequence of dh (dh.c), the
 * cell's derivative (derive.c), products of d and W (d_times_w.c), the parameters' gradients (gradients.c), and the
 * order of it all (backward.c).
 *
 * Terms are counted in the order of the pass, from the last visited step back, within a step by rank; the weights'
 * gradients add them up in blocks of BLOCK, whatever the chunks are, and the blocks in order: a single float32 chain
 * would lose a thousand eps over a long sequence.
 */
#ifndef FR_BACKWARD_H
#define FR_BACKWARD_H

#include "ahead.h"
#include "panels.h"

enum { BLOCK = 256, OUTER_BLOCKS = 2, OUTER_PANELS = 4, FEW_TERMS = 8 };
enum { ROWS_TOGETHER = 2, NORM_SCRATCH = 2 * ROWS_TOGETHER }; /* of a cell that normalises; rows of H */

/* The runs of neighbouring elements in a panel of d that belong to the columns a source feeds: `count` of them, each
 * `length` long, the first at element `start` of a term, the others LANES apart; run g stands for the rows from row[g]
 * on of W_ih or W_hh. */
typedef struct {
    int count, length, start;
    ptrdiff_t row[COLUMNS];
} panel_runs;

/* Of a cell that normalises, a term's products among what was saved, their statistics by source, and the means of the
 * gradients by those of x. */
typedef struct {
    const real *saved;
    normal of[FROM_LEFT], by_x;
} normed_term;

/* Sums over terms at a panel, of a cell that normalises: the gradients of the gains by source, of the biases, and of
 * c's gain and bias. */
typedef struct {
    vec gains[FROM_LEFT][COLUMNS], d[COLUMNS], of_c[2];
} panel_sums;

typedef struct {
    const fr_backward_run *run;
    const fr_batch *batch;
    const fr_share *share;
    int cell;
    fr_options options;      /* the plain ones if the run has none */
    ptrdiff_t I, H, P;
    int projects;            /* P < H: h is W_hr times the output of the cell's equation */
    fr_hand hand;            /* the ranks this share owns in the sequential part */
    ptrdiff_t unit_panel, unit_panel_end; /* and its slice of dh, in panels of COLUMNS * LANES units */
    ptrdiff_t panels;        /* of d, as in the forward pass */
    int sources;             /* of the cell's columns */
    panel_runs full_runs[SOURCES], last_runs[SOURCES]; /* of a panel but the last, and of the last */
    ptrdiff_t capacity;      /* terms */
    ptrdiff_t first, last;   /* the visited steps first .. last-1 */
    const real *saved;       /* where step 0's would be */
    const real **from[SOURCES]; /* (capacity): each term's row of what feeds the columns */
    real **dx;               /* (capacity) */
    int enters;              /* whether the run's entry changes states */
    int multiplies;          /* whether h is multiplied before its product, by scales or recurrent dropout */
    int keeps_dh;            /* whether dh of a step waits in `dh` until it is whole: a cell projects, or normalises */
    int carries;             /* whether dh reaches the previous h beside the recurrent product */
    real *entered;           /* (capacity, P): h as each term's product took it, if it is multiplied; if there are only
                                resets, P zeros */
    vec *d;                  /* (panels, capacity, COLUMNS): the columns' gradients */
    vec *d_by[SOURCES];      /* those by each source's products: d; of a cell that normalises h has its own, and
                                fr_sum_normed turns d into those by x */
    real *d_normal;          /* (share, ROWS_TOGETHER, 2, H): of a row's c that is normalised, the gradient, and c */
    int vectors;             /* of the cell whose gradients are wanted, and are sums of parts that are kept by term */
    normed_term *normed;     /* (capacity): of a cell that normalises */
    panel_sums *sums;        /* (panels): likewise, of the last block of terms, which is not full */
    vec *d_vectors;          /* (panels, capacity, vectors, blocks): a term's part of them */
    real *left;              /* (capacity, H): what the first of two phases left, or the outputs that are projected */
    real *w[SOURCES];        /* (unit panels, rows of W, COLUMNS * LANES): W's rows, in d's order, cut into panels */
    int few;                 /* at most FEW_TERMS: gradients are added to as they are */
    int unpacked[SOURCES];   /* whether the weights are read as they are */
    int far[SOURCES];        /* whether they are asked for ahead: others are read before they are read again */
    vec *dh;                 /* (wide panels of P, capacity, COLUMNS), where it is kept */
    vec *block;              /* (OUTER_PANELS, OUTER_BLOCKS, BLOCK, COLUMNS): terms of x or h; this share's own */
} backward_state;

INLINE ptrdiff_t wide_panels(ptrdiff_t n) { return (n + COLUMNS * LANES - 1) / (COLUMNS * LANES); }
INLINE int wide_columns(ptrdiff_t n, ptrdiff_t panel) {
    ptrdiff_t columns = (n - panel * COLUMNS * LANES + LANES - 1) / LANES;
    return columns < COLUMNS ? (int)columns : COLUMNS;
}

/* Whether the pass has a product by a source. */
INLINE int has_source(const backward_state *b, int source) {
    return source < b->sources || (source == FROM_OUT && b->projects);
}

/* Whether the pass multiplies d and the weights of a source. */
INLINE int takes_w(const backward_state *b, int source) {
    return has_source(b, source) && (source != FROM_X || b->run->dx.data);
}

/* The weights that multiply a source, their gradient, that of the bias beside them, and the length of their rows. */
INLINE const real *weights_of(const backward_state *b, int source) {
    const fr_weights *weights = &b->run->weights;
    return source == FROM_OUT ? weights->w_hr : source == FROM_X ? weights->w_ih : weights->w_hh;
}
INLINE real *gradient_in(const fr_gradients *gradients, int source) {
    return source == FROM_OUT ? gradients->w_hr : source == FROM_X ? gradients->w_ih : gradients->w_hh;
}
INLINE real *bias_in(const fr_gradients *gradients, int source) {
    return source == FROM_X ? gradients->b_ih : gradients->b_hh;
}
INLINE ptrdiff_t row_length(const backward_state *b, int source) {
    return source == FROM_X ? b->I : source == FROM_H ? b->P : b->H;
}

/* The gradients by a source's product, and how many panels they are. */
INLINE const vec *gradients_of(const backward_state *b, int source) {
    return source == FROM_OUT ? b->dh : b->d_by[source];
}
INLINE ptrdiff_t gradient_panels(const backward_state *b, int source) {
    return source == FROM_OUT ? wide_panels(b->P) : b->panels;
}

/* How many of a weight's rows d, or dh, has elements for. */
INLINE ptrdiff_t weight_rows(const backward_state *b, int source) {
    return source == FROM_OUT ? b->P : b->H * fed_part(b->cell, source)->count;
}

/* A term's part of the gradient of a vector at a block of panel p's units. */
INLINE vec *vector_terms(const backward_state *b, ptrdiff_t p, ptrdiff_t term, int vector, int block) {
    const int blocks = panel_blocks(b->cell);
    return b->d_vectors + ((p * b->capacity + term) * b->vectors + vector) * blocks + block;
}

/* A step of the sequence of dh. */
typedef struct {
    ptrdiff_t t, live;      /* rows that have this step */
    ptrdiff_t term;         /* of its rank 0 */
    ptrdiff_t after;        /* rows that also have the step after, which this pass has just left ... */
    ptrdiff_t term_after;   /* ... and its first term */
    ptrdiff_t t_after;      /* that step */
    ptrdiff_t t_next;       /* the step that comes next, -1 after the last */
    int resumes;            /* the step before it was in another call, which left dh of the rows that go on, ... */
    int hands_on;           /* ... as this one does: dh of the step goes to dh0 */
} step;

/* Whether t is the first step of a row that is visited. */
INLINE int is_first(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return b->run->reverse ? t == fr_length(b->batch, row) - 1 : t == 0;
}

/* h before step t of a row, as the forward pass left it; and what it saved of the step. */
INLINE const real *h_before(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    if (is_first(b, t, row))
        return (const real *)b->run->h0 + row * b->P;
    return at(&b->run->y, b->run->reverse ? t + 1 : t - 1, row);
}
INLINE const real *saved_at(const backward_state *b, ptrdiff_t t, ptrdiff_t row) {
    return b->saved + (t * b->batch->B + row) * fr_cells[b->cell].saved * b->H;
}

/* From dh of `rank` at C blocks of units from j on to the gradients of their columns in d. */
typedef void derive_function(const backward_state *b, const step *s, ptrdiff_t rank, ptrdiff_t j, const vec *dh, int C);
derive_function *LEVEL(fr_derive)(const backward_state *b);
/* The same from the gradient of what the first of two phases left. */
derive_function *LEVEL(fr_derive_second)(const backward_state *b);

/* From dh of the first `owned` owned ranks, all of it, to the gradients of the columns of a cell that normalises and to
 * those by its products by h. */
void LEVEL(fr_norm_backward)(const backward_state *b, const step *s, ptrdiff_t owned);
/* Adds the terms begin .. end-1 to the gradients of its gains and biases that the share owns, block by block, and turns
 * d into those by its products by x; `before` terms of the pass come before them. */
void LEVEL(fr_sum_normed)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t before);
/* Before the first terms of a call, what the last call left of a block that was not full; after the last ones of the
 * pass's first `terms`, what is in such a block: it stays for the next call, or is added to the gradients. */
void LEVEL(fr_begin_sums)(const backward_state *b, ptrdiff_t before);
void LEVEL(fr_end_sums)(const backward_state *b, ptrdiff_t terms, int stays);

/* dh of a step, and its terms' places. `hands_on`: the step that comes next is another call's. Returns whether the call
 * ends; who learns it before the others goes on to where they meet. */
int LEVEL(fr_backward_step)(const backward_state *b, const step *s, ptrdiff_t live_before, int hands_on);

/* The runs of panel p. */
panel_runs LEVEL(fr_runs_of)(const backward_state *b, ptrdiff_t p, int source);

/* Rows that share what they read of W. */
enum { GROUP_ROWS = 16 * TILE_ROWS };

/* Copies panels begin .. end-1 of the columns of a source's weights, the rows in the order in which d is read; a
 * narrow last panel is packed tightly. Returns whether the call ends. */
int LEVEL(fr_pack_w)(const backward_state *b, int source, ptrdiff_t begin, ptrdiff_t end);
/* sum (rows, COLUMNS) += at most GROUP_ROWS terms of d, or dh, times panel `panel` of a source's weights. `saved`: what
 * may be asked for meanwhile, or NULL. */
void LEVEL(fr_d_times_w)(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                         vec *sum, const saved_part *saved);
/* The same of at most PAIR_ROWS terms and a weight's panels `panel` and panel + 1, packed and whole: sum (rows, PAIR,
 * COLUMNS). */
void LEVEL(fr_d_times_w_pair)(const backward_state *b, int source, const ptrdiff_t *terms, int rows, ptrdiff_t panel,
                              vec *sum);
/* dx of the terms begin .. end-1: stored, or added to what is there. Left unfinished where the call is to end. */
void LEVEL(fr_dx_rows)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, int adds);
/* What the open sums are to some terms: they begin from them, they stay in them. `writes`: the gradients hold nothing
 * yet. */
typedef struct {
    int begin, stay, writes;
} open_ends;

/* What is in a gradient before a block of terms: nothing, which is zero, where the block writes it. */
INLINE vec added_to(open_ends ends, const real *gradient, int lanes) {
    return ends.writes ? (vec){0} : vload_n(gradient, lanes);
}

/* Adds the terms begin .. end-1 to the gradients that the share owns, block by block. `opened` terms of the first block
 * are in the span's open sums; `stays`: there a last block goes that is not full. `writes`: the gradients hold nothing
 * before the first block. */
void LEVEL(fr_add_terms)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t opened, int stays,
                         int writes);

#endif
