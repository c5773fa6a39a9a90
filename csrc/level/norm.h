/* Layer normalisation (Ba, Kiros & Hinton 2016): n = (v - mean) scale, scale = 1 / sqrt(variance + eps), over the units
 * of all gates of a row's product, of each gate, or of its c.
 */
#ifndef FR_NORM_H
#define FR_NORM_H

#include "functions.h"
#include "panels.h"

/* A row of values: those of a gate at the units of panel p begin at element gate[g] + p * panel of `base`. */
typedef struct {
    const real *base;
    ptrdiff_t panel, gate[COLUMNS];
} normal_row;

INLINE vec normal_value(const normal_row *row, int gate, ptrdiff_t p, int n) {
    return vload_n(row->base + row->gate[gate] + p * row->panel, n);
}

/* Sums of the lanes of each gate's vector: all of them at once, since shuffles are slower than additions. */
INLINE void sum_lanes(const vec *v, const int gates, real *sums) {
    const vec zero = {0};
    const vec a = v[0], b = gates > 1 ? v[1] : zero, c = gates > 2 ? v[2] : zero, d = gates > 3 ? v[3] : zero;
#ifdef FR_DOUBLE
    enum { VECTORS = 2 };
    const vec by_gate[VECTORS] = {vzip_low(a, b) + vzip_high(a, b), vzip_low(c, d) + vzip_high(c, d)};
#else
    enum { VECTORS = 1 };
    const vec ac = vzip_low(a, c) + vzip_high(a, c), bd = vzip_low(b, d) + vzip_high(b, d);
    const vec by_gate[VECTORS] = {vzip_low(ac, bd) + vzip_high(ac, bd)};
#endif
    enum { QUARTERS = LANES / QUARTER };
    quarter parts[VECTORS][QUARTERS];
    memcpy(parts, by_gate, sizeof parts);
    UNROLL(2)
    for (int k = 0; k < VECTORS; k++) {
        UNROLL(2)
        for (int half = QUARTERS / 2; half > 0; half /= 2)
            UNROLL(2)
            for (int q = 0; q < half; q++)
                parts[k][q] += parts[k][q + half];
        const int count = k * QUARTER + QUARTER <= gates ? QUARTER : gates - k * QUARTER;
        for (int g = 0; g < count; g++)
            sums[k * QUARTER + g] = parts[k][0][g];
    }
}

/* Each gate's sum over all panels, divided by how many values there are: of one gate, or of all of them. */
INLINE void share_means(const vec *sums, const int gates, ptrdiff_t H, int each, real *mean) {
    real total = 0;
    sum_lanes(sums, gates, mean);
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        total += mean[g];
    const real shared = total / (real)(gates * H), one = 1 / (real)H;
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        mean[g] = each ? mean[g] * one : shared;
}

/* The statistics of a row's products by h and by x, or of its c. The same values give the same, wherever they lie. */
void LEVEL(fr_find_normals)(const normal_row *row, int gates, ptrdiff_t H, int each, double eps, normal *found);
void LEVEL(fr_find_normal_c)(const normal_row *row, ptrdiff_t H, double eps, normal *found);

/* n of a gate's values v. */
INLINE vec standard(const normal *found, int gate, vec v) {
    return (v - vset1(found->mean[gate])) * vset1(found->scale[gate]);
}

/* dv from dn, n, and the means of dn and, in the place of scales, of dn n. */
INLINE vec d_standard(const normal *of, const normal *by, int gate, vec dn, vec n) {
    return vset1(of->scale[gate]) * (dn - vset1(by->mean[gate]) - n * vset1(by->scale[gate]));
}

/* Of the vectors (V*H) of a cell that normalises, the gains of the gates by a source. */
INLINE const real *gains_by(int cell, int source, const void *vectors, ptrdiff_t H) {
    return (const real *)vectors + (source == FROM_X ? 0 : fr_cells[cell].gates * H);
}
/* Those of c: behind the gains of the gates by x and by h. */
INLINE const real *gain_of_c(int cell, const void *vectors, ptrdiff_t H) {
    return (const real *)vectors + 2 * fr_cells[cell].gates * H;
}
INLINE const real *bias_of_c(int cell, const void *vectors, ptrdiff_t H) { return gain_of_c(cell, vectors, H) + H; }

/* The place among the saved values of a gate's product by a source. */
INLINE int saved_product(int cell, int source, int gate) {
    const int gates = fr_cells[cell].gates;
    return fr_cells[cell].saved - (source == FROM_X ? 2 : 1) * gates + gate;
}

#endif
