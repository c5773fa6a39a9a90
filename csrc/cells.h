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
 * between them. a: the pre-activations; c: in and out, LSTM only; saved: what is kept for the backward pass, filled stage
 * by stage. The last stage returns h. */
INLINE int cell_stages(int cell) { return cell == FR_LSTM ? 5 : cell == FR_GRU ? 3 : 1; }

INLINE vec cell_forward(const int cell, const int stage, const int relu, const vec *a, vec h_prev, vec *c, vec *saved) {
    switch (cell) {
    case FR_RNN_TANH:
        return relu ? vmax((vec){0}, a[0]) : vtanh(a[0]);
    case FR_LSTM: /* c = f c_prev + i g, h = o tanh c */
        if (stage < 2) {
            saved[stage] = vsigmoid(a[stage]);
        } else if (stage == 2) {
            saved[2] = vtanh(a[2]);
            saved[4] = *c = vfma(saved[1], *c, saved[0] * saved[2]);
        } else if (stage == 3) {
            saved[3] = vsigmoid(a[3]);
        }
        return stage == 4 ? saved[3] * vtanh(*c) : *c;
    default: /* FR_GRU: n = tanh(a_n + r u_n), h = (1 - z) n + z h_prev */
        if (stage < 2) {
            saved[stage] = vsigmoid(a[1 + stage]);
            return h_prev;
        }
        saved[2] = vtanh(vfma(saved[0], a[3], a[0]));
        saved[3] = a[3];
        return vfma(saved[1], h_prev - saved[2], saved[2]);
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
        vec i = saved[0], f = saved[1], g = saved[2], o = saved[3], tanh_c = vtanh(saved[4]);
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
