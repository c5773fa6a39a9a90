/* h = tanh a */

enum { RNN_TANH_STAGES = 1 };

INLINE void rnn_tanh_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    vec a[SIDE_BY_SIDE];
    (void)stage;
    take_column(n, u, 0, a);
    activate(o, FR_CANDIDATE, n, a, u->h);
}

INLINE void rnn_tanh_backward(const fr_options *o, backward_units *u) {
    u->d[0] = u->dh * d_activate(o, FR_CANDIDATE, take_h(u));
}
