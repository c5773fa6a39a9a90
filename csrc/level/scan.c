/* The scans: each unit's own recurrence over time, forward beside backward.
 *
 * A thread's rows and units are cut into blocks whose states stay in a cache, and a block goes through
 * all steps before the next: of each array a step touches a run of memory as long as the block, which processors
 * foresee.
 */
#include "activations.h"
#include "cell.h"
#include "panels.h"
#include "run/scan.h"

enum { SCRATCH = FR_SCAN_BYTES / sizeof(real), SUM_STEPS = 256 };

/* Complex numbers are pairs of neighbouring lanes. */
INLINE vec negate_lanes(vec v, const int first) {
    vec signs = {0};
    UNROLL(16)
    for (int i = 0; i < LANES; i++)
        signs[i] = i % 2 == first ? -(real)0 : 0;
    return (vec)((ivec)v ^ (ivec)signs);
}

/* a b + c, of pairs or not. */
INLINE vec times_plus(const int pairs, vec a, vec b, vec c) {
    if (!pairs)
        return vfma(a, b, c);
    return vfma(negate_lanes(vodd(a), 0), vswap(b), vfma(veven(a), b, c));
}

/* conj(a) b. */
INLINE vec conjugate_times(const int pairs, vec a, vec b) {
    if (!pairs)
        return a * b;
    return vfma(negate_lanes(vodd(a), 1), vswap(b), veven(a) * b);
}

/* Whole vectors lie aligned where they go past the caches. */
INLINE void put(const int streams, real *to, vec v, int lanes) {
    if (streams && lanes == LANES)
        vstream(to, v);
    else
        vstore_n(to, v, lanes);
}

/* --- One step of n vectors of units; `lanes` is LANES unless n is 1. */

/* Whether what a step leaves to the next one, h or the gradient by h, is read where it was written: a store less, and
 * it is in the first-level cache. Where it went past the caches it is kept in scratch. */
INLINE int reads_back(const int kind, const int streams) { return kind == FR_SCAN_LINEAR && !streams; }

/* before: h of the step before; state: where it is kept, aligned, unless it is read back. */
INLINE void scan_forward_units(const int kind, const int pairs, const int streams, const int n, int lanes, real *a,
                               const ptrdiff_t D, const real *b, const real *u, const real *before, real *state,
                               real *h) {
    vec x[SIDE_BY_SIDE], y[SIDE_BY_SIDE], z[SIDE_BY_SIDE], p[SIDE_BY_SIDE], next[SIDE_BY_SIDE];
    EACH(i, n) p[i] = reads_back(kind, streams) ? vload_n(before + i * LANES, lanes) : *(vec *)(state + i * LANES);
    EACH(i, n) x[i] = vload_n(a + i * LANES, lanes);
    switch (kind) {
    case FR_SCAN_LINEAR:
        EACH(i, n) next[i] = times_plus(pairs, x[i], p[i], vload_n(b + i * LANES, lanes));
        break;
    case FR_SCAN_MINGRU:
        EACH(i, n) y[i] = vload_n(a + D + i * LANES, lanes);
        vsigmoid(n, x, x);
        EACH(i, n) vstore_n(a + i * LANES, x[i], lanes);
        EACH(i, n) next[i] = vfma(x[i], y[i] - p[i], p[i]);
        break;
    case FR_SCAN_MINLSTM:
        EACH(i, n) y[i] = vload_n(a + D + i * LANES, lanes);
        EACH(i, n) z[i] = vload_n(a + 2 * D + i * LANES, lanes);
        vsigmoid(n, x, x);
        vsigmoid(n, y, y);
        EACH(i, n) vstore_n(a + i * LANES, x[i], lanes);
        EACH(i, n) vstore_n(a + D + i * LANES, y[i], lanes);
        EACH(i, n) next[i] = vfma(x[i] / (x[i] + y[i]), p[i], y[i] / (x[i] + y[i]) * z[i]);
        break;
    default:
        EACH(i, n) x[i] = vfma(vload_n(u + i * LANES, lanes), p[i], x[i]);
        if (kind == FR_SCAN_INDRNN_TANH)
            vtanh(n, x, next);
        else
            EACH(i, n) next[i] = vmax(vset1(0), x[i]);
    }
    if (!reads_back(kind, streams))
        EACH(i, n) *(vec *)(state + i * LANES) = next[i];
    EACH(i, n) put(streams, h + i * LANES, next[i], lanes);
}

