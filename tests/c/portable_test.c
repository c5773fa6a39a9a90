/* The kernels without Python: for machines that have none, cross compilers and emulators.
 *
 *     portable_test [LEVEL ...]      the levels that must be here, best first; "none"
 *
 * At every level: each cell, forward and backward, in both dtypes, against the equations; the same bits
 * on any number of threads and for a row alone; the activations' errors; the floating-point mode. Prints a hash of all
 * results per level and dtype, the same for every compiler and emulator. Tolerances are DESIGN.md's. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "equations.h"
#include "fastrnn.h"

static int failures;

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            failures++; \
            printf("FAILED "); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)

static const char *const cell_names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};
static const char *const dtype_names[] = {"f32", "f64"};

static size_t item(fr_dtype dtype) { return dtype == FR_F32 ? sizeof(float) : sizeof(double); }

static wide get(const void *data, fr_dtype dtype, ptrdiff_t i) {
    return dtype == FR_F32 ? ((const float *)data)[i] : ((const double *)data)[i];
}

static void set(void *data, fr_dtype dtype, ptrdiff_t i, wide value) {
    if (dtype == FR_F32)
        ((float *)data)[i] = (float)value;
    else
        ((double *)data)[i] = (double)value;
}

static void *allocate(size_t bytes) {
    void *data = calloc(bytes ? bytes : 1, 1);
    if (!data)
        abort();
    return data;
}

/* --- The floating-point mode: nothing in it may differ after a call. */

