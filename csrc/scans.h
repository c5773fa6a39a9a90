/* fastrnn: the contract of the scans, recurrences in which no unit feeds another, and of the product before them.
 *
 *   T  time steps     B  rows     D  units     G  gates: what a unit has of `a` per row and step (FR_SCAN_GATES)
 *
 * What fastrnn.h says of `void *`, strides, const and threads holds here. Every row and unit is a chain of operations in
 * one order: its bits depend neither on the threads nor on what is beside it.
 */
#ifndef FR_SCANS_H
#define FR_SCANS_H

#include "fastrnn.h"

/* With p for h_(t-1), and a, a1, a2 for the gates of `a`:
 *   LINEAR         h = a p + b
 *   MINGRU         z = sigmoid(a);  h = p + z (a1 - p)
 *   MINLSTM        f, i = sigmoid(a), sigmoid(a1);  h = f / (f + i) p + i / (f + i) a2
 *   INDRNN_TANH    h = tanh(a + u p)                     INDRNN_RELU    h = max(a + u p, 0) */
typedef enum { FR_SCAN_LINEAR, FR_SCAN_MINGRU, FR_SCAN_MINLSTM, FR_SCAN_INDRNN_TANH, FR_SCAN_INDRNN_RELU } fr_scan_kind;
#define FR_SCAN_GATES ((const int[]){1, 2, 3, 1, 1})

/* What both passes have in common. */
typedef struct {
    fr_scan_kind kind;
    fr_dtype dtype;
    int pairs;   /* LINEAR only: two neighbouring numbers are a complex one, real part first; D and strides count both */
    int reverse; /* visit the steps from a row's last valid one to step 0 */
    ptrdiff_t T, B, D;
    const int64_t *lengths; /* (B), each 0..T, or NULL for T; of LINEAR NULL */
    fr_sequence a;          /* (T, B, G D); of a row's gates the k-th begins at k D */
    const void *u;          /* (D); INDRNN only */
    const void *h0;         /* (B, D), or NULL for zero */
    fr_sequence h;          /* (T, B, D) */
} fr_scan;

/* Fills h, with zeros past a row's end, and, of MINGRU and MINLSTM, puts z or f and i in place of what they are the
 * sigmoid of. `a` and b are read at valid steps only. */
typedef struct {
    fr_scan scan;
    fr_sequence b; /* (T, B, D); LINEAR only */
    void *last;    /* (B, D): the final state; or NULL, as of LINEAR */
} fr_scan_forward_run;

/* Takes scan, `a` and h as the forward pass left them; read only. */
typedef struct {
    fr_scan scan;
    fr_sequence dy;    /* (T, B, D), or data NULL for zero; read only at valid steps */
    const void *dlast; /* (B, D): gradient of the final state, or NULL for zero */
    fr_sequence da;    /* (T, B, G D): written, zero past a row's end; LINEAR: or data NULL, and `sum` takes the place */
    fr_sequence db;    /* (T, B, D): written, zero past a row's end; LINEAR only */
    void *sum;         /* (B, D): written; of the gradients by `a` over time (LINEAR), or of those by u (INDRNN); or NULL */
    void *dh0;         /* (B, D): written */
} fr_scan_backward_run;

fr_status fr_scan_forward(const fr_scan_forward_run *run, int threads, fr_interrupted *interrupted);
fr_status fr_scan_backward(const fr_scan_backward_run *run, int threads, fr_interrupted *interrupted);

/* What multiplies x: W' and a bias, rearranged for the kernels of one instruction-set level; immutable. */
typedef struct fr_linear_packed fr_linear_packed;

/* w is (M, K), or, transposed, (K, M), C-contiguous; bias (M), or NULL for zero. Both are copied. */
fr_status fr_linear_pack(fr_dtype dtype, ptrdiff_t K, ptrdiff_t M, const void *w, int transposed, const void *bias,
                         int threads, fr_interrupted *interrupted, fr_linear_packed **packed);
void fr_linear_free(fr_linear_packed *packed); /* NULL is allowed */

/* y (N, M) = x (N, K) W' + bias, C-contiguous and apart from each other. Each element is one chain, from the bias on,
 * whatever the other rows are. */
fr_status fr_linear(const fr_linear_packed *packed, ptrdiff_t N, const void *x, void *y, int threads,
                    fr_interrupted *interrupted);

#endif
