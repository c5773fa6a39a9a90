/* The cells' equations, one row at a time, written to be read: what portable_test.c holds the kernels to. a = W_ih x + b_ih, u = W_hh h + b_hh, per gate; dv is the gradient of the loss by v. */
#ifndef FR_EQUATIONS_H
#define FR_EQUATIONS_H

#include <float.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>
#undef I /* the imaginary unit: here I is input_size */

#include "fastrnn.h"

/* Where long double is computed in software, an emulator needs minutes for it: double stays far enough inside the
 * tolerances. */
#if LDBL_MANT_DIG > 64
typedef double wide;
#else
typedef long double wide;
#endif

/* One direction; biases and their gradients may be NULL. Gradients are added to. */
typedef struct {
    fr_cell cell;
    ptrdiff_t I, H;
    int reverse;
    const wide *w_ih, *w_hh, *b_ih, *b_hh;
    wide *dw_ih, *dw_hh, *db_ih, *db_hh;
} eq_layer;

/* One row: `steps` valid steps, x and dx `x_time` apart, y and dy `y_time`; c0, dc, c1, dc0 count for an LSTM only. dx
 * is added to, since directions share it. */
typedef struct {
    ptrdiff_t steps, x_time, y_time;
    const wide *x, *h0, *c0, *dy, *dh, *dc;
    wide *y, *h1, *c1, *dx, *dh0, *dc0;
} eq_row;

_Static_assert(FR_GRU == 3, "the first four cells: those after them are tested in Python");

static inline int eq_gates(fr_cell cell) { return cell == FR_LSTM ? 4 : cell == FR_GRU ? 3 : 1; }

static inline wide eq_sigmoid(wide v) { return 1 / (1 + exp(-v)); }

/* a, u: (G, H); h, c: (H) before the step, in place after it. */
static inline void eq_forward(const eq_layer *l, const wide *a, const wide *u, wide *h, wide *c) {
    const ptrdiff_t H = l->H;
    for (ptrdiff_t j = 0; j < H; j++) {
        if (l->cell == FR_LSTM) {
            wide i = eq_sigmoid(a[j] + u[j]), f = eq_sigmoid(a[H + j] + u[H + j]);
            wide g = tanh(a[2 * H + j] + u[2 * H + j]), o = eq_sigmoid(a[3 * H + j] + u[3 * H + j]);
            c[j] = f * c[j] + i * g;
            h[j] = o * tanh(c[j]);
        } else if (l->cell == FR_GRU) {
            wide r = eq_sigmoid(a[j] + u[j]), z = eq_sigmoid(a[H + j] + u[H + j]);
            wide n = tanh(a[2 * H + j] + r * u[2 * H + j]);
            h[j] = (1 - z) * n + z * h[j];
        } else {
            wide v = a[j] + u[j];
            h[j] = l->cell == FR_RNN_RELU ? (v <= 0 ? 0 : v) : tanh(v);
        }
    }
}

/* dh, dc: (H) of the state after the step, in place of the state before it, but for the recurrent product; da, du:
 * (G, H); h, c: before the step. */
static inline void eq_backward(const eq_layer *l, const wide *a, const wide *u, const wide *h, const wide *c, wide *dh,
                               wide *dc, wide *da, wide *du) {
    const ptrdiff_t H = l->H;
    for (ptrdiff_t j = 0; j < H; j++) {
        if (l->cell == FR_LSTM) {
            wide i = eq_sigmoid(a[j] + u[j]), f = eq_sigmoid(a[H + j] + u[H + j]);
            wide g = tanh(a[2 * H + j] + u[2 * H + j]), o = eq_sigmoid(a[3 * H + j] + u[3 * H + j]);
            wide tanh_c = tanh(f * c[j] + i * g);
            wide dc_all = dc[j] + dh[j] * o * (1 - tanh_c * tanh_c);
            du[j] = da[j] = dc_all * g * i * (1 - i);
            du[H + j] = da[H + j] = dc_all * c[j] * f * (1 - f);
            du[2 * H + j] = da[2 * H + j] = dc_all * i * (1 - g * g);
            du[3 * H + j] = da[3 * H + j] = dh[j] * tanh_c * o * (1 - o);
            dc[j] = dc_all * f;
            dh[j] = 0;
        } else if (l->cell == FR_GRU) {
            wide r = eq_sigmoid(a[j] + u[j]), z = eq_sigmoid(a[H + j] + u[H + j]);
            wide n = tanh(a[2 * H + j] + r * u[2 * H + j]), dn = dh[j] * (1 - z) * (1 - n * n);
            du[j] = da[j] = dn * u[2 * H + j] * r * (1 - r);
            du[H + j] = da[H + j] = dh[j] * (h[j] - n) * z * (1 - z);
            da[2 * H + j] = dn;
            du[2 * H + j] = dn * r;
            dh[j] *= z;
        } else {
            wide v = a[j] + u[j], y = tanh(v);
            du[j] = da[j] = l->cell == FR_RNN_RELU ? (v <= 0 ? 0 : dh[j]) : dh[j] * (1 - y * y);
            dh[j] = 0;
        }
    }
}

