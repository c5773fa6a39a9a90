/* The yardstick: fused multiply-adds that depend on nothing but registers. */
#include "panels.h"

double LEVEL(fr_fma_block)(int64_t iterations) {
    enum { CHAINS = 12 };
    vec sum[CHAINS], a = vset1(PICK(0.999f, 0.999)), b = vset1(PICK(0.001f, 0.001));
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++)
        sum[i] = vset1((real)i);
    for (int64_t k = 0; k < iterations; k++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++)
            sum[i] = vfma(sum[i], a, b);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("" : : "m"(sum[i]));
    return 2.0 * CHAINS * LANES * (double)iterations;
}
