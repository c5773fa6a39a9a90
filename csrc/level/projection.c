/* h = W_hr times the output of the cell's equation, o tanh c (Sak et al. 2014): the second product of a step. It needs
 * the outputs of all panels; what a step needs of the one before is h alone.
 *
 * Packed, W_hr's panel p holds its H columns, for COLUMNS vectors of features of h; every feature is one chain from
 * zero through the units in order. The way back multiplies as that of the other weights does (d_times_w.c).
 */
#include "forward.h"
#include "ahead.h"

enum { FEATURES = COLUMNS * LANES };

static ptrdiff_t projection_panels(const fr_packed *packed) { return (packed->P + FEATURES - 1) / FEATURES; }

static int projection_columns(const fr_packed *packed, ptrdiff_t p) {
    const ptrdiff_t blocks = (packed->P - p * FEATURES + LANES - 1) / LANES;
    return blocks < COLUMNS ? (int)blocks : COLUMNS;
}

/* Where panel p lies in the packed weights. */
static real *projection_at(const fr_packed *packed, ptrdiff_t p) {
    return (real *)packed->data + packed->panels * packed->panel_size + p * packed->H * FEATURES;
}

size_t LEVEL(fr_projection_bytes)(const fr_packed *packed) {
    return fr_projects(packed) ? (size_t)(projection_panels(packed) * packed->H * FEATURES) * sizeof(real) : 0;
}

void LEVEL(fr_pack_projection)(const fr_packed *packed, const fr_weights *weights, int index, int size,
                               fr_watch *watch) {
    const ptrdiff_t panels = projection_panels(packed), H = packed->H;
    for (ptrdiff_t p = fr_cut(panels, index, size); p < fr_cut(panels, index + 1, size); p++) {
        const int columns = projection_columns(packed, p);
        for (int c = 0; c < columns; c++) {
            const ptrdiff_t first = p * FEATURES + c * LANES;
            const int lanes = min_lanes(packed->P - first);
            const real *rows[LANES];
            for (int lane = 0; lane < LANES; lane++)
                rows[lane] = (const real *)weights->w_hr + (first + (lane < lanes ? lane : 0)) * H;
            transpose(projection_at(packed, p) + c * LANES, columns * LANES, rows, H, lanes);
        }
        if (index == 0) /* in the thread that made the call */
            fr_watch_count(watch, FR_PACK_FLOP * (double)(H * FEATURES));
        if (fr_watch_stopped(watch))
            return;
    }
}

/* sums (R, P, COLUMNS) = h of step t of the owned rows i .. i+R-1 at P panels of C columns, from p on. */
INLINE void project_tile(const int R, const int P, const int C, const forward_state *f, ptrdiff_t p, ptrdiff_t t,
                         ptrdiff_t i, vec *sums, ahead next) {
    const ptrdiff_t H = f->weights->H;
    vec sum[TILE_ROWS * COLUMNS];
    const real *out[TILE_ROWS];
    if (R > (P == 1 ? tile_limit(C) : PAIR_ROWS))
        return;
    UNROLL(8)
    for (int r = 0; r < R; r++)
        out[r] = at(&f->out, t, owned_row(f, i + r));
    UNROLL(24)
    for (int k = 0; k < R * P * COLUMNS; k++)
        sum[k] = (vec){0};
    product(sum, R, P, C, 0, out, 1, H, projection_at(f->weights, p), H * FEATURES,
            P == 1 && asks_ahead(R, C) ? &next : NULL);
    UNROLL(8)
    for (int k = 0; k < R * P; k++)
        move_sums(sums + k * COLUMNS, sum + k * COLUMNS, C);
}

typedef void project_function(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, vec *sums, ahead next);

#define PROJECT(name, R, P, C) \
    static __attribute__((noinline)) void name(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, \
                                               vec *sums, ahead next) { \
        project_tile(R, P, C, f, p, t, i, sums, next); \
    }
DEFINE_TILES(project_function, project_1, PROJECT, 1, 1)
DEFINE_TILES(project_function, project_2, PROJECT, 1, 2)
DEFINE_TILES(project_function, project_3, PROJECT, 1, 3)
DEFINE_TILES(project_function, project_4, PROJECT, 1, 4)
DEFINE_TILES(project_function, project_pair, PROJECT, PAIR, COLUMNS)

/* Stores h of the owned rows i .. i+rows-1 at so many panels from p on: apart from the tiles, which would each hold the
 * store of every feature. */
static void store_features(const forward_state *f, ptrdiff_t p, int panels, ptrdiff_t t, ptrdiff_t i, int rows,
                           const vec *sums) {
    for (int r = 0; r < rows; r++) {
        real *h = at(&f->run->y, t, owned_row(f, i + r));
        for (int q = 0; q < panels; q++)
            for (int c = 0; c < projection_columns(f->weights, p + q); c++) {
                const ptrdiff_t j = (p + q) * FEATURES + c * LANES;
                vstore_n(h + j, sums[(r * panels + q) * COLUMNS + c], min_lanes(f->weights->P - j));
            }
    }
}

/* What a tile of so many of the step's rows from the i-th on asks for of the panel after p, or of the first one. */
static ahead part_after(const forward_state *f, ptrdiff_t p, ptrdiff_t i, int rows, ptrdiff_t live, const void *near) {
    const fr_packed *packed = f->weights;
    const size_t step_bytes = (size_t)(packed->panels * packed->panel_size) * sizeof(real);
    if (!ASKS_FOR_WEIGHTS || step_bytes <= AHEAD_BYTES)
        return nothing_ahead(near);
    const ptrdiff_t after = p + 1 < projection_panels(packed) ? p + 1 : 0;
    const ptrdiff_t row = packed->H * projection_columns(packed, after) * VEC_BYTES / live;
    return (ahead){(const char *)projection_at(packed, after) + i * row, rows * row * ASK_TERMS / packed->H};
}

/* h of step t of the owned rows i .. end-1 at panel p. */
static void project_rows(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end,
                         ptrdiff_t live) {
    static project_function *const *const by_columns[] = {project_1, project_2, project_3, project_4};
    const int columns = projection_columns(f->weights, p);
    vec sums[TILE_ROWS * COLUMNS];
    for (int rows; i < end; i += rows) {
        rows = tile_rows(end - i, tile_limit(columns));
        by_columns[columns - 1][rows - 1](f, p, t, i, sums, part_after(f, p, i, rows, live, sums));
        store_features(f, p, 1, t, i, rows, sums);
    }
}

int LEVEL(fr_project)(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live) {
    const ptrdiff_t panels = projection_panels(f->weights);
    const double row_flop = 2.0 * (double)f->weights->H * FEATURES;
    for (ptrdiff_t p = 0, done; p < panels && live; p += done) {
        const int whole = p + PAIR <= panels && projection_columns(f->weights, p + PAIR - 1) == COLUMNS;
        done = whole && live <= PAIR_ROWS ? PAIR : 1;
        for (ptrdiff_t i = 0, end; i < live; i = end) {
            end = live - i < FR_ASK_ROWS ? live : i + FR_ASK_ROWS;
            if (done == PAIR) {
                vec sums[TILE_ROWS * COLUMNS];
                project_pair[live - 1](f, p, t, i, sums, (ahead){NULL, 0});
                store_features(f, p, PAIR, t, i, (int)live, sums);
            } else {
                project_rows(f, p, t, i, end, live);
            }
            if (fr_share_worked(share, (double)((end - i) * done) * row_flop))
                return 1;
        }
    }
    return 0;
}
