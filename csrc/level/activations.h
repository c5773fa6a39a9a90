/* exp, sigmoid and tanh of vectors: no branch, no table, the same lanes for body and tail.
 *
 * The results are kept in registers (VEC_KEEP), since GCC puts a division off to where its result is used, past a
 * product that was to hide it. Of up to SIDE_BY_SIDE vectors, operation by operation: one chain of them takes some
 * eighty cycles, and a processor that looks a hundred operations ahead sees hardly two chains that stand one after
 * the other. One vector alone in float64 and where instructions overwrite operands: a third of the code, and as fast,
 * because the products take longer there. */
#ifndef FR_ACTIVATIONS_H
#define FR_ACTIVATIONS_H

#include "vec.h"

#if defined(FR_DOUBLE) || VEC_OVERWRITES
enum { SIDE_BY_SIDE = 1 };
#else
enum { SIDE_BY_SIDE = 3 };
#endif
#define EACH(i, n) UNROLL(4) for (int i = 0; i < n; i++)

/* e^v = 2^n (1 + p): n the integer nearest v / ln 2, p = e^r - 1 = r + r^2 q for r = v - n ln 2, |r| <= ln 2 / 2.
 * v lies in EXP_MIN..EXP_MAX, so that 2^n and 2^n (1 + p) are normal numbers. */
typedef struct {
    vec scale[SIDE_BY_SIDE]; /* 2^n */
    vec p[SIDE_BY_SIDE];
    vec n[SIDE_BY_SIDE], r[SIDE_BY_SIDE], q[SIDE_BY_SIDE];
    vec r_high[SIDE_BY_SIDE]; /* exact: r = r_high - n LN2_LOW, rounded */
} exp_parts;

/* ln 2 in two parts, the first so short that n times it is exact even without a fused operation. */
#define LN2_HIGH PICK(0x1.62e4p-1f, 0x1.62e42fefa3p-1)
#define LN2_LOW PICK(0x1.7f7d1cp-20f, 0x1.3de6af278ece6p-42)

#define EXP_MIN PICK(-87.3f, -708.3)
#define EXP_MAX PICK(88.3f, 709.4) /* 1 / (1 + e^EXP_MAX) is denormal, so zero: the limit of sigmoid */

INLINE void vexp_parts(const int n, const vec *v, exp_parts *e) {
    /* Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits. */
    const vec magic = vset1(PICK(0x1.8p23f, 0x1.8p52));
    vec r2[SIDE_BY_SIDE], pair[SIDE_BY_SIDE];
    EACH(i, n) e->q[i] = vfma(v[i], vset1(PICK(0x1.715476p+0f, 0x1.71547652b82fep+0)), magic);
    EACH(i, n) e->n[i] = e->q[i] - magic;
    EACH(i, n) e->scale[i] = (vec)(((ivec)e->q[i] << PICK(23, 52)) + (ivec)vset1(1));
    EACH(i, n) e->r_high[i] = vfma(e->n[i], vset1(-LN2_HIGH), v[i]);
    EACH(i, n) e->r[i] = vfma(e->n[i], vset1(-LN2_LOW), e->r_high[i]);
    /* Minimax fit of (e^r - 1 - r) / r^2, weighted for the relative error of p: 3e-19 in float64, 1.5e-8 in float32,
     * and 2.7e-10 there where vfma rounds twice, which leaves less room. */
#ifdef FR_DOUBLE
    static const real q[] = {2.0924295258580132851e-9, 2.5108863999068303976e-8, 2.7557243401775465063e-7,
                             2.7557244834148020606e-6, 2.4801587359539003694e-5, 1.9841269885351842401e-4,
                             1.3888888888867555966e-3, 8.3333333333220135433e-3, 4.1666666666666699211e-2,
                             0.16666666666666675965,   0.49999999999999999988};
#elif VFMA_ROUNDS_ONCE
    static const real q[] = {1.39462230486e-3f, 8.36647368084e-3f, 4.16662874864e-2f, 0.166665445188f, 0.500000005901f};
#else
    static const real q[] = {1.99138923301e-4f, 1.39404813594e-3f, 8.3332737297e-3f,
                             4.1666364217e-2f,  0.166666668131f,   0.500000004266f};
#endif
    /* Horner's rule in r^2 over pairs of terms: half the latency of the one in r. */
    enum { TERMS = sizeof q / sizeof *q };
    EACH(i, n) r2[i] = e->r[i] * e->r[i];
    EACH(i, n) e->q[i] = TERMS % 2 ? vset1(q[0]) : vfma(vset1(q[0]), e->r[i], vset1(q[1]));
    UNROLL(8)
    for (int k = 2 - TERMS % 2; k < TERMS; k += 2) {
        EACH(i, n) pair[i] = vfma(vset1(q[k]), e->r[i], vset1(q[k + 1]));
        EACH(i, n) e->q[i] = vfma(e->q[i], r2[i], pair[i]);
    }
    EACH(i, n) e->p[i] = vfma(r2[i], e->q[i], e->r[i]);
}

