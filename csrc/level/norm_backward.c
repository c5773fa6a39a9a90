/* The derivative of cells that normalise, whole rows at a time: first that of h by its normalised c, then that of the
 * gates, then that of their normalised products by h; that of those by x is in norm_gradients.c. Each begins when sums
 * over the whole row are known.
 *
 * Of n = (v - mean) scale, dv = scale (dn - mean of dn - n mean of (dn n)). */
#include "derive.h"
#include "norm.h"

/* Sums over a row, by gate: of dn, and of dn n. */
typedef struct {
    vec dn[COLUMNS], along[COLUMNS];
} normal_sums;

/* A row's step on its way through the derivative. */
typedef struct {
    const fr_options *o;
    const step *s;
    ptrdiff_t rank, row;
    normal of[FROM_LEFT], of_c; /* of the products by source, and of c */
    normal by_x, by_h, by_c; /* means of dn, and, in the place of scales, of dn n */
    const real *next;        /* what was saved of the row ROWS_TOGETHER further; where there is none, its own */
    const real *next_c;      /* and its c before the step */
    const real *c;           /* (H): as it was made */
    real *d_normal;          /* (H): dn of c */
} normed_row;

INLINE void add_normal(normal_sums *sums, int gate, vec dn, vec n) {
    sums->dn[gate] += dn;
    sums->along[gate] = vfma(dn, n, sums->along[gate]);
}

INLINE normal mean_of_sums(const normal_sums *sums, const int gates, ptrdiff_t H, int each) {
    normal found = {0};
    share_means(sums->dn, gates, H, each, found.mean);
    share_means(sums->along, gates, H, each, found.scale);
    return found;
}

/* dh of a row at the units from j on. */
INLINE vec kept_dh(const backward_state *b, const normed_row *r, ptrdiff_t j) {
    const ptrdiff_t p = j / (COLUMNS * LANES);
    return b->dh[(p * b->capacity + r->s->term + r->rank) * COLUMNS + j / LANES % COLUMNS];
}

/* A row's products by a source, as the forward pass saved them. */
INLINE normal_row saved_products(const int cell, const backward_state *b, const normed_row *r, int source) {
    normal_row found = {.base = saved_at(b, r->s->t, r->row), .panel = LANES};
    for (int g = 0; g < fr_cells[cell].gates; g++)
        found.gate[g] = saved_product(cell, source, g) * b->H;
    return found;
}

/* A row's columns in d, or in one of d_by, at panel p. */
INLINE vec *d_at(const backward_state *b, vec *d, const normed_row *r, ptrdiff_t p) {
    return d + (p * b->capacity + r->s->term + r->rank) * COLUMNS;
}

/* The parts of a row's way. */
enum { OUTPUT, GATES, PRODUCTS, PARTS };

/* Asks for a share of what the derivative reads of the row ROWS_TOGETHER further, at the units from j on: all at once
 * would wait for itself. */
INLINE void ask_for_next(const int cell, const int part, const normed_row *r, ptrdiff_t H, ptrdiff_t j) {
    const int kept = fr_cells[cell].saved, has_c = fr_cells[cell].states == 2;
    const int parts = has_c ? PARTS : PARTS - 1, index = part - (PARTS - parts);
    const int first = kept * index / parts, end = kept * (index + 1) / parts;
    UNROLL(16)
    for (int k = first; k < end; k++)
        prefetch(r->next + k * H + j, 1);
    if (part == OUTPUT)
        prefetch(r->next_c + j, 1);
}

