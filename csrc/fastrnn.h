/* fastrnn: the contract of the kernels.
 *
 *   T  time steps        I  input_size       G  gates of the cell, rows of a weight per unit
 *   B  rows              H  hidden_size      S  values saved per unit, row and step (cells/facts.h)
 *   P  features of h     H, but fewer where W_hr projects the cell's output, o tanh c, to h
 *
 * `void *` stands for float or double, as the dtype says. Strides count elements and may be zero or negative; the
 * features of a row are contiguous. All sizes are at least 1. Nothing an argument calls const is written, and nothing
 * is kept after a call returns except what fr_pack copied.
 *
 * Every function may be called from any thread at any time. A call that needs more threads than its own takes the
 * process's pool, and runs on its own thread alone where another call holds it.
 */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stddef.h>
#include <stdint.h>

/* The cells, FR_LSTM and so on, in the order of spec.CELLS. */
typedef enum {
#define CELL(NAME, ...) FR_##NAME,
#include "cells.def"
    FR_CELLS
} fr_cell;
/* The name in the table; NULL past the last. */
const char *fr_cell_name(int cell);
typedef enum { FR_F32, FR_F64 } fr_dtype;
typedef enum { FR_EXP, FR_SIGMOID, FR_TANH } fr_activation;
typedef enum { FR_OK = 0, FR_NO_MEMORY = -1, FR_INTERRUPTED = -2 } fr_status;

/* What a cell's activations may be; alpha and beta as ONNX has them. */
typedef enum {
    FR_F_SIGMOID, FR_F_HARD_SIGMOID, FR_F_TANH, FR_F_RELU, FR_F_LEAKY_RELU, FR_F_THRESHOLDED_RELU, FR_F_ELU,
    FR_F_SOFTSIGN, FR_F_SOFTPLUS, FR_F_AFFINE, FR_F_SCALED_TANH, FR_F_LINEAR
} fr_function_kind;
typedef struct {
    fr_function_kind kind;
    double alpha, beta;
} fr_function;

/* How a cell differs from the plain one. */
enum { FR_GATES, FR_CANDIDATE, FR_OUTPUT, FR_ROLES };
typedef struct {
    fr_function functions[FR_ROLES];
    double clip; /* the activations of gates and candidate take what is within -clip .. clip; 0: anything */
    double ends[FR_ROLES][2]; /* set by the kernels: their results at both ends of it */
    double zoneout[2]; /* the shares of h and of c that units keep where a run has no mask of them; 0: none */
    int each_gate; /* a cell that normalises has statistics of each gate; else of all gates together */
    double eps;    /* what joins their variances */
} fr_options;

/* The parameters of one direction, row-major, the gates in the order of the table in spec.py. */
typedef struct {
    const void *w_ih; /* (G*H, I) */
    const void *w_hh; /* (G*H, P) */
    const void *b_ih; /* (G*H) or NULL */
    const void *b_hh; /* (G*H) or NULL */
    const void *vectors; /* (V*H): the cell's parameters per unit; NULL where it has none, or does without */
    const void *w_hr; /* (P, H): of a cell with two states that projects; else NULL */
    ptrdiff_t proj_size; /* P, less than H, with W_hr; else 0 */
} fr_weights;

/* Their gradients; the kernels add into them, or, where a run says so, write them. */
typedef struct {
    void *w_ih, *w_hh;
    void *b_ih, *b_hh, *vectors; /* NULL: not wanted */
    void *w_hr; /* with W_hr */
} fr_gradients;

/* Element (t, b, j) of a sequence is data[t * time + b * row + j]. */
typedef struct {
    void *data; /* NULL: absent, where an argument allows it */
    ptrdiff_t time, row;
} fr_sequence;

/* What becomes of the rows' states before a step; the first fitting of these. */
typedef struct {
    const uint8_t *resets; /* (T, B), or NULL: where not 0, h and c are zeroed */
    fr_sequence scale;     /* (T, B, H), or data NULL: multiplies h and c */
    int scale_by_unit;     /* 0: scale is (T, B, 1), as it has to be with W_hr */
} fr_entry;

/* Masks of units, (T, B, H), or data NULL. The recurrent product takes h times `drop`. `keep`, of h and of c, is for a
 * cell whose options have zoneout: 1 where a unit keeps what the step took of it, 0 elsewhere. NULL stands for the
 * share in the options; from it only cells that save values go backward. */
typedef struct {
    fr_sequence drop, keep[2];
} fr_masks;

/* Asked by the thread that makes a call, about every tenth of a second, unless it is NULL: not 0 ends the call with
 * FR_INTERRUPTED, what it writes half written. */
typedef int fr_interrupted(void);

/* One direction's weights, rearranged for the forward kernels of one instruction-set level; immutable. */
typedef struct fr_packed fr_packed;

/* `options`, here and below: NULL for a plain cell, which then must have no vectors it may do without; a cell that
 * normalises has some. */
fr_status fr_pack(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size, const fr_weights *weights,
                  const fr_options *options, int threads, fr_interrupted *interrupted, fr_packed **packed);
/* The same without packing: forward reads the weights at every step, and rearranges them as it goes. For few steps, and
 * without W_hr and of cells that do not normalise; the arrays have to stay. */
fr_status fr_unpacked(fr_cell cell, fr_dtype dtype, ptrdiff_t input_size, ptrdiff_t hidden_size,
                      const fr_weights *weights, const fr_options *options, fr_packed **packed);
void fr_packed_free(fr_packed *packed); /* NULL is allowed */

