/* Layers of all kinds, as the fuzzer makes them, from random bytes: random_layers [count [seed]]. */
#include <stdio.h>
#include <stdlib.h>

#include "decode.h"

int main(int argc, char **argv) {
    const long count = argc > 1 ? atol(argv[1]) : 300;
    uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (long i = 0; i < count; i++) {
        uint8_t data[24];
        for (size_t k = 0; k < sizeof data; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            data[k] = (uint8_t)(state >> 56);
        }
        run_decoded(data, sizeof data);
    }
    printf("%ld layers\n", count);
    return 0;
}
