/* The table of one level and dtype. */
#include "panels.h"

extern const fr_kernels LEVEL(fr_kernels);
const fr_kernels LEVEL(fr_kernels) = {
    .lanes = LANES,
    .lay_out = LEVEL(fr_lay_out),
    .pack = LEVEL(fr_pack),
    .forward_bytes = LEVEL(fr_forward_bytes),
    .forward = LEVEL(fr_forward),
    .backward_bytes = LEVEL(fr_backward_bytes),
    .backward = LEVEL(fr_backward),
    .update = LEVEL(fr_update),
    .scan_forward = LEVEL(fr_scan_forward),
    .scan_backward = LEVEL(fr_scan_backward),
    .linear_bytes = LEVEL(fr_linear_bytes),
    .linear_pack = LEVEL(fr_linear_pack),
    .linear = LEVEL(fr_linear),
    .activate = LEVEL(fr_activate),
    .fma_block = LEVEL(fr_fma_block),
    .read_passes = LEVEL(fr_read_passes),
};
