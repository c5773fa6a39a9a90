#include "layer.h"

#include "cells/facts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/* What lies where nothing may be written. */
static const double UNTOUCHED = -77.25;

static size_t item_of(fr_dtype dtype) { return dtype == FR_F64 ? sizeof(double) : sizeof(float); }

double layer_flop(const layer_spec *s) {
    return 2.0 * s->directions * fr_cells[s->cell].gates * (double)(s->T * s->B) * (double)(s->H * (s->I + s->H));
}

/* Features of h. */
static ptrdiff_t features_of(const layer_spec *s) { return s->P ? s->P : s->H; }

layer_spec plain_spec(fr_cell cell, fr_dtype dtype, ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H) {
    const layout plain = {0, 1, 1, 0, 0};
    return (layer_spec){.cell = cell, .dtype = dtype, .T = T, .B = B, .I = I, .H = H, .directions = 1, .b_ih = 1,
                        .b_hh = 1, .trains = 1, .dy_there = 1, .dh_there = 1, .dc_there = 1, .dx_there = 1,
                        .x = plain, .y = plain, .dy = plain, .dx = plain};
}

/* --- Elements. */

static double get(fr_dtype dtype, const void *data, ptrdiff_t i) {
    return dtype == FR_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static void put(fr_dtype dtype, void *data, ptrdiff_t i, double value) {
    if (dtype == FR_F64)
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

/* Uniform in -1 .. 1. */
static double draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ z >> 31) * 0x1p-63;
}

/* --- Buffers. */

static uint64_t hash_of(const buffer *b) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < b->bytes; i++)
        hash = (hash ^ (unsigned char)b->block[b->prefix + i]) * 0x100000001b3u;
    return hash;
}

static void *add_bytes(layer *l, size_t bytes, size_t prefix, int written) {
    buffer b = {.prefix = prefix, .bytes = bytes, .written = written};
    b.block = malloc(b.prefix + b.bytes);
    if (!b.block || l->n_buffers == MAX_BUFFERS) {
        fprintf(stderr, "no room for a buffer of the test\n");
        abort();
    }
    ASAN_POISON_MEMORY_REGION(b.block, b.prefix);
    l->buffers[l->n_buffers++] = b;
    return b.block + b.prefix;
}

static void *add_buffer(layer *l, ptrdiff_t elements, int shift, int written) {
    const size_t item = item_of(l->spec.dtype);
    return add_bytes(l, (size_t)elements * item, (size_t)shift * item, written);
}

static void *add_filled(layer *l, ptrdiff_t elements, int written, uint64_t *state, double scale) {
    void *data = add_buffer(l, elements, 0, written);
    for (ptrdiff_t i = 0; i < elements; i++)
        put(l->spec.dtype, data, i, scale * draw(state));
    return data;
}

static void *add_untouched(layer *l, ptrdiff_t elements) {
    void *data = add_buffer(l, elements, 0, 1);
    for (ptrdiff_t i = 0; i < elements; i++)
        put(l->spec.dtype, data, i, UNTOUCHED);
    return data;
}

static ptrdiff_t length_of(const layer *l, ptrdiff_t row) {
    return l->row_lengths ? (ptrdiff_t)l->row_lengths[row] : l->spec.T;
}

static void *element(const layer *l, const fr_sequence *s, ptrdiff_t t, ptrdiff_t row) {
    return (char *)s->data + (t * s->time + row * s->row) * (ptrdiff_t)item_of(l->spec.dtype);
}

/* A sequence of rows of n elements. Read: random at valid steps, elsewhere NaN. Written: untouched. */
static fr_sequence add_sequence(layer *l, const layout *how, ptrdiff_t n, int written, uint64_t *state) {
    const layer_spec *spec = &l->spec;
    const ptrdiff_t steps = how->time_sign ? spec->T : 1, rows = how->row_sign ? spec->B : 1, width = n + how->gap;
    const ptrdiff_t time = how->batch_major ? width : width * rows, row = how->batch_major ? width * steps : width;
    const ptrdiff_t elements = (steps - 1) * time + (rows - 1) * row + n;
    char *data = add_buffer(l, elements, how->shift, written);
    for (ptrdiff_t i = 0; i < elements; i++)
        put(spec->dtype, data, i, written ? UNTOUCHED : NAN);
    const ptrdiff_t first = (how->time_sign < 0 ? (steps - 1) * time : 0) + (how->row_sign < 0 ? (rows - 1) * row : 0);
    fr_sequence s = {data + first * (ptrdiff_t)item_of(spec->dtype), how->time_sign * time, how->row_sign * row};
    for (ptrdiff_t b = 0; b < spec->B && !written; b++)
        for (ptrdiff_t t = 0; t < length_of(l, b); t++)
            for (ptrdiff_t j = 0; j < n; j++)
                put(spec->dtype, element(l, &s, t, b), j, draw(state));
    return s;
}