/* What a step of the backward pass reads and writes at its units. */
typedef struct {
    const real *a, *u, *p, *dy; /* p: h before the step; dy, p: NULL for zero */
    const real *a_after, *g_after; /* `a` and the gradient by h of the step after, if they are read back, or NULL */
    real *da, *db;
    real *state, *sum; /* aligned: the gradient that comes from the step after; a sum over steps, or NULL */
} backward_places;

INLINE void scan_backward_units(const int kind, const int pairs, const int streams, int lanes, const backward_places *s,
                                ptrdiff_t j, ptrdiff_t D, const real *h) {
    const vec a = vload_n(s->a + j, lanes), p = s->p ? vload_n(s->p + j, lanes) : (vec){0};
    vec by_sum = {0}, carry, g;
    if (s->g_after)
        g = conjugate_times(pairs, vload_n(s->a_after + j, lanes), vload_n(s->g_after + j, lanes));
    else
        g = *(vec *)(s->state + j);
    if (s->dy)
        g += vload_n(s->dy + j, lanes);
    switch (kind) {
    case FR_SCAN_LINEAR:
        by_sum = conjugate_times(pairs, p, g);
        put(streams, s->db + j, g, lanes);
        if (s->da)
            put(streams, s->da + j, by_sum, lanes);
        if (!reads_back(kind, streams))
            carry = conjugate_times(pairs, a, g);
        break;
    case FR_SCAN_MINGRU: {
        const vec candidate = vload_n(s->a + D + j, lanes);
        vstore_n(s->da + j, g * (candidate - p) * d_sigmoid(a), lanes);
        vstore_n(s->da + D + j, g * a, lanes);
        carry = vfma(-a, g, g);
        break;
    }
    case FR_SCAN_MINLSTM: {
        const vec i = vload_n(s->a + D + j, lanes), candidate = vload_n(s->a + 2 * D + j, lanes);
        const vec keep = a / (a + i), take = i / (a + i), d = g * (p - candidate) * keep * take;
        vstore_n(s->da + j, d * (1 - a), lanes);
        vstore_n(s->da + D + j, -d * (1 - i), lanes);
        vstore_n(s->da + 2 * D + j, g * take, lanes);
        carry = g * keep;
        break;
    }
    default: {
        const vec now = vload_n(h + j, lanes);
        const vec d = kind == FR_SCAN_INDRNN_TANH ? g * d_tanh(now) : (vec)((ivec)g & ~(now <= 0));
        vstore_n(s->da + j, d, lanes);
        by_sum = d * p;
        carry = vload_n(s->u + j, lanes) * d;
    }
    }
    if (s->sum)
        *(vec *)(s->sum + j) += by_sum;
    if (!reads_back(kind, streams))
        *(vec *)(s->state + j) = carry;
}

/* --- All steps of a block: the rows row .. row_end-1 at the units unit .. unit_end-1. */

typedef struct {
    ptrdiff_t row, row_end, unit, n;
    ptrdiff_t pitch; /* of a row in scratch */
} scan_block;