/* out (rows) = w (rows, n) v + b */
static inline void eq_affine(wide *out, const wide *w, const wide *v, const wide *b, ptrdiff_t rows, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        out[r] = b ? b[r] : 0;
        for (ptrdiff_t k = 0; k < n; k++)
            out[r] += w[r * n + k] * v[k];
    }
}

/* From d (rows), the gradient of w v + b: dv += wᵀ d, dw += d vᵀ, db += d. */
static inline void eq_affine_backward(const wide *d, const wide *w, const wide *v, wide *dv, wide *dw, wide *db,
                                      ptrdiff_t rows, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t k = 0; k < n; k++) {
            dv[k] += w[r * n + k] * d[r];
            dw[r * n + k] += d[r] * v[k];
        }
        if (db)
            db[r] += d[r];
    }
}

/* A row through a direction, forward and back. */
static inline void eq_run(const eq_layer *l, const eq_row *row) {
    const ptrdiff_t H = l->H, n = eq_gates(l->cell) * H, T = row->steps, record = 2 * n + 2 * H;
    const int lstm = l->cell == FR_LSTM;
    const size_t state = (size_t)H * sizeof(wide);
    wide *tape = calloc((size_t)(T * record + 2 * n + 4 * H), sizeof(wide)); /* of each step: a, u, h and c before it */
    if (!tape)
        abort();
    wide *da = tape + T * record, *du = da + n, *h = du + n, *c = h + H, *dh = c + H, *dc = dh + H;
    memcpy(h, row->h0, state);
    if (lstm)
        memcpy(c, row->c0, state);
    for (ptrdiff_t k = 0; k < T; k++) {
        const ptrdiff_t t = l->reverse ? T - 1 - k : k;
        wide *a = tape + k * record, *u = a + n;
        eq_affine(a, l->w_ih, row->x + t * row->x_time, l->b_ih, n, l->I);
        eq_affine(u, l->w_hh, h, l->b_hh, n, H);
        memcpy(u + n, h, 2 * state);
        eq_forward(l, a, u, h, c);
        memcpy(row->y + t * row->y_time, h, state);
    }
    memcpy(row->h1, h, state);
    memcpy(dh, row->dh, state);
    if (lstm) {
        memcpy(row->c1, c, state);
        memcpy(dc, row->dc, state);
    }
    for (ptrdiff_t k = T - 1; k >= 0; k--) {
        const ptrdiff_t t = l->reverse ? T - 1 - k : k;
        const wide *a = tape + k * record, *u = a + n, *h_before = u + n, *c_before = h_before + H;
        for (ptrdiff_t j = 0; j < H; j++)
            dh[j] += row->dy[t * row->y_time + j];
        eq_backward(l, a, u, h_before, c_before, dh, dc, da, du);
        eq_affine_backward(da, l->w_ih, row->x + t * row->x_time, row->dx + t * row->x_time, l->dw_ih, l->db_ih, n, l->I);
        eq_affine_backward(du, l->w_hh, h_before, dh, l->dw_hh, l->db_hh, n, H);
    }
    memcpy(row->dh0, dh, state);
    if (lstm)
        memcpy(row->dc0, dc, state);
    free(tape);
}

#endif