/* Of h by its c: leaves the gradient of the last gate in its column, dn of c, and the parts of gain's and bias's. */
INLINE void output_row(const int cell, const backward_state *b, normed_row *r) {
    const ptrdiff_t H = b->H;
    const fr_options *o = r->o;
    const real *gain = gain_of_c(cell, b->run->weights.vectors, H), *bias = bias_of_c(cell, b->run->weights.vectors, H);
    real *made = r->d_normal + H;
    backward_units u;
    block_state state;
    r->c = saved_at(b, r->s->t, r->row) + LSTM_C * H;
    for (ptrdiff_t j = 0; zones(o) && j < H; j += LANES) { /* what is saved is what zoneout left of it */
        load_units(cell, o, 0, b, r->s, r->rank, j, (vec){0}, &u, &state);
        vstore_n(made + j, vfma(u.saved[LSTM_F], take_c_prev(&u), u.saved[LSTM_I] * u.saved[LSTM_G]), u.lanes);
        r->c = made;
    }
    const normal_row c = {.base = r->c, .panel = LANES};
    LEVEL(fr_find_normal_c)(&c, H, o->eps, &r->of_c);
    normal_sums sums = {0};
    for (ptrdiff_t j = 0, p = 0; j < H; j += LANES, p++) {
        ask_for_next(cell, OUTPUT, r, H, j);
        load_units(cell, o, 0, b, r->s, r->rank, j, kept_dh(b, r, j), &u, &state);
        const vec n = standard(&r->of_c, 0, vload_n(r->c + j, u.lanes)), gate = u.saved[LSTM_O];
        vec v = vfma(vload_n(gain + j, u.lanes), n, vload_n(bias + j, u.lanes)), out;
        activate(o, FR_OUTPUT, 1, &v, &out);
        const vec by_normal = u.dh * gate * d_activate(o, FR_OUTPUT, out);
        const vec dn = by_normal * vload_n(gain + j, u.lanes);
        d_at(b, b->d, r, p)[LSTM_O] = u.dh * out * d_activate(o, FR_GATES, gate);
        add_normal(&sums, 0, dn, n);
        vstore_n(r->d_normal + j, dn, u.lanes);
        if (b->vectors) {
            *vector_terms(b, p, r->s->term + r->rank, 0, 0) = by_normal * n;
            *vector_terms(b, p, r->s->term + r->rank, 1, 0) = by_normal;
        }
    }
    r->by_c = mean_of_sums(&sums, 1, H, 0);
}

/* Adds what a block of units gives to the sums of the normalised products by a source. */
INLINE void add_columns(const int cell, const int source, const backward_state *b, const normal *of, ptrdiff_t j,
                        const backward_units *u, normal_sums *sums) {
    const real *gains = gains_by(cell, source, b->run->weights.vectors, b->H) + j;
    UNROLL(4)
    for (int k = 0; k < fed_part(cell, source)->count; k++) {
        const int g = fed_part(cell, source)->gate[k];
        const vec dn = vload_n(gains + g * b->H, u->lanes) * u->d[fed_part(cell, source)->first + k];
        add_normal(sums, g, dn, standard(of, g, u->saved[saved_product(cell, source, g)]));
    }
}

/* Of the gates: leaves the columns' gradients, and their sums with the normalised products. */
INLINE void gates_row(const int cell, const backward_state *b, normed_row *r) {
    const ptrdiff_t H = b->H;
    const int has_c = fr_cells[cell].states == 2, gates = fr_cells[cell].gates;
    normal_sums by_x = {0}, by_h = {0};
    for (ptrdiff_t j = 0, p = 0; j < H; j += LANES, p++) {
        backward_units u;
        block_state state;
        ask_for_next(cell, GATES, r, H, j);
        load_units(cell, r->o, 0, b, r->s, r->rank, j, kept_dh(b, r, j), &u, &state);
        if (has_c) {
            const vec n = standard(&r->of_c, 0, vload_n(r->c + j, u.lanes));
            u.dc += d_standard(&r->of_c, &r->by_c, 0, vload_n(r->d_normal + j, u.lanes), n);
            u.dc_is_whole = 1;
        }
        u.vectors = NULL;
        cell_backward(cell, r->o, &u);
        if (has_c)
            u.d[LSTM_O] = d_at(b, b->d, r, p)[LSTM_O];
        leave_block(cell, r->o, b, r->s, r->rank, j, &u, &state);
        add_columns(cell, FROM_X, b, &r->of[FROM_X], j, &u, &by_x);
        add_columns(cell, FROM_H, b, &r->of[FROM_H], j, &u, &by_h);
    }
    r->by_x = mean_of_sums(&by_x, gates, H, r->o->each_gate);
    r->by_h = mean_of_sums(&by_h, gates, H, r->o->each_gate);
}

