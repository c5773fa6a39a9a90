/* The activations that a cell may be given instead of its own, and their derivatives. */
#ifndef FR_FUNCTIONS_H
#define FR_FUNCTIONS_H

#include "activations.h"
#include "panels.h"

/* The derivatives of the plain activations, by their results. */
INLINE vec d_sigmoid(vec s) { return s * (1 - s); }
INLINE vec d_tanh(vec t) { return 1 - t * t; }

/* result = a role's function of n vectors v, which it clips where o says so. The two may be the same. */
void LEVEL(fr_call_function)(const fr_options *o, int role, int n, vec *v, vec *result);
/* Its derivative, by its result. */
vec LEVEL(fr_derivative)(const fr_function *f, vec result);
/* Sets the ends. */
void LEVEL(fr_set_ends)(fr_options *o);

/* Whether the role's function has to be called: it is neither a gate's sigmoid nor the others' tanh. */
INLINE int is_called(const fr_options *o, const int role) {
    return o && o->functions[role].kind != (role == FR_GATES ? FR_F_SIGMOID : FR_F_TANH);
}
INLINE int clips(const fr_options *o, const int role) { return o && role != FR_OUTPUT && o->clip > 0; }
INLINE void clip(const fr_options *o, const int role, const int n, vec *v) {
    if (!clips(o, role))
        return;
    const vec most = vset1((real)o->clip);
    EACH(r, n) v[r] = vmax(-most, vmin(most, v[r]));
}
INLINE vec select_where(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

#endif
