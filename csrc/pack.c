/* Weights into panels. */
#include "panels.h"

size_t LEVEL(fr_lay_out)(fr_packed *packed) {
    packed->panels = count_panels(packed->cell, packed->H);
    packed->panel_size = (COLUMNS + (packed->I + packed->H) * fed_columns(packed->cell, COLUMNS)) * LANES;
    return (size_t)packed->panels * (size_t)packed->panel_size * sizeof(real);
}

/* out[k][lane] = w[lane][k] for the first `lanes` lanes, zero in the others; out's rows lie `step` apart. */
static void transpose(real *out, ptrdiff_t step, const real *w, ptrdiff_t K, int lanes) {
    for (ptrdiff_t k = 0; k < K; k += LANES) {
        vec block[LANES];
        int n = min_lanes(K - k);
        for (int lane = 0; lane < LANES; lane++)
            block[lane] = lane < lanes ? vload_n(w + lane * K + k, n) : (vec){0};
        vtranspose(block);
        for (int i = 0; i < n; i++)
            *(vec *)(out + (k + i) * step) = block[i];
    }
}

/* The unit and the gate of a fed column: an RNN's columns are blocks of units, other cells' are gates. */
static ptrdiff_t column_row(const fr_packed *packed, ptrdiff_t p, int column, int from_x) {
    if (cell_columns(packed->cell) == 1)
        return p * panel_units(packed->cell) + column * LANES;
    int gate = from_x ? cell_gate_x(packed->cell, column) : column;
    return gate * packed->H + p * LANES;
}

static int column_lanes(const fr_packed *packed, ptrdiff_t p, int column) {
    ptrdiff_t unit = p * panel_units(packed->cell) + (cell_columns(packed->cell) == 1 ? column * LANES : 0);
    return min_lanes(packed->H - unit);
}

/* Adds b's rows for the columns that x, or h, feeds into the panel's bias. */
static void add_bias(const fr_packed *packed, ptrdiff_t p, int fed, real *bias, const real *b, int from_x) {
    int first = from_x ? 0 : cell_first_h(packed->cell);
    for (int column = 0; b && column < fed; column++) {
        const real *rows = b + column_row(packed, p, column, from_x);
        for (int lane = 0; lane < column_lanes(packed, p, column); lane++)
            bias[(first + column) * LANES + lane] += rows[lane];
    }
}

static real *pack_part(const fr_packed *packed, ptrdiff_t p, int fed, real *out, const real *w, ptrdiff_t K,
                       int from_x) {
    for (int column = 0; column < fed; column++)
        transpose(out + column * LANES, fed * LANES, w + column_row(packed, p, column, from_x) * K, K,
                  column_lanes(packed, p, column));
    return out + K * fed * LANES;
}

void LEVEL(fr_pack)(const fr_packed *packed, const fr_weights *weights, int index, int size, fr_watch *watch) {
    fr_fp_mode mode = fr_fp_mode_enter(); /* the biases are added here */
    for (ptrdiff_t p = fr_cut(packed->panels, index, size); p < fr_cut(packed->panels, index + 1, size); p++) {
        real *panel = (real *)packed->data + p * packed->panel_size;
        int columns = panel_columns(packed->cell, packed->H, p), fed = fed_columns(packed->cell, columns);
        memset(panel, 0, (size_t)columns * VEC_BYTES);
        add_bias(packed, p, fed, panel, weights->b_ih, 1);
        add_bias(packed, p, fed, panel, weights->b_hh, 0);
        real *h_part = pack_part(packed, p, fed, panel + columns * LANES, weights->w_ih, packed->I, 1);
        pack_part(packed, p, fed, h_part, weights->w_hh, packed->H, 0);
        if (index == 0) /* in the thread that made the call */
            fr_watch_count(watch, FR_PACK_FLOP * (double)packed->panel_size);
        if (fr_watch_stopped(watch))
            break;
    }
    fr_fp_mode_set(mode);
}
