/* The choice of instruction set: one table from what the machine can do to the kernels compiled for it. */
#include <stdatomic.h>

#include "kernels.h"

#define DECLARE(level) extern const fr_kernels fr_kernels_##level##_f32, fr_kernels_##level##_f64;
#define KERNELS(level) {&fr_kernels_##level##_f32, &fr_kernels_##level##_f64}

#if defined(__x86_64__)
DECLARE(v2)
DECLARE(v3)
DECLARE(v4)
static int has_v2(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
static int has_v3(void) {
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
static int has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#elif defined(__AARCH64EL__)
DECLARE(neon)
static int has_neon(void) { return 1; }
#else
#error "fastrnn's kernels are written for 64-bit x86 and 64-bit little-endian ARM"
#endif

static const struct {
    const char *name;
    int (*supported)(void);
    const fr_kernels *kernels[2]; /* by fr_dtype */
} levels[] = {
#if defined(__x86_64__)
    {"x86-64-v4", has_v4, KERNELS(v4)},
    {"x86-64-v3", has_v3, KERNELS(v3)},
    {"x86-64-v2", has_v2, KERNELS(v2)},
#elif defined(__aarch64__)
    {"neon", has_neon, KERNELS(neon)},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static atomic_int in_force;

/* Place in `levels` of the index-th level that the machine supports, N_LEVELS past the last. */
static int place(int index) {
    int i = 0;
    for (; i < N_LEVELS; i++)
        if (levels[i].supported() && index-- == 0)
            break;
    return i;
}

const char *fr_level_name(int index) {
    int i = place(index);
    return i < N_LEVELS ? levels[i].name : NULL;
}

int fr_level(void) { return atomic_load(&in_force); }

void fr_set_level(int index) { atomic_store(&in_force, index); }

const fr_kernels *fr_level_kernels(fr_dtype dtype) { return levels[place(fr_level())].kernels[dtype]; }

const char *fr_cell_name(int cell) {
    static const char *const names[] = {
#define CELL(NAME, name, ...) #name,
#include "cells.def"
    };
    return cell < FR_CELLS ? names[cell] : NULL;
}

const char *fr_compiler(void) {
#if defined(__clang__)
    return __VERSION__;
#else
    return "GCC " __VERSION__;
#endif
}

void fr_update(fr_dtype dtype, const fr_update_run *run, const fr_numbers *numbers) {
    fr_level_kernels(dtype)->update(run, numbers);
}

void fr_activate(fr_dtype dtype, fr_activation function, const void *from, void *to, ptrdiff_t n) {
    fr_level_kernels(dtype)->activate(function, from, to, n);
}