#if defined(__x86_64__)
typedef unsigned mode_word;
static mode_word get_mode(void) { return __builtin_ia32_stmxcsr(); }
static void set_mode(mode_word mode) { __builtin_ia32_ldmxcsr(mode); }
static const mode_word odd_mode = 0x1f80 | 0x2000; /* rounding down */
#else
typedef uint64_t mode_word;
static mode_word get_mode(void) {
    mode_word mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_mode(mode_word mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
static const mode_word odd_mode = 2u << 22; /* rounding down */
#endif

/* --- A case and its arrays. */

typedef struct {
    fr_cell cell;
    fr_dtype dtype;
    ptrdiff_t T, B, I, H;
    int directions, ragged, bias;
    int stepless; /* of a ragged case: whether rows, the first among them, have no step */
} problem;

/* Inputs, then outputs; per direction d, W + d and so on. */
enum { X, H0, C0, DY, DH, DC, W_IH, W_HH = W_IH + 2, B_IH = W_HH + 2, B_HH = B_IH + 2, INPUTS = B_HH + 2 };
enum { Y = INPUTS, H1, C1, DX, DH0, DC0, G_IH, G_HH = G_IH + 2, GB_IH = G_HH + 2, GB_HH = GB_IH + 2, ARRAYS = GB_HH + 2 };

static const char *const array_names[ARRAYS] = {
    [Y] = "y",          [H1] = "h",         [C1] = "c",          [DX] = "dx",         [DH0] = "dh0",
    [DC0] = "dc0",      [G_IH] = "dw_ih 0", [G_IH + 1] = "dw_ih 1", [G_HH] = "dw_hh 0", [G_HH + 1] = "dw_hh 1",
    [GB_IH] = "db_ih 0", [GB_IH + 1] = "db_ih 1", [GB_HH] = "db_hh 0", [GB_HH + 1] = "db_hh 1",
};

typedef struct {
    void *data[ARRAYS]; /* NULL: absent */
    int64_t *lengths;   /* NULL: all T */
} arrays;

static ptrdiff_t size_of(const problem *p, int array) {
    const int gates = eq_gates(p->cell), lstm = p->cell == FR_LSTM;
    switch (array) {
    case X: case DX:
        return p->T * p->B * p->I;
    case Y: case DY:
        return p->T * p->B * p->directions * p->H;
    case H0: case DH: case H1: case DH0:
        return p->directions * p->B * p->H;
    case C0: case DC: case C1: case DC0:
        return lstm ? p->directions * p->B * p->H : 0;
    }
    const int first = array < INPUTS ? W_IH : G_IH, direction = (array - first) % 2, kind = (array - first) / 2;
    if (direction >= p->directions || (kind >= 2 && !p->bias))
        return 0;
    return gates * p->H * (kind == 0 ? p->I : kind == 1 ? p->H : 1);
}

static uint64_t draws;

/* Uniform in [-1, 1), exact in either type. */
static wide draw(void) {
    draws = draws * 6364136223846793005u + 1442695040888963407u;
    return (wide)((int64_t)(draws >> 40) - (1 << 23)) / (1 << 23);
}

/* What is forgotten stays NaN; gradients, which the kernels add to, begin at 0. */
static void make_outputs(const problem *p, arrays *a) {
    for (int k = INPUTS; k < ARRAYS; k++) {
        ptrdiff_t n = size_of(p, k);
        a->data[k] = n ? allocate((size_t)n * item(p->dtype)) : NULL;
        for (ptrdiff_t i = 0; i < n && k < G_IH; i++)
            set(a->data[k], p->dtype, i, NAN);
    }
}

static void free_outputs(arrays *a) {
    for (int k = INPUTS; k < ARRAYS; k++)
        free(a->data[k]);
}

/* Rows of different lengths have NaN past their ends, in x and dy. Gradients are positive: sums that cancel would leave
 * nothing but rounding errors. */
static void make_inputs(const problem *p, arrays *a) {
    const wide scale = 1 / sqrt((wide)p->H);
    for (int k = 0; k < INPUTS; k++) {
        ptrdiff_t n = size_of(p, k);
        a->data[k] = n ? allocate((size_t)n * item(p->dtype)) : NULL;
        for (ptrdiff_t i = 0; i < n; i++) {
            wide value = draw();
            set(a->data[k], p->dtype, i, k >= W_IH ? value * scale : k >= DY ? 1 + value / 2 : 2 * value);
        }
    }
    a->lengths = NULL;
    if (!p->ragged)
        return;
    a->lengths = allocate((size_t)p->B * sizeof *a->lengths);
    const ptrdiff_t width = p->directions * p->H;
    for (ptrdiff_t b = 0; b < p->B; b++) {
        const int64_t most = p->stepless && b == 0 ? 0 : p->T, least = !p->stepless;
        a->lengths[b] = least + (int64_t)((draw() + 1) / 2 * (wide)(most + 1 - least));
        for (ptrdiff_t t = a->lengths[b]; t < p->T; t++) {
            for (ptrdiff_t j = 0; j < p->I; j++)
                set(a->data[X], p->dtype, (t * p->B + b) * p->I + j, NAN);
            for (ptrdiff_t j = 0; j < width; j++)
                set(a->data[DY], p->dtype, (t * p->B + b) * width + j, NAN);
        }
    }
}

static void free_inputs(arrays *a) {
    for (int k = 0; k < INPUTS; k++)
        free(a->data[k]);
    free(a->lengths);
}

static ptrdiff_t length_of(const problem *p, const arrays *a, ptrdiff_t b) {
    return a->lengths ? (ptrdiff_t)a->lengths[b] : p->T;
}

/* --- The kernels. */

static void *from(const problem *p, const arrays *a, int array, ptrdiff_t element) {
    return a->data[array] ? (char *)a->data[array] + element * (ptrdiff_t)item(p->dtype) : NULL;
}

static fr_sequence sequence(const problem *p, const arrays *a, int array, ptrdiff_t width, ptrdiff_t row,
                            ptrdiff_t feature) {
    return (fr_sequence){from(p, a, array, row * width + feature), p->B * width, width};
}

/* Runs the case forward and backward, or its one row `row` alone where that is not -1, on so many threads. */
static void run_kernels(const problem *p, const arrays *a, int threads, ptrdiff_t row) {
    const int64_t none = 0;
    const ptrdiff_t alone = row >= 0, first = alone ? row : 0, steps = alone ? length_of(p, a, row) : p->T;
    const ptrdiff_t T = steps ? steps : 1;
    const ptrdiff_t B = alone ? 1 : p->B, I = p->I, H = p->H, width = p->directions * H;
    const int64_t *lengths = !steps ? &none : alone ? NULL : a->lengths;
    fr_forward_run forward[2] = {{0}};
    fr_backward_run backward[2] = {{0}};
    void *saved[2] = {0};
    fr_packed *packed[2] = {0};
    for (int d = 0; d < p->directions; d++) {
        const fr_weights w = {a->data[W_IH + d], a->data[W_HH + d], a->data[B_IH + d], a->data[B_HH + d],
                              NULL, NULL, 0};
        const fr_gradients g = {a->data[G_IH + d], a->data[G_HH + d], a->data[GB_IH + d], a->data[GB_HH + d],
                                NULL, NULL};
        const ptrdiff_t s = (d * p->B + first) * H;
        const int kept = p->cell == FR_LSTM ? 5 : p->cell == FR_GRU ? 4 : 0;
        const fr_sequence x = sequence(p, a, X, I, first, 0), y = sequence(p, a, Y, width, first, d * H);
        saved[d] = kept ? allocate((size_t)(T * B * kept * H) * item(p->dtype)) : NULL;
        CHECK(fr_pack(p->cell, p->dtype, I, H, &w, NULL, threads, NULL, &packed[d]) == FR_OK, "fr_pack");
        forward[d] = (fr_forward_run){
            .packed = packed[d], .reverse = d, .x = x, .y = y, .h0 = from(p, a, H0, s), .c0 = from(p, a, C0, s),
            .h = from(p, a, H1, s), .c = from(p, a, C1, s), .saved = saved[d],
        };
        backward[d] = (fr_backward_run){
            .cell = p->cell, .dtype = p->dtype, .input_size = I, .hidden_size = H, .weights = w, .reverse = d,
            .x = x, .y = y, .h0 = from(p, a, H0, s), .c0 = from(p, a, C0, s), .saved = saved[d],
            .dy = sequence(p, a, DY, width, first, d * H), .dh = from(p, a, DH, s), .dc = from(p, a, DC, s),
            .dx = sequence(p, a, DX, I, first, 0), .dh0 = from(p, a, DH0, s), .dc0 = from(p, a, DC0, s),
            .gradients = g,
        };
    }
    const mode_word before = get_mode();
    CHECK(fr_forward(forward, p->directions, T, B, lengths, threads, NULL) == FR_OK, "fr_forward");
    CHECK(get_mode() == before, "the floating-point mode after fr_forward");
    CHECK(fr_backward(backward, p->directions, T, B, lengths, threads, NULL) == FR_OK, "fr_backward");
    CHECK(get_mode() == before, "the floating-point mode after fr_backward");
    for (int d = 0; d < p->directions; d++) {
        fr_packed_free(packed[d]);
        free(saved[d]);
    }
}

/* --- The checks of a case. */

static void fail(const problem *p, const char *what, const char *where, double by) {
    failures++;
    printf("FAILED %s %s %s T=%td B=%td I=%td H=%td directions=%d ragged=%d bias=%d stepless=%d: %s, %s (%g)\n",
           fr_level_name(fr_level()), cell_names[p->cell], dtype_names[p->dtype], p->T, p->B, p->I, p->H, p->directions,
           p->ragged, p->bias, p->stepless, what, where, by);
}

/* The equations, row by row, into `expected` (in wide, laid out as the outputs). */
static void run_equations(const problem *p, const arrays *a, wide *const *expected) {
    wide *inputs[INPUTS] = {0};
    for (int k = 0; k < INPUTS; k++) {
        ptrdiff_t n = size_of(p, k);
        inputs[k] = n ? allocate((size_t)n * sizeof(wide)) : NULL;
        for (ptrdiff_t i = 0; i < n; i++)
            inputs[k][i] = get(a->data[k], p->dtype, i);
    }
    const ptrdiff_t I = p->I, H = p->H, width = p->directions * H;
    for (int d = 0; d < p->directions; d++) {
        const eq_layer layer = {p->cell, I, H, d, inputs[W_IH + d], inputs[W_HH + d], inputs[B_IH + d], inputs[B_HH + d],
                                expected[G_IH + d], expected[G_HH + d], expected[GB_IH + d], expected[GB_HH + d]};
        for (ptrdiff_t b = 0; b < p->B; b++) {
            const ptrdiff_t s = (d * p->B + b) * H, v = b * width + d * H, c = p->cell == FR_LSTM ? s : 0;
            const eq_row row = {length_of(p, a, b), p->B * I,          p->B * width,        inputs[X] + b * I,
                                inputs[H0] + s,     inputs[C0] + c,    inputs[DY] + v,      inputs[DH] + s,
                                inputs[DC] + c,     expected[Y] + v,   expected[H1] + s,    expected[C1] + c,
                                expected[DX] + b * I, expected[DH0] + s, expected[DC0] + c};
            eq_run(&layer, &row);
        }
    }
    for (int k = 0; k < INPUTS; k++)
        free(inputs[k]);
}

static void compare_with_equations(const problem *p, const arrays *a) {
    wide *expected[ARRAYS] = {0};
    for (int k = INPUTS; k < ARRAYS; k++)
        expected[k] = size_of(p, k) ? allocate((size_t)size_of(p, k) * sizeof(wide)) : NULL;
    run_equations(p, a, expected);
    const wide eps = p->dtype == FR_F32 ? FLT_EPSILON : DBL_EPSILON;
    const wide allowed = 4 * ceil(log2((wide)(p->I + p->H) * (wide)p->T)) * eps;
    for (int k = INPUTS; k < ARRAYS; k++) {
        wide largest = 0, error = 0;
        for (ptrdiff_t i = 0; i < size_of(p, k); i++) {
            wide difference = fabs(get(a->data[k], p->dtype, i) - expected[k][i]);
            largest = fmax(largest, fabs(expected[k][i]));
            error = difference <= error ? error : difference; /* NaN is the largest error */
        }
        if (!(error <= allowed * (k >= DX ? 2 : 1) * largest))
            fail(p, "equations", array_names[k], (double)(error / largest / eps));
        free(expected[k]);
    }
}

/* The same bits on other numbers of threads and, on two, where the caller rounds down. */
static void compare_threads(const problem *p, const arrays *a) {
    const mode_word normal = get_mode();
    for (int threads = 2; threads <= 6; threads++) {
        const int rounds_down = threads == 6;
        arrays b = *a;
        make_outputs(p, &b);
        set_mode(rounds_down ? odd_mode : normal);
        run_kernels(p, &b, rounds_down ? 2 : threads, -1);
        set_mode(normal);
        for (int k = INPUTS; k < ARRAYS; k++)
            if (size_of(p, k) && memcmp(a->data[k], b.data[k], (size_t)size_of(p, k) * item(p->dtype)))
                fail(p, rounds_down ? "the caller's mode" : "threads", array_names[k], threads);
        free_outputs(&b);
    }
}

static void compare_row_alone(const problem *p, const arrays *a, ptrdiff_t row) {
    arrays b = *a;
    make_outputs(p, &b);
    run_kernels(p, &b, 1, row);
    for (int k = Y; k < G_IH; k++) {
        const int in_time = k == Y || k == DX;
        const ptrdiff_t width = k == DX ? p->I : k == Y ? p->directions * p->H : p->H;
        const ptrdiff_t count = !size_of(p, k) ? 0 : in_time ? length_of(p, a, row) : p->directions;
        for (ptrdiff_t i = 0; i < count; i++) {
            const ptrdiff_t begin = (i * p->B + row) * width;
            if (memcmp(from(p, a, k, begin), from(p, &b, k, begin), (size_t)width * item(p->dtype)))
                fail(p, "a row alone", array_names[k], (double)row);
        }
    }
    free_outputs(&b);
}

static uint64_t hash(uint64_t so_far, const void *data, size_t bytes) { /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        so_far = (so_far ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return so_far;
}

static uint64_t check_case(const problem *p, uint64_t so_far) {
    arrays a;
    make_inputs(p, &a);
    make_outputs(p, &a);
    run_kernels(p, &a, 1, -1);
    for (int k = INPUTS; k < ARRAYS; k++)
        so_far = hash(so_far, a.data[k], (size_t)size_of(p, k) * item(p->dtype));
    compare_with_equations(p, &a);
    compare_threads(p, &a);
    compare_row_alone(p, &a, 0);
    compare_row_alone(p, &a, p->B - 1);
    free_outputs(&a);
    free_inputs(&a);
    return so_far;
}

/* T, B, I, H: a single unit, odd sizes around the widths of vectors and tiles, one row, sizes that use threads by rows,
 * and by units. */
static const ptrdiff_t shapes[][4] = {{3, 16, 1, 1}, {7, 3, 2, 5}, {13, 1, 16, 17}, {5, 17, 3, 33}, {40, 6, 9, 16},
                                      {70, 1, 5, 24}, {6, 33, 23, 41}, {8, 1, 59, 231}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Returns the hash of the bits. */
static uint64_t check_cases(fr_dtype dtype) {
    uint64_t so_far = 0xcbf29ce484222325u;
    draws = 1;
    for (int cell = FR_RNN_TANH; cell <= FR_GRU; cell++)
        for (int k = 0; k < SHAPES; k++) {
            const ptrdiff_t *s = shapes[k];
            const int both = k % 2 == 0, ragged = k % 4 < 2 || s[1] > 16, bias = k != 4;
            const problem plain = {(fr_cell)cell, dtype, s[0], s[1], s[2], s[3], 1, 0, 1, 0};
            const problem other = {(fr_cell)cell, dtype, s[0], s[1], s[2], s[3], 1 + both, ragged, bias, 0};
            so_far = check_case(&plain, so_far);
            so_far = check_case(&other, so_far);
        }
    return so_far;
}

static void check_stepless_cases(fr_dtype dtype) {
    for (int cell = FR_RNN_TANH; cell <= FR_GRU; cell++)
        for (int k = 0; k < SHAPES; k++) {
            const ptrdiff_t *s = shapes[k];
            const problem p = {(fr_cell)cell, dtype, s[0], s[1], s[2], s[3], 1 + k % 2, 1, 1, 1};
            check_case(&p, 0);
        }
}

/* --- The activations, read off layers that apply nothing else: h0 = 0, W_ih = 1, no bias, one step of many rows. */

enum { SAMPLES = 4096, UNITS = 5 };

/* h of an RNN, or the input gate of an LSTM: tanh, max(0, .), or sigmoid of x in each of UNITS units. */
static void activate(fr_cell cell, fr_dtype dtype, const void *x, void *out) {
    const int lstm = cell == FR_LSTM, gates = eq_gates(cell);
    const size_t state = (size_t)SAMPLES * UNITS * item(dtype);
    void *w_ih = allocate((size_t)gates * UNITS * item(dtype)), *w_hh = allocate((size_t)gates * UNITS * UNITS * item(dtype));
    char *zero = allocate(state), *c = allocate(state), *y = allocate(state), *saved = allocate(5 * state);
    for (int i = 0; i < gates * UNITS; i++)
        set(w_ih, dtype, i, 1);
    fr_packed *packed = NULL;
    CHECK(fr_pack(cell, dtype, 1, UNITS, &(fr_weights){.w_ih = w_ih, .w_hh = w_hh}, NULL, 1, NULL, &packed) == FR_OK,
          "fr_pack");
    const fr_forward_run run = {.packed = packed, .x = {(void *)x, 0, 1}, .y = {y, 0, UNITS}, .h0 = zero, .c0 = zero,
                                .h = y, .c = c, .saved = lstm ? saved : NULL};
    CHECK(fr_forward(&run, 1, 1, SAMPLES, NULL, 1, NULL) == FR_OK, "fr_forward");
    for (ptrdiff_t row = 0; row < SAMPLES; row++)
        for (int j = 0; j < UNITS; j++)
            set(out, dtype, row * UNITS + j, get(lstm ? saved : y, dtype, row * (lstm ? 5 : 1) * UNITS + j));
    fr_packed_free(packed);
    free(w_ih), free(w_hh), free(zero), free(c), free(y), free(saved);
}

/* Limits first, then magnitudes from 2^-30 to 2^9, of both signs. */
static void make_samples(fr_dtype dtype, void *x) {
    const wide least = dtype == FR_F32 ? FLT_MIN : DBL_MIN, most = dtype == FR_F32 ? FLT_MAX : DBL_MAX;
    const wide limits[] = {NAN, INFINITY, -INFINITY, most, -most, least, -least, least / 8, 0, 88, -87, 709, -708};
    enum { LIMITS = sizeof limits / sizeof *limits };
    for (int i = 0; i < SAMPLES; i++)
        set(x, dtype, i, i < LIMITS ? limits[i] : draw() * ldexp((wide)1, i % 40 - 30));
}

static long double exact_activation(fr_cell cell, long double x) {
    return cell == FR_LSTM ? 1 / (1 + exp(-x)) : cell == FR_RNN_TANH ? tanh(x) : isnan(x) ? x : fmax(x, 0);
}

/* The worst error in ULP, where the exact result is normal; what is denormal counts as zero. */
static double check_activation(fr_cell cell, fr_dtype dtype) {
    const int digits = dtype == FR_F32 ? FLT_MANT_DIG : DBL_MANT_DIG;
    const long double least = dtype == FR_F32 ? FLT_MIN : DBL_MIN;
    void *x = allocate(SAMPLES * item(dtype)), *y = allocate(SAMPLES * UNITS * item(dtype));
    long double worst = 0;
    make_samples(dtype, x);
    activate(cell, dtype, x, y);
    for (int i = 0; i < SAMPLES; i++) {
        const long double v = get(x, dtype, i), exact = exact_activation(cell, v), limit = fabs(exact) < least ? 0 : exact;
        const long double ulp = isfinite(exact) && limit != 0 ? ldexp(1.0L, ilogb(exact) + 1 - digits) : 0;
        for (int j = 0; j < UNITS; j++) {
            const long double got = get(y, dtype, (ptrdiff_t)i * UNITS + j), error = fabs(got - exact) / ulp;
            const int good = ulp > 0 ? error <= 2 : got == limit || (isnan(got) && isnan(exact));
            CHECK(good, "%s %s of %Lg: %Lg, not %Lg", dtype_names[dtype], cell_names[cell], v, got, exact);
            worst = ulp > 0 ? fmax(worst, error) : worst;
        }
    }
    free(x), free(y);
    return (double)worst;
}

static void check_levels(int count, char **names) {
    int here = 0;
    while (fr_level_name(here))
        here++;
    const int none = count == 1 && !strcmp(names[0], "none");
    CHECK(here == (none ? 0 : count), "%d levels are here", here);
    for (int i = 0; i < here && i < count; i++)
        CHECK(!strcmp(fr_level_name(i), names[i]), "level %d is %s, not %s", i, fr_level_name(i), names[i]);
}

int main(int argc, char **argv) {
    if (argc > 1)
        check_levels(argc - 1, argv + 1);
    for (int level = 0; fr_level_name(level); level++) {
        fr_set_level(level);
        for (int dtype = FR_F32; dtype <= FR_F64; dtype++) {
            const uint64_t bits = check_cases((fr_dtype)dtype);
            check_stepless_cases((fr_dtype)dtype);
            printf("%s %s %016llx", fr_level_name(level), dtype_names[dtype], (unsigned long long)bits);
            printf(" relu %.2f", check_activation(FR_RNN_RELU, (fr_dtype)dtype));
            printf(" tanh %.2f", check_activation(FR_RNN_TANH, (fr_dtype)dtype));
            printf(" sigmoid %.2f ULP\n", check_activation(FR_LSTM, (fr_dtype)dtype));
        }
    }
    printf("%s: %d failures\n", fr_compiler(), failures);
    return failures != 0;
}
