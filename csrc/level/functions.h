/* The activations that a cell may be given instead of its own, and their derivatives. */
#ifndef FR_FUNCTIONS_H
#define FR_FUNCTIONS_H

#include "activations.h"
#include "panels.h"

/* The derivatives of the plain activations, by their results. */
INLINE vec d_sigmoid(vec s) { return s * (1 - s); }
INLINE vec d_tanh(vec t) { return 1 - t * t; }

/* result = the function that `o` has for the role, of n vectors v, clipped where `o` says so. The two may be the
 * same. */
void LEVEL(fr_apply)(const fr_options *o, int role, int n, const vec *v, vec *result);
/* Its derivative, by its result; zero where it was clipped. */
vec LEVEL(fr_derivative)(const fr_options *o, int role, vec result);

#endif
