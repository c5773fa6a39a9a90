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

/* The sum of all lanes, the halves of a vector added again and again. */
INLINE real sum_lanes(vec v) {
    real sums[LANES];
    memcpy(sums, &v, sizeof sums);
    UNROLL(4)
    for (int half = LANES / 2; half > 0; half /= 2)
        UNROLL(8)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}

/* Each gate's sum over all panels, divided by how many values there are: of one gate, or of all of them. */
INLINE void share_means(const vec *sums, const int gates, ptrdiff_t H, int each, real *mean) {
    real total = 0;
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        total += mean[g] = sum_lanes(sums[g]);
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        mean[g] = each ? mean[g] / (real)H : total / (real)(gates * H);
}

/* The statistics of a row. The same values give the same, wherever they lie. */
INLINE void find_normal(const normal_row *row, const int gates, ptrdiff_t H, int each, double eps, normal *found) {
    const ptrdiff_t panels = (H + LANES - 1) / LANES;
    vec sums[COLUMNS];
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        sums[g] = (vec){0};
    for (ptrdiff_t p = 0; p < panels; p++)
        UNROLL(4)
        for (int g = 0; g < gates; g++)
            sums[g] += normal_value(row, g, p, min_lanes(H - p * LANES));
    share_means(sums, gates, H, each, found->mean);
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        sums[g] = (vec){0};
    for (ptrdiff_t p = 0; p < panels; p++) {
        const int n = min_lanes(H - p * LANES);
        UNROLL(4)
        for (int g = 0; g < gates; g++) {
            vec away = normal_value(row, g, p, n) - vset1(found->mean[g]);
            if (n < LANES)
                away = select_where(vfirst(n), away, (vec){0});
            sums[g] = vfma(away, away, sums[g]);
        }
    }
    share_means(sums, gates, H, each, found->scale);
    UNROLL(4)
    for (int g = 0; g < gates; g++)
        found->scale[g] = 1 / PICK(__builtin_sqrtf, __builtin_sqrt)(found->scale[g] + (real)eps);
}

/* n of a gate's values v. */
INLINE vec standard(const normal *found, int gate, vec v) {
    return (v - vset1(found->mean[gate])) * vset1(found->scale[gate]);
}

/* Of the vectors (V*H) of a cell that normalises, those of c: behind the gains of the gates by x and by h. */
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
