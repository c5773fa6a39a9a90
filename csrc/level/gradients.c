/* The parameters' gradients: dW_ih = da' x, dW_hh = du' h_prev, and the biases', over the terms of a chunk. The threads
 * divide the outputs. */
#include "backward.h"

/* Copies one panel of columns of the terms' x or h rows side by side, zero past the n columns there are. */
static void pack_block(const real *const *rows, ptrdiff_t terms, ptrdiff_t n, ptrdiff_t panel, vec *block) {
    const ptrdiff_t j = panel * COLUMNS * LANES;
    const int C = wide_columns(n, panel);
    for (ptrdiff_t k = 0; k < terms; k++)
        for (int c = 0; c < C; c++)
            *block++ = vload_n(rows[k] + j + c * LANES, min_lanes(n - j - c * LANES));
}

/* Where a tile's sums come from and go to. */
typedef struct {
    int starts;       /* from zero, not from memory, where they wait between some terms and the next */
    real *const *out; /* to the rows of W's gradient, if they end and all their vectors are whole; else NULL */
    open_ends ends;
} outer_way;

/* sum (R, COLUMNS) += R rows of W's gradient, C vectors wide, over some terms. */
INLINE void outer_rows(const int R, const int C, const real *const *d, ptrdiff_t terms, const vec *block,
                       vec *sum_out, const outer_way *way) {
    vec sum[TILE_ROWS * COLUMNS];
    if (R > tile_limit(C))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(4)
        for (int c = 0; c < C; c++)
            sum[r * COLUMNS + c] = way->starts ? (vec){0} : sum_out[r * COLUMNS + c];
    product(sum, R, 1, C, 0, d, COLUMNS * LANES, terms, (const real *)block, 0, NULL);
    if (!way->out) {
        UNROLL(8)
        for (int r = 0; r < R; r++)
            move_sums(sum_out + r * COLUMNS, sum + r * COLUMNS, C);
        return;
    }
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(4)
        for (int c = 0; c < C; c++) {
            real *out = way->out[r] + c * LANES;
            vstore(out, added_to(way->ends, out, LANES) + sum[r * COLUMNS + c]);
        }
}

typedef void outer_function(const real *const *d, ptrdiff_t terms, const vec *block, vec *sum, const outer_way *way);

#define OUTER(name, R, C) \
    static __attribute__((noinline)) void name(const real *const *d, ptrdiff_t terms, const vec *block, vec *sum, \
                                               const outer_way *way) { \
        outer_rows(R, C, d, terms, block, sum, way); \
    }
DEFINE_TILES(outer_function, outer_1, OUTER, 1)
DEFINE_TILES(outer_function, outer_2, OUTER, 2)
DEFINE_TILES(outer_function, outer_3, OUTER, 3)
DEFINE_TILES(outer_function, outer_4, OUTER, 4)

/* Terms that a panel of d's rows takes at once: so few that they and the block's stay in the first-level cache from
 * tile to tile. The sums wait in memory meanwhile. */
enum { OUTER_TERMS = VEC_BYTES == 64 ? 128 : 64 };

/* One panel of rows of W's gradient, `count` of them, C vectors wide, of which the last has so many lanes. */
typedef struct {
    real *rows[COLUMNS * LANES];
    int count, C, lanes;
} outer_panel;

/* Loads the sums that a panel's rows hold; or adds them to what is there. */
static void load_sums(const outer_panel *panel, vec *sum) {
    for (int i = 0; i < panel->count; i++)
        for (int c = 0; c < panel->C; c++)
            sum[i * COLUMNS + c] = vload_n(panel->rows[i] + c * LANES, c < panel->C - 1 ? LANES : panel->lanes);
}
static void store_sums(const outer_panel *panel, const vec *sum, open_ends ends) {
    for (int i = 0; i < panel->count; i++)
        for (int c = 0; c < panel->C; c++) {
            const int lanes = c < panel->C - 1 ? LANES : panel->lanes;
            real *out = panel->rows[i] + c * LANES;
            vstore_n(out, added_to(ends, out, lanes) + sum[i * COLUMNS + c], lanes);
        }
}