static fr_sequence half(const layer *l, fr_sequence s, int direction) {
    if (s.data)
        s.data = (char *)s.data + (size_t)(direction * features_of(&l->spec)) * item_of(l->spec.dtype);
    return s;
}

/* --- Layers. */

static void make_lengths(layer *l, uint64_t *state) {
    if (!l->spec.lengths)
        return;
    l->row_lengths = malloc((size_t)l->spec.B * sizeof *l->row_lengths);
    if (!l->row_lengths)
        abort();
    for (ptrdiff_t row = 0; row < l->spec.B; row++) {
        const int64_t length = (int64_t)((draw(state) + 1) / 2 * (double)(l->spec.T + 1));
        l->row_lengths[row] = length < l->spec.T ? length : l->spec.T;
    }
}

static const fr_options *options_of(const layer *l) {
    return l->spec.general || fr_cells[l->spec.cell].normed ? &l->options : NULL;
}

/* Functions whose results stay finite; gates from 0 to 1, since with a coupled one below 0 c would grow without
 * bound. */
static void make_options(layer *l, uint64_t *state) {
    static const fr_function bounded[] = {{FR_F_SIGMOID, 0, 0}, {FR_F_HARD_SIGMOID, 0.2, 0.5}, {FR_F_TANH, 0, 0},
                                          {FR_F_SOFTSIGN, 0, 0}, {FR_F_SCALED_TANH, 0.7, 1.5}};
    for (int role = 0; role < FR_ROLES; role++)
        l->options.functions[role] = bounded[(int)((role == FR_GATES ? 1 : 2.5) * (draw(state) + 1)) % 5];
    l->options.clip = draw(state) > 0 ? 0.5 : 0;
    l->options.each_gate = draw(state) > 0, l->options.eps = 1e-5;
    if (l->spec.zoneout)
        l->options.zoneout[0] = 0.5, l->options.zoneout[1] = 0.25;
}

static int vectors_of(const layer_spec *s) {
    const int always = fr_cells[s->cell].states == 1 || fr_cells[s->cell].normed;
    return s->general || always ? fr_cells[s->cell].vectors : 0;
}

/* Between 0 and 1/2: with a leak below 0 a state would grow without bound. */
static void *add_vectors(layer *l, uint64_t *state) {
    const ptrdiff_t n = vectors_of(&l->spec) * l->spec.H;
    void *data = add_filled(l, n, 0, state, 0.5);
    for (ptrdiff_t i = 0; i < n; i++)
        put(l->spec.dtype, data, i, fabs(get(l->spec.dtype, data, i)));
    return data;
}

static fr_entry add_entry(layer *l, uint64_t *state) {
    const layer_spec *s = &l->spec;
    const layout plain = {0, 1, 1, 0, 0};
    fr_entry entry = {0};
    if (s->resets) {
        uint8_t *resets = add_bytes(l, (size_t)(s->T * s->B), 0, 0);
        for (ptrdiff_t i = 0; i < s->T * s->B; i++)
            resets[i] = draw(state) > 0.7;
        entry.resets = resets;
    }
    entry.scale_by_unit = s->scale == 2;
    if (s->scale)
        entry.scale = add_sequence(l, &plain, entry.scale_by_unit ? s->H : 1, 0, state);
    return entry;
}

