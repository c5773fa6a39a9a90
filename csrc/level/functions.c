/* Activations by name. Each is monotonic, so that its derivative follows from its result.
 *
 * Sources: ONNX's operators of these names, whose alpha and beta they take. */
#include "functions.h"

/* log(1 + u) = 2 artanh s, s = u / (2 + u), for 0 <= u <= 1: s^2 <= 1/9, so the k-th term is below 9^-k. */
static vec log_1_plus(vec u) {
    enum { TERMS = PICK(8, 17) };
    const vec s = u / (2 + u), s2 = s * s;
    vec sum = vset1((real)1 / (2 * TERMS - 1));
    for (int k = TERMS - 2; k >= 0; k--)
        sum = vfma(sum, s2, vset1((real)1 / (real)(2 * k + 1)));
    return 2 * s * sum;
}

/* e^-|v|, and e^-|v| - 1. */
static vec exp_minus(vec v, vec *less_1) {
    exp_parts e;
    vec minus = -(vec)((ivec)v & ~(ivec)vset1(PICK(-0.0f, -0.0)));
    minus = vmax(vset1(EXP_MIN), minus);
    vexp_parts(1, &minus, &e);
    *less_1 = vfma(e.scale[0], e.p[0], e.scale[0] - 1);
    return vfma(e.scale[0], e.p[0], e.scale[0]);
}

static vec absolute(vec v) { return (vec)((ivec)v & ~(ivec)vset1(PICK(-0.0f, -0.0))); }

static vec apply_1(const fr_function *f, vec v) {
    const vec alpha = vset1((real)f->alpha), beta = vset1((real)f->beta), zero = {0}, one = vset1(1);
    vec less_1, e;
    switch (f->kind) {
    case FR_F_SIGMOID:
        vsigmoid(1, &v, &v);
        return v;
    case FR_F_TANH:
        vtanh(1, &v, &v);
        return v;
    case FR_F_SCALED_TANH:
        v = beta * v;
        vtanh(1, &v, &v);
        return alpha * v;
    case FR_F_HARD_SIGMOID: /* vmin and vmax keep a NaN that is their second */
        return vmin(one, vmax(zero, vfma(alpha, v, beta)));
    case FR_F_RELU:
        return vmax(zero, v);
    case FR_F_LEAKY_RELU:
        return select_where(v <= 0, alpha * v, v);
    case FR_F_THRESHOLDED_RELU:
        return select_where(v <= alpha, zero, v);
    case FR_F_ELU:
        e = exp_minus(v, &less_1);
        return select_where(v <= 0, alpha * less_1, v);
    case FR_F_SOFTSIGN:
        return v / (1 + absolute(v));
    case FR_F_SOFTPLUS:
        e = exp_minus(v, &less_1);
        return vmax(zero, v) + log_1_plus(e);
    case FR_F_AFFINE:
        return vfma(alpha, v, beta);
    case FR_F_LINEAR:
        return v;
    }
    __builtin_unreachable();
}

/* Several vectors side by side for the functions of the plain cells. */
void LEVEL(fr_call_function)(const fr_options *o, int role, int n, vec *v, vec *result) {
    const fr_function *f = &o->functions[role];
    clip(o, role, n, v);
    if (f->kind == FR_F_SIGMOID && n == SIDE_BY_SIDE)
        vsigmoid(SIDE_BY_SIDE, v, result);
    else if (f->kind == FR_F_TANH && n == SIDE_BY_SIDE)
        vtanh(SIDE_BY_SIDE, v, result);
    else
        EACH(r, n) result[r] = apply_1(f, v[r]);
}

/* They have the same bits as the results of what was clipped, since they go the same way. */
void LEVEL(fr_set_ends)(fr_options *o) {
    for (int role = 0; role < FR_ROLES; role++)
        for (int end = 0; end < 2; end++)
            o->ends[role][end] = (double)apply_1(&o->functions[role], vset1((real)(end ? o->clip : -o->clip)))[0];
}

vec LEVEL(fr_derivative)(const fr_function *f, vec y) {
    const vec alpha = vset1((real)f->alpha), beta = vset1((real)f->beta), zero = {0}, one = vset1(1);
    vec e, less_1;
    switch (f->kind) {
    case FR_F_SIGMOID:
        return d_sigmoid(y);
    case FR_F_TANH:
        return d_tanh(y);
    case FR_F_SCALED_TANH:
        return beta * (alpha - y * y / alpha);
    case FR_F_HARD_SIGMOID:
        return select_where((y <= 0) | (y >= 1), zero, alpha);
    case FR_F_RELU: /* a NaN lets the gradient pass, here and below, as in torch */
        return select_where(y <= 0, zero, one);
    case FR_F_LEAKY_RELU:
        return select_where(y <= 0, alpha, one);
    case FR_F_THRESHOLDED_RELU:
        return select_where(y == 0, zero, one);
    case FR_F_ELU:
        return select_where(y <= 0, y + alpha, one);
    case FR_F_SOFTSIGN:
        e = 1 - absolute(y);
        return e * e;
    case FR_F_SOFTPLUS: /* sigmoid v = 1 - e^-y */
        exp_minus(y, &less_1);
        return -less_1;
    case FR_F_AFFINE:
        return alpha;
    case FR_F_LINEAR:
        return one;
    }
    __builtin_unreachable();
}
