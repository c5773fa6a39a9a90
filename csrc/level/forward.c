/* The forward pass: the order of steps, panels and rows. */
#include "forward.h"
#include "ahead.h"
#include "entry.h"
#include "masks.h"

void LEVEL(fr_enter_step)(const forward_state *f, ptrdiff_t t, ptrdiff_t live) {
    const fr_entry *e = &f->run->entry;
    const ptrdiff_t H = f->weights->H, P = f->weights->P, units = panel_units(f->weights->cell);
    const ptrdiff_t begin = f->panel * units, end = f->panel_end * units < H ? f->panel_end * units : H;
    for (ptrdiff_t i = 0; i < live; i++) {
        const ptrdiff_t row = owned_row(f, i);
        real *h = f->entering + i * P, *c = (real *)f->run->c + row * H;
        if (!e->scale.data && !is_reset(e, f->batch, t, row))
            continue;
        enter_units(e, f->batch, t, row, 0, P, f->h_prev[i], h);
        if (f->run->c)
            enter_units(e, f->batch, t, row, begin, end, c, c);
        f->h_prev[i] = h;
    }
}

/* Sets what the recurrent product of step t takes of the first `live` owned rows. */
static void drop_step(const forward_state *f, ptrdiff_t t, ptrdiff_t live) {
    const ptrdiff_t P = f->weights->P;
    for (ptrdiff_t i = 0; i < live && f->dropped; i++)
        drop_units(&f->run->masks, t, owned_row(f, i), P, f->h_prev[i], f->dropped + i * P);
}

/* The functions of panel p. */
static const panel_functions *functions_of(const forward_state *f, ptrdiff_t p) {
    return p == f->weights->panels - 1 ? &f->last : &f->full;
}

/* Adds what the run has of noise to the pre-activations of `rows` rows at panel p. */
static void add_noise(const forward_state *f, vec *sums, int sum_step, int rows, ptrdiff_t p, ptrdiff_t t,
                      ptrdiff_t i) {
    const ptrdiff_t first = p * panel_units(f->weights->cell), H = f->weights->H;
    const int blocks = panel_columns(f->weights->cell, H, p);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < blocks; c++) {
            const ptrdiff_t j = first + c * LANES;
            sums[r * sum_step + c] += vload_n(at(&f->run->noise, t, owned_row(f, i + r)) + j, min_lanes(H - j));
        }
}

/* Takes sums to h, c and what is saved. */
static void finish(const forward_state *f, const panel_functions *functions, vec *sums, int sum_step, int rows,
                   ptrdiff_t p, ptrdiff_t t, ptrdiff_t i) {
    if (f->run->noise.data)
        add_noise(f, sums, sum_step, rows, p, t, i);
    functions->finish(f, sums, sum_step, rows, p, t, i);
}

/* Rows whose sums wait to be finished together. */
enum { FINISH_ROWS = 12 };

/* What the rows from `first` on of a panel's step, with so many terms, ask for: by each row, bytes of the next panel's
 * weights; 0 if these stay in the second-level cache, or are not asked for: then places of what the next step saves. */
typedef struct {
    const char *weights;
    ptrdiff_t first, row, terms;
    saved_part saved;
} asked;

/* Of `rows` rows from `first` on, each with `terms` terms that panel p's part, so many numbers from `begin` on, feeds. */
static asked ask_for(const forward_state *f, ptrdiff_t p, ptrdiff_t begin, ptrdiff_t numbers, ptrdiff_t first,
                     ptrdiff_t rows, ptrdiff_t terms) {
    asked n = {.weights = (const char *)(panel_at(f, p) + begin), .first = first, .terms = terms};
    if (ASKS_FOR_WEIGHTS && rows && (size_t)((f->panel_end - f->panel) * numbers) * sizeof(real) > AHEAD_BYTES)
        n.row = numbers * (ptrdiff_t)sizeof(real) / rows;
    return n;
}

