/* As lstm.h, with f = 1 - i (Greff et al. 2017): c = c_prev + i (g - c_prev) */

enum { LSTM_COUPLED_STAGES = 4 };

INLINE void lstm_coupled_forward(const fr_options *opt, const int stage, const int n, forward_units *u) {
    const vec *i = u->saved[LSTM_COUPLED_I], *g = u->saved[LSTM_COUPLED_G], *o = u->saved[LSTM_COUPLED_O];
    vec v[SIDE_BY_SIDE];
    switch (stage) {
    case 0:
        take_column(n, u, 0, v);
        look_at_c(opt, 0, n, u, v);
        activate(opt, FR_GATES, n, v, u->saved[LSTM_COUPLED_I]);
        break;
    case 1:
        take_column(n, u, 1, v);
        activate(opt, FR_CANDIDATE, n, v, u->saved[LSTM_COUPLED_G]);
        EACH(r, n) u->saved[LSTM_COUPLED_C][r] = u->c[r] = vfma(i[r], g[r] - u->c[r], u->c[r]);
        break;
    case 2:
        take_column(n, u, 2, v);
        look_at_c(opt, 1, n, u, v);
        activate(opt, FR_GATES, n, v, u->saved[LSTM_COUPLED_O]);
        break;
    case 3:
        activate(opt, FR_OUTPUT, n, u->c, u->h);
        EACH(r, n) u->h[r] = o[r] * u->h[r];
    }
}

INLINE void lstm_coupled_backward(const fr_options *opt, backward_units *u) {
    const vec i = u->saved[LSTM_COUPLED_I], g = u->saved[LSTM_COUPLED_G], o = u->saved[LSTM_COUPLED_O];
    const vec c_prev = take_c_prev(u);
    vec c = u->saved[LSTM_COUPLED_C], out_c;
    if (zones(opt)) /* what is saved is what zoneout left of it */
        c = vfma(i, g - c_prev, c_prev);
    activate(opt, FR_OUTPUT, 1, &c, &out_c);
    u->out = o * out_c;
    u->d[2] = u->dh * out_c * d_activate(opt, FR_GATES, o);
    vec dc = vfma(u->dh * o, d_activate(opt, FR_OUTPUT, out_c), u->dc);
    const int peephole = has_peepholes(opt, u->vectors);
    if (peephole)
        dc = vfma(u->d[2], take_vector(u->vectors, u->step, 1, u->lanes), dc);
    u->d[0] = dc * (g - c_prev) * d_activate(opt, FR_GATES, i);
    u->d[1] = dc * i * d_activate(opt, FR_CANDIDATE, g);
    u->dc = dc * (1 - i);
    if (peephole) {
        u->dc = vfma(u->d[0], take_vector(u->vectors, u->step, 0, u->lanes), u->dc);
        u->d_vectors[0] = u->d[0] * c_prev;
        u->d_vectors[1] = u->d[2] * c;
    }
}