/* Of the products by h. Those by x wait for the sums (norm_gradients.c). */
INLINE void products_row(const int cell, const backward_state *b, const normed_row *r) {
    const ptrdiff_t H = b->H;
    const normal_row products = saved_products(cell, b, r, FROM_H);
    const normal *of = &r->of[FROM_H];
    const real *gains = gains_by(cell, FROM_H, b->run->weights.vectors, H);
    for (ptrdiff_t j = 0, p = 0; j < H; j += LANES, p++) {
        const int n = min_lanes(H - j);
        const vec *d = d_at(b, b->d, r, p);
        vec *out = d_at(b, b->d_by[FROM_H], r, p);
        ask_for_next(cell, PRODUCTS, r, H, j);
        UNROLL(4)
        for (int k = 0; k < fed_part(cell, FROM_H)->count; k++) {
            const int g = fed_part(cell, FROM_H)->gate[k], c = fed_part(cell, FROM_H)->first + k;
            const vec dn = vload_n(gains + g * H + j, n) * d[c];
            const vec normed = standard(of, g, normal_value(&products, g, p, n));
            out[c] = d_standard(of, &r->by_h, g, dn, normed);
        }
    }
}

/* Finds the statistics of a row's products, and where the row is that will be asked for. */
INLINE void begin_row(const int cell, const backward_state *b, normed_row *r, ptrdiff_t next_rank) {
    const fr_options *o = r->o;
    const ptrdiff_t next = fr_row(b->batch, next_rank);
    r->next = saved_at(b, r->s->t, next);
    if (fr_cells[cell].states == 2)
        r->next_c = c_before(cell, b, r->s->t, next);
    const normal_row products[] = {saved_products(cell, b, r, FROM_H), saved_products(cell, b, r, FROM_X)};
    LEVEL(fr_find_normals)(products, fr_cells[cell].gates, b->H, o->each_gate, o->eps, r->of);
}

/* Takes n rows, the owned ones from the i-th on, through each part before the next, so that one row's sums of lanes do
 * not hold up the others. */
INLINE void norm_rows(const int cell, const backward_state *b, const step *s, ptrdiff_t i, int n, ptrdiff_t owned) {
    normed_row rows[ROWS_TOGETHER];
    for (int k = 0; k < n; k++) {
        const ptrdiff_t rank = fr_rank(b->hand, i + k), next = i + k + ROWS_TOGETHER;
        rows[k] = (normed_row){.o = &b->options, .s = s, .rank = rank, .row = fr_row(b->batch, rank),
                               .d_normal = b->d_normal + 2 * k * b->H};
        begin_row(cell, b, &rows[k], next < owned ? fr_rank(b->hand, next) : rank);
    }
    for (int k = 0; k < n && fr_cells[cell].states == 2; k++)
        output_row(cell, b, &rows[k]);
    for (int k = 0; k < n; k++)
        gates_row(cell, b, &rows[k]);
    for (int k = 0; k < n; k++) {
        const normed_row *r = &rows[k];
        products_row(cell, b, r);
        b->normed[s->term + r->rank] =
            (normed_term){saved_at(b, s->t, r->row), {r->of[FROM_H], r->of[FROM_X]}, r->by_x};
    }
}

#define NORMED(NAME, NORMAL, normal) \
    static void backward_##normal(const backward_state *b, const step *s, ptrdiff_t owned) { \
        for (ptrdiff_t i = 0; i < owned; i += ROWS_TOGETHER) \
            norm_rows(FR_##NAME, b, s, i, owned - i < ROWS_TOGETHER ? (int)(owned - i) : ROWS_TOGETHER, owned); \
    }
#include "cells.def"

void LEVEL(fr_norm_backward)(const backward_state *b, const step *s, ptrdiff_t owned) {
    switch (b->cell) {
#define NORMED(NAME, NORMAL, normal) \
    case FR_##NAME: \
        backward_##normal(b, s, owned); \
        break;
#include "cells.def"
    default:
        __builtin_unreachable();
    }
}
