/* The optimisers' formulas over arrays: operation for operation those of fastrnn/train/formulas.py, none fused and
 * in the caller's floating-point mode, so that the bits are NumPy's. One pass instead of its dozen. */
#include "panels.h"

#define SQUARE_ROOT(x) _Generic((x), float: __builtin_sqrtf, double: __builtin_sqrt)(x)

/* The gradient, with weight decay where there is any. */
INLINE real decayed(const int decays, real param, real grad, real weight_decay) {
    return decays ? param * weight_decay + grad : grad;
}

INLINE void sgd(const int decays, const int momentum, const int nesterov, ptrdiff_t n, real *restrict param,
                const real *restrict grad, real *restrict buffer, const fr_numbers *numbers) {
    const real lr = (real)numbers->lr, keep = (real)numbers->momentum, share = (real)numbers->share;
    const real weight_decay = (real)numbers->weight_decay;
    for (ptrdiff_t i = 0; i < n; i++) {
        real g = decayed(decays, param[i], grad[i], weight_decay);
        if (momentum) {
            const real b = buffer[i] * keep + g * share;
            buffer[i] = b;
            g = nesterov ? g + b * keep : b;
        }
        param[i] -= g * lr;
    }
}

INLINE void rmsprop(const int decays, const int centered, const int momentum, ptrdiff_t n, real *restrict param,
                    const real *restrict grad, real *restrict square, real *restrict mean, real *restrict buffer,
                    const fr_numbers *numbers) {
    const real lr = (real)numbers->lr, alpha = (real)numbers->alpha, rest = (real)(1 - numbers->alpha);
    const real eps = (real)numbers->eps, keep = (real)numbers->momentum, weight_decay = (real)numbers->weight_decay;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real g = decayed(decays, param[i], grad[i], weight_decay);
        const real v = square[i] * alpha + g * g * rest;
        real r = v;
        square[i] = v;
        if (centered) {
            const real m = mean[i] + (g - mean[i]) * rest;
            mean[i] = m;
            r = v - m * m;
            r = r < 0 ? 0 : r;
        }
        r = g / (SQUARE_ROOT(r) + eps);
        if (momentum)
            buffer[i] = r = buffer[i] * keep + r;
        param[i] -= r * lr;
    }
}

INLINE void adam(const int decays, ptrdiff_t n, real *restrict param, const real *restrict grad, real *restrict mean,
                 real *restrict square, const fr_numbers *numbers) {
    const real step = (real)numbers->lr, root = (real)numbers->root, eps = (real)numbers->eps;
    const real rest1 = (real)(1 - numbers->beta1), beta2 = (real)numbers->beta2, rest2 = (real)(1 - numbers->beta2);
    const real shrink = (real)numbers->shrink, weight_decay = (real)numbers->weight_decay;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real p = param[i] * shrink; /* times 1 changes nothing */
        const real g = decayed(decays, p, grad[i], weight_decay);
        const real m = mean[i] + (g - mean[i]) * rest1;
        const real v = square[i] * beta2 + g * g * rest2;
        mean[i] = m;
        square[i] = v;
        param[i] = p - m / (SQUARE_ROOT(v) / root + eps) * step;
    }
}

/* One loop for each choice that a formula leaves: a condition within it would keep it from being vectorised. */
void LEVEL(fr_update)(const fr_update_run *run, const fr_numbers *numbers) {
    const ptrdiff_t n = run->n;
    real *param = run->param, *one = run->states[0], *two = run->states[1], *three = run->states[2];
    const real *grad = run->grad;
    const int decays = numbers->weight_decay != 0;
    if (run->rule == FR_ADAM) {
        decays ? adam(1, n, param, grad, one, two, numbers) : adam(0, n, param, grad, one, two, numbers);
    } else if (run->rule == FR_RMSPROP) {
        const int choice = decays << 2 | (two != NULL) << 1 | (three != NULL);
        switch (choice) {
        case 0: rmsprop(0, 0, 0, n, param, grad, one, two, three, numbers); break;
        case 1: rmsprop(0, 0, 1, n, param, grad, one, two, three, numbers); break;
        case 2: rmsprop(0, 1, 0, n, param, grad, one, two, three, numbers); break;
        case 3: rmsprop(0, 1, 1, n, param, grad, one, two, three, numbers); break;
        case 4: rmsprop(1, 0, 0, n, param, grad, one, two, three, numbers); break;
        case 5: rmsprop(1, 0, 1, n, param, grad, one, two, three, numbers); break;
        case 6: rmsprop(1, 1, 0, n, param, grad, one, two, three, numbers); break;
        default: rmsprop(1, 1, 1, n, param, grad, one, two, three, numbers);
        }
    } else {
        const int choice = decays << 2 | (one != NULL) << 1 | (numbers->nesterov != 0);
        switch (choice) {
        case 0: case 1: sgd(0, 0, 0, n, param, grad, one, numbers); break;
        case 2: sgd(0, 1, 0, n, param, grad, one, numbers); break;
        case 3: sgd(0, 1, 1, n, param, grad, one, numbers); break;
        case 4: case 5: sgd(1, 0, 0, n, param, grad, one, numbers); break;
        case 6: sgd(1, 1, 0, n, param, grad, one, numbers); break;
        default: sgd(1, 1, 1, n, param, grad, one, numbers);
        }
    }
}