/* Adds a block's part of the gradient of a source's weights: the rows of panel p, one panel of columns. */
static void add_outer(const backward_state *b, open_ends ends, int source, ptrdiff_t term, ptrdiff_t terms,
                      ptrdiff_t p, ptrdiff_t panel, const vec *block) {
    static outer_function *const *const by_columns[] = {outer_1, outer_2, outer_3, outer_4};
    const ptrdiff_t n = row_length(b, source), j = panel * COLUMNS * LANES;
    const vec *terms_d = gradients_of(b, source) + (p * b->capacity + term) * COLUMNS;
    const real *d[COLUMNS * LANES], *term_d = (const real *)terms_d;
    vec sum[COLUMNS * LANES * COLUMNS];
    const panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
    const int C = wide_columns(n, panel), lanes = min_lanes(n - j - (C - 1) * LANES);
    outer_panel gradient, open; /* of the latter, without open sums, no row is set or read */
    int count = 0, tile;
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++, count++) {
            const ptrdiff_t at_row = (runs.row[g] + k) * n + j;
            d[count] = term_d + runs.start + g * LANES + k;
            gradient.rows[count] = gradient_in(&b->run->gradients, source) + at_row;
            if (ends.begin || ends.stay)
                open.rows[count] = gradient_in(&b->run->span.open, source) + at_row;
        }
    gradient.count = open.count = count, gradient.C = open.C = C, gradient.lanes = open.lanes = lanes;
    if (ends.begin)
        load_sums(&open, sum);
    const int straight = lanes == LANES && !ends.stay;
    outer_way way = {.starts = !ends.begin, .ends = ends};
    for (ptrdiff_t done = 0, now; done < terms; done += now, way.starts = 0) {
        now = terms - done < OUTER_TERMS ? terms - done : OUTER_TERMS;
        for (int i = 0; i < count; i += tile) {
            way.out = straight && done + now == terms ? gradient.rows + i : NULL;
            tile = tile_rows(count - i, tile_limit(C));
            by_columns[C - 1][tile - 1](d + i, now, block + done * C, sum + i * COLUMNS, &way);
        }
        for (int i = 0; i < count; i++)
            d[i] += now * COLUMNS * LANES;
    }
    if (ends.stay)
        store_sums(&open, sum, (open_ends){.writes = 1});
    else if (!straight)
        store_sums(&gradient, sum, ends);
}

/* Adds R terms' part of a row of W's gradient: n elements. */
INLINE void add_row_terms(const int R, open_ends ends, const real *const *x, const real *const *d, ptrdiff_t n,
                          real *out) {
    spread value[FEW_TERMS];
    UNROLL(8)
    for (int r = 0; r < R; r++)
        value[r] = vspread(*d[r]);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const int lanes = min_lanes(n - j);
        vec sum = {0};
        UNROLL(8)
        for (int r = 0; r < R; r++)
            sum = vfma_spread(value[r], vload_n(x[r] + j, lanes), sum);
        vstore_n(out + j, added_to(ends, out + j, lanes) + sum, lanes);
    }
}

typedef void row_terms_function(open_ends ends, const real *const *x, const real *const *d, ptrdiff_t n, real *out);

#define DEFINE_ROW_TERMS(R) \
    static __attribute__((noinline)) void row_terms_##R(open_ends ends, const real *const *x, const real *const *d, \
                                                        ptrdiff_t n, real *out) { \
        add_row_terms(R, ends, x, d, n, out); \
    }
DEFINE_ROW_TERMS(1)
DEFINE_ROW_TERMS(2)
DEFINE_ROW_TERMS(3)
DEFINE_ROW_TERMS(4)
DEFINE_ROW_TERMS(5)
DEFINE_ROW_TERMS(6)
DEFINE_ROW_TERMS(7)
DEFINE_ROW_TERMS(8)

/* Adds at most FEW_TERMS terms' part of the rows of the gradient of a source's weights that panel p of d, or dh, stands
 * for. */
static void add_few(const backward_state *b, open_ends ends, int source, ptrdiff_t term, ptrdiff_t terms, ptrdiff_t p) {
    static row_terms_function *const by_terms[FEW_TERMS] = {row_terms_1, row_terms_2, row_terms_3, row_terms_4,
                                                            row_terms_5, row_terms_6, row_terms_7, row_terms_8};
    const ptrdiff_t n = row_length(b, source);
    real *gradient = gradient_in(&b->run->gradients, source);
    const panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
    const real *d[FEW_TERMS];
    for (int g = 0; g < runs.count; g++)
        for (int k = 0; k < runs.length; k++) {
            for (ptrdiff_t r = 0; r < terms; r++)
                d[r] = (const real *)(gradients_of(b, source) + (p * b->capacity + term + r) * COLUMNS) + runs.start +
                       g * LANES + k;
            by_terms[terms - 1](ends, b->from[source] + term, d, n, gradient + (runs.row[g] + k) * n);
        }
}