/* Of step t's next, the part of the k-th of so many groups of panels. */
static saved_part ask_for_saved(const forward_state *f, ptrdiff_t t, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t k,
                                ptrdiff_t groups) {
    const ptrdiff_t next = t + (f->run->reverse ? -1 : 1), values = fr_cells[f->weights->cell].saved * f->weights->H;
    if (VEC_OVERWRITES || !f->run->saved || !values || next < 0 || next >= f->batch->T)
        return (saved_part){.saved = NULL};
    return part_of_saved(f->batch, f->hand, (const real *)f->run->saved + next * f->batch->B * values,
                         values * (ptrdiff_t)sizeof(real), first, rows, k, groups);
}

/* The part of `rows` rows from the i-th on; `near` is in the first-level cache. */
static ahead ahead_of(const asked *n, ptrdiff_t i, int rows, const void *near) {
    if (n->row)
        return (ahead){n->weights + (i - n->first) * n->row, rows * n->row * ASK_TERMS / n->terms};
    return part_ahead(&n->saved, i - n->first, rows, n->terms, near);
}

/* Step t of the owned rows i .. end-1 through panel p. */
static void step_rows(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end,
                      const asked *next) {
    const panel_functions *functions = functions_of(f, p);
    vec sums[FINISH_ROWS * COLUMNS];
    for (int rows, done; i < end; i += done) {
        const int most = end - i < FINISH_ROWS ? (int)(end - i) : FINISH_ROWS;
        for (done = 0; done < most; done += rows) {
            rows = tile_rows(most - done, functions->limit);
            functions->tiles->step[rows - 1](f, p, t, i + done, sums + done * COLUMNS,
                                             ahead_of(next, i + done, rows, sums));
        }
        finish(f, functions, sums, COLUMNS, done, p, t, i);
    }
}

/* Step t of the owned rows i .. i+rows-1, at most PAIR_ROWS, through the panels p and p + 1. */
static void step_pair(const forward_state *f, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i, int rows) {
    const panel_functions *functions = functions_of(f, p);
    vec sums[TILE_ROWS * COLUMNS];
    functions->tiles->pair[rows - 1](f, p, t, i, sums, (ahead){NULL, 0});
    for (int q = 0; q < PAIR; q++)
        finish(f, functions, sums + q * COLUMNS, PAIR * COLUMNS, rows, p + q, t, i);
}

/* Step t of the owned rows i .. end-1 through one panel, some rows after others. Returns whether the call is to end. */
static int panel_step(const forward_state *f, const fr_share *share, ptrdiff_t p, ptrdiff_t t, ptrdiff_t i,
                      ptrdiff_t end, const asked *next) {
    const double row_flop = share->row_flop / (double)(f->panel_end - f->panel);
    for (; i < end; i += FR_ASK_ROWS) {
        const ptrdiff_t rows = end - i < FR_ASK_ROWS ? end - i : FR_ASK_ROWS;
        step_rows(f, p, t, i, i + rows, next);
        if (fr_share_worked(share, (double)rows * row_flop))
            return 1;
    }
    return 0;
}

/* Step t of the owned rows i .. end-1 with weights that are read as they are. Returns whether the call is to end. */
static int unpacked_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) {
    const double panel_flop = FR_PACK_FLOP * (double)f->weights->panel_size;
    const real *x[UNPACKED_ROWS];
    vec sums[UNPACKED_ROWS * COLUMNS];
    for (ptrdiff_t rows; i < end; i += rows) {
        rows = end - i < UNPACKED_ROWS ? end - i : UNPACKED_ROWS;
        for (ptrdiff_t r = 0; r < rows; r++)
            x[r] = at(&f->run->x, t, owned_row(f, i + r));
        for (ptrdiff_t p = f->panel; p < f->panel_end; p++) {
            LEVEL(fr_unpacked_sums)(f->weights, p, (int)rows, x, f->h_fed + i, sums);
            finish(f, functions_of(f, p), sums, COLUMNS, (int)rows, p, t, i);
            if (fr_share_worked(share, panel_flop + (double)rows * share->row_flop / (double)(f->panel_end - f->panel)))
                return 1;
        }
    }
    return fr_watch_stopped(share->watch);
}

