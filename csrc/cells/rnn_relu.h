/* h = max(a, 0) */

enum { RNN_RELU_STAGES = 1 };

INLINE void rnn_relu_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    vec a[SIDE_BY_SIDE];
    (void)o, (void)stage;
    take_column(n, u, 0, a);
    EACH(r, n) u->h[r] = vmax((vec){0}, a[r]);
}

/* A NaN lets the gradient pass, as in torch. */
INLINE void rnn_relu_backward(const fr_options *o, backward_units *u) {
    (void)o;
    u->d[0] = (vec)((ivec)u->dh & ~(take_h(u) <= 0));
}
