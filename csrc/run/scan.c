/* The entry points of the scans: how rows and units are divided among threads. */
#include "scan.h"
#include "kernels.h"

/* Where a pass touches more bytes than this, hardly any of it is left in the caches for who reads it next, and what it
 * writes goes past them: else each line would first be read. */
static const double LEAST_STREAMED = 16e6;

enum { SCAN_ARRAYS = 3, LINE = 64 };

typedef struct {
    const fr_scan *scan;
    const void *run;
    const fr_kernels *kernels;
    int backward, threads, by_units, streams;
    fr_watch watch;
    char *scratch;
} scan_job;

static void scan_body(void *context, int index) {
    scan_job *j = context;
    const fr_scan *scan = j->scan;
    const ptrdiff_t line = LINE / (scan->dtype == FR_F64 ? 8 : 4), lines = (scan->D + line - 1) / line;
    fr_scan_part part = {.row_end = scan->B, .unit_end = scan->D,
                         .block = j->streams ? FR_SCAN_BYTES : FR_SCAN_BYTES_CACHED,
                         .streams = j->streams, .counts = index == 0, .watch = &j->watch};
    if (j->by_units) {
        const ptrdiff_t end = fr_cut(lines, index + 1, j->threads) * line;
        part.unit = fr_cut(lines, index, j->threads) * line;
        part.unit_end = end < scan->D ? end : scan->D;
    } else {
        part.row = fr_cut(scan->B, index, j->threads);
        part.row_end = fr_cut(scan->B, index + 1, j->threads);
    }
    void *scratch = j->scratch + (size_t)index * SCAN_ARRAYS * FR_SCAN_BYTES;
    if (j->backward)
        j->kernels->scan_backward(j->run, &part, scratch);
    else
        j->kernels->scan_forward(j->run, &part, scratch);
}

/* Rows where they give every thread about as much, since a row's units lie side by side; else lines of units. */
static void divide(scan_job *j, int threads) {
    const ptrdiff_t lines = j->scan->D * (j->scan->dtype == FR_F64 ? 8 : 4) / LINE;
    const ptrdiff_t rows = j->scan->B % threads == 0 ? j->scan->B : j->scan->B / 4;
    j->by_units = rows < threads && lines >= j->scan->B;
    const ptrdiff_t most = j->by_units ? lines : j->scan->B;
    j->threads = threads < most ? threads : most > 1 ? (int)most : 1;
}

/* What a row and step of a unit takes, in operations of that time: most of it goes by in waiting for memory. */
static const double UNIT_FLOP = 16;

static fr_status run_scan(scan_job *j, int arrays, int threads, fr_interrupted *interrupted) {
    const fr_scan *scan = j->scan;
    const double units = (double)scan->T * (double)scan->B * (double)scan->D;
    fr_workspace scratch;
    j->kernels = fr_level_kernels(scan->dtype);
    j->watch = fr_watch_begin(interrupted);
    j->streams = units * arrays * (scan->dtype == FR_F64 ? 8 : 4) >= LEAST_STREAMED;
    divide(j, threads > 1 && fr_worth_threads(units * UNIT_FLOP) ? threads : 1);
    const int reserved = fr_pool_reserve(j->threads);
    if (reserved < j->threads)
        divide(j, reserved);
    if (!fr_workspace_take(&scratch, (size_t)j->threads * SCAN_ARRAYS * FR_SCAN_BYTES)) {
        fr_pool_release(reserved);
        return FR_NO_MEMORY;
    }
    j->scratch = scratch.data;
    fr_pool_run(j->threads, scan_body, j, &j->watch);
    fr_pool_release(reserved);
    fr_workspace_give(&scratch);
    return fr_watch_stopped(&j->watch) ? FR_INTERRUPTED : FR_OK;
}

/* Whether the rows of a sequence lie so that all of them are as one row of B D units. */
static int is_dense(const fr_scan *scan, const fr_sequence *sequence) {
    return !sequence->data || sequence->row == scan->D;
}

/* Takes the rows as one, where all arrays let it: no row then has a remainder of its own. */
static void merge_rows(fr_scan *scan) {
    scan->D *= scan->B;
    scan->B = 1;
}

fr_status fr_scan_forward(const fr_scan_forward_run *given, int threads, fr_interrupted *interrupted) {
    fr_scan_forward_run run = *given;
    const fr_scan *scan = &run.scan;
    if (scan->kind == FR_SCAN_LINEAR && is_dense(scan, &scan->a) && is_dense(scan, &run.b) &&
        is_dense(scan, &scan->h))
        merge_rows(&run.scan);
    scan_job j = {.scan = scan, .run = &run};
    return run_scan(&j, FR_SCAN_GATES[scan->kind] + 2, threads, interrupted);
}

fr_status fr_scan_backward(const fr_scan_backward_run *given, int threads, fr_interrupted *interrupted) {
    fr_scan_backward_run run = *given;
    const fr_scan *scan = &run.scan;
    if (scan->kind == FR_SCAN_LINEAR && is_dense(scan, &scan->a) && is_dense(scan, &scan->h) &&
        is_dense(scan, &run.dy) && is_dense(scan, &run.da) && is_dense(scan, &run.db))
        merge_rows(&run.scan);
    scan_job j = {.scan = scan, .run = &run, .backward = 1};
    return run_scan(&j, 2 * FR_SCAN_GATES[scan->kind] + 3, threads, interrupted);
}
