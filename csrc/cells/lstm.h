/* i, f, o = sigmoid of a_i, a_f, a_o;  g = tanh a_g;  c = f c_prev + i g;  h = o tanh c */

enum { LSTM_STAGES = 5 };

INLINE void lstm_forward(const int stage, const int n, forward_units *u) {
    const vec *i = u->saved[LSTM_I], *f = u->saved[LSTM_F], *g = u->saved[LSTM_G], *o = u->saved[LSTM_O];
    vec v[SIDE_BY_SIDE];
    switch (stage) {
    case 0:
        take_column(n, u, 0, v);
        vsigmoid(n, v, u->saved[LSTM_I]);
        break;
    case 1:
        take_column(n, u, 1, v);
        vsigmoid(n, v, u->saved[LSTM_F]);
        break;
    case 2:
        take_column(n, u, 2, v);
        vtanh(n, v, u->saved[LSTM_G]);
        EACH(r, n) u->saved[LSTM_C][r] = u->c[r] = vfma(f[r], u->c[r], i[r] * g[r]);
        break;
    case 3:
        take_column(n, u, 3, v);
        vsigmoid(n, v, u->saved[LSTM_O]);
        break;
    case 4:
        vtanh(n, u->c, u->h);
        EACH(r, n) u->h[r] = o[r] * u->h[r];
    }
}

INLINE void lstm_backward(backward_units *u) {
    const vec i = u->saved[LSTM_I], f = u->saved[LSTM_F], g = u->saved[LSTM_G], o = u->saved[LSTM_O];
    vec tanh_c;
    vtanh(1, &u->saved[LSTM_C], &tanh_c);
    const vec dc = vfma(u->dh * o, d_tanh(tanh_c), u->dc);
    u->d[0] = dc * g * d_sigmoid(i);
    u->d[1] = dc * take_c_prev(u) * d_sigmoid(f);
    u->d[2] = dc * i * d_tanh(g);
    u->d[3] = u->dh * tanh_c * d_sigmoid(o);
    u->dc = dc * f;
}
