/* The copy of the lengths, and the ranks by them. */
#include "rows.h"

#include <string.h>

/* Ranks the rows, longest first, ties by row, in O(T + B): `starts` has T + 2 elements of scratch. */
static void rank_rows(ptrdiff_t *order, ptrdiff_t *starts, const int64_t *lengths, ptrdiff_t T, ptrdiff_t B) {
    memset(starts, 0, (size_t)(T + 2) * sizeof *starts);
    for (ptrdiff_t row = 0; row < B; row++)
        starts[T - lengths[row] + 1]++;
    for (ptrdiff_t i = 1; i <= T; i++)
        starts[i] += starts[i - 1];
    for (ptrdiff_t row = 0; row < B; row++)
        order[starts[T - lengths[row]]++] = row;
}

/* The caller's memory may change while the kernels run: what they trust is a copy, in 0..T whatever it holds. */
static void copy_lengths(int64_t *copy, const int64_t *lengths, ptrdiff_t T, ptrdiff_t B) {
    for (ptrdiff_t row = 0; row < B; row++) {
        const int64_t length = ((const volatile int64_t *)lengths)[row];
        copy[row] = length < 0 ? 0 : length > T ? T : length;
    }
}

int fr_rank_rows(fr_batch *batch, fr_workspace *memory, const int64_t *lengths) {
    const ptrdiff_t T = batch->T, B = batch->B;
    if (!lengths)
        return 1;
    if (!fr_workspace_take(memory, (size_t)B * sizeof(int64_t) + (size_t)(B + T + 2) * sizeof(ptrdiff_t)))
        return 0;
    int64_t *copy = memory->data;
    ptrdiff_t *order = (ptrdiff_t *)(copy + B);
    copy_lengths(copy, lengths, T, B);
    rank_rows(order, order + B, copy, T, B);
    batch->lengths = copy, batch->order = order;
    return 1;
}