/* Step t of the owned rows i .. end-1 through all owned panels; of two phases the first. Returns whether the call is to
 * end. */
static int panels_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) {
    if (!f->weights->data)
        return unpacked_step(f, share, t, i, end);
    const int width = end - i <= PAIR_ROWS ? PAIR : 1;
    const ptrdiff_t groups = (f->panel_end - f->panel + width - 1) / width;
    const shape_tiles *shape = f->full.tiles;
    const ptrdiff_t x_terms = f->hoisted ? 0 : f->weights->I, begin = f->hoisted ? f->weights->I * shape->x * LANES : 0;
    const ptrdiff_t numbers = (x_terms * shape->x + f->weights->P * shape->h) * LANES;
    for (ptrdiff_t k = 0; k < groups && i < end; k++) {
        ptrdiff_t p = f->panel + nth(t, k, groups) * width, p_end = p + width;
        if (width == PAIR && p_end <= f->panel_end && functions_of(f, p_end - 1)->tiles->pair) {
            step_pair(f, p, t, i, (int)(end - i));
            if (fr_share_worked(share, (double)(end - i) * share->row_flop / (double)groups))
                return 1;
        } else {
            const ptrdiff_t after = f->panel + nth(t, k + 1 < groups ? k + 1 : k, groups) * width;
            asked next = ask_for(f, after, begin, numbers, i, end - i, x_terms + f->weights->P);
            if (!next.row && !share->by_units)
                next.saved = ask_for_saved(f, t, i, end - i, k, groups);
            for (; p < p_end && p < f->panel_end; p++)
                if (panel_step(f, share, p, t, i, end, &next))
                    return 1;
        }
    }
    return fr_watch_stopped(share->watch);
}

/* The second phase of step t of the owned rows i .. end-1, at most PHASE_ROWS. Returns whether the call is to end. */
static int second_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) {
    const double unit_flop = 2.0 * (double)(end - i) * (double)f->weights->H;
    const real *left[PHASE_ROWS];
    for (ptrdiff_t k = i; k < end; k++)
        left[k - i] = left_at(f, k);
    for (ptrdiff_t p = f->panel, p_end; p < f->panel_end; p = p_end) {
        p_end = f->panel_end - p < COLUMNS ? f->panel_end : p + COLUMNS;
        if (f->weights->data)
            LEVEL(fr_second_products)(f, p, p_end, i, end);
        for (ptrdiff_t q = p; q < p_end; q++) {
            if (!f->weights->data)
                LEVEL(fr_unpacked_second_sums)(f->weights, q, (int)(end - i), left, between_at(f, q, i));
            functions_of(f, q)->finish_second(f, NULL, 0, (int)(end - i), q, t, i);
        }
        if (fr_share_worked(share, unit_flop * (double)((p_end - p) * LANES)))
            return 1;
    }
    return 0;
}

/* The products by h alone of step t of the owned rows i .. end-1, at most PHASE_ROWS. Returns whether the call is to
 * end. */
static int products_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t i, ptrdiff_t end) {
    forward_state alone = *f;
    alone.hoisted = f->zeros, alone.terms = 0, alone.step_term = -i; /* zeros for all panels */
    return panels_step(&alone, share, t, i, end);
}

/* Step t of the first `live` owned rows of a cell that normalises. Returns whether the call is to end. */
static int normed_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live) {
    for (ptrdiff_t i = 0, end; i < live; i = end) {
        end = live - i < PHASE_ROWS ? live : i + PHASE_ROWS;
        if (products_step(f, share, t, i, end))
            return 1;
        LEVEL(fr_norm_step)(f, t, i, end);
    }
    return fr_watch_stopped(share->watch);
}

/* Step t of the first `live` owned rows through all owned panels. Returns whether the call is to end. By units the
 * second of two phases reads what all members have left in the first, and the next rows' first takes its place. */
