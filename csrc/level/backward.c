/* The backward pass. Only dh is sequential (dh.c). The rest are large products over the terms, (step, row) pairs, of a
 * chunk of time: dx = da W_ih, dW_ih = da' x, dW_hh = du' h_prev, taken while d is in cache (d_times_w.c, gradients.c).
 */
#include "backward.h"
#include "entry.h"
#include "functions.h"
#include "masks.h"

enum { CHUNK_BYTES = 1 << 19 }; /* of d that stay in cache until the products are taken */
enum { AS_IS_TERMS = 48, AS_IS_BYTES = 1 << 18 };

/* A source's weights, packed. */
static size_t weight_bytes(const backward_state *b, int source) {
    return (size_t)(weight_rows(b, source) * wide_panels(row_length(b, source))) * COLUMNS * VEC_BYTES;
}

/* The next `bytes` of the scratch, NULL where there is none yet; counts them. */
static void *take(char *scratch, size_t *taken, size_t bytes) {
    char *here = scratch ? scratch + *taken : NULL;
    *taken += bytes;
    return here;
}

/* The scratch laid out from `scratch` on, unless that is NULL; returns the bytes it takes. */
static size_t lay_out(backward_state *b, char *scratch) {
    const ptrdiff_t rows = b->batch->B > BLOCK ? b->batch->B : BLOCK;
    const int normed = is_normed(b->cell);
    const ptrdiff_t d_bytes = b->panels * COLUMNS * VEC_BYTES; /* of a term */
    ptrdiff_t chunk = CHUNK_BYTES / (normed ? 2 * d_bytes : d_bytes) / BLOCK * BLOCK;
    ptrdiff_t all = b->batch->T * b->batch->B;
    chunk = chunk > rows ? chunk : rows;
    b->capacity = chunk < all ? rows + chunk : all;
    const size_t pointers = fr_aligned((size_t)b->capacity * sizeof(real *));
    const size_t rows_of_h = fr_aligned((size_t)(b->capacity * b->P) * sizeof(real));
    const size_t rows_of_units = fr_aligned((size_t)(b->capacity * b->H) * sizeof(real));
    const ptrdiff_t block = OUTER_PANELS * OUTER_BLOCKS * BLOCK * COLUMNS; /* vectors of a share's */
    const size_t d_vectors = (size_t)(b->panels * b->capacity * b->vectors * panel_blocks(b->cell)) * VEC_BYTES;
    size_t taken = 0;
    b->d = take(scratch, &taken, (size_t)(b->capacity * d_bytes));
    for (int source = 0; source < FROM_OUT; source++)
        b->d_by[source] = normed && source == FROM_H ? take(scratch, &taken, (size_t)(b->capacity * d_bytes)) : b->d;
    b->sums = take(scratch, &taken, normed ? (size_t)b->panels * sizeof *b->sums : 0);
    b->normed = take(scratch, &taken, normed ? fr_aligned((size_t)b->capacity * sizeof *b->normed) : 0);
    const size_t d_normal = fr_aligned((size_t)(b->share->size * NORM_SCRATCH * b->H) * sizeof(real));
    b->d_normal = take(scratch, &taken, normed ? d_normal : 0);
    if (scratch)
        b->d_normal += NORM_SCRATCH * b->share->index * b->H;
    b->dh = take(scratch, &taken, b->keeps_dh ? (size_t)(wide_panels(b->P) * b->capacity) * COLUMNS * VEC_BYTES : 0);
    for (int source = 0; source < SOURCES; source++)
        if (takes_w(b, source) && !b->unpacked[source])
            b->w[source] = take(scratch, &taken, weight_bytes(b, source));
    b->block = take(scratch, &taken, b->few ? 0 : (size_t)(b->share->size * block) * VEC_BYTES);
    if (scratch)
        b->block += b->share->index * block;
    b->d_vectors = take(scratch, &taken, d_vectors);
    for (int source = 0; source < SOURCES; source++)
        b->from[source] = take(scratch, &taken, has_source(b, source) ? pointers : 0);
    b->dx = take(scratch, &taken, b->run->dx.data ? pointers : 0);
    b->left = take(scratch, &taken, has_second_phase(b->cell) || b->projects ? rows_of_units : 0);
    b->entered = take(scratch, &taken, b->multiplies ? rows_of_h : b->enters ? (size_t)b->P * sizeof(real) : 0);
    return taken;
}

/* Whether so many rows of weights are multiplied as they are: by few terms always. Packing reads and writes them once
 * more, and saves what tile after tile of more terms would read a whole row apart; that comes from the second-level
 * cache while a panel of it is small. Below AVX-512 a tile is half as high: nothing gained. */
