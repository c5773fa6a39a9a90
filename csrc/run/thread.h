/* Threads of the library's own. */
#ifndef FR_THREAD_H
#define FR_THREAD_H

/* Starts a detached thread that takes none of the program's signals; returns whether there is one. */
int fr_thread_start(void *(*run)(void *), void *argument);

#endif