/* One direction of one layer. */
typedef struct {
    const fr_packed *packed;
    int reverse;      /* visit the steps from a row's last valid one to step 0 */
    fr_sequence x;    /* (T, B, I); read only, and only at valid steps */
    fr_sequence y;    /* (T, B, P): h of each step, zero past a row's end; must not overlap x */
    const void *h0;   /* (B, P) */
    const void *c0;   /* (B, H); two states only */
    void *h;          /* (B, P): final state; may be h0 itself, or, where T is 1 and `lengths` NULL, y */
    void *c;          /* (B, H); two states only; may be c0 itself */
    void *saved;      /* (T, B, S, H), for the backward pass, or NULL; left unwritten past a row's end */
    fr_entry entry;
    fr_masks masks;
    fr_sequence noise; /* (T, B, H), or data NULL: added to the pre-activations of a cell of one gate */
} fr_forward_run;

/* Runs the directions of a layer; they share T, B, lengths, and differ in all else. `lengths`: (B), each 0..T, or
 * NULL for T; they are copied. A row of length 0 ends in its initial state. The result does not depend on `threads`,
 * nor a row's on the other rows. */
__attribute__((visibility("default"))) /* by which threadpoolctl tells the library (core/threadpools.py) */
fr_status fr_forward(const fr_forward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                     int threads, fr_interrupted *interrupted);

/* The part of a pass that a call goes through, where the pass is cut: the parts that forward visited last come first.
 * All else in the run is of the whole pass, but for `saved`; dh0 and dc0 go from call to call as they are left. Where
 * two directions are cut, the step visited T / 2 begins a part. */
typedef struct {
    ptrdiff_t first, last; /* the visited steps first .. last-1; last 0: the whole pass */
    fr_gradients open;     /* scratch, kept from call to call: sums of terms that are not yet in the gradients */
} fr_span;

typedef struct {
    fr_cell cell;
    fr_dtype dtype;
    ptrdiff_t input_size, hidden_size;
    fr_weights weights;
    const fr_options *options;
    int reverse;
    fr_sequence x, y;      /* as in the forward call, y as it left it; read only */
    const void *h0, *c0;   /* as in the forward call */
    const void *saved;     /* as the forward call left it; NULL where S is 0. Of a span: its steps and, for c alone, the
                              one visited before, in the order of time */
    fr_sequence dy;        /* (T, B, P), or data NULL for zero; read only at valid steps */
    const void *dh, *dc;   /* (B, P), (B, H): gradients of the final state; each may be NULL for zero; dc two states
                              only */
    fr_sequence dx;        /* (T, B, I): written; zero past a row's end; a layer's directions share it: their sum; data
                              NULL in all of them: not wanted */
    void *dh0, *dc0;       /* (B, P), (B, H): written; dc0 two states only; distinct from dh, dc, h0, c0 */
    fr_gradients gradients;
    /* (T, B, P), (T, B, H): written, or NULL: the gradients of h, dy included, and of c after each step; unwritten past
     * a row's end. */
    void *dh_steps, *dc_steps;
    fr_entry entry;        /* as in the forward call */
    fr_masks masks;        /* likewise */
    void *dscale;          /* (T, B, H): the gradient of its scale, if there is one, is added to it */
    fr_span span;
    int overwrites;        /* the gradients hold nothing yet and are written; for a whole pass of one step at least */
} fr_backward_run;

/* The backward pass of the directions of a layer; cell, dtype and sizes are theirs in common. A row of length 0 gives
 * dh and dc as they are to dh0 and dc0, and adds nothing to the gradients. */
fr_status fr_backward(const fr_backward_run *runs, int n_runs, ptrdiff_t T, ptrdiff_t B, const int64_t *lengths,
                      int threads, fr_interrupted *interrupted);

/* The instruction-set levels this machine can run, best first; NULL past the last. */
const char *fr_level_name(int index);
/* The level in force for later fr_pack and fr_backward calls: 0 is the best. Not for use beside running calls. */
int fr_level(void);
void fr_set_level(int index);

/* The compiler that built the kernels. */
const char *fr_compiler(void);

/* to[i] = function of from[i], n of them, at the level in force: bit for bit what the kernels compute. Where e^v or
 * 1 / e^v would not be a normal number, FR_EXP gives the nearest v's for which both are. */
void fr_activate(fr_dtype dtype, fr_activation function, const void *from, void *to, ptrdiff_t n);

typedef enum { FR_SGD, FR_RMSPROP, FR_ADAM } fr_rule;

/* An optimiser's numbers, each as fastrnn/train/formulas.py names it; lr is Adam's step_size. */
typedef struct {
    double lr, momentum, share, alpha, beta1, beta2, eps, root, weight_decay, shrink;
    int nesterov;
} fr_numbers;

/* One parameter, its gradient (read only) and what the optimiser keeps of it, n elements each. NULL where a rule has no
 * such array: FR_SGD its buffer; FR_RMSPROP square_avg, grad_avg, buffer; FR_ADAM exp_avg, exp_avg_sq. */
typedef struct {
    fr_rule rule;
    ptrdiff_t n;
    void *param;
    const void *grad;
    void *states[3];
} fr_update_run;

/* Changes a parameter and its states by its gradient: the bits of the same formula in NumPy. */
void fr_update(fr_dtype dtype, const fr_update_run *run, const fr_numbers *numbers);

/* Measured peak of fused multiply-adds at the level in force, in flop/s, over about `seconds`. */
double fr_fma_peak(fr_dtype dtype, int threads, double seconds);

/* Measured rate, in bytes/s over about `seconds`, at which threads read `bytes` again and again, each its own part of
 * them: the caches' where the parts fit. */
fr_status fr_read_bandwidth(size_t bytes, int threads, double seconds, double *rate);

#endif