static int reads_as_is(const backward_state *b, ptrdiff_t rows) {
    const ptrdiff_t terms = b->batch->T * b->batch->B;
    return b->few || (VEC_BYTES == 64 && terms <= AS_IS_TERMS && rows * COLUMNS * VEC_BYTES <= AS_IS_BYTES &&
                      !b->run->span.last);
}

/* A cell without options that projects goes the general way, which reads them. */
static const fr_options fr_plain_options = {
    .functions = {{.kind = FR_F_SIGMOID}, {.kind = FR_F_TANH}, {.kind = FR_F_TANH}},
};

/* The bytes of weights that are read from one time that those of a source are to the next: in a step all but W_ih. */
static size_t bytes_read(const backward_state *b, int source) {
    ptrdiff_t numbers = 0;
    for (int other = 0; other < SOURCES; other++)
        if (other == source || (source != FROM_X && other != FROM_X && has_source(b, other)))
            numbers += weight_rows(b, other) * row_length(b, other);
    return (size_t)numbers * sizeof(real);
}

static backward_state begin(const fr_backward_run *run, const fr_batch *batch, const fr_share *share) {
    backward_state b = {.run = run, .batch = batch, .share = share, .I = run->input_size, .H = run->hidden_size};
    b.P = run->weights.proj_size ? run->weights.proj_size : b.H;
    b.projects = b.P < b.H;
    b.cell = run->cell;
    b.keeps_dh = b.projects || is_normed(b.cell);
    b.enters = changes(&run->entry);
    b.multiplies = run->entry.scale.data || run->masks.drop.data;
    b.carries = fr_cells[b.cell].carries || zones(run->options);
    const int gains = is_normed(b.cell) ? 2 * fr_cells[b.cell].gates : 0; /* whose parts are not kept */
    b.vectors = run->gradients.vectors ? fr_cells[b.cell].vectors - gains : 0;
    b.panels = count_panels(b.cell, b.H);
    b.sources = count_sources(b.cell);
    b.first = run->span.first;
    b.last = run->span.last ? run->span.last : batch->T;
    b.few = batch->T * batch->B <= FEW_TERMS && !run->span.last;
    b.saved = run->saved;
    if (run->span.last && run->saved)
        b.saved -= (run->reverse ? batch->T - b.last : b.first - 1) * batch->B * fr_cells[b.cell].saved * b.H;
    fr_part part = fr_deal(share->index, share->size, share->by_units, batch->B, wide_panels(b.P));
    b.hand = part.hand;
    b.unit_panel = part.begin, b.unit_panel_end = part.end;
    for (int source = 0; source < SOURCES; source++) {
        if (!has_source(&b, source))
            continue;
        const int wide = fr_cells[b.cell].columns == 1 || source == FROM_OUT;
        b.unpacked[source] =
            source != FROM_OUT && row_length(&b, source) >= LANES && reads_as_is(&b, weight_rows(&b, source));
        b.far[source] = ASKS_FOR_WEIGHTS && bytes_read(&b, source) > AHEAD_BYTES;
        b.last_runs[source] = LEVEL(fr_runs_of)(&b, gradient_panels(&b, source) - 1, source);
        b.full_runs[source] = b.last_runs[source];
        b.full_runs[source].length = wide ? COLUMNS * LANES : LANES;
    }
    return b;
}

size_t LEVEL(fr_backward_bytes)(const fr_backward_run *run, const fr_batch *batch, int threads) {
    fr_share share = {.index = 0, .size = threads};
    backward_state b = begin(run, batch, &share);
    return lay_out(&b, NULL);
}

static void init_row(real *out, const void *initial, ptrdiff_t row, ptrdiff_t H) {
    if (initial)
        memcpy(out + row * H, (const real *)initial + row * H, (size_t)H * sizeof(real));
    else
        memset(out + row * H, 0, (size_t)H * sizeof(real));
}

