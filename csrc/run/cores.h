/* Which core a thread runs on. */
#ifndef FR_CORES_H
#define FR_CORES_H

/* -1 where the system does not say. */
int fr_core(void);
/* Moves the calling thread to another of the cores it may run on, if there is one; it may be moved back later. */
void fr_leave_core(int core);

#endif