static int forward_step(const forward_state *f, const fr_share *share, ptrdiff_t t, ptrdiff_t live) {
    if (f->zeros)
        return normed_step(f, share, t, live);
    if (!f->left)
        return panels_step(f, share, t, 0, live);
    for (ptrdiff_t i = 0, end; i < live; i = end) {
        end = live - i < PHASE_ROWS ? live : i + PHASE_ROWS;
        if (i && share->by_units && fr_barrier_wait(share->barrier))
            return 1;
        int stopped = panels_step(f, share, t, i, end);
        if (share->by_units ? fr_barrier_wait(share->barrier) : stopped)
            return 1;
        stopped = second_step(f, share, t, i, end);
        if (stopped && !share->by_units)
            return 1;
    }
    return fr_watch_stopped(share->watch);
}

/* The steps in the order of the visit. */
static ptrdiff_t visit(const forward_state *f, ptrdiff_t s) { return f->run->reverse ? f->batch->T - 1 - s : s; }

/* Hoists the input product of `terms` terms, or leaves it unfinished where the call is to end. */
static void hoist(forward_state *f, const fr_share *share, ptrdiff_t terms) {
    const double panel_flop = 2.0 * (double)terms * (double)f->weights->I * COLUMNS * LANES;
    for (ptrdiff_t p = f->panel; p < f->panel_end && !fr_share_worked(share, panel_flop); p++) {
        const panel_functions *functions = functions_of(f, p);
        const ptrdiff_t after = p + 1 < f->panel_end ? p + 1 : p, numbers = f->weights->I * f->full.tiles->x * LANES;
        const asked next = ask_for(f, after, 0, numbers, 0, terms, f->weights->I);
        const int limit = tile_limit(functions->tiles->x);
        int rows;
        for (ptrdiff_t term = 0; term < terms; term += rows) {
            rows = tile_rows(terms - term, limit);
            functions->hoist[rows - 1](f, p, functions->tiles->columns, term, ahead_of(&next, term, rows, f));
        }
    }
    f->step_term = 0;
}

/* Hoists the input product of as many steps from the s-th visited on as the chunk holds; returns how many. */
static ptrdiff_t hoist_chunk(forward_state *f, const fr_share *share, ptrdiff_t s, ptrdiff_t live) {
    ptrdiff_t steps = 0, terms = 0;
    for (; s + steps < f->batch->T; steps++) {
        ptrdiff_t t = visit(f, s + steps);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->hand);
        if (terms + rows > f->terms)
            break;
        for (ptrdiff_t i = 0; i < rows; i++)
            f->x_terms[terms++] = at(&f->run->x, t, owned_row(f, i));
    }
    hoist(f, share, terms);
    return steps;
}

/* How a share of one row takes its panels: all alike. NULL: as several rows do, also where the last panel is
 * narrower than others. */
static row_function *row_function_of(const forward_state *f) {
    const int pair = f->last.tiles->pair && (f->panel_end - f->panel) % PAIR == 0;
    if (f->rows != 1 || !f->weights->data || f->full.tiles != f->last.tiles)
        return NULL;
    if (f->run->noise.data || f->dropped || fr_divides_rows(f->weights->cell, f->weights->P, f->weights->H))
        return NULL;
    const int cell = f->weights->cell, general = f->weights->general, columns = f->last.tiles->columns;
    row_function *const pairs = pair ? LEVEL(fr_row_function)(cell, general, columns, 1) : NULL;
    return pairs ? pairs : LEVEL(fr_row_function)(cell, general, columns, 0);
}

/* Large weights may come from memory at every step, at a tenth of a core's peak. */
static const double UNASKED_FLOP = 1e8;