/* Packs the share's part of the weights and sets its rows' dh0, dc0 and dx up. Returns whether the call ends. */
static int prepare(const backward_state *b) {
    const fr_backward_run *run = b->run;
    for (int source = 0; source < SOURCES; source++) {
        if (!takes_w(b, source))
            continue;
        const ptrdiff_t panels = b->unpacked[source] ? 0 : wide_panels(row_length(b, source));
        if (LEVEL(fr_pack_w)(b, source, fr_cut(panels, b->share->index, b->share->size),
                             fr_cut(panels, b->share->index + 1, b->share->size)))
            break;
    }
    for (ptrdiff_t row = b->share->index; row < b->batch->B && b->last == b->batch->T; row += b->share->size) {
        init_row(run->dh0, run->dh, row, b->P);
        if (fr_cells[b->cell].states == 2)
            init_row(run->dc0, run->dc, row, b->H);
        const int zeroes = b->share->zeroes_padding && run->dx.data;
        for (ptrdiff_t t = fr_length(b->batch, row); t < b->batch->T && zeroes; t++)
            memset(at(&run->dx, t, row), 0, (size_t)b->I * sizeof(real));
    }
    if (b->enters && b->share->index == 0)
        memset(b->entered, 0, (size_t)b->P * sizeof(real));
    const int last_source = b->projects ? FROM_OUT : FROM_LEFT;
    for (ptrdiff_t k = b->share->index; has_source(b, last_source) && k < b->capacity; k += b->share->size)
        b->from[last_source][k] = b->left + k * b->H;
    return fr_barrier_wait(b->share->barrier);
}

/* Moves the terms from..end-1 of `size` vectors each towards the front of a buffer, by `keep` terms. */
static void move_terms(vec *terms, ptrdiff_t size, ptrdiff_t keep, ptrdiff_t from, ptrdiff_t end) {
    memmove(terms + (from - keep) * size, terms + from * size, (size_t)((end - from) * size) * VEC_BYTES);
}

/* Moves the terms from `keep` on to the front of the buffers. The step that comes next reads their gradients by h. What
 * else the large buffers have of them is read from `summed` on only. Returns whether the call ends. */
static int keep_terms(const backward_state *b, ptrdiff_t keep, ptrdiff_t summed, ptrdiff_t end) {
    const size_t count = (size_t)(end - keep);
    for (ptrdiff_t p = b->share->index; p < b->panels; p += b->share->size) {
        const ptrdiff_t panel = p * b->capacity * COLUMNS;
        move_terms(b->d_by[FROM_H] + panel, COLUMNS, keep, keep, end);
        if (is_normed(b->cell)) /* d by x; its vectors' parts are summed */
            move_terms(b->d + panel, COLUMNS, keep, summed, end);
        else if (b->vectors)
            move_terms(vector_terms(b, p, 0, 0, 0), b->vectors * panel_blocks(b->cell), keep, summed, end);
    }
    for (ptrdiff_t p = b->share->index; b->projects && p < wide_panels(b->P); p += b->share->size)
        move_terms(b->dh + p * b->capacity * COLUMNS, COLUMNS, keep, summed, end);
    if (b->share->index == 0) {
        for (int source = 0; source < FROM_LEFT; source++)
            memmove(b->from[source], b->from[source] + keep, count * sizeof *b->from[source]);
        if (b->run->dx.data)
            memmove(b->dx, b->dx + keep, count * sizeof *b->dx);
        if (has_second_phase(b->cell) || b->projects)
            memmove(b->left, b->left + keep * b->H, count * (size_t)b->H * sizeof(real));
        if (b->multiplies) {
            memmove(b->entered, b->entered + keep * b->P, count * (size_t)b->P * sizeof(real));
            for (size_t k = 0; k < count; k++)
                b->from[FROM_H][k] = b->entered + (ptrdiff_t)k * b->P;
        }
    }
    return fr_barrier_wait(b->share->barrier);
}

/* The share's part of dx of the terms begin .. end-1, added to what is there from the term `stored` on. Two directions
 * come from both ends of time: each stores the half it meets first, so after one meeting there is something to add
 * to. */
static void dx_part(const backward_state *b, ptrdiff_t begin, ptrdiff_t stored, ptrdiff_t end, int *met) {
    const fr_share *share = b->share;
    const ptrdiff_t bounds[] = {begin, stored < begin ? begin : stored > end ? end : stored, end};
    for (int adds = 0; adds < 2; adds++) {
        const ptrdiff_t first = bounds[adds], terms = bounds[adds + 1] - first;
        if (adds && terms && share->crossing && !*met) {
            fr_share_cross(share);
            *met = 1;
        }
        LEVEL(fr_dx_rows)(b, first + fr_cut(terms, share->index, share->size),
                          first + fr_cut(terms, share->index + 1, share->size), adds);
    }
}

/* How many terms the calls before this one had. */
static ptrdiff_t terms_before(const backward_state *b) {
    const ptrdiff_t steps = b->batch->T - b->last;
    ptrdiff_t terms = 0;
    for (ptrdiff_t row = 0; row < b->batch->B && steps; row++) {
        const ptrdiff_t length = fr_length(b->batch, row), past = length > b->last ? length - b->last : 0;
        terms += !b->run->reverse ? past : length < steps ? length : steps;
    }
    return terms;
}