static void add_bias(const backward_state *b, open_ends ends, int source, const vec *sum, ptrdiff_t p,
                     real *gradient) {
    panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
    for (int g = 0; gradient && g < runs.count; g++)
        for (int k = 0; k < runs.length; k++) {
            real *here = gradient + runs.row[g] + k;
            *here = (ends.writes ? 0 : *here) + ((const real *)sum)[runs.start + g * LANES + k];
        }
}

/* The sums of a bias from its open ones, or back to them. */
static void move_open(const backward_state *b, int source, vec *sum, ptrdiff_t p, real *open, int stay) {
    panel_runs runs = LEVEL(fr_runs_of)(b, p, source);
    for (int g = 0; open && g < runs.count; g++)
        for (int k = 0; k < runs.length; k++) {
            real *here = (real *)sum + runs.start + g * LANES + k, *there = open + runs.row[g] + k;
            if (stay)
                *there = *here;
            else
                *here = *there;
        }
}

/* Adds few terms to the rows of W's gradients that the share owns. Returns whether the call ends. */
static int add_few_block(const backward_state *b, open_ends ends, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size;
    for (ptrdiff_t p = fr_cut(b->panels, index, size); p < fr_cut(b->panels, index + 1, size); p++) {
        for (int source = 0; source < b->sources; source++)
            add_few(b, ends, source, term, terms, p);
        if (fr_share_worked(b->share, FR_PACK_FLOP * (double)((b->I + b->P) * COLUMNS * LANES)))
            return 1;
    }
    const ptrdiff_t panels = b->projects ? wide_panels(b->P) : 0;
    for (ptrdiff_t p = fr_cut(panels, index, size); p < fr_cut(panels, index + 1, size); p++) {
        add_few(b, ends, FROM_OUT, term, terms, p);
        if (fr_share_worked(b->share, FR_PACK_FLOP * (double)(b->H * COLUMNS * LANES)))
            return 1;
    }
    return 0;
}

static ptrdiff_t block_terms(ptrdiff_t term, ptrdiff_t end) { return end - term < BLOCK ? end - term : BLOCK; }

/* Where the blocks lie of the wide-th panel of x or h that is packed at a time. */
static vec *blocks_of(const backward_state *b, ptrdiff_t wide) {
    return b->block + wide * OUTER_BLOCKS * BLOCK * COLUMNS;
}

/* The wide-th of the sources' panels: those of x, of h, and of a last source. */
typedef struct {
    int source;
    ptrdiff_t panel;
} wide_panel;

static wide_panel wide_panel_of(ptrdiff_t wide, ptrdiff_t x_panels, ptrdiff_t h_panels, int last_source) {
    if (wide < x_panels)
        return (wide_panel){FROM_X, wide};
    return wide < x_panels + h_panels ? (wide_panel){FROM_H, wide - x_panels}
                                      : (wide_panel){last_source, wide - x_panels - h_panels};
}

/* Adds at most OUTER_BLOCKS blocks of terms, one after the other, to the parts of W's gradients that the share owns,
 * panels of d times panels of x or h, or, `of_out`, panels of dh times those of the outputs. So many of the latter
 * share what they read of d, and the blocks what they read of the gradients: both come from beyond the second-level
 * cache where H is large. Returns whether the call ends. */
static int add_outer_blocks(const backward_state *b, open_ends ends, int of_out, ptrdiff_t term, ptrdiff_t end_term) {
    const int index = b->share->index, size = b->share->size, last_source = of_out ? FROM_OUT : FROM_LEFT;
    const ptrdiff_t panels = gradient_panels(b, of_out ? FROM_OUT : FROM_H);
    const ptrdiff_t x_panels = of_out ? 0 : wide_panels(b->I), h_panels = of_out ? 0 : wide_panels(b->P);
    const ptrdiff_t last_panels = has_source(b, last_source) ? wide_panels(b->H) : 0;
    const ptrdiff_t items = (x_panels + h_panels + last_panels) * panels;
    const ptrdiff_t first = fr_cut(items, index, size), last = fr_cut(items, index + 1, size);
    const ptrdiff_t wide_end = (last + panels - 1) / panels;
    const double item_flop = 2.0 * (double)(end_term - term) * COLUMNS * LANES * COLUMNS * LANES;
    for (ptrdiff_t begin = first / panels, end; begin < wide_end; begin = end) {
        end = begin + OUTER_PANELS < wide_end ? begin + OUTER_PANELS : wide_end;
        for (ptrdiff_t wide = begin; wide < end; wide++) {
            const wide_panel at = wide_panel_of(wide, x_panels, h_panels, last_source);
            vec *block = blocks_of(b, wide - begin);
            for (ptrdiff_t k = term; k < end_term; k += BLOCK, block += BLOCK * COLUMNS)
                pack_block(b->from[at.source] + k, block_terms(k, end_term), row_length(b, at.source), at.panel, block);
        }
        for (ptrdiff_t p = 0; p < panels; p++)
            for (ptrdiff_t wide = begin; wide < end; wide++) {
                const ptrdiff_t item = wide * panels + p;
                const wide_panel at = wide_panel_of(wide, x_panels, h_panels, last_source);
                if (item < first || item >= last)
                    continue;
                if (fr_share_worked(b->share, item_flop))
                    return 1;
                const vec *block = blocks_of(b, wide - begin);
                open_ends here = ends;
                for (ptrdiff_t k = term; k < end_term; k += BLOCK, block += BLOCK * COLUMNS, here.writes = 0)
                    add_outer(b, here, at.source, k, block_terms(k, end_term), p, at.panel, block);
            }
    }
    return 0;
}

