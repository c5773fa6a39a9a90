/* The pool, its barriers, the workspaces and the watch under many callers: for the thread sanitizer, which sees races
 * that do no harm today; the bits are compared as well. threads [rounds]. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "layer.h"

enum { CALLERS = 6, N_CASES = 7, MOST_THREADS = 4 };

static layer_spec cases[N_CASES];
static layer expected[N_CASES];
static int rounds = 6;

static void make_cases(void) {
    int n = 0;
    cases[n++] = plain_spec(FR_LSTM, FR_F32, 12, 24, 32, 48);  /* divided by rows */
    cases[n++] = plain_spec(FR_GRU, FR_F32, 12, 5, 96, 128);   /* by units: a meeting at every step */
    cases[n++] = plain_spec(FR_LSTM, FR_F64, 12, 1, 192, 192); /* one row, by units; packed in parallel */
    cases[n] = plain_spec(FR_LSTM, FR_F32, 40, 8, 32, 32);     /* two directions side by side, meeting to add up dx */
    cases[n].directions = 2, cases[n++].lengths = 1;
    cases[n] = plain_spec(FR_RNN_RELU, FR_F32, 60, 30, 40, 40);
    cases[n].lengths = 1, cases[n++].dh_there = 0;
    cases[n] = plain_spec(FR_GRU, FR_F64, 100, 12, 24, 24); /* several chunks backward */
    cases[n].directions = 2, cases[n++].b_hh = 0;
    cases[n++] = plain_spec(FR_RNN_TANH, FR_F32, 3, 2, 8, 8); /* too small for a second thread */
    for (int i = 0; i < n; i++) {
        cases[i].seed = (uint64_t)i;
        layer_make(&expected[i], &cases[i]);
        expect_none(layer_run(&expected[i], 1) == FR_OK ? layer_fault(&expected[i]) : "no success", &cases[i], "alone");
    }
}

static void run_case(int i, int threads) {
    layer l;
    layer_make(&l, &cases[i]);
    expect_none(layer_run(&l, threads) == FR_OK ? NULL : "no success", &cases[i], "many threads");
    expect_none(layer_difference(&l, &expected[i]), &cases[i], "many threads");
    layer_free(&l);
}

/* Sizes of the team that change from call to call: who is slow to leave one meeting must not disturb the next. */
static void *caller(void *argument) {
    const int first = *(const int *)argument;
    for (int k = 0; k < rounds * N_CASES; k++)
        run_case((first + k) % N_CASES, 1 + (first + k) % MOST_THREADS);
    return NULL;
}

static void callers_at_once(void) {
    pthread_t threads[CALLERS];
    int first[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        first[i] = i;
        if (pthread_create(&threads[i], NULL, caller, &first[i]))
            abort();
    }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
}

static int always(void) { return 1; }

/* Twice as many steps until the call takes as long as it takes to be asked: it then ends, and the layer is usable. */
static void interrupted(layer_spec spec, int backward) {
    spec.trains = backward;
    for (int stopped = 0; !stopped; spec.T *= 2) {
        expect_none(spec.T > 16000 ? "never interrupted" : NULL, &spec, "a long call");
        layer l;
        layer_make(&l, &spec);
        fr_status status = layer_pack(&l, 2);
        if (backward && status == FR_OK)
            status = layer_forward(&l, 2, NULL);
        if (status == FR_OK)
            status = backward ? layer_backward(&l, 2, always) : layer_forward(&l, 2, always);
        stopped = status == FR_INTERRUPTED;
        expect_none(stopped || status == FR_OK ? NULL : "no success", &spec, "a long call");
        layer_free(&l);
    }
    run_case(1, 2);
}

static void many_sizes_of_team(void) {
    for (int k = 0; k < 8 * rounds; k++)
        run_case(k % N_CASES, 2 + k % (MOST_THREADS - 1));
}

int main(int argc, char **argv) {
    if (argc > 1)
        rounds = atoi(argv[1]);
    make_cases();
    many_sizes_of_team();
    callers_at_once();
    interrupted(plain_spec(FR_LSTM, FR_F32, 250, 12, 256, 256), 0); /* by rows */
    interrupted(plain_spec(FR_LSTM, FR_F32, 250, 2, 512, 512), 0);  /* by units */
    layer_spec both = plain_spec(FR_GRU, FR_F32, 250, 12, 128, 128);
    both.directions = 2;
    interrupted(both, 1);
    for (int i = 0; i < N_CASES; i++)
        layer_free(&expected[i]);
    puts("same bits");
    return 0;
}
