"""What is beside the layers: levels, activations, optimisers' formulas, yardsticks, schedules."""

cdef dict RULES = {"sgd": FR_SGD, "rmsprop": FR_RMSPROP, "adam": FR_ADAM}
cdef dict ACTIVATIONS = {"exp": FR_EXP, "sigmoid": FR_SIGMOID, "tanh": FR_TANH}


def levels():
    """The instruction-set levels this machine can run, best first."""
    names = []
    while fr_level_name(len(names)) != NULL:
        names.append(fr_level_name(len(names)).decode())
    return names


def level():
    """The level in force."""
    return levels()[fr_level()]


def set_level(name):
    """Make `name`, one of levels(), the level of what is packed, and run backward, from now on."""
    names = levels()
    if name not in names:
        raise ValueError(f"name: expected one of {names}, got {name!r}")
    fr_set_level(names.index(name))


def compiler():
    """The compiler that built the kernels."""
    return fr_compiler().decode()


def update(rule, arrays, numbers):
    """Change parameters and their states in place by a formula of fastrnn/train/formulas.py, the same bits in one pass.

    `arrays` has a tuple (param, grad, *states) for each, C-contiguous and of one size and dtype, None for a state that
    is not kept; `numbers` the formula's by name.
    """
    cdef fr_update_run run
    cdef fr_numbers given
    cdef fr_dtype dtype
    cdef Py_buffer buffer
    cdef int k
    memset(&given, 0, sizeof(given))
    given.shrink = numbers.get("shrink", 1.0)
    given.lr, given.momentum, given.share = numbers["lr"], numbers.get("momentum", 0.0), numbers.get("share", 1.0)
    given.alpha, given.beta1, given.beta2 = numbers.get("alpha", 0.0), numbers.get("beta1", 0.0), numbers.get("beta2", 0.0)
    given.eps, given.root = numbers.get("eps", 0.0), numbers.get("root", 1.0)
    given.weight_decay, given.nesterov = numbers.get("weight_decay", 0.0), numbers.get("nesterov", False)
    memset(&run, 0, sizeof(run))
    run.rule = RULES[rule]
    for param, grad, *states in arrays:
        dtype = typed_view(param, &buffer, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        run.n, run.param = buffer.len // buffer.itemsize, buffer.buf
        for k, array in enumerate((grad, *states)):
            if array is not None and (array.size != run.n or array.dtype != param.dtype):
                raise ValueError(f"expected {run.n} elements of {param.dtype}, got {array.size} of {array.dtype}")
        run.grad = pointer(grad)
        for k in range(3):
            run.states[k] = pointer(states[k], PyBUF_WRITABLE) if k < len(states) else NULL
        with nogil:
            fr_update(dtype, &run, &given)


def activate(name, v, result):
    """result[i] = exp, sigmoid or tanh of v[i], as the kernels of the level in force compute it, denormals as zero.

    Both are C-contiguous arrays of one dtype, float32 or float64, and as many elements. exp stays where it is at the
    ends of the range in which e^v is a normal number.
    """
    cdef Py_buffer given, filled
    cdef fr_activation function = ACTIVATIONS[name]
    cdef fr_dtype dtype = typed_view(v, &given, PyBUF_C_CONTIGUOUS)
    if dtype != typed_view(result, &filled, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) or given.len != filled.len:
        raise ValueError(f"result: expected {v.size} elements of {v.dtype}, got {result.size} of {result.dtype}")
    with nogil:
        fr_activate(dtype, function, given.buf, filled.buf, given.len // given.itemsize)


def fma_peak(dtype, int threads, double seconds):
    """The peak rate of fused multiply-adds of `threads` threads at the level in force, in flop/s, measured now.

    dtype is a NumPy dtype, float32 or float64.
    """
    cdef fr_dtype kind = DTYPES[dtype.char]
    cdef double rate
    with nogil:
        rate = fr_fma_peak(kind, threads, seconds)
    return rate


def read_bandwidth(ptrdiff_t bytes, int threads, double seconds):
    """The rate at which `threads` threads together read `bytes` bytes again and again, in bytes/s, measured now.

    Each reads its own part of them with the vectors of the level in force: from the caches, where the parts fit.
    """
    cdef double rate
    cdef fr_status status
    if bytes < 1:
        raise ValueError(f"bytes: expected at least 1, got {bytes}")
    with nogil:
        status = fr_read_bandwidth(<size_t>bytes, threads, seconds, &rate)
    if status != FR_OK:
        raise MemoryError(f"no memory to read {bytes} bytes from")
    return rate


def hoisted_terms(ptrdiff_t rows, ptrdiff_t T, int tile_rows, size_t weight_bytes, size_t near_bytes, size_t term_bytes):
    """How many terms' input products a share of so many rows would take at once; 0: each step its own.

    near_bytes: weights of so many bytes come fast enough at every step.
    """
    return fr_choose_hoisted(rows, T, tile_rows, weight_bytes, near_bytes, term_bytes)


def schedule(int threads, ptrdiff_t T, ptrdiff_t B, ptrdiff_t slices, double step_flop):
    """How a call would be divided: for each thread the rows it takes, ranked by falling length, and the slices
    of the units.

    `step_flop` is the work of one row and step.
    """
    cdef fr_schedule chosen = fr_choose_schedule(threads, 1, T, B, slices, step_flop)
    cdef fr_part part
    parts = []
    for index in range(chosen.threads):
        part = fr_deal(index, chosen.threads, chosen.by_units, B, slices)
        parts.append(([fr_rank(part.hand, i) for i in range(part.rows)], range(part.begin, part.end)))
    return parts