/* How far a call has come, in terms. */
typedef struct {
    ptrdiff_t fresh;          /* those whose dx is due begin here, ... */
    ptrdiff_t summed;         /* ... and here those that are not in the weights' gradients yet */
    ptrdiff_t end;            /* how many there are */
    ptrdiff_t stored;         /* of the steps whose dx is stored, not added */
    ptrdiff_t opened;         /* of the block that the call before has left open */
    ptrdiff_t before, passed; /* of the pass, when the call began and now */
    int writes;               /* whether the gradients hold nothing yet */
} progress;

/* Takes the products of a chunk of terms, the last of which are step s's, and moves on. `ends`: the call does with it;
 * `hands_on`: there is another. Returns whether the call ends. */
static int take_chunk(const backward_state *b, progress *now, step *s, int ends, int hands_on, int *met) {
    fr_barrier *team = b->share->barrier;
    const int normed = is_normed(b->cell);
    if (fr_barrier_wait(team))
        return 1;
    if (normed && b->share->size > 1) {
        LEVEL(fr_sum_normed)(b, now->fresh, now->end, now->passed - (now->end - now->fresh));
        if (fr_barrier_wait(team))
            return 1;
    }
    if (normed && ends && now->passed > now->before)
        LEVEL(fr_end_sums)(b, now->passed, hands_on);
    if (b->run->dx.data)
        dx_part(b, now->fresh, now->stored, now->end, met);
    ptrdiff_t whole = (now->opened + now->end - now->summed) / BLOCK * BLOCK - now->opened + now->summed;
    whole = ends ? now->end : whole > now->summed ? whole : now->summed;
    LEVEL(fr_add_terms)(b, now->summed, whole, now->opened, hands_on, now->writes);
    if (ends)
        return 1;
    now->opened = whole > now->summed ? 0 : now->opened;
    now->writes &= whole == now->summed;
    now->summed = whole;
    const ptrdiff_t keep = whole < s->term ? whole : s->term;
    if (fr_barrier_wait(team) || keep_terms(b, keep, whole, now->end))
        return 1;
    now->summed -= keep;
    now->stored -= keep;
    s->term -= keep;
    now->fresh = now->end -= keep;
    return 0;
}

/* The steps from the last visited back, and the products whenever a chunk of terms is full. Whoever learns that the
 * call ends goes to the team's next meeting, which tells all alike. */
static void run_steps(const backward_state *b, int *met) {
    const fr_batch *batch = b->batch;
    const ptrdiff_t before = terms_before(b);
    const int normed = is_normed(b->cell);
    progress now = {.opened = before % BLOCK, .before = before, .passed = before, .writes = b->run->overwrites};
    step s = {.resumes = b->last < batch->T};
    ptrdiff_t live = s.resumes ? fr_live(batch, b->run->reverse ? batch->T - 1 - b->last : b->last, 0) : 0;
    s.live = live;
    if (normed)
        LEVEL(fr_begin_sums)(b, before);
    for (ptrdiff_t left = b->last; left > b->first; left--, s.resumes = 0) {
        const int ends = left == b->first + 1; /* the call */
        s.t = b->run->reverse ? batch->T - left : left - 1;
        s.after = s.live;
        s.term_after = s.term;
        s.t_after = s.t + (b->run->reverse ? -1 : 1);
        s.live = live = fr_live(batch, s.t, live);
        s.term = now.end;
        s.t_next = left == 1 ? -1 : b->run->reverse ? s.t + 1 : s.t - 1;
        ptrdiff_t live_before = left > 1 ? fr_live(batch, s.t_next, live) : 0;
        if (LEVEL(fr_backward_step)(b, &s, live_before, ends && left > 1))
            return;
        now.end += s.live;
        if (normed && b->share->size == 1) /* what it reads is in cache now */
            LEVEL(fr_sum_normed)(b, s.term, now.end, now.passed);
        now.passed += s.live;
        if (batch->T - left < b->share->dx_stored)
            now.stored = now.end;
        if (!fr_share_stopped(b->share, fr_owned(s.live, b->hand)) && !ends && now.end + live_before <= b->capacity)
            continue;
        if (take_chunk(b, &now, &s, ends, ends && live_before > 0, met))
            return;
    }
}

void LEVEL(fr_backward)(const fr_backward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    backward_state b = begin(run, batch, share);
    lay_out(&b, scratch);
    fr_fp_mode mode = fr_fp_mode_enter();
    int met = 0;
    b.options = fr_plain_options;
    if (run->options) {
        b.options = *run->options;
        LEVEL(fr_set_ends)(&b.options);
    }
    if (!prepare(&b))
        run_steps(&b, &met);
    if (share->crossing && !met)
        fr_share_cross(share);
    fr_fp_mode_set(mode);
}
