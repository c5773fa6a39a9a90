/* A share of one row: its panels wait for each other's activations, whose latency would stand alone. So the stages that
 * finish P panels are slipped in between the products of the next P; not where instructions overwrite an operand: the
 * temporaries would push the sums to memory.
 *
 * A cell takes part by its lines in ROWS.
 */
#define CALLS_ACTIVATIONS 0
#include "finish.h"

#if VEC_OVERWRITES

row_function *LEVEL(fr_row_function)(int cell, int general, int columns, int pair) {
    (void)cell, (void)general, (void)columns, (void)pair;
    return NULL;
}

#else

/* The stages of all blocks of units of a panel of C columns. */
INLINE int finish_stages(const int cell, const int C) { return C / fr_cells[cell].columns * cell_stages(cell); }

/* The k-th of them. */
INLINE void finish_kth(const int cell, const fr_options *o, const int k, const forward_state *f, finish_state *s) {
    finish_stage(cell, o, k / cell_stages(cell), k % cell_stages(cell), ROWS_BESIDE, 1, f, s);
}

/* Step f->step_term of the hoisted chunk through P panels from p on, whose pre-activations go to `sums` and so to
 * `now`; meanwhile the panels in `last`, unless it is NULL, are finished. The two may be the same. */
INLINE void row_panels(const int cell, const fr_options *o, const int P, const int C, const forward_state *f,
                       ptrdiff_t p, vec *sums, finish_state *now, finish_state *last) {
    const int x = fed_columns(cell, C, 1), h = fed_columns(cell, C, 0), first_h = fr_cells[cell].h.first;
    const int stages = finish_stages(cell, C);
    const ptrdiff_t H = f->weights->H, panel_size = f->weights->panel_size;
    const real *panel = panel_at(f, p);
    const real *h_part = panel + (C + f->weights->I * x) * LANES;
    vec sum[PAIR * COLUMNS];
    UNROLL(2)
    for (int q = 0; q < P; q++) {
        const vec *start = hoisted_at(f, p + q, f->step_term, x);
        UNROLL(4)
        for (int c = 0; c < C; c++)
            sum[q * COLUMNS + c] = c < x ? start[c] : ((const vec *)(panel + q * panel_size))[c];
    }
    const int parts = last ? P * stages : 1;
    if (!last) /* what the stages load stays behind this, because a step's first products need the registers */
        __asm__ volatile("" : : : "memory");
    UNROLL(16)
    for (int part = 0; part < parts; part++) {
        const ptrdiff_t k = H * part / parts, end = H * (part + 1) / parts;
        const real *a = now->h_prev[0] + k;
        product(sum, 1, P, h, first_h, &a, 1, end - k, h_part + k * h * LANES, panel_size, NULL);
        if (last)
            finish_kth(cell, o, part % stages, f, last + part / stages);
    }
    UNROLL(2)
    for (int q = 0; q < P; q++) {
        move_sums(sums + q * COLUMNS, sum + q * COLUMNS, C);
        now[q].p = p + q;
    }
}

/* `steps` steps from t on of a hoisted chunk, through all owned panels, P at a time. Returns whether the call ends. */
INLINE int row_steps(const int cell, const fr_options *o, const int P, const int C, forward_state *f, ptrdiff_t t,
                     ptrdiff_t steps, fr_barrier *barrier) {
    const ptrdiff_t groups = (f->panel_end - f->panel) / P, row = owned_row(f, 0);
    for (; f->step_term < steps; f->step_term++, t += f->run->reverse ? -1 : 1) {
        enter_step(f, t, 1);
        finish_state under_way[PAIR];
        vec sums[PAIR * COLUMNS];
        UNROLL(2)
        for (int q = 0; q < P; q++)
            under_way[q].a[0] = sums + q * COLUMNS, under_way[q].row[0] = row, under_way[q].t = t,
            under_way[q].h_prev[0] = f->h_prev[0];
        row_panels(cell, o, P, C, f, f->panel + nth(t, 0, groups) * P, sums, under_way, NULL);
        for (ptrdiff_t k = 1; k < groups; k++)
            row_panels(cell, o, P, C, f, f->panel + nth(t, k, groups) * P, sums, under_way, under_way);
        UNROLL(8)
        for (int k = 0; k < finish_stages(cell, C); k++)
            UNROLL(2)
            for (int q = 0; q < P; q++)
                finish_kth(cell, o, k, f, under_way + q);
        f->h_prev[0] = at(&f->run->y, t, row);
        if (barrier && fr_barrier_wait(barrier))
            return 1;
    }
    return 0;
}

/* Of a cell of one column, panels of all widths. */
#define ROWS_OF_BLOCKS(NAME) ROW(NAME, 1, 1) ROW(NAME, 1, 2) ROW(NAME, 1, 3) ROW(NAME, 1, 4) ROW(NAME, 2, 4)

/* ROW(NAME, P, C): the cell FR_NAME, P panels of C columns at a time. */
#define ROWS \
    ROWS_OF_BLOCKS(RNN_TANH) \
    ROWS_OF_BLOCKS(RNN_RELU) \
    ROW(LEAKY_TANH, 1, 4) \
    ROW(LEAKY_RELU, 1, 4) \
    ROW(LSTM, 1, 4) \
    ROW(LSTM, 2, 4) \
    ROW(GRU, 1, 4) \
    ROW(GRU, 2, 4)

/* And those that take part with options: one panel at a time, since each of these functions is large. */
#define GENERAL_ROWS \
    ROW(RNN_TANH, 1, 4) \
    ROW(LSTM, 1, 4) \
    ROW(GRU, 1, 4)

#define DEFINE_ROW(name, cell, options, P, C) \
    static int name(forward_state *f, ptrdiff_t t, ptrdiff_t steps, fr_barrier *barrier) { \
        return row_steps(cell, options, P, C, f, t, steps, barrier); \
    }
#define ROW(NAME, P, C) DEFINE_ROW(row_##NAME##_##P##_##C, FR_##NAME, NULL, P, C)
ROWS
#undef ROW
#define ROW(NAME, P, C) DEFINE_ROW(general_row_##NAME##_##P##_##C, FR_##NAME, &f->weights->options, P, C)
GENERAL_ROWS
#undef ROW

row_function *LEVEL(fr_row_function)(int cell, int general, int columns, int pair) {
    static row_function *const by_cell[2][FR_CELLS][PAIR][COLUMNS] = {
#define ROW(NAME, P, C) [0][FR_##NAME][P - 1][C - 1] = row_##NAME##_##P##_##C,
        ROWS
#undef ROW
#define ROW(NAME, P, C) [1][FR_##NAME][P - 1][C - 1] = general_row_##NAME##_##P##_##C,
        GENERAL_ROWS
#undef ROW
    };
    return by_cell[general][cell][pair][columns - 1];
}
#endif