INLINE ptrdiff_t rounded(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

/* A block's rows of a (B, D) array into scratch, zeros for NULL and in the lanes past the last unit; and back. */
static void take_rows(const scan_block *block, const real *from, ptrdiff_t D, real *to) {
    memset(to, 0, (size_t)((block->row_end - block->row) * block->pitch) * sizeof(real));
    for (ptrdiff_t row = block->row; from && row < block->row_end; row++)
        memcpy(to + (row - block->row) * block->pitch, from + row * D + block->unit, (size_t)block->n * sizeof(real));
}
static void give_rows(const scan_block *block, const real *from, real *to, ptrdiff_t D) {
    for (ptrdiff_t row = block->row; to && row < block->row_end; row++)
        memcpy(to + row * D + block->unit, from + (row - block->row) * block->pitch, (size_t)block->n * sizeof(real));
}

INLINE int past_end(const fr_scan *scan, ptrdiff_t t, ptrdiff_t row) {
    return scan->lengths && t >= (ptrdiff_t)scan->lengths[row];
}
INLINE ptrdiff_t kth_step(const fr_scan *scan, ptrdiff_t k) { return scan->reverse ? scan->T - 1 - k : k; }

/* Counts a step of a block; returns whether the call is to end. */
INLINE int step_counted(const fr_scan_part *part, const scan_block *block) {
    if (part->counts)
        fr_watch_count(part->watch, 1000 + 8.0 * (double)((block->row_end - block->row) * block->n));
    return fr_watch_stopped(part->watch);
}

INLINE void forward_block(const int kind, const int pairs, const int streams, const fr_scan_forward_run *run,
                          const fr_scan_part *part, const scan_block *block, real *state) {
    const fr_scan *scan = &run->scan;
    const ptrdiff_t n = block->n, unit = block->unit;
    const real *u = scan->u ? (const real *)scan->u + unit : state; /* not read where there is none, like b */
    take_rows(block, scan->h0, scan->D, state);
    for (ptrdiff_t k = 0; k < scan->T; k++) {
        const ptrdiff_t t = kth_step(scan, k);
        for (ptrdiff_t row = block->row; row < block->row_end; row++) {
            real *h = at(&scan->h, t, row) + unit, *s = state + (row - block->row) * block->pitch;
            if (past_end(scan, t, row)) {
                memset(h, 0, (size_t)n * sizeof(real));
                continue;
            }
            real *a = at(&scan->a, t, row) + unit;
            const real *b = kind == FR_SCAN_LINEAR ? at(&run->b, t, row) + unit : s;
            const real *p = k && reads_back(kind, streams) ? at(&scan->h, kth_step(scan, k - 1), row) + unit : s;
            ptrdiff_t j = 0;
#define FORWARD_UNITS(n, lanes) \
    scan_forward_units(kind, pairs, streams, n, lanes, a + j, scan->D, b + j, u + j, p + j, s + j, h + j)
            for (; j + SIDE_BY_SIDE * LANES <= n; j += SIDE_BY_SIDE * LANES)
                FORWARD_UNITS(SIDE_BY_SIDE, LANES);
            for (; j + LANES <= n; j += LANES)
                FORWARD_UNITS(1, LANES);
            if (j < n)
                FORWARD_UNITS(1, (int)(n - j));
#undef FORWARD_UNITS
        }
        if (step_counted(part, block))
            return;
    }
    give_rows(block, state, run->last, scan->D);
}

/* Where h before the k-th visited step stands; NULL for zero. */
INLINE const real *before(const fr_scan *scan, ptrdiff_t k, ptrdiff_t row) {
    const ptrdiff_t t = k ? kth_step(scan, k - 1) : 0;
    if (k && !past_end(scan, t, row))
        return at(&scan->h, t, row);
    return scan->h0 ? (const real *)scan->h0 + row * scan->D : NULL;
}

INLINE void backward_row(const int kind, const int pairs, const int streams, const fr_scan_backward_run *run,
                         const scan_block *block, ptrdiff_t k, ptrdiff_t row, real *state, real *sum) {
    const fr_scan *scan = &run->scan;
    const ptrdiff_t t = kth_step(scan, k), n = block->n, unit = block->unit, D = scan->D;
    const ptrdiff_t scratch = (row - block->row) * block->pitch;
    const real *p = before(scan, k, row), *h = at(&scan->h, t, row) + unit;
    backward_places s = {.a = at(&scan->a, t, row) + unit, .state = state + scratch};
    s.u = scan->u ? (const real *)scan->u + unit : NULL;
    s.p = p ? p + unit : NULL;
    s.dy = run->dy.data ? at(&run->dy, t, row) + unit : NULL;
    s.da = run->da.data ? at(&run->da, t, row) + unit : NULL;
    s.db = kind == FR_SCAN_LINEAR ? at(&run->db, t, row) + unit : NULL;
    s.sum = run->sum ? sum + scratch : NULL;
    if (reads_back(kind, streams) && k < scan->T - 1) {
        s.a_after = at(&scan->a, kth_step(scan, k + 1), row) + unit;
        s.g_after = at(&run->db, kth_step(scan, k + 1), row) + unit;
    }
    if (past_end(scan, t, row)) {
        for (int gate = 0; s.da && gate < FR_SCAN_GATES[kind]; gate++)
            memset(s.da + gate * D, 0, (size_t)n * sizeof(real));
        if (s.db)
            memset(s.db, 0, (size_t)n * sizeof(real));
        return;
    }
    ptrdiff_t j = 0;
    for (; j + LANES <= n; j += LANES)
        scan_backward_units(kind, pairs, streams, LANES, &s, j, D, h);
    if (j < n)
        scan_backward_units(kind, pairs, streams, (int)(n - j), &s, j, D, h);
}

/* A sum over many steps is one of sums over SUM_STEPS, counted from the last: a single chain would lose more. */
INLINE void backward_block(const int kind, const int pairs, const int streams, const fr_scan_backward_run *run,
                           const fr_scan_part *part, const scan_block *block, real *state, real *sum, real *total) {
    const fr_scan *scan = &run->scan;
    const ptrdiff_t used = (block->row_end - block->row) * block->pitch;
    take_rows(block, run->dlast, scan->D, state);
    take_rows(block, NULL, scan->D, sum);
    take_rows(block, NULL, scan->D, total);
    for (ptrdiff_t k = scan->T - 1, steps = 1; k >= 0; k--, steps++) {
        for (ptrdiff_t row = block->row; row < block->row_end; row++)
            backward_row(kind, pairs, streams, run, block, k, row, state, sum);
        if (run->sum && (steps % SUM_STEPS == 0 || k == 0))
            for (ptrdiff_t j = 0; j < used; j += LANES) {
                *(vec *)(total + j) += *(vec *)(sum + j);
                *(vec *)(sum + j) = (vec){0};
            }
        if (step_counted(part, block))
            return;
    }
    for (ptrdiff_t row = block->row; reads_back(kind, streams) && row < block->row_end; row++) {
        const ptrdiff_t first = kth_step(scan, 0);
        const real *a = at(&scan->a, first, row) + block->unit, *g = at(&run->db, first, row) + block->unit;
        for (ptrdiff_t j = 0; j < block->n; j += LANES) {
            const int lanes = min_lanes(block->n - j);
            *(vec *)(state + (row - block->row) * block->pitch + j) =
                conjugate_times(pairs, vload_n(a + j, lanes), vload_n(g + j, lanes));
        }
    }
    give_rows(block, state, run->dh0, scan->D);
    give_rows(block, total, run->sum, scan->D);
}

/* --- The blocks of a part. */

/* The block that follows, of as many units, then rows, as scratch has room for; returns whether there is one. */
static int next_block(const fr_scan_part *part, scan_block *block) {
    if (block->n && block->unit + block->n < part->unit_end) {
        block->unit += block->n;
    } else {
        block->row = block->n ? block->row_end : part->row;
        block->unit = part->unit;
    }
    const ptrdiff_t most = part->block / (ptrdiff_t)sizeof(real), units = part->unit_end - block->unit;
    const ptrdiff_t all = rounded(part->unit_end - part->unit);
    if (block->row >= part->row_end || units <= 0)
        return 0;
    const ptrdiff_t rows = all < most ? most / all : 1, left = part->row_end - block->row;
    block->row_end = block->row + (rows < left ? rows : left);
    block->n = units < most ? units : most;
    block->pitch = rounded(block->n);
    return 1;
}

/* Whether every whole vector of a sequence lies aligned, in rows that begin at some unit. */
static int is_aligned(const fr_sequence *s, ptrdiff_t unit) {
    return !s->data || (((uintptr_t)s->data / sizeof(real) | (uintptr_t)s->time | (uintptr_t)s->row | (uintptr_t)unit) %
                        LANES == 0 && (uintptr_t)s->data % sizeof(real) == 0);
}

#define FORWARD(name, kind, pairs, streams) \
    static __attribute__((noinline)) void name(const fr_scan_forward_run *run, const fr_scan_part *part, \
                                               const scan_block *block, real *state) { \
        forward_block(kind, pairs, streams, run, part, block, state); \
    }
#define BACKWARD(name, kind, pairs, streams) \
    static __attribute__((noinline)) void name(const fr_scan_backward_run *run, const fr_scan_part *part, \
                                               const scan_block *block, real *state, real *sum, real *total) { \
        backward_block(kind, pairs, streams, run, part, block, state, sum, total); \
    }
#define EVERY(FUNCTION, pass) \
    FUNCTION(pass##_linear, FR_SCAN_LINEAR, 0, 0) \
    FUNCTION(pass##_linear_streamed, FR_SCAN_LINEAR, 0, 1) \
    FUNCTION(pass##_complex, FR_SCAN_LINEAR, 1, 0) \
    FUNCTION(pass##_complex_streamed, FR_SCAN_LINEAR, 1, 1) \
    FUNCTION(pass##_mingru, FR_SCAN_MINGRU, 0, 0) \
    FUNCTION(pass##_minlstm, FR_SCAN_MINLSTM, 0, 0) \
    FUNCTION(pass##_indrnn_tanh, FR_SCAN_INDRNN_TANH, 0, 0) \
    FUNCTION(pass##_indrnn_relu, FR_SCAN_INDRNN_RELU, 0, 0)
EVERY(FORWARD, forward)
EVERY(BACKWARD, backward)

#define CHOOSE(pass, scan, streams) \
    ((scan)->kind == FR_SCAN_MINGRU ? pass##_mingru \
     : (scan)->kind == FR_SCAN_MINLSTM ? pass##_minlstm \
     : (scan)->kind == FR_SCAN_INDRNN_TANH ? pass##_indrnn_tanh \
     : (scan)->kind == FR_SCAN_INDRNN_RELU ? pass##_indrnn_relu \
     : (scan)->pairs ? ((streams) ? pass##_complex_streamed : pass##_complex) \
                     : ((streams) ? pass##_linear_streamed : pass##_linear))

void LEVEL(fr_scan_forward)(const fr_scan_forward_run *run, const fr_scan_part *part, void *scratch) {
    const int streams = part->streams && is_aligned(&run->scan.h, part->unit);
    fr_fp_mode mode = fr_fp_mode_enter();
    for (scan_block block = {0}; next_block(part, &block) && !fr_watch_stopped(part->watch);)
        CHOOSE(forward, &run->scan, streams)(run, part, &block, scratch);
    vstream_end();
    fr_fp_mode_set(mode);
}

void LEVEL(fr_scan_backward)(const fr_scan_backward_run *run, const fr_scan_part *part, void *scratch) {
    const int streams = part->streams && is_aligned(&run->da, part->unit) && is_aligned(&run->db, part->unit);
    real *state = scratch;
    fr_fp_mode mode = fr_fp_mode_enter();
    for (scan_block block = {0}; next_block(part, &block) && !fr_watch_stopped(part->watch);)
        CHOOSE(backward, &run->scan, streams)(run, part, &block, state, state + SCRATCH, state + 2 * SCRATCH);
    vstream_end();
    fr_fp_mode_set(mode);
}