static void run_row(forward_state *f, const fr_share *share, row_function *run_steps) {
    fr_barrier *barrier = share->by_units ? share->barrier : NULL;
    const ptrdiff_t row = owned_row(f, 0), length = fr_length(f->batch, row), direction = f->run->reverse ? -1 : 1;
    const ptrdiff_t unasked = 1 + (ptrdiff_t)(UNASKED_FLOP / share->row_flop);
    ptrdiff_t t = f->run->reverse ? length - 1 : 0;
    for (ptrdiff_t left = length, steps; left > 0; left -= steps) {
        steps = left < f->terms ? left : f->terms;
        for (ptrdiff_t s = 0; s < steps; s++)
            f->x_terms[s] = at(&f->run->x, t + s * direction, row);
        hoist(f, share, steps);
        for (ptrdiff_t until = 0; until < steps;) {
            const ptrdiff_t more = steps - until < unasked ? steps - until : unasked;
            const int stopped = fr_share_stopped(share, more); /* a team that meets decides there */
            until += more;
            if (run_steps(f, t, until, barrier) || (stopped && !barrier))
                return;
            t += more * direction;
        }
    }
}

static void run_rows(forward_state *f, const fr_share *share) {
    ptrdiff_t live = 0, hoisted_until = 0;
    for (ptrdiff_t s = 0; s < f->batch->T; s++) {
        ptrdiff_t t = visit(f, s);
        if (f->hoisted && s == hoisted_until)
            hoisted_until += hoist_chunk(f, share, s, live);
        live = fr_live(f->batch, t, live);
        ptrdiff_t rows = fr_owned(live, f->hand);
        enter_step(f, t, rows);
        drop_step(f, t, rows);
        const int stopped =
            forward_step(f, share, t, rows) || (fr_projects(f->weights) && LEVEL(fr_project)(f, share, t, rows));
        for (ptrdiff_t i = 0; i < rows; i++)
            f->h_prev[i] = at(&f->run->y, t, owned_row(f, i));
        f->step_term += rows;
        if (share->by_units ? fr_barrier_wait(share->barrier) : stopped)
            return;
    }
}

/* What the share owns, and its scratch laid out from `scratch` on, unless that is NULL; returns the bytes it takes. */
static size_t lay_out(forward_state *f, const fr_share *share, char *scratch) {
    const fr_packed *weights = f->weights;
    fr_part part = fr_deal(share->index, share->size, share->by_units, f->batch->B, weights->panels);
    f->hand = part.hand, f->rows = part.rows;
    f->panel = part.begin, f->panel_end = part.end;

    ptrdiff_t panels = f->panel_end - f->panel;
    f->x_columns = fed_columns(weights->cell, COLUMNS, FROM_X);
    const size_t term = (size_t)(panels * f->x_columns) * VEC_BYTES;
    const size_t read = (size_t)(panels * weights->panel_size) * sizeof(real);
    /* Weights that are packed as they are used are read once in any case. */
    const size_t near = fr_near_bytes(VEC_BYTES);
    f->terms = weights->data ? fr_choose_hoisted(f->rows, f->batch->T, TILE_ROWS, read, near, term) : 0;
    const int normed = is_normed(weights->cell), drops = f->run->masks.drop.data != NULL;
    if (normed && f->terms < f->rows)
        f->terms = f->rows;
    const ptrdiff_t fed_rows = drops ? f->rows : 0;
    const size_t hoisted = (size_t)f->terms * term;
    const size_t pointers = (size_t)(f->rows + f->terms + fed_rows) * sizeof(real *);
    const size_t states = (size_t)(f->rows * weights->P) * sizeof(real);
    const size_t entering = changes(&f->run->entry) ? states : 0, dropped = drops ? states : 0;
    const size_t out = fr_projects(weights) ? (size_t)(f->batch->B * weights->H) * sizeof(real) : 0;
    const ptrdiff_t leaving = has_second_phase(weights->cell) ? phase_rows(f) : 0;
    const ptrdiff_t waiting = normed ? phase_rows(f) : leaving;
    const size_t left = fr_aligned((size_t)(leaving * weights->H) * sizeof(real));
    const size_t between = (size_t)(panels * waiting) * COLUMNS * VEC_BYTES;
    const size_t zeros = normed ? (size_t)(waiting * f->x_columns) * VEC_BYTES : 0;
    if (scratch) {
        f->left = left ? (real *)(share->by_units ? share->team_scratch : scratch) : NULL;
        f->between = (vec *)(scratch += left);
        scratch += between;
        f->zeros = zeros ? memset(scratch, 0, zeros) : NULL;
        scratch += zeros;
        f->hoisted = f->terms ? (vec *)scratch : NULL;
        f->h_prev = (const real **)(scratch + hoisted);
        f->x_terms = f->h_prev + f->rows;
        f->entering = entering ? (real *)(scratch + hoisted + pointers) : NULL;
        f->dropped = drops ? (real *)(scratch + hoisted + pointers + entering) : NULL;
        f->h_fed = drops ? f->x_terms + f->terms : f->h_prev;
        for (ptrdiff_t i = 0; i < fed_rows; i++)
            f->h_fed[i] = f->dropped + i * weights->P;
        f->out = out ? (fr_sequence){scratch + hoisted + pointers + entering + dropped, 0, weights->H} : f->run->y;
    }
    return left + between + zeros + hoisted + pointers + entering + dropped + out;
}

