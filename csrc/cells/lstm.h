/* i, f, o = sigmoid of a_i, a_f, a_o;  g = tanh a_g;  c = f c_prev + i g;  h = o tanh c
 *
 * With peepholes a_i and a_f see c_prev, a_o sees c: a_i + p_i c_prev, a_f + p_f c_prev, a_o + p_o c. */

enum { LSTM_STAGES = 5 };

INLINE void lstm_forward(const fr_options *opt, const int stage, const int n, forward_units *u) {
    const vec *i = u->saved[LSTM_I], *f = u->saved[LSTM_F], *g = u->saved[LSTM_G], *o = u->saved[LSTM_O];
    vec v[SIDE_BY_SIDE];
    switch (stage) {
    case 0:
        take_column(n, u, 0, v);
        look_at_c(opt, 0, n, u, v);
        activate(opt, FR_GATES, n, v, u->saved[LSTM_I]);
        break;
    case 1:
        take_column(n, u, 1, v);
        look_at_c(opt, 1, n, u, v);
        activate(opt, FR_GATES, n, v, u->saved[LSTM_F]);
        break;
    case 2:
        take_column(n, u, 2, v);
        activate(opt, FR_CANDIDATE, n, v, u->saved[LSTM_G]);
        EACH(r, n) u->saved[LSTM_C][r] = u->c[r] = vfma(f[r], u->c[r], i[r] * g[r]);
        break;
    case 3:
        take_column(n, u, 3, v);
        look_at_c(opt, 2, n, u, v);
        activate(opt, FR_GATES, n, v, u->saved[LSTM_O]);
        break;
    case 4:
        activate(opt, FR_OUTPUT, n, u->c, u->h);
        EACH(r, n) u->h[r] = o[r] * u->h[r];
    }
}

/* Leaves, of h = o tanh c, the gradient of o's column, dc whole, and h again in u->out. */
INLINE void lstm_output_backward(const fr_options *opt, backward_units *u) {
    const vec i = u->saved[LSTM_I], f = u->saved[LSTM_F], g = u->saved[LSTM_G], o = u->saved[LSTM_O];
    vec c = u->saved[LSTM_C], out_c;
    if (zones(opt)) /* what is saved is what zoneout left of it */
        c = vfma(f, take_c_prev(u), i * g);
    activate(opt, FR_OUTPUT, 1, &c, &out_c);
    u->out = o * out_c;
    u->d[3] = u->dh * out_c * d_activate(opt, FR_GATES, o);
    u->dc = vfma(u->dh * o, d_activate(opt, FR_OUTPUT, out_c), u->dc);
    if (has_peepholes(opt, u->vectors)) {
        u->dc = vfma(u->d[3], take_vector(u->vectors, u->step, 2, u->lanes), u->dc);
        u->d_vectors[2] = u->d[3] * c;
    }
}

INLINE void lstm_backward(const fr_options *opt, backward_units *u) {
    const vec i = u->saved[LSTM_I], f = u->saved[LSTM_F], g = u->saved[LSTM_G];
    if (!u->dc_is_whole)
        lstm_output_backward(opt, u);
    const vec dc = u->dc;
    u->d[0] = dc * g * d_activate(opt, FR_GATES, i);
    u->d[1] = dc * take_c_prev(u) * d_activate(opt, FR_GATES, f);
    u->d[2] = dc * i * d_activate(opt, FR_CANDIDATE, g);
    u->dc = dc * f;
    if (has_peepholes(opt, u->vectors)) {
        u->dc = vfma(u->d[0], take_vector(u->vectors, u->step, 0, u->lanes), u->dc);
        u->dc = vfma(u->d[1], take_vector(u->vectors, u->step, 1, u->lanes), u->dc);
        u->d_vectors[0] = u->d[0] * take_c_prev(u);
        u->d_vectors[1] = u->d[1] * take_c_prev(u);
    }
}
