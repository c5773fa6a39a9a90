/* The yardsticks: fused multiply-adds that depend on nothing but registers, and loads that nothing waits for. */
#include "level/panels.h"

double LEVEL(fr_fma_block)(int64_t iterations) {
    enum { CHAINS = 12 };
    vec sum[CHAINS], a = vset1(PICK(0.999f, 0.999)), b = vset1(PICK(0.001f, 0.001));
    UNROLL(16)
    for (int i = 0; i < CHAINS; i++)
        sum[i] = vset1((real)i);
    for (int64_t k = 0; k < iterations; k++)
        UNROLL(16)
        for (int i = 0; i < CHAINS; i++)
            sum[i] = vfma(sum[i], a, b);
    UNROLL(16)
    for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("" : : "m"(sum[i]));
    return 2.0 * CHAINS * LANES * (double)iterations;
}

/* Blocks in alternating order, as the kernels take their panels: what one pass reads last, the next finds nearest. */
double LEVEL(fr_read_passes)(const void *data, ptrdiff_t bytes, int passes) {
    enum { CHAINS = 8, BLOCK_BYTES = 16384 };
    _Static_assert(FR_READ_UNIT % (CHAINS * VEC_BYTES) == 0 && BLOCK_BYTES % FR_READ_UNIT == 0, "no vector is cut");
    const ptrdiff_t blocks = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    ivec folded[CHAINS] = {{0}};
    for (int pass = 0; pass < passes; pass++)
        for (ptrdiff_t i = 0; i < blocks; i++) {
            const ptrdiff_t begin = (pass % 2 ? blocks - 1 - i : i) * BLOCK_BYTES;
            const ptrdiff_t end = begin + BLOCK_BYTES < bytes ? begin + BLOCK_BYTES : bytes;
            for (ptrdiff_t at = begin; at < end; at += CHAINS * VEC_BYTES)
                UNROLL(16)
                for (int c = 0; c < CHAINS; c++)
                    folded[c] ^= ((const ivec *)((const char *)data + at))[c];
        }
    UNROLL(16)
    for (int c = 0; c < CHAINS; c++)
        __asm__ volatile("" : : "m"(folded[c]));
    return (double)passes * (double)bytes;
}