/* A mask of 0 and 1, NaN past a row's end. */
static fr_sequence add_mask(layer *l, int kind, uint64_t *state) {
    const layout how = {0, kind == 1, 1, 0, 0};
    fr_sequence mask = add_sequence(l, &how, l->spec.H, 0, state);
    for (ptrdiff_t b = 0; b < l->spec.B; b++)
        for (ptrdiff_t t = 0; t < length_of(l, b); t++)
            for (ptrdiff_t j = 0; j < l->spec.H; j++)
                put(l->spec.dtype, element(l, &mask, t, b), j, get(l->spec.dtype, element(l, &mask, t, b), j) > 0);
    return mask;
}

static fr_masks add_masks(layer *l, uint64_t *state) {
    const layer_spec *s = &l->spec;
    fr_masks masks = {0};
    if (s->drop)
        masks.drop = add_mask(l, s->drop, state);
    for (int part = 0; part < fr_cells[s->cell].states && s->zoneout % 3; part++)
        masks.keep[part] = add_mask(l, s->zoneout, state);
    return masks;
}

static void make_forward(layer *l, int d, fr_sequence x, fr_sequence y, uint64_t *state) {
    const layer_spec *s = &l->spec;
    const ptrdiff_t gates = fr_cells[s->cell].gates * s->H, units = s->B * s->H, P = features_of(s);
    const double scale = 1 / sqrt((double)(s->I + s->H));
    fr_weights *w = &l->weights[d];
    w->w_ih = add_filled(l, gates * s->I, 0, state, scale);
    w->w_hh = add_filled(l, gates * P, 0, state, scale);
    w->b_ih = s->b_ih ? add_filled(l, gates, 0, state, scale) : NULL;
    w->b_hh = s->b_hh ? add_filled(l, gates, 0, state, scale) : NULL;
    w->vectors = vectors_of(s) ? add_vectors(l, state) : NULL;
    w->w_hr = s->P ? add_filled(l, P * s->H, 0, state, scale) : NULL;
    w->proj_size = s->P;
    fr_forward_run *run = &l->forward[d];
    *run = (fr_forward_run){.reverse = s->directions == 2 ? d : s->reverse, .x = x, .y = half(l, y, d)};
    run->entry = add_entry(l, state);
    run->masks = add_masks(l, state);
    const int over = s->in_place && !s->trains;
    void *h0 = add_filled(l, s->B * P, over, state, 1), *c0 = NULL;
    run->h0 = h0;
    run->h = over ? h0 : add_untouched(l, s->B * P);
    if (fr_cells[s->cell].states == 2) {
        run->c0 = c0 = add_filled(l, units, over, state, 1);
        run->c = over ? c0 : add_untouched(l, units);
    }
    if (s->trains && fr_cells[s->cell].saved)
        run->saved = add_untouched(l, s->T * fr_cells[s->cell].saved * units);
}

static void make_backward(layer *l, int d, fr_sequence dy, fr_sequence dx, uint64_t *state) {
    const layer_spec *s = &l->spec;
    const fr_forward_run *forward = &l->forward[d];
    const ptrdiff_t gates = fr_cells[s->cell].gates * s->H, P = features_of(s), units = s->B * s->H, h = s->B * P;
    const int has_c = fr_cells[s->cell].states == 2;
    l->backward[d] = (fr_backward_run){
        .cell = s->cell, .dtype = s->dtype, .input_size = s->I, .hidden_size = s->H, .weights = l->weights[d],
        .options = options_of(l), .reverse = forward->reverse, .x = forward->x, .y = forward->y, .h0 = forward->h0,
        .c0 = forward->c0, .saved = forward->saved, .dy = half(l, dy, d), .dx = dx,
        .dh = s->dh_there ? add_filled(l, h, 0, state, 1) : NULL,
        .dc = has_c && s->dc_there ? add_filled(l, units, 0, state, 1) : NULL,
        .dh0 = add_untouched(l, h), .dc0 = has_c ? add_untouched(l, units) : NULL,
        .entry = forward->entry, .masks = forward->masks,
        .dscale = s->scale ? add_filled(l, s->T * units, 1, state, 1) : NULL,
        .dh_steps = s->dh_there ? add_untouched(l, s->T * h) : NULL,
        .dc_steps = has_c && s->dc_there ? add_untouched(l, s->T * units) : NULL,
        .gradients = {add_filled(l, gates * s->I, 1, state, 1), add_filled(l, gates * P, 1, state, 1),
                      s->b_ih ? add_filled(l, gates, 1, state, 1) : NULL,
                      s->b_hh ? add_filled(l, gates, 1, state, 1) : NULL,
                      vectors_of(s) ? add_filled(l, vectors_of(s) * s->H, 1, state, 1) : NULL,
                      s->P ? add_filled(l, P * s->H, 1, state, 1) : NULL}};
}

