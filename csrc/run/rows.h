/* The rows of a call in the order in which the kernels take them. */
#ifndef FR_ROWS_H
#define FR_ROWS_H

#include "kernels.h"

/* Copies the lengths, which may be NULL, and ranks the rows by them; `memory` holds both. Returns 0 where there is
 * none. */
int fr_rank_rows(fr_batch *batch, fr_workspace *memory, const int64_t *lengths);

#endif
