/* Weights into panels. */
#include "panels.h"

size_t LEVEL(fr_lay_out)(fr_packed *packed) {
    const ptrdiff_t x_columns = fed_columns(packed->cell, COLUMNS, FROM_X);
    const ptrdiff_t h_columns = fed_columns(packed->cell, COLUMNS, FROM_H) + fed_columns(packed->cell, 0, FROM_LEFT);
    packed->panels = count_panels(packed->cell, packed->H);
    packed->panel_size = (COLUMNS + packed->I * x_columns + packed->P * h_columns) * LANES;
    return (size_t)packed->panels * (size_t)packed->panel_size * sizeof(real) + LEVEL(fr_projection_bytes)(packed) +
           LEVEL(fr_norm_bytes)(packed);
}

static real *pack_part(const fr_packed *packed, ptrdiff_t p, int columns, real *out, const real *w, ptrdiff_t K,
                       int source) {
    const int fed = fed_columns(packed->cell, columns, source);
    for (int column = 0; column < fed; column++) {
        const real *rows[LANES];
        const int lanes = find_rows(packed, p, column, source, w, K, rows);
        transpose(out + column * LANES, fed * LANES, rows, K, lanes);
    }
    return out + K * fed * LANES;
}

static void pack_panel(const fr_packed *packed, const fr_weights *weights, ptrdiff_t p, real *panel) {
    const int columns = panel_columns(packed->cell, packed->H, p);
    if (is_normed(packed->cell))
        memset(panel, 0, (size_t)columns * VEC_BYTES);
    else
        set_bias(packed, weights, p, columns, panel);
    real *h_part = pack_part(packed, p, columns, panel + columns * LANES, weights->w_ih, packed->I, FROM_X);
    real *left_part = pack_part(packed, p, columns, h_part, weights->w_hh, packed->P, FROM_H);
    if (has_second_phase(packed->cell))
        pack_part(packed, p, columns, left_part, weights->w_hh, packed->H, FROM_LEFT);
}

void LEVEL(fr_pack)(const fr_packed *packed, const fr_weights *weights, int index, int size, fr_watch *watch) {
    fr_fp_mode mode = fr_fp_mode_enter(); /* the biases are added here */
    for (ptrdiff_t p = fr_cut(packed->panels, index, size); p < fr_cut(packed->panels, index + 1, size); p++) {
        pack_panel(packed, weights, p, (real *)packed->data + p * packed->panel_size);
        if (index == 0) /* in the thread that made the call */
            fr_watch_count(watch, FR_PACK_FLOP * (double)packed->panel_size);
        if (fr_watch_stopped(watch))
            break;
    }
    if (fr_projects(packed))
        LEVEL(fr_pack_projection)(packed, weights, index, size, watch);
    if (is_normed(packed->cell))
        LEVEL(fr_pack_norm)(packed, weights, index, size);
    fr_fp_mode_set(mode);
}
