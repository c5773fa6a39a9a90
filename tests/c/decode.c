#include "decode.h"

#include "cells/facts.h"
#include "layer.h"

#if defined(__x86_64__)
#include <immintrin.h>
static unsigned fp_mode(void) { return _mm_getcsr() & ~0x3fu; } /* without the flags of what has happened */
#else
static unsigned fp_mode(void) { return 0; }
#endif

/* Operations of a forward call: enough for every schedule, or every chunk, few enough for many calls a second. */
static const double MOST_FLOP = 8e6, MOST_FLOP_OF_SOME = 4e7;

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

/* The next byte; past the last all are 0. */
static int next(bytes *b) {
    if (!b->size)
        return 0;
    b->size--;
    return *b->data++;
}

/* 1 .. 32 for most bytes, up to 128 for the others. */
static ptrdiff_t extent(bytes *b) {
    int byte = next(b);
    return byte < 160 ? 1 + byte % 32 : byte - 127;
}

static int sign(int byte, int may_be_zero) {
    if (may_be_zero && byte % 8 == 7)
        return 0;
    return byte % 8 < 5 ? 1 : -1;
}

static layout next_layout(bytes *b, int read) {
    const int byte = next(b), signs = next(b);
    return (layout){byte & 1, sign(signs & 15, read), sign(signs >> 4, read), byte >> 1 & 3, byte >> 3 & 3};
}

static layer_spec next_spec(bytes *b) {
    const int kind = next(b), there = next(b), way = next(b);
    layer_spec s = {.cell = (fr_cell)((kind & 3) + (kind >> 6) * 4) % FR_CELLS,
                    .dtype = (fr_dtype)(kind >> 2 & 1), .lengths = kind >> 3 & 1,
                    .directions = 1 + (kind >> 4 & 1), .reverse = kind >> 5 & 1, .b_ih = !(there & 1),
                    .b_hh = !(there & 2), .dy_there = !(there & 4), .dh_there = !(there & 8), .dc_there = !(there & 16),
                    .dx_there = (way >> 5 & 3) > 0,
                    .resets = there >> 5 & 1, .scale = (there >> 6) % 3,
                    .trains = way & 3, .in_place = way >> 2 & 1, .general = way >> 7 & 1, .seed = (uint64_t)next(b)};
    s.T = extent(b) * (way >> 3 & 1 ? 8 : 1), s.B = extent(b), s.I = extent(b), s.H = extent(b);
    const int states = fr_cells[s.cell].states;
    s.x = next_layout(b, 1), s.y = next_layout(b, 0), s.dy = next_layout(b, 1), s.dx = next_layout(b, 0);
    const int masks = next(b), projection = next(b);
    s.drop = masks % 8 < 3 ? masks % 8 : 0, s.zoneout = masks >> 3 & 1 ? masks >> 4 & 3 : 0;
    if (projection & 1 && states == 2 && s.H > 1 && !s.zoneout && !fr_cells[s.cell].normed) {
        s.P = 1 + (projection >> 1) % (s.H - 1);
        s.scale = s.scale ? 1 : 0;
    }
    while (layer_flop(&s) > (way >> 4 & 7 ? MOST_FLOP : MOST_FLOP_OF_SOME)) {
        if (s.T > 1)
            s.T = s.T / 2;
        else
            s.B = s.B / 2;
    }
    return s;
}

void run_decoded(const uint8_t *data, size_t size) {
    bytes b = {data, size};
    const int threads = 2 + next(&b) % 3, level = next(&b);
    const layer_spec spec = next_spec(&b);
    int levels = 0;
    while (fr_level_name(levels))
        levels++;
    fr_set_level(level % levels);
    const unsigned mode = fp_mode();
    layer one, many;
    layer_make(&one, &spec);
    layer_make(&many, &spec);
    expect_none(layer_run(&one, 1) == FR_OK ? NULL : "no success", &spec, "one thread");
    expect_none(layer_fault(&one), &spec, "one thread");
    expect_none(layer_run(&many, threads) == FR_OK ? NULL : "no success", &spec, "threads");
    expect_none(layer_fault(&many), &spec, "threads");
    expect_none(layer_difference(&one, &many), &spec, "one thread and several");
    expect_none(fp_mode() == mode ? NULL : "the floating-point mode has changed", &spec, "afterwards");
    layer_free(&one);
    layer_free(&many);
}
