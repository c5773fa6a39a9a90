"""Any layout, any shape, any real dtype: the values of the reference, the bits of plain arrays, the inputs unchanged.

A call of plain arrays takes a shorter way through the native bridge, one of others the general way: each example does
both.
"""

import numpy as np
import pytest
from cases import KINDS, Case, assert_results_close, assert_same_bits, bare, make_layer, parts_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.spec import CELLS

DTYPES = [np.float32, np.float64]


# --- layouts: from a plain array to another of the same shape, laid out otherwise; its values may be others, too


def gapped(a):
    room = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = room[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def inner_contiguous(a):
    """Contiguous features, gaps elsewhere: what the kernels take without a copy."""
    room = np.full([n + 2 for n in a.shape], np.nan, a.dtype)
    view = room[tuple(slice(1, n + 1) for n in a.shape)]
    view[...] = a
    return view


def reversed_(a):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[(slice(None, None, -1),) * a.ndim]


def reversed_time(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def repeated(a):
    return np.broadcast_to(a[:1], a.shape)


def windows(a):
    """Each row begins one element after the one before: they overlap."""
    size, strides = sum(a.shape), (a.itemsize,) * a.ndim
    return np.lib.stride_tricks.as_strided(np.resize(a, size) if a.size else np.zeros(size, a.dtype), a.shape, strides)


def misaligned(a):
    room = np.zeros(a.nbytes + 1, np.uint8)
    view = room[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "plain": lambda a: a,
    "F": np.asfortranarray,
    "gapped": gapped,
    "inner contiguous": inner_contiguous,
    "reversed": reversed_,
    "reversed time": reversed_time,
    "repeated": repeated,
    "windows": windows,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "list": lambda a: a.tolist(),
    "other float": lambda a: a.astype({4: "f8", 8: "f4"}[a.itemsize]),
    "half": lambda a: a.astype("f2"),
    "int8": lambda a: (3 * a).astype("i1"),
    "uint64": lambda a: np.abs(a).astype("u8"),
    "bool": lambda a: a > 0,
    "bool F": lambda a: np.asfortranarray(a > 0),
}
# Lists of no elements have lost their shape.
NOT_EMPTY = ("list", "repeated")


def test_the_layouts_are_what_they_are_called():
    a = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    made = {name: layout(a) for name, layout in LAYOUTS.items()}
    for name, array in made.items():
        assert np.shape(array) == a.shape, name
    assert min(made["reversed"].strides) < 0 and made["reversed time"].strides[0] < 0
    assert made["repeated"].strides[0] == 0 and made["windows"].strides == (4, 4, 4)
    assert not made["misaligned"].flags.aligned and made["byte-swapped"].dtype.byteorder == ">"
    assert made["inner contiguous"].strides[-1] == 4 and not made["inner contiguous"].flags.c_contiguous


# --- what is called


@st.composite
def examples(draw):
    """A layer, plain arrays for it, and a layout for each."""
    kind, unbatched = draw(st.sampled_from(KINDS)), draw(st.booleans())
    T, B = draw(st.integers(0, 6)), 1 if unbatched else draw(st.integers(0, 7))
    size = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33, 65]))
    layer = make_layer(
        kind,
        draw(size),
        draw(size),
        num_layers=1 if kind.endswith("relu") else draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
        rng=draw(st.integers(0, 100)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    lead = (T,) if unbatched else (B, T) if layer.batch_first else (T, B)
    D = 1 + layer.bidirectional
    state = (layer.num_layers * D, *(() if unbatched else (B,)), layer.hidden_size)
    parts = len(CELLS[kind].states)
    shapes = [(*lead, layer.input_size), (*lead, D * layer.hidden_size), *[state] * 2 * parts]
    plain = [rng.standard_normal(shape).astype(layer.dtype) for shape in shapes]
    lengths = rng.integers(0, T + 1, B) if not unbatched and draw(st.booleans()) else None
    names = [name for name in LAYOUTS if T * B or name not in NOT_EMPTY]
    return layer, plain, lengths, [draw(st.sampled_from(names)) for _ in plain], T * B


def arrange(layer, arrays, lengths):
    x, dy, *parts = arrays
    half = len(parts) // 2
    return Case(layer, x, tuple(parts[:half]), lengths, dy, tuple(parts[half:]))


def results_of(case):
    """All results of all ways to call, by name."""
    layer, state = case.layer, bare(case.state)
    y, after, tape = layer.forward(case.x, state, lengths=case.lengths)
    grads = layer.backward(tape, case.dy, bare(case.dstate))
    results = {"y": y, "grads.x": grads.x, **grads.params}
    called, called_after = layer(case.x, state, lengths=case.lengths)
    served, served_after = layer.freeze()(case.x, state, lengths=case.lengths)
    for i, part in enumerate(parts_of(after)):
        results[f"state[{i}]"], results[f"grads.state[{i}]"] = part, parts_of(grads.state)[i]
        results[f"called[{i}]"], results[f"served[{i}]"] = parts_of(called_after)[i], parts_of(served_after)[i]
    return results | {"called": called, "served": served}


def values(arrays, dtype):
    """What the arrays are to a layer, plain."""
    return [np.array(np.asarray(a), dtype, order="C") for a in arrays]


def bytes_of(array):
    """All the memory behind an array, also between its elements."""
    if isinstance(array, list):
        return repr(array)
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.tobytes()


def check_example(example):
    layer, plain, lengths, names, count = example
    odd = [LAYOUTS[name](array) for name, array in zip(names, plain)]
    plain = values(odd, layer.dtype)
    before = [bytes_of(array) for array in odd]
    actual = results_of(arrange(layer, odd, lengths))
    assert [bytes_of(array) for array in odd] == before
    # Lengths of another dtype than int64 are converted.
    expected = results_of(arrange(layer, plain, None if lengths is None else lengths.astype("u1")))
    for name, array in expected.items():
        assert_same_bits(actual[name], array, name)
    for name in ("y", *[name for name in expected if name.startswith("state")]):
        for other in ("called", "served"):
            twin = name.replace("y", other).replace("state", other)
            assert_same_bits(expected[twin], expected[name], twin)
            del expected[twin]
    if not count:
        return
    with fastrnn.use_backend("numpy"):
        reference = results_of(arrange(layer, plain, lengths))
    case = arrange(layer, plain, lengths)
    case = case._replace(x=case.x[None] if case.x.ndim == 2 and layer.batch_first else case.x)
    assert_results_close(expected, {name: reference[name] for name in expected}, case)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(example=examples())
def test_sequences(kernels, example):
    check_example(example)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(example=examples())
def test_many_sequences(kernels, example):
    check_example(example)


# --- steps and cells


@st.composite
def steps(draw):
    kind, unbatched = draw(st.sampled_from(KINDS)), draw(st.booleans())
    B, size = draw(st.integers(0, 7)), st.one_of(st.integers(1, 9), st.sampled_from([16, 33, 65]))
    layers, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(DTYPES))
    layer = make_layer(kind, draw(size), draw(size), layers, dtype=dtype, rng=draw(st.integers(0, 100)))
    rows = () if unbatched else (B,)
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    parts = len(CELLS[kind].states)
    shapes = [(*rows, layer.input_size), *[(layers, *rows, layer.hidden_size)] * parts]
    plain = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    names = [name for name in LAYOUTS if B or unbatched or name not in NOT_EMPTY]
    return layer, plain, [draw(st.sampled_from(names)) for _ in plain]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(example=steps())
def test_steps(kernels, example):
    """A step, with and without `out` and in place, is a sequence of length one."""
    layer, plain, names = example
    odd = [LAYOUTS[name](array) for name, array in zip(names, plain)]
    before = [bytes_of(array) for array in odd]
    x, *state = values(odd, layer.dtype)
    served = layer.freeze()
    y, after = layer(x[None], bare(tuple(state)))
    expected = [y[0], *parts_of(after)]

    def check(stepped, name):
        for actual, array in zip([stepped[0], *parts_of(stepped[1])], expected):
            assert_same_bits(actual, array, name)

    check(served.step(x, bare(tuple(state))), "plain")
    check(served.step(odd[0], bare(tuple(odd[1:]))), "odd")
    out = np.empty_like(y[0]), bare(tuple(np.empty_like(part) for part in state))
    assert served.step(odd[0], bare(tuple(odd[1:])), out=out) is out
    check(out, "out")
    assert [bytes_of(array) for array in odd] == before
    out = np.empty_like(y[0]), bare(tuple(state))
    check(served.step(x, bare(tuple(state)), out=out), "in place")


@pytest.mark.parametrize("kind", KINDS if "native" in fastrnn.available_backends() else [])
@pytest.mark.parametrize("batch_first", [False, True])
def test_which_way_a_call_takes(kind, batch_first):
    """Plain arrays the short one, all others the general one; so the tests above take both."""
    with fastrnn.use_backend("native"):
        layer = make_layer(kind, 3, 4, batch_first=batch_first)
        short = layer.freeze()._short
    x, state = np.ones((2, 2, 3), "f4"), bare(tuple(np.ones((1, 2, 4), "f4") for _ in CELLS[kind].states))
    assert short.sequence(x, state, None, 1) is not None and short.step(x[0], state, None, 1) is not None
    for name, layout in LAYOUTS.items():
        if name not in ("plain", "read-only"):
            assert short.sequence(layout(x), state, None, 1) is None, name
            assert short.step(layout(x)[0], state, None, 1) is None or name in ("repeated", "reversed time"), name