size_t LEVEL(fr_forward_bytes)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share) {
    forward_state f = {.run = run, .weights = run->packed, .batch = batch};
    return lay_out(&f, share, NULL);
}

/* How many features of h belong to the owned slice of `units`. */
static ptrdiff_t features_of(const forward_state *f, ptrdiff_t units) {
    return fr_projects(f->weights) ? f->weights->P : units;
}

/* Sets the owned slice up: c in place, y zero past a row's end. */
static void begin_rows(const forward_state *f, ptrdiff_t j, ptrdiff_t units) {
    const fr_forward_run *run = f->run;
    const ptrdiff_t H = f->weights->H, features = features_of(f, units);
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        ptrdiff_t row = owned_row(f, i), start = row * H + j;
        f->h_prev[i] = (const real *)run->h0 + row * f->weights->P;
        if (run->c && run->c != run->c0)
            memcpy((real *)run->c + start, (const real *)run->c0 + start, (size_t)units * sizeof(real));
        for (ptrdiff_t t = fr_length(f->batch, row); t < f->batch->T; t++)
            memset(at(&run->y, t, row) + j, 0, (size_t)features * sizeof(real));
    }
}

/* Hands out the final h of the owned slice. */
static void end_rows(const forward_state *f, ptrdiff_t j, ptrdiff_t units) {
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        real *h = (real *)f->run->h + owned_row(f, i) * f->weights->P;
        if (h != f->h_prev[i]) /* of a single step, y may be the final state itself */
            memcpy(h + j, f->h_prev[i] + j, (size_t)features_of(f, units) * sizeof(real));
    }
}

/* More saved values than the second-level cache has room for. */
enum { SAVED_AHEAD_BYTES = 1 << 22 };

static int saves_far(const fr_forward_run *run, const fr_batch *batch) {
    const ptrdiff_t values = batch->T * batch->B * fr_cells[run->packed->cell].saved * run->packed->H;
    return run->saved && (size_t)values * sizeof(real) > SAVED_AHEAD_BYTES;
}

void LEVEL(fr_forward)(const fr_forward_run *run, const fr_batch *batch, const fr_share *share, void *scratch) {
    const fr_packed *weights = run->packed;
    const ptrdiff_t H = weights->H;
    forward_state f = {.run = run, .weights = weights, .batch = batch};
    f.saved_ahead = saves_far(run, batch) ? LANES : 0;
    lay_out(&f, share, scratch);
    f.full = LEVEL(fr_panel_functions)(weights->cell, weights->general, panel_columns(weights->cell, H, 0));
    f.last = LEVEL(fr_panel_functions)(weights->cell, weights->general,
                                       panel_columns(weights->cell, H, weights->panels - 1));

    ptrdiff_t j = f.panel * panel_units(weights->cell), end = f.panel_end * panel_units(weights->cell);
    ptrdiff_t units = (end < H ? end : H) - j;
    fr_fp_mode mode = fr_fp_mode_enter();
    begin_rows(&f, j, units);
    row_function *row = row_function_of(&f);
    if (row)
        run_row(&f, share, row);
    else
        run_rows(&f, share);
    end_rows(&f, j, units);
    fr_fp_mode_set(mode);
}
