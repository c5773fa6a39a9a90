/* r, z = sigmoid of a_r, a_z;  n = tanh(a_n + W_hn (r h_prev) + b_hn);  h = (1 - z) n + z h_prev
 *
 * The columns are a_n, a_r, a_z. The first phase leaves r h_prev, whose product by W_hn is in a_n in the second. */

enum { GRU_RESET_FIRST_STAGES = 3 };

INLINE void gru_reset_first_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    const vec *r = u->saved[GRU_RESET_FIRST_R], *z = u->saved[GRU_RESET_FIRST_Z], *new = u->saved[GRU_RESET_FIRST_N];
    vec v[SIDE_BY_SIDE];
    switch (stage) {
    case 0:
        take_column(n, u, 1, v);
        activate(o, FR_GATES, n, v, u->saved[GRU_RESET_FIRST_R]);
        EACH(k, n) u->left[k] = r[k] * u->h[k];
        break;
    case 1:
        take_column(n, u, 2, v);
        activate(o, FR_GATES, n, v, u->saved[GRU_RESET_FIRST_Z]);
        break;
    case 2:
        take_column(n, u, 0, v);
        activate(o, FR_CANDIDATE, n, v, u->saved[GRU_RESET_FIRST_N]);
        EACH(k, n) u->h[k] = vfma(z[k], u->h[k] - new[k], new[k]);
    }
}

INLINE void gru_reset_first_backward(const fr_options *o, backward_units *u) {
    const vec z = u->saved[GRU_RESET_FIRST_Z], n = u->saved[GRU_RESET_FIRST_N];
    u->d[0] = u->dh * (1 - z) * d_activate(o, FR_CANDIDATE, n);
    u->d[1] = (vec){0};
    u->d[2] = u->dh * (take_h_prev(u) - n) * d_activate(o, FR_GATES, z);
    u->carry = u->dh * z;
}

INLINE void gru_reset_first_second_backward(const fr_options *o, backward_units *u) {
    const vec r = u->saved[GRU_RESET_FIRST_R], h_prev = take_h_prev(u);
    u->d[1] = u->d_left * h_prev * d_activate(o, FR_GATES, r);
    u->left = r * h_prev;
    u->carry = vfma(u->d_left, r, u->carry);
}
