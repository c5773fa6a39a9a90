/* The cells: each one's elementwise maths, forward beside backward, on vectors of hidden units.
 *
 * `cell` is a constant wherever these are inlined; an RNN's is FR_RNN_TANH for both nonlinearities, told apart by `relu`
 * at run time, since they differ in one operation. A tile keeps its pre-activations in 4 columns of vectors:
 *
 *              columns           from x       from h      saved             gradients kept (du: of the product by h)
 *   RNN        4 unit blocks     all          all         -                 da
 *   LSTM       i  f  g  o        all          all         i  f  g  o  c     di df dg do
 *   GRU        a_n  r  z  u_n    0 1 2        1 2 3       r  z  n  u_n      da_n  dr  dz  du_n
 *
 * so that what comes from x and what comes from h are each a run of neighbouring columns.
 */
#ifndef FR_CELLS_H
#define FR_CELLS_H

#include "activations.h"
#include "fastrnn.h"
#include "product.h"

/* Columns per block of units, and the first that h feeds (x feeds from the first on). */
INLINE int cell_columns(int cell) { return cell == FR_GRU || cell == FR_LSTM ? 4 : 1; }
INLINE int cell_first_h(int cell) { return cell == FR_GRU ? 1 : 0; }
INLINE int cell_saved(int cell) { return cell == FR_LSTM ? 5 : cell == FR_GRU ? 4 : 0; }
/* The weights' gate behind the g-th column that x, or h, feeds: GRU's x columns are n r z. */
INLINE int cell_gate_x(int cell, int g) { return cell == FR_GRU ? (g + 2) % 3 : g; }
/* Whether dh reaches the previous h directly, beside the recurrent product. */
INLINE int cell_carries(int cell) { return cell == FR_GRU; }

INLINE vec d_sigmoid(vec s) { return s * (1 - s); }
INLINE vec d_tanh(vec t) { return 1 - t * t; }

/* The forward equation, cut into stages that take about as long as an activation each, so that other work can go
 * between them. It is that of a unit block of n rows, at most SIDE_BY_SIDE, side by side. `saved` is kept for the backward
 * pass and filled stage by stage; `h` is h_prev until the last stage. */
typedef struct {
    const vec *a[SIDE_BY_SIDE]; /* the pre-activations */
    vec h[SIDE_BY_SIDE], c[SIDE_BY_SIDE], saved[5][SIDE_BY_SIDE];
} unit_rows;

INLINE int cell_stages(int cell) { return cell == FR_LSTM ? 5 : cell == FR_GRU ? 3 : 1; }

INLINE void cell_forward(const int cell, const int stage, const int relu, const int n, unit_rows *u) {
    vec v[SIDE_BY_SIDE];
    switch (cell) {
    case FR_RNN_TANH:
        EACH(r, n) v[r] = u->a[r][0];
        if (relu)
            EACH(r, n) u->h[r] = vmax((vec){0}, v[r]);
        else
            vtanh(n, v, u->h);
        break;
    case FR_LSTM: /* c = f c_prev + i g, h = o tanh c */
        if (stage == 4) {
            vtanh(n, u->c, u->h);
            EACH(r, n) u->h[r] = u->saved[3][r] * u->h[r];
            break;
        }
        EACH(r, n) v[r] = u->a[r][stage];
        if (stage != 2) {
            vsigmoid(n, v, u->saved[stage]);
            break;
        }
        vtanh(n, v, u->saved[2]);
        EACH(r, n) u->saved[4][r] = u->c[r] = vfma(u->saved[1][r], u->c[r], u->saved[0][r] * u->saved[2][r]);
        break;
    default: /* FR_GRU: n = tanh(a_n + r u_n), h = (1 - z) n + z h_prev */
        if (stage < 2) {
            EACH(r, n) v[r] = u->a[r][1 + stage];
            vsigmoid(n, v, u->saved[stage]);
            break;
        }
        EACH(r, n) u->saved[3][r] = u->a[r][3];
        EACH(r, n) v[r] = vfma(u->saved[0][r], u->saved[3][r], u->a[r][0]);
        vtanh(n, v, u->saved[2]);
        EACH(r, n) u->h[r] = vfma(u->saved[1][r], u->h[r] - u->saved[2][r], u->saved[2][r]);
    }
}

/* dh: gradient of h, whole; dc: in of c, out of c_prev, LSTM only; d: out, the columns' gradients; carry: out, what
 * reaches h_prev directly, if cell_carries. */
INLINE void cell_backward(const int cell, const int relu, vec dh, vec h, vec h_prev, vec c_prev, const vec *saved,
                          vec *dc, vec *d, vec *carry) {
    switch (cell) {
    case FR_RNN_TANH:
        d[0] = relu ? (vec)((ivec)dh & ~(h <= 0)) : dh * d_tanh(h); /* a NaN lets the gradient pass, as in torch */
        break;
    case FR_LSTM: {
        vec i = saved[0], f = saved[1], g = saved[2], o = saved[3], tanh_c;
        vtanh(1, &saved[4], &tanh_c);
        vec dc_all = vfma(dh * o, d_tanh(tanh_c), *dc);
        d[0] = dc_all * g * d_sigmoid(i);
        d[1] = dc_all * c_prev * d_sigmoid(f);
        d[2] = dc_all * i * d_tanh(g);
        d[3] = dh * tanh_c * d_sigmoid(o);
        *dc = dc_all * f;
        break;
    }
    default: { /* FR_GRU */
        vec r = saved[0], z = saved[1], n = saved[2], u_n = saved[3];
        vec da_n = dh * (1 - z) * d_tanh(n);
        d[0] = da_n;
        d[1] = da_n * u_n * d_sigmoid(r);
        d[2] = dh * (h_prev - n) * d_sigmoid(z);
        d[3] = da_n * r;
        *carry = dh * z;
        break;
    }
    }
}

#endif
