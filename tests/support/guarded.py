"""Calls on arrays that end, or begin, at a page nothing may touch; run as a program, since what fails is the process.

    python guarded.py [native:LEVEL | numba]

What a call only reads lies in pages that cannot be written. Prints how many calls were made.
"""

import ctypes
import itertools
import mmap
import sys

import numpy as np
from cases import make_layer

import fastrnn
from fastrnn import backends
from fastrnn.backends.base import Given, Run, Span, Steps, Wanted
from fastrnn.core.options import with_options
from fastrnn.spec import CELLS, Weights

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PROT_NONE = 0


class Guarded:
    """Copies of arrays between two forbidden pages: at the end of what lies between, or at its beginning."""

    def __init__(self, at_end):
        self.at_end, self.maps = at_end, []

    def copy(self, array, writable):
        inner = -(-array.nbytes // PAGE) * PAGE
        start = libc.mmap(None, inner + 2 * PAGE, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        self.maps.append((start, inner + 2 * PAGE))
        self.protect(start + PAGE, inner, mmap.PROT_READ | mmap.PROT_WRITE)
        at = start + PAGE + (inner - array.nbytes if self.at_end else 0)
        memory = (ctypes.c_char * array.nbytes).from_address(at)
        copied = np.frombuffer(memory, array.dtype).reshape(array.shape)
        copied[...] = array
        if not writable:
            self.protect(start + PAGE, inner, mmap.PROT_READ)
            copied.flags.writeable = False
        return copied

    def protect(self, start, size, flags):
        assert libc.mprotect(start, size, flags) == 0, ctypes.get_errno()

    def free(self):
        for start, size in self.maps:
            assert libc.munmap(start, size) == 0
        self.maps.clear()


class Plain:
    """The same copies in memory like any other."""

    def copy(self, array, writable):
        return array.copy()

    def free(self):
        pass


class Job:
    """Arrays for one layer: what it reads, and what it writes."""

    def __init__(self, cell, dtype, T, B, I, H, D, with_lengths, with_entry=False):
        rng = np.random.default_rng(0)
        cell = with_options(cell, zoneout=0.5) if with_entry else cell
        G, C = len(cell.gates) * H, len(cell.states)

        def draw(*shape):
            return rng.uniform(-1, 1, shape).astype(dtype)

        self.cell, self.saved = cell, np.zeros((D, T, B, len(cell.saved), H), dtype)
        vectors = [draw(len(cell.vectors) * H)] * bool(cell.vectors)
        self.weights = [[draw(G, I), draw(G, H), draw(G), draw(G), *vectors] for _ in range(D)]
        self.noise = draw(T, B, D * H) if with_entry and len(cell.gates) == 1 else None
        self.x, self.dy = draw(T, B, I), draw(T, B, D * H)
        self.state, self.dstate = [draw(D, B, H) for _ in range(C)], [draw(D, B, H) for _ in range(C)]
        self.lengths = rng.integers(0, T + 1, B) if with_lengths else None
        self.resets = rng.random((D, T, B)) < 0.3 if with_entry else None
        self.scale = draw(T, B, H) if with_entry else None
        self.drop = draw(T, B, D * H) if with_entry else None
        self.keep = [(draw(T, B, D * H) > 0).astype(dtype) if with_entry and p < C else None for p in range(2)]

    def run(self, backend, memory, threads):
        def read(array):
            return None if array is None else memory.copy(array, writable=False)

        def write(array):
            return memory.copy(np.zeros_like(array), writable=True)

        weights = [Weights(*map(read, w)) for w in self.weights]
        x, state, lengths = read(self.x), tuple(map(read, self.state)), read(self.lengths)
        y, after = write(self.dy), tuple(map(write, self.state))
        saved = write(self.saved) if self.cell.saved else None
        packed, reverse = backend.pack(self.cell, weights, threads), (False, True)[: len(weights)]
        masks = read(self.drop), list(map(read, self.keep))
        steps = Steps(lengths, read(self.resets), read(self.noise), read(self.scale), *masks)
        run = Run(x, state, steps, reverse, y, saved)
        backend.forward(packed, run, after, threads)
        dx, before, dscale = write(self.x), tuple(map(write, self.state)), None
        if self.scale is not None:
            dscale = write(np.zeros(self.saved.shape[:3] + (self.state[0].shape[-1],), self.x.dtype))
        dweights = [Weights(*map(write, w)) for w in self.weights]
        run = run._replace(y=read(y), saved=saved if saved is None else read(saved))
        given = Given(read(self.dy), tuple(map(read, self.dstate)))
        wanted = Wanted(dx, before, dweights, None, dscale)
        backend.backward(self.cell, weights, run, given, wanted, threads)
        gradients = results(wanted)
        wanted = Wanted(*(map_arrays(write, value) for value in wanted))
        for array in filter(lambda array: array is not None, itertools.chain.from_iterable(wanted.dweights)):
            array.fill(np.nan)
        backend.backward(self.cell, weights, run, given, wanted._replace(fresh=True), threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results(wanted), gradients, strict=True)), self.cell
        wanted = Wanted(*(map_arrays(write, value) for value in wanted))
        self.backward_in_parts(backend, read, weights, run, given, wanted, threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results(wanted), gradients, strict=True)), self.cell
        return [array.copy() for array in (y, *after)] + gradients

    def backward_in_parts(self, backend, read, weights, run, given, wanted, threads):
        """Three parts of the time or fewer, each with what its own steps saved."""
        T, held = len(run.x), []
        bounds = sorted({0, T // 2, T - T // 3, T})
        for first, last in reversed(list(itertools.pairwise(bounds))):
            span, saved = Span(first, last, held), None
            if run.saved is not None:
                saved = np.full((len(weights), last - first + 1, *run.saved.shape[2:]), np.nan, run.saved.dtype)
                for d, backward in enumerate(run.reverse):
                    start = span.start(T, backward)
                    begin, end = max(start, 0), min(start + last - first + 1, T)
                    saved[d, begin - start : end - start] = run.saved[d, begin:end]
                saved = read(saved)
            backend.backward(self.cell, weights, run._replace(saved=saved, span=span), given, wanted, threads)


def map_arrays(function, value):
    """An array, or what is made of arrays, through a function; what is neither stays."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.ndarray):
        return function(value)
    made = [map_arrays(function, part) for part in value]
    return Weights(*made) if isinstance(value, Weights) else made


def results(wanted):
    arrays = []
    map_arrays(arrays.append, wanted)
    return [array.copy() for array in arrays]


def step(cell, job, memory):
    """A frozen layer's step, which reads x and the state and writes `out`; its weights are its own."""
    (_, B, I), H = job.x.shape, job.state[0].shape[-1]
    options = {"dtype": job.x.dtype, "rng": 0}
    layer = make_layer(cell.name, I, H, **options)
    x, state = memory.copy(job.x[0], writable=False), tuple(memory.copy(s[:1], writable=False) for s in job.state)
    y, after = memory.copy(np.zeros((B, H), x.dtype), True), tuple(memory.copy(0 * s[:1], True) for s in job.state)
    given, out = (state, after) if len(state) == 2 else (state[0], after[0]), None
    layer.freeze().step(x, given[0], out=(y, given[1]))
    out = [array.copy() for array in (y, *after)]
    whole, end = layer(x[None], given[0])
    assert whole.tobytes() == y.tobytes() and np.array(end).tobytes() == np.array(given[1]).tobytes()
    return out


SIZES = [(1, 1), (2, 3), (5, 4), (3, 15), (16, 16), (17, 17), (1, 31), (33, 33), (7, 63), (65, 64), (64, 65), (19, 130)]
BATCHES = [(1, 1), (5, 1), (4, 2), (3, 7), (2, 13)]


def main(variant):
    name, _, level = variant.partition(":")
    backend = backends.load(name)
    fastrnn.set_backend(name)
    if level:
        backend.set_level(level)
    memories, count = (Guarded(at_end=True), Guarded(at_end=False)), 0
    for k, (cell, dtype, (I, H)) in enumerate(itertools.product(CELLS.values(), (np.float32, np.float64), SIZES)):
        for T, B in (BATCHES[k % len(BATCHES)], BATCHES[(k + 2) % len(BATCHES)]):
            job = Job(
                cell,
                np.dtype(dtype),
                T,
                B,
                I,
                H,
                D=1 + (k + T) % 2,
                with_lengths=(k + B) % 3 == 0,
                with_entry=(k + T + B) % 2 == 0,
            )
            expected = [*job.run(backend, Plain(), 1), *step(cell, job, Plain())]
            for memory in memories:
                actual = [*job.run(backend, memory, 1 + k % 2), *step(cell, job, memory)]
                memory.free()
                assert all(a.tobytes() == e.tobytes() for a, e in zip(actual, expected, strict=True)), (
                    cell,
                    I,
                    H,
                    T,
                    B,
                )
                count += 1
    # A job whose work is shared by threads, by rows and by units.
    for T, B, I, H in ((20, 25, 61, 131), (40, 1, 99, 387)):
        for cell in CELLS.values():
            job = Job(cell, np.dtype(np.float32), T, B, I, H, D=1, with_lengths=B > 1)
            expected = job.run(backend, Plain(), 1)
            for memory in memories:
                actual = job.run(backend, memory, 3)
                memory.free()
                assert all(a.tobytes() == e.tobytes() for a, e in zip(actual, expected, strict=True)), (cell, T, B)
                count += 1
    print(count)


if __name__ == "__main__":
    main(sys.argv[1])
