/* The mode of a thread's floating-point unit: what a caller may have changed, and what the kernels compute in. */
#ifndef FR_FPMODE_H
#define FR_FPMODE_H

#include <stdint.h>

/* The kernels': round to nearest, no traps, flush denormal results to zero and read denormal operands as zero, since
 * they cost 100 cycles an operation where a decaying state meets them. All of it is set, not the last two alone: else
 * the bits would depend on the caller's rounding, which the pool's threads do not share. */
#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned fr_fp_mode;
#define FR_KERNELS_FP_MODE 0x9fc0u
static inline fr_fp_mode fr_fp_mode_get(void) { return _mm_getcsr(); }
static inline void fr_fp_mode_set(fr_fp_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t fr_fp_mode;
#define FR_KERNELS_FP_MODE (1u << 24)
static inline fr_fp_mode fr_fp_mode_get(void) {
    fr_fp_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void fr_fp_mode_set(fr_fp_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#endif

/* Enters the kernels' mode and returns the one to set again. */
static inline fr_fp_mode fr_fp_mode_enter(void) {
    fr_fp_mode old = fr_fp_mode_get();
    fr_fp_mode_set(FR_KERNELS_FP_MODE);
    return old;
}

#endif