/* Adds a block of terms to the biases' gradients that the share owns. */
static void add_biases(const backward_state *b, open_ends ends, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size;
    const fr_gradients *gradients = &b->run->gradients, *open = &b->run->span.open;
    if (!gradients->b_ih && !gradients->b_hh)
        return;
    for (ptrdiff_t p = fr_cut(b->panels, index, size); p < fr_cut(b->panels, index + 1, size); p++) {
        vec sum[COLUMNS] = {{0}};
        const vec *d = b->d + (p * b->capacity + term) * COLUMNS;
        if (ends.begin) {
            for (int source = 0; source < b->sources; source++)
                move_open(b, source, sum, p, bias_in(open, source), 0);
        }
        for (ptrdiff_t k = 0; k < terms * COLUMNS; k++)
            sum[k % COLUMNS] += d[k];
        if (ends.stay) {
            for (int source = 0; source < b->sources; source++)
                move_open(b, source, sum, p, bias_in(open, source), 1);
            continue;
        }
        for (int source = 0; source < b->sources; source++)
            add_bias(b, ends, source, sum, p, bias_in(gradients, source));
    }
}

/* Adds a block of terms to the vectors' gradients that the share owns. */
static void add_vectors(const backward_state *b, open_ends ends, ptrdiff_t term, ptrdiff_t terms) {
    const int index = b->share->index, size = b->share->size, blocks = panel_blocks(b->cell);
    real *gradient = b->run->gradients.vectors, *open = b->run->span.open.vectors;
    for (ptrdiff_t p = fr_cut(b->panels, index, size); p < fr_cut(b->panels, index + 1, size); p++)
        for (int k = 0; k < b->vectors * blocks; k++) {
            const ptrdiff_t j = p * panel_units(b->cell) + k % blocks * LANES;
            real *out = gradient + k / blocks * b->H + j;
            const int lanes = min_lanes(b->H - j);
            real *opened = open ? open + k / blocks * b->H + j : NULL;
            if (lanes <= 0)
                continue;
            vec sum = ends.begin ? vload_n(opened, lanes) : (vec){0};
            for (ptrdiff_t i = 0; i < terms; i++)
                sum += *vector_terms(b, p, term + i, k / blocks, k % blocks);
            vstore_n(ends.stay ? opened : out, ends.stay ? sum : added_to(ends, out, lanes) + sum, lanes);
        }
}

void LEVEL(fr_add_terms)(const backward_state *b, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t opened, int stays,
                         int writes) {
    for (ptrdiff_t next; begin < end; begin = next, opened = writes = 0) {
        const ptrdiff_t most = opened ? BLOCK - opened : OUTER_BLOCKS * BLOCK;
        next = end - begin < most ? end : begin + most;
        open_ends ends = {.begin = opened > 0, .writes = writes};
        const ptrdiff_t odd = (opened + next - begin) % BLOCK;
        if (stays && odd) {
            ends.stay = next - begin <= odd;
            next -= ends.stay ? 0 : odd;
        }
        if (b->few ? add_few_block(b, ends, begin, next - begin) : add_outer_blocks(b, ends, 0, begin, next))
            return;
        if (b->projects && !b->few && add_outer_blocks(b, ends, 1, begin, next))
            return;
        if (is_normed(b->cell)) /* whose others are in norm_gradients.c */
            continue;
        for (ptrdiff_t term = begin; term < next; term += BLOCK, ends.writes = 0) {
            const ptrdiff_t terms = block_terms(term, next);
            add_biases(b, ends, term, terms);
            add_vectors(b, ends, term, terms);
        }
    }
}
