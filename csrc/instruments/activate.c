/* The activations over an array, the very functions that the kernels inline: what a sweep of their errors measures. */
#include "level/activations.h"
#include "level/panels.h"

/* e^v for v in EXP_MIN..EXP_MAX, at whose ends it stays. */
static vec exp_of(vec v) {
    exp_parts e;
    v = vmax(vset1(EXP_MIN), vmin(vset1(EXP_MAX), v));
    vexp_parts(1, &v, &e);
    return e.scale[0] * (1 + e.p[0]);
}

void LEVEL(fr_activate)(fr_activation function, const void *from, void *to, ptrdiff_t n) {
    const real *v = from;
    real *result = to;
    fr_fp_mode mode = fr_fp_mode_enter();
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const int lanes = min_lanes(n - i);
        vec x = vload_n(v + i, lanes);
        if (function == FR_EXP)
            x = exp_of(x);
        else if (function == FR_SIGMOID)
            vsigmoid(1, &x, &x);
        else
            vtanh(1, &x, &x);
        vstore_n(result + i, x, lanes);
    }
    fr_fp_mode_set(mode);
}
