/* The table of one level and dtype. */
#include "panels.h"

extern const fr_kernels LEVEL(fr_kernels);
const fr_kernels LEVEL(fr_kernels) = {
    .lanes = LANES,
    .packed_bytes = LEVEL(fr_packed_bytes),
    .pack = LEVEL(fr_pack),
    .forward_bytes = LEVEL(fr_forward_bytes),
    .forward = LEVEL(fr_forward),
    .backward_bytes = LEVEL(fr_backward_bytes),
    .backward = LEVEL(fr_backward),
    .fma_block = LEVEL(fr_fma_block),
};