/* The denominator 1 + e^-v is summed with one rounding that counts: 2^n + 1 gives back what it loses. */
INLINE void vsigmoid(const int n, const vec *v, vec *result) {
    vec head[SIDE_BY_SIDE], lost[SIDE_BY_SIDE];
    exp_parts e;
    EACH(i, n) result[i] = vmax(vset1(EXP_MIN), vmin(vset1(EXP_MAX), -v[i]));
    vexp_parts(n, result, &e);
    EACH(i, n) head[i] = e.scale[i] + 1;
    EACH(i, n) lost[i] = 1 - (head[i] - e.scale[i]);
    EACH(i, n) lost[i] = head[i] + vfma(e.scale[i], e.p[i], lost[i]);
    EACH(i, n) result[i] = 1 / lost[i];
    EACH(i, n) VEC_KEEP(result[i]);
}

/* (1 - e) / (1 + e), e <= 1, from the parts of e: so 1 - e keeps its accuracy near e = 1. */
INLINE void tanh_of(const int n, const exp_parts *e, vec *result) {
#ifdef FR_DOUBLE
    /* The roundings of r and p would bring the error to 2.1 units in the last place near |v| = 0.2 and 0.5. So both
     * sums begin with `taken`, what of scale r they take without rounding; what that leaves waits for the end of the
     * polynomial, where p would. */
    EACH(i, n) {
        vec scale = e->scale[i], head = 1 + scale, sum = vfma(scale, e->r[i], head), taken = sum - head;
        vec left = vfma(scale * e->n[i], vset1(-LN2_LOW), vfma(scale, e->r_high[i], -taken));
        vec rest = vfma(scale * (e->r[i] * e->r[i]), e->q[i], left);
        result[i] = (1 - scale - taken - rest) / (sum + rest);
    }
#else
    EACH(i, n) result[i] = vfma(-e->scale[i], e->p[i], 1 - e->scale[i]) / vfma(e->scale[i], e->p[i], 1 + e->scale[i]);
#endif
}

/* tanh |v| by e = e^(-2|v|), with the sign of v. */
INLINE void vtanh(const int n, const vec *v, vec *result) {
    const ivec sign = (ivec)vset1(PICK(-0.0f, -0.0));
    ivec signs[SIDE_BY_SIDE];
    exp_parts e;
    EACH(i, n) signs[i] = (ivec)v[i] & sign;
    EACH(i, n) result[i] = vmax(vset1(EXP_MIN), -2 * (vec)((ivec)v[i] & ~sign));
    vexp_parts(n, result, &e);
    tanh_of(n, &e, result);
    EACH(i, n) result[i] = (vec)((ivec)result[i] | signs[i]);
    EACH(i, n) VEC_KEEP(result[i]);
}

#endif
