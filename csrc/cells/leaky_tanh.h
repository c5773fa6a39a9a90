/* h = h_prev + alpha (f - h_prev),  f = tanh a */

enum { LEAKY_TANH_STAGES = 1 };

INLINE void leaky_tanh_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    const vec alpha = take_vector(u->vectors, u->step, 0, u->lanes), *f = u->saved[LEAKY_TANH_F];
    vec v[SIDE_BY_SIDE];
    (void)o, (void)stage;
    take_column(n, u, 0, v);
    vtanh(n, v, u->saved[LEAKY_TANH_F]);
    EACH(r, n) u->h[r] = vfma(alpha, f[r] - u->h[r], u->h[r]);
}

INLINE void leaky_tanh_backward(const fr_options *o, backward_units *u) {
    const vec alpha = take_vector(u->vectors, u->step, 0, u->lanes), f = u->saved[LEAKY_TANH_F], df = u->dh * alpha;
    (void)o;
    u->d[0] = df * d_tanh(f);
    u->d_vectors[0] = u->dh * (f - take_h_prev(u));
    u->carry = u->dh - df;
}
