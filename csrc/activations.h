/* exp, sigmoid and tanh of a vector: no branch, no table, the same lanes for body and tail. */
#ifndef FR_ACTIVATIONS_H
#define FR_ACTIVATIONS_H

#include "vec.h"

/* e^v = 2^n (1 + p): n the integer nearest v / ln 2, p = e^r - 1 = r + r^2 q for r = v - n ln 2, |r| <= ln 2 / 2.
 * v lies in EXP_MIN..EXP_MAX, so that 2^n and 2^n (1 + p) are normal numbers. */
typedef struct {
    vec scale; /* 2^n */
    vec p;
    vec n, r, q;
    vec r_high; /* exact: r = r_high - n LN2_LOW, rounded */
} exp_parts;

/* ln 2 in two parts, the first so short that n times it is exact even without a fused operation. */
#define LN2_HIGH PICK(0x1.62e4p-1f, 0x1.62e42fefa3p-1)
#define LN2_LOW PICK(0x1.7f7d1cp-20f, 0x1.3de6af278ece6p-42)

#define EXP_MIN PICK(-87.3f, -708.3)
#define EXP_MAX PICK(88.3f, 709.4) /* 1 / (1 + e^EXP_MAX) is denormal, so zero: the limit of sigmoid */

INLINE exp_parts vexp_parts(vec v) {
    /* Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits. */
    const vec magic = vset1(PICK(0x1.8p23f, 0x1.8p52));
    vec shifted = vfma(v, vset1(PICK(0x1.715476p+0f, 0x1.71547652b82fep+0)), magic);
    vec n = shifted - magic, r_high = vfma(n, vset1(-LN2_HIGH), v), r = vfma(n, vset1(-LN2_LOW), r_high);
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
    const vec r2 = r * r;
    vec sum = TERMS % 2 ? vset1(q[0]) : vfma(vset1(q[0]), r, vset1(q[1]));
    UNROLL(8)
    for (int i = 2 - TERMS % 2; i < TERMS; i += 2)
        sum = vfma(sum, r2, vfma(vset1(q[i]), r, vset1(q[i + 1])));
    exp_parts e = {.p = vfma(r2, sum, r), .n = n, .r = r, .q = sum, .r_high = r_high};
    e.scale = (vec)(((ivec)shifted << PICK(23, 52)) + (ivec)vset1(1));
    return e;
}

/* The denominator 1 + e^-v is summed with one rounding that counts: 2^n + 1 gives back what it loses. */
INLINE vec vsigmoid(vec v) {
    exp_parts e = vexp_parts(vmax(vset1(EXP_MIN), vmin(vset1(EXP_MAX), -v)));
    vec head = e.scale + 1;
    vec lost = 1 - (head - e.scale);
    return 1 / (head + vfma(e.scale, e.p, lost));
}

/* (1 - e) / (1 + e), e <= 1, from the parts of e: so 1 - e keeps its accuracy near e = 1. */
INLINE vec tanh_of(exp_parts e) {
#ifdef FR_DOUBLE
    /* The roundings of r and p would bring the error to 2.1 units in the last place near |v| = 0.2 and 0.5. So both
     * sums begin with `taken`, what of scale r they take without rounding; what that leaves waits for the end of the
     * polynomial, where p would. */
    vec head = 1 + e.scale, sum = vfma(e.scale, e.r, head), taken = sum - head;
    vec left = vfma(e.scale * e.n, vset1(-LN2_LOW), vfma(e.scale, e.r_high, -taken));
    vec rest = vfma(e.scale * (e.r * e.r), e.q, left);
    return (1 - e.scale - taken - rest) / (sum + rest);
#else
    return vfma(-e.scale, e.p, 1 - e.scale) / vfma(e.scale, e.p, 1 + e.scale);
#endif
}

/* tanh |v| by e = e^(-2|v|), with the sign of v. */
INLINE vec vtanh(vec v) {
    const ivec sign = (ivec)vset1(PICK(-0.0f, -0.0));
    vec magnitude = (vec)((ivec)v & ~sign);
    vec t = tanh_of(vexp_parts(vmax(vset1(EXP_MIN), -2 * magnitude)));
    return (vec)((ivec)t | ((ivec)v & sign));
}

#endif
