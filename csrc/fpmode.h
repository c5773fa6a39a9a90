/* The mode of a thread's floating-point unit: what a caller may have changed, and what the kernels compute in. */
#ifndef FR_FPMODE_H
#define FR_FPMODE_H

#include <stdint.h>

/* The kernels': round to nearest, no traps, flush denormal results to zero and read denormal operands as zero, since
 * they cost 100 cycles an operation where a decaying state meets them. All of it is set, not the last two alone: else
 * the bits would depend on the caller's rounding, which the pool's threads do not share. */
#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned fp_mode;
#define KERNEL_FP_MODE 0x9fc0u
static inline fp_mode fp_mode_now(void) { return _mm_getcsr(); }
static inline void denormals_restore(fp_mode old) { _mm_setcsr(old); }
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
#define KERNEL_FP_MODE (1u << 24)
static inline fp_mode fp_mode_now(void) {
    fp_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void denormals_restore(fp_mode old) { __asm__ volatile("msr fpcr, %0" : : "r"(old)); }
#endif

/* Enters the kernels' mode and returns the one to restore. */
static inline fp_mode denormals_off(void) {
    fp_mode old = fp_mode_now();
    denormals_restore(KERNEL_FP_MODE);
    return old;
}

#endif
