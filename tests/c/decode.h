/* A call of the kernels from any bytes: what the fuzzer, and the random layers, run. */
#ifndef DECODE_H
#define DECODE_H

#include <stddef.h>
#include <stdint.h>

/* Runs the layer that the bytes stand for on one thread and on several; ends the program at any fault. */
void run_decoded(const uint8_t *data, size_t size);

#endif