void layer_make(layer *l, const layer_spec *spec) {
    uint64_t state = spec->seed;
    *l = (layer){.spec = *spec};
    make_lengths(l, &state);
    make_options(l, &state);
    const ptrdiff_t width = spec->directions * features_of(spec);
    fr_sequence x = add_sequence(l, &spec->x, spec->I, 0, &state), y = add_sequence(l, &spec->y, width, 1, &state);
    for (int d = 0; d < spec->directions; d++)
        make_forward(l, d, x, y, &state);
    if (spec->trains) {
        fr_sequence dy = {0}, dx = {0};
        if (spec->dx_there)
            dx = add_sequence(l, &spec->dx, spec->I, 1, &state);
        if (spec->dy_there)
            dy = add_sequence(l, &spec->dy, width, 0, &state);
        for (int d = 0; d < spec->directions; d++)
            make_backward(l, d, dy, dx, &state);
    }
    for (int i = 0; i < l->n_buffers; i++)
        l->buffers[i].hash = hash_of(&l->buffers[i]);
}

void layer_free(layer *l) {
    for (int d = 0; d < l->spec.directions; d++)
        fr_packed_free(l->packed[d]);
    for (int i = 0; i < l->n_buffers; i++) {
        ASAN_UNPOISON_MEMORY_REGION(l->buffers[i].block, l->buffers[i].prefix);
        free(l->buffers[i].block);
    }
    free(l->row_lengths);
}

fr_status layer_pack(layer *l, int threads) {
    fr_status status = FR_OK;
    for (int d = 0; d < l->spec.directions && status == FR_OK; d++) {
        fr_packed_free(l->packed[d]);
        l->packed[d] = NULL;
        status = fr_pack(l->spec.cell, l->spec.dtype, l->spec.I, l->spec.H, &l->weights[d], options_of(l), threads, NULL,
                         &l->packed[d]);
        l->forward[d].packed = l->packed[d];
    }
    return status;
}

fr_status layer_forward(layer *l, int threads, fr_interrupted *interrupted) {
    return fr_forward(l->forward, l->spec.directions, l->spec.T, l->spec.B, l->row_lengths, threads, interrupted);
}

fr_status layer_backward(layer *l, int threads, fr_interrupted *interrupted) {
    return fr_backward(l->backward, l->spec.directions, l->spec.T, l->spec.B, l->row_lengths, threads, interrupted);
}

fr_status layer_run(layer *l, int threads) {
    fr_status status = layer_pack(l, threads);
    if (status == FR_OK)
        status = layer_forward(l, threads, NULL);
    if (status == FR_OK && l->spec.trains)
        status = layer_backward(l, threads, NULL);
    return status;
}

/* --- What may be wrong. */

/* Of a written sequence: finite where there is a step, zero past a row's end; so many elements stay untouched. */
static const char *sequence_fault(const layer *l, const fr_sequence *s, ptrdiff_t n) {
    for (ptrdiff_t row = 0; row < l->spec.B; row++)
        for (ptrdiff_t t = 0; t < l->spec.T; t++)
            for (ptrdiff_t j = 0; j < n; j++) {
                double value = get(l->spec.dtype, element(l, s, t, row), j);
                if (t >= length_of(l, row) ? value != 0 : !isfinite(value) || value == UNTOUCHED)
                    return t >= length_of(l, row) ? "padding is not zero" : "an output is not finite, or not written";
            }
    return NULL;
}

/* Whether exactly `expected` elements of a written sequence's allocation are untouched: those between its rows. */
static const char *gap_fault(const layer *l, const void *data, ptrdiff_t expected) {
    for (int i = 0; i < l->n_buffers; i++) {
        const buffer *b = &l->buffers[i];
        const char *begin = b->block + b->prefix;
        if ((const char *)data < begin || (const char *)data >= begin + b->bytes)
            continue;
        for (size_t k = 0; k < b->bytes / item_of(l->spec.dtype); k++)
            expected -= get(l->spec.dtype, begin, (ptrdiff_t)k) == UNTOUCHED;
    }
    return expected ? "a write between the rows" : NULL;
}

