/* Runs workspace.c, and exits with the line of what it finds wrong, or 0. With FORKS_UNSEEN no handler of forks can
 * be registered, with NO_THREADS no thread can be made: then nothing could give memory back later. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef FORKS_UNSEEN
#define pthread_atfork(before, parent, child) ((void)(child), ENOMEM)
#endif
#ifdef NO_THREADS
#define pthread_create(thread, attributes, run, argument) ((void)(thread), (void)(run), (void)(argument), EAGAIN)
#endif
#include "run/workspace.c"
#include "run/thread.c"
#undef pthread_create

#define EXPECT(condition) do { if (!(condition)) _exit(__LINE__ % 255 + 1); } while (0)

enum { MB = 1 << 20, THREADS = 6, ROUNDS = 4000, HELD = 3 };

/* What lies in the slots. */
static size_t found(void) {
    size_t sum = 0;
    for (int i = 0; i < SLOTS; i++)
        sum += slots[i] ? block_in(slots[i])->size : 0;
    return sum;
}

static void *take_bytes(fr_workspace *w, size_t bytes) {
    EXPECT(fr_workspace_take(w, bytes) && (uintptr_t)w->data % FR_ALIGNMENT == 0);
    return w->data;
}

/* Waits for the collector, a second and what a busy machine adds to it. */
static void expect_given_back(void) {
    for (int i = 0; i < 500 && (atomic_load(&waiting) > KEEP_BYTES || atomic_load(&collecting)); i++)
        usleep(10000);
    EXPECT(!atomic_load(&collecting) && atomic_load(&waiting) <= KEEP_BYTES && found() == waiting);
}

static void reuses_what_fits(void) {
    fr_workspace small, large, other;
    void *first = take_bytes(&large, 8 * MB);
    fr_workspace_give(&large);
    take_bytes(&small, 1000); /* not the large one */
    EXPECT(take_bytes(&other, 5 * MB) == first);
    fr_workspace_give(&other);
    EXPECT(fr_workspace_take_for_long(&other, 3 * MB) && other.data != first);
    EXPECT(take_bytes(&large, 8 * MB) == first);
    fr_workspace_give(&large), fr_workspace_give(&small), fr_workspace_give(&other);
    EXPECT(found() == waiting);
    fr_workspace nothing;
    EXPECT(!fr_workspace_take(&nothing, SIZE_MAX) && !nothing.data);
    EXPECT(!fr_workspace_take(&nothing, (size_t)1 << 62) && !nothing.data && found() == waiting);
    fr_workspace_give(&nothing);
}

/* More than may wait for ever waits for the next call, and not much longer; where nothing gives it back, not at all. */
static void gives_back(int later) {
    for (int k = 0; k < 3; k++) {
        fr_workspace two[2];
        void *first = take_bytes(&two[0], 30 * MB), *second = take_bytes(&two[1], 30 * MB);
        memset(first, 1, 30 * MB);
        fr_workspace_give(&two[0]), fr_workspace_give(&two[1]);
        EXPECT(later ? waiting > 60 * MB : waiting <= KEEP_BYTES);
        if (later && k < 2) {
            void *again = take_bytes(&two[0], 30 * MB);
            EXPECT(again == first || again == second);
            fr_workspace_give(&two[0]);
        }
        if (k == 1)
            expect_given_back();
    }
    expect_given_back();
    fr_workspace most;
    take_bytes(&most, MOST_BYTES);
    fr_workspace_give(&most);
    EXPECT(waiting <= KEEP_BYTES && found() == waiting);
}

/* Many threads, sizes of all kinds: nobody is given another's memory. */
static void *use(void *argument) {
    unsigned state = *(unsigned *)argument;
    fr_workspace held[HELD] = {{NULL}};
    size_t sizes[HELD] = {0};
    for (int k = 0; k < ROUNDS; k++) {
        const int i = k % HELD;
        char *data = held[i].data;
        EXPECT(!data || (data[0] == (char)(i + state % 2) && data[sizes[i] - 1] == data[0]));
        fr_workspace_give(&held[i]);
        state = state * 1664525u + 1013904223u;
        sizes[i] = 1 + ((size_t)state >> 8) % ((size_t)64 << (state >> 4) % 18);
        EXPECT((k % 2 ? fr_workspace_take : fr_workspace_take_for_long)(&held[i], sizes[i]));
        for (int j = 0; j < HELD; j++) /* all of them anew, as the sign changes with the state */
            if (held[j].data)
                ((char *)held[j].data)[0] = ((char *)held[j].data)[sizes[j] - 1] = (char)(j + state % 2);
    }
    for (int i = 0; i < HELD; i++)
        fr_workspace_give(&held[i]);
    return NULL;
}

static void many_threads(void) {
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i;
        EXPECT(!pthread_create(&threads[i], NULL, use, &seeds[i]));
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT(found() == waiting);
    expect_given_back();
}

/* The child keeps no large block, counts anew, and has a collector of its own. */
static void forks(int later) {
    fr_workspace w[2];
    take_bytes(&w[0], 30 * MB), take_bytes(&w[1], 30 * MB);
    fr_workspace_give(&w[0]), fr_workspace_give(&w[1]);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        EXPECT(!later || (waiting < 16 * MB && !collecting));
        EXPECT(found() == waiting);
        gives_back(later);
        _exit(0);
    }
    int status = -1;
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status));
    if (WEXITSTATUS(status))
        _exit(WEXITSTATUS(status));
    expect_given_back();
}

int main(void) {
#if defined(FORKS_UNSEEN) || defined(NO_THREADS)
    const int later = 0;
#else
    const int later = 1;
#endif
    reuses_what_fits();
    gives_back(later);
    many_threads();
    forks(later);
    return 0;
}
