/* h = h_prev + alpha (f - h_prev),  f = max(a, 0) */

enum { LEAKY_RELU_STAGES = 1 };

INLINE void leaky_relu_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    const vec alpha = take_vector(u->vectors, u->step, 0, u->lanes), *f = u->saved[LEAKY_RELU_F];
    vec v[SIDE_BY_SIDE];
    (void)o, (void)stage;
    take_column(n, u, 0, v);
    EACH(r, n) u->saved[LEAKY_RELU_F][r] = vmax((vec){0}, v[r]);
    EACH(r, n) u->h[r] = vfma(alpha, f[r] - u->h[r], u->h[r]);
}

/* A NaN lets the gradient pass, as in torch. */
INLINE void leaky_relu_backward(const fr_options *o, backward_units *u) {
    const vec alpha = take_vector(u->vectors, u->step, 0, u->lanes), f = u->saved[LEAKY_RELU_F], df = u->dh * alpha;
    (void)o;
    u->d[0] = (vec)((ivec)df & ~(f <= 0));
    u->d_vectors[0] = u->dh * (f - take_h_prev(u));
    u->carry = u->dh - df;
}
