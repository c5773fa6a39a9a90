# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True, binding=False
"""The bridge from the backend contract (base.py) to the C kernels (csrc/fastrnn.h): pointers, strides and the GIL.

Arrays come through the buffer protocol, so nothing here depends on NumPy's ABI. A pointer outlives its buffer view
because the caller holds the array for the whole call; a RecordedStep's because it holds the arrays itself.

Free threading: what the module and its objects hold does not change once they are made, but for the main thread's
identity, which is atomic; the kernels are callable from any thread. Without `binding` a method is a plain descriptor,
whose references threads do not count one by one in the same place.

One module of several files, each of which may use what the ones before it have.
"""

include "signals.pxi"
include "arrays.pxi"
include "calls.pxi"
include "steps.pxi"
include "shortcut.pxi"
include "scan.pxi"
include "instruments.pxi"