static const char *array_fault(const layer *l, const void *data, ptrdiff_t elements) {
    for (ptrdiff_t i = 0; data && i < elements; i++) {
        double value = get(l->spec.dtype, data, i);
        if (!isfinite(value) || value == UNTOUCHED)
            return "a state or gradient is not finite, or not written";
    }
    return NULL;
}

/* Whether the rows without a step have anything else at the end than at the beginning; NULL stands for zero. */
static const char *stepless_fault(const layer *l, const void *begin, const void *end, ptrdiff_t width) {
    for (ptrdiff_t row = 0; end && row < l->spec.B; row++)
        for (ptrdiff_t j = row * width; j < (row + 1) * width && !length_of(l, row); j++)
            if (get(l->spec.dtype, end, j) != (begin ? get(l->spec.dtype, begin, j) : 0))
                return "a row without a step has another state, or gradient of it";
    return NULL;
}

static const char *direction_fault(const layer *l, int d) {
    const layer_spec *s = &l->spec;
    const ptrdiff_t gates = fr_cells[s->cell].gates * s->H, units = s->B * s->H, P = features_of(s);
    const fr_forward_run *f = &l->forward[d];
    const fr_backward_run *b = &l->backward[d];
    const struct {
        const void *data;
        ptrdiff_t elements;
    } arrays[] = {{b->gradients.vectors, vectors_of(s) * s->H}, {b->dscale, s->T * units}, {f->h, s->B * P},
                  {f->c, units}, {b->dh0, s->B * P}, {b->dc0, units},
                  {b->gradients.w_ih, gates * s->I}, {b->gradients.w_hr, s->P * s->H},
                  {b->gradients.w_hh, gates * P}, {b->gradients.b_ih, gates}, {b->gradients.b_hh, gates}};
    const char *fault = sequence_fault(l, &f->y, P);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays && !fault; i++)
        fault = array_fault(l, arrays[i].data, arrays[i].elements);
    const void *const kept[][2] = {{f->h0, f->h}, {f->c0, f->c}, {b->dh, b->dh0}, {b->dc, b->dc0}};
    for (size_t i = 0; i < sizeof kept / sizeof *kept && !fault; i++)
        fault = stepless_fault(l, kept[i][0], kept[i][1], i % 2 ? s->H : P);
    return fault;
}

const char *layer_fault(const layer *l) {
    const layer_spec *s = &l->spec;
    const char *fault = NULL;
    for (int i = 0; i < l->n_buffers; i++)
        if (!l->buffers[i].written && hash_of(&l->buffers[i]) != l->buffers[i].hash)
            return "an input was written";
    for (int d = 0; d < s->directions && !fault; d++)
        fault = direction_fault(l, d);
    if (!fault)
        fault = gap_fault(l, l->forward->y.data, (s->T * s->B - 1) * s->y.gap);
    if (!fault && s->trains && s->dx_there)
        fault = sequence_fault(l, &l->backward->dx, s->I);
    if (!fault && s->trains && s->dx_there)
        fault = gap_fault(l, l->backward->dx.data, (s->T * s->B - 1) * s->dx.gap);
    return fault;
}

const char *layer_difference(const layer *a, const layer *b) {
    for (int i = 0; i < a->n_buffers; i++) {
        const buffer *first = &a->buffers[i], *second = &b->buffers[i];
        if (memcmp(first->block + first->prefix, second->block + second->prefix, first->bytes))
            return "the bits differ";
    }
    return NULL;
}

void expect_none(const char *fault, const layer_spec *s, const char *where) {
    if (!fault)
        return;
    fprintf(stderr, "%s: %s (cell %d, dtype %d, T %td, B %td, I %td, H %td, P %td, directions %d, lengths %d, level %s)\n",
            where, fault, s->cell, s->dtype, s->T, s->B, s->I, s->H, s->P, s->directions, s->lengths,
            fr_level_name(fr_level()));
    abort();
}
