/* h = tanh a */

enum { RNN_TANH_STAGES = 1 };

INLINE void rnn_tanh_forward(const int stage, const int n, forward_units *u) {
    vec a[SIDE_BY_SIDE];
    (void)stage;
    take_column(n, u, 0, a);
    vtanh(n, a, u->h);
}

INLINE void rnn_tanh_backward(backward_units *u) { u->d[0] = u->dh * d_tanh(take_h(u)); }
