"""Long calls: Python runs the handlers of signals, Ctrl-C's among them, in its main thread, when that asks."""

import os

from fastrnn.backends.native.kernels cimport *


cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    int PyErr_CheckSignals() noexcept
    int check_signals "PyErr_CheckSignals"() except -1
    int Py_AddPendingCall(int (*function)(void *) noexcept, void *argument)


cdef extern from *:
    """
    static _Atomic unsigned long main_thread; /* 0 until it is known: no thread's identity */
    """
    unsigned long main_thread


cdef int become_main_thread(void *unused) noexcept:
    global main_thread
    main_thread = PyThread_get_thread_ident()
    return 0


def after_fork():
    """Whichever thread forked is the child's main thread."""
    become_main_thread(NULL)


# Python runs a pending call in its main thread, before that calls its next function. threading.main_thread() may be
# another: the thread that first imported threading, or a greenlet of gevent's.
Py_AddPendingCall(become_main_thread, NULL)
os.register_at_fork(after_in_child=after_fork)


cdef int signalled() noexcept nogil:
    """Whether a signal's handler has raised; its exception is then under way."""
    with gil:
        return PyErr_CheckSignals() != 0


cdef fr_interrupted *asker() noexcept:
    if PyThread_get_thread_ident() == main_thread:
        return signalled
    return NULL


cdef int check(fr_status status, what="kernels' scratch") except -1:
    if status == FR_NO_MEMORY:
        raise MemoryError(f"no memory for the {what}")
    return -1 if status == FR_INTERRUPTED else 0
