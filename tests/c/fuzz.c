/* The kernels' entry points under libFuzzer. */
#include "decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    run_decoded(data, size);
    return 0;
}
