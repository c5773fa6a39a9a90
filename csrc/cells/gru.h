/* r, z = sigmoid of a_r, a_z;  n = tanh(a_n + r u_n), u_n = W_hn h_prev + b_hn;  h = (1 - z) n + z h_prev
 *
 * The columns are a_n, a_r, a_z, u_n; u_n is what a tape calls hn. */

enum { GRU_STAGES = 3 };

INLINE void gru_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    const vec *r = u->saved[GRU_R], *z = u->saved[GRU_Z], *new = u->saved[GRU_N], *u_n = u->saved[GRU_HN];
    vec v[SIDE_BY_SIDE];
    switch (stage) {
    case 0:
        take_column(n, u, 1, v);
        activate(o, FR_GATES, n, v, u->saved[GRU_R]);
        break;
    case 1:
        take_column(n, u, 2, v);
        activate(o, FR_GATES, n, v, u->saved[GRU_Z]);
        break;
    case 2:
        take_column(n, u, 3, u->saved[GRU_HN]);
        take_column(n, u, 0, v);
        EACH(k, n) v[k] = vfma(r[k], u_n[k], v[k]);
        activate(o, FR_CANDIDATE, n, v, u->saved[GRU_N]);
        EACH(k, n) u->h[k] = vfma(z[k], u->h[k] - new[k], new[k]);
    }
}

INLINE void gru_backward(const fr_options *o, backward_units *u) {
    const vec r = u->saved[GRU_R], z = u->saved[GRU_Z], n = u->saved[GRU_N], u_n = u->saved[GRU_HN];
    const vec da_n = u->dh * (1 - z) * d_activate(o, FR_CANDIDATE, n);
    u->d[0] = da_n;
    u->d[1] = da_n * u_n * d_activate(o, FR_GATES, r);
    u->d[2] = u->dh * (take_h_prev(u) - n) * d_activate(o, FR_GATES, z);
    u->d[3] = da_n * r;
    u->carry = u->dh * z;
}
