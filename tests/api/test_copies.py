"""Layers, cells and frozen ones copied, pickled, saved and sent: one set of arrays governs each, and bits stay."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same_bits, parts_of

import fastrnn
from fastrnn import backends

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
T, B, I, H = 4, 3, 2, 5


class Named(fastrnn.GRU):
    """A user's own, with attributes of every sort."""

    __slots__ = ("kept",)

    def __init__(self, *args, label, **options):
        super().__init__(*args, **options)
        self.label, self.scale, self.kept = label, np.arange(3.0), "in a slot"


THINGS = {
    "RNN": lambda: fastrnn.RNN(I, H, nonlinearity="relu", rng=0),
    "LSTM": lambda: fastrnn.LSTM(I, H, 2, bidirectional=True, dropout=0.5, dtype=np.float64, rng=0),
    "GRU": lambda: fastrnn.GRU(I, H, 3, batch_first=True, bias=False, dropout=0.25, rng=0),
    "subclass": lambda: Named(I, H, 2, dropout=0.5, label="mine", rng=0),
    "RNNCell": lambda: fastrnn.RNNCell(I, H, rng=0),
    "LSTMCell": lambda: fastrnn.LSTMCell(I, H, dtype=np.float64, rng=0),
    "GRUCell": lambda: fastrnn.GRUCell(I, H, bias=False, rng=0),
}


@pytest.fixture(params=THINGS)
def thing(request):
    return THINGS[request.param]()


def by_pickle(protocol):
    return lambda thing, _: pickle.loads(pickle.dumps(thing, protocol))


def out_of_band(kind):
    def copied(thing, _):
        buffers = []
        data = pickle.dumps(thing, 5, buffer_callback=buffers.append)
        assert buffers, "no array went by its buffer"
        return pickle.loads(data, buffers=[kind(buffer.raw()) for buffer in buffers])

    return copied


def misaligned(view):
    room = bytearray(view.nbytes + 1)
    room[1:] = view
    return memoryview(room)[1:]


def by_cloudpickle(thing, _):
    cloudpickle = pytest.importorskip("cloudpickle")
    return cloudpickle.loads(cloudpickle.dumps(thing))


def by_joblib(mmap_mode=None, **options):
    def copied(thing, directory):
        joblib = pytest.importorskip("joblib")
        path = directory / f"{len(list(directory.iterdir()))}"
        joblib.dump(thing, path, **options)
        return joblib.load(path, mmap_mode=mmap_mode)

    return copied


SENT = {
    **{f"pickle {protocol}": by_pickle(protocol) for protocol in PROTOCOLS},
    "out of band": out_of_band(bytearray),
    "out of band, read-only": out_of_band(bytes),
    "out of band, the same memory": out_of_band(lambda view: view),
    "out of band, misaligned": out_of_band(misaligned),
    "cloudpickle": by_cloudpickle,
    "joblib": by_joblib(),
    "joblib, compressed": by_joblib(compress=3),
    "joblib, protocol 5": by_joblib(protocol=5),
    **{f"joblib, mmap {mode}": by_joblib(mode) for mode in ("r", "r+", "c")},
}
COPIED = {"deepcopy": lambda thing, _: copy.deepcopy(thing), **SENT}


def x_for(layer):
    shape = (B, I) if "Cell" in type(layer).__name__ else (T, B, I)
    return np.random.default_rng(1).standard_normal(shape).astype(layer.dtype)


def flat(nested):
    return [array for part in nested for array in flat(part)] if isinstance(nested, tuple) else [nested]


def results(layer):
    """All that a layer or cell computes, twice, and its parameters, by what they come from."""
    x = x_for(layer)
    found = {"call": flat(layer(x)), "frozen": flat(layer.freeze()(x))}
    for time in range(2):  # dropout draws other masks
        *outputs, tape = layer.forward(x)
        grads = layer.backward(tape, np.ones_like(flat(tuple(outputs))[0]))
        found[f"forward {time}"] = flat(tuple(outputs))
        found[f"backward {time}"] = [grads.x, *parts_of(grads.state), *grads.params.values()]
    found["params"], found["state_dict"] = list(layer.params.values()), list(layer.state_dict().values())
    return found


def assert_same_results(actual, expected):
    for name, arrays in expected.items():
        for array, other in zip(actual[name], arrays, strict=True):
            assert_same_bits(array, other, name)


def assert_governed(layer):
    """By one set of arrays, writable ones: whatever changes them, everything computes with what they are."""
    other = copy.deepcopy(layer)
    for change in ("in place", "item", "load_state_dict"):
        values = {name: array * 0.5 + 0.25 for name, array in layer.params.items()}
        for name, array in layer.params.items():
            if change == "in place":
                array[...] = values[name]
            elif change == "item":
                layer.params[name] = values[name]
        if change == "load_state_dict":
            layer.load_state_dict(values)
        for name, array in other.params.items():
            array[...] = values[name]
        assert_same_results(results(layer), results(other))
    for array in layer.params.values():
        assert type(array) is np.ndarray and array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
        assert array.base.flags.owndata, "the memory is a file's or a buffer's, which others may change"


@pytest.mark.parametrize("copied", COPIED.values(), ids=COPIED)
def test_a_copy_is_governed_by_its_own_parameters(thing, copied, tmp_path):
    other = copied(thing, tmp_path)
    assert type(other) is type(thing) and repr(other) == repr(thing)
    for (name, array), given in zip(other.params.items(), thing.params.values(), strict=True):
        assert not np.shares_memory(array, given), name
    assert_same_results(results(other), results(thing))
    if isinstance(thing, Named):
        assert (other.label, other.kept) == ("mine", "in a slot")
        np.testing.assert_array_equal(other.scale, thing.scale)
    before = thing.state_dict()
    assert_governed(other)
    for name, array in thing.params.items():
        assert_same_bits(array, before[name], name)
    assert_governed(copied(other, tmp_path))


def test_a_copy_on_every_backend(backend, thing, tmp_path):
    other = by_joblib()(thing, tmp_path)
    assert_same_results(results(other), results(thing))
    assert_governed(other)


def test_a_shallow_copy_shares_the_parameters_and_the_generator(thing):
    other = copy.copy(thing)
    for name, array in other.params.items():
        array += 0.25
        assert_same_bits(thing.params[name], array, name)
    assert_same_results({"call": flat(other(x_for(other)))}, {"call": flat(thing(x_for(thing)))})
    thing.load_state_dict({name: np.zeros_like(array) for name, array in thing.params.items()})
    assert not any(array.any() for array in other.state_dict().values())
    if getattr(thing, "dropout", 0):
        assert_governed(copy.deepcopy(other))
        fresh = THINGS[{"mine": "subclass"}.get(getattr(thing, "label", ""), type(thing).__name__)]()
        fresh.load_state_dict(thing.params)
        x = x_for(thing)
        for drawing in (thing, other, thing):
            assert_same_bits(drawing.forward(x)[0], fresh.forward(x)[0], "y")


def test_a_cached_layer(tmp_path):
    joblib = pytest.importorskip("joblib")
    cached = joblib.Memory(tmp_path, verbose=0).cache(THINGS["LSTM"])
    expected = results(cached())
    for _ in range(2):
        assert_same_results(results(cached()), expected)
        assert_governed(cached())


def test_workers_of_joblib():
    joblib = pytest.importorskip("joblib")
    layer = fastrnn.LSTM(64, 512, rng=0)  # large enough for joblib to map its arrays, read-only
    x = np.ones((2, 1, 64), np.float32)
    first, second = joblib.Parallel(n_jobs=2)(joblib.delayed(train_a_step)(layer, x) for _ in range(2))
    expected = train_a_step(copy.deepcopy(layer), x)
    for name, array in expected.items():
        assert_same_bits(first[name], array, name)
        assert_same_bits(second[name], array, name)


def train_a_step(layer, x):
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, y)
    for name, array in layer.params.items():
        array -= grads.params[name]
    return layer.state_dict()


# --- generators


class Own(np.random.PCG64):
    """A bit generator of a user's."""


GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64, Own]


def masks_of(layer):
    """What tells one sequence of dropout masks from another."""
    return [layer.forward(np.ones((T, B, I), np.float32))[0] for _ in range(3)]


@pytest.mark.parametrize("bits", GENERATORS)
@pytest.mark.parametrize("copied", COPIED.values(), ids=COPIED)
def test_dropout_goes_on_with_the_same_masks(bits, copied, tmp_path):
    layer = fastrnn.GRU(I, H, 2, dropout=0.5, rng=np.random.Generator(bits(7)))
    layer.forward(np.ones((3, 3, I), np.float32))  # 45 draws: half a word may be left over
    other = copied(layer, tmp_path)
    for array, expected in zip(masks_of(other), masks_of(layer), strict=True):
        assert_same_bits(array, expected, "y")
    assert type(other._rng.generator.bit_generator) is bits


@pytest.mark.parametrize("copied", COPIED.values(), ids=COPIED)
def test_layers_that_share_a_generator_share_the_copy_of_it(copied, tmp_path):
    """Each with one of its own at the same point, they would drop the same units."""
    rng = np.random.default_rng(3)
    layers = [fastrnn.GRU(I, H, 2, dropout=0.5, rng=rng) for _ in range(2)]
    others = copied(layers, tmp_path)
    for time in range(2):
        for layer, other in zip(layers, others, strict=True):
            for array, expected in zip(masks_of(other), masks_of(layer), strict=True):
                assert_same_bits(array, expected, f"y, {time}")
    rng_too, layer_too = copy.deepcopy((rng, layers[0]))
    rng_too.random(2), rng.random(2)
    assert_same_bits(masks_of(layer_too)[0], masks_of(layers[0])[0], "y")


def test_no_generator_is_kept_where_nothing_is_dropped():
    for layer in (fastrnn.GRU(I, H, 2, rng=0), fastrnn.GRU(I, H, dropout=0.5, rng=0), fastrnn.GRUCell(I, H, rng=0)):
        assert "enerator" not in pickle.dumps(layer).decode("latin1")


def test_generators_are_not_kept_alive():
    from fastrnn.core import portable

    gc.collect()
    before = len(portable._portable)
    layers = [fastrnn.GRU(I, H, 2, dropout=0.5) for _ in range(10)]
    assert len(portable._portable) == before + 10
    del layers
    gc.collect()
    assert len(portable._portable) == before


# --- other NumPys


class Names(pickle.Unpickler):
    """Reads a pickle and notes all that it names."""

    def find_class(self, module, name):
        self.found.add((module, name))
        return super().find_class(module, name)


def names_in(data):
    reader = Names(io.BytesIO(data))
    reader.found = set()
    reader.load()
    return reader.found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_names_nothing_that_another_numpy_lacks(thing, protocol):
    """NumPy 1.26 has numpy._core.multiarray, but neither numpy._core.numeric nor 2.x's pickles of generators."""
    everywhere = {("numpy", "dtype"), ("numpy", "ndarray")}
    everywhere |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
    layers = [fastrnn.GRU(I, H, 2, dropout=0.5, rng=np.random.Generator(bits(7))) for bits in GENERATORS[:-1]]
    for sent in (thing, thing.freeze(), layers):
        if isinstance(thing, Named):
            thing.scale = None  # whatever an array of the user's own names
        named = {(module, name) for module, name in names_in(pickle.dumps(sent, protocol)) if "numpy" in module}
        assert named <= everywhere
        assert ("numpy", "dtype") in named


TRAVELLER = """
import pickle, sys
import numpy as np
import fastrnn

def things():
    bits = np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64
    layers = [fastrnn.LSTM(2, 5, 2, dropout=0.5, rng=np.random.Generator(kind(7))) for kind in bits]
    plain = fastrnn.RNN(2, 5, dtype="float64", rng=0), fastrnn.GRU(2, 5, rng=0)
    return [*layers, *plain, plain[1].freeze()]

def outputs(thing):
    x = np.ones((4, 3, 2), np.float32)
    call = getattr(thing, "forward", thing)
    return [call(x)[0] for _ in range(3)]

what, path = sys.argv[1:]
if what == "write":
    kept = [(n, pickle.dumps(thing, n), pickle.dumps(outputs(thing), 2)) for n in range(6) for thing in things()]
    pickle.dump(kept, open(path, "wb"), 2)
else:
    kept = pickle.load(open(path, "rb"))
    for protocol, data, expected in kept:
        thing = pickle.loads(data)
        for y, other in zip(outputs(thing), pickle.loads(expected)):
            np.testing.assert_allclose(y, other, rtol=0, atol=1e-6, err_msg=f"{thing} by protocol {protocol}")
    print(np.__version__, len(kept))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="NumPy 1.26 has no wheels for this Python")
def test_pickles_between_numpy_1_and_2(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "old"], check=True)
    old = tmp_path / "old" / "bin" / "python"
    subprocess.run([old, "-m", "pip", "install", "-q", "--only-binary=:all:", "numpy==1.26.4"], check=True)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "fastrnn").symlink_to(Path(fastrnn.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "FASTRNN_BACKEND": "numpy"}
    for writer, reader, version in ((sys.executable, old, "1.26.4"), (old, sys.executable, np.__version__)):
        path = str(tmp_path / "pickles")
        subprocess.run([writer, "-c", TRAVELLER, "write", path], env=environment, check=True)
        command = [reader, "-W", "error", "-c", TRAVELLER, "read", path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == f"{version} 48\n", done.stderr


# --- frozen ones


@pytest.mark.parametrize("copied", SENT.values(), ids=SENT)
def test_a_frozen_one_gives_the_same_bits_where_it_is_loaded(backend, thing, copied, tmp_path):
    served, x = thing.freeze(), x_for(thing)
    with fastrnn.use_backend("numpy"):
        other = copied(served, tmp_path)
    assert type(other) is type(served) and repr(other) == repr(served) and other.backend == backend
    described = ("input_size", "hidden_size", "bias", "dtype")
    assert [getattr(other, name) for name in described] == [getattr(thing, name) for name in described]
    for array, expected in zip(flat(other(x)), flat(served(x)), strict=True):
        assert_same_bits(array, expected, "a result")
    if not getattr(thing, "bidirectional", True):
        for array, expected in zip(flat(other.step(x[0])), flat(served.step(x[0])), strict=True):
            assert_same_bits(array, expected, "a step")
    with pytest.raises(AttributeError, match="immutable"):
        other.label = 1
    for made in (served, other):
        arrays = [array for layer in made._weights for weights in layer for array in weights if array is not None]
        assert all(array.flags.owndata and not array.flags.writeable for array in arrays)
    again = copied(other, tmp_path)
    assert_same_bits(flat(again(x))[0], flat(served(x))[0], "the copy of a copy")
    assert copy.copy(other) is copy.deepcopy(other) is other


def test_a_frozen_one_is_not_changed_through_what_it_was_frozen_from(backend, thing):
    served, x = thing.freeze(), x_for(thing)
    expected = flat(served(x))[0].copy()
    for array in thing.params.values():
        array[...] = 0
    for frozen in (served, pickle.loads(pickle.dumps(served))):
        assert_same_bits(flat(frozen(x))[0], expected, "y")


def test_a_frozen_one_whose_backend_is_not_there(thing, monkeypatch):
    """What is in force there computes it, with a warning that says why."""
    name = fastrnn.available_backends()[0]
    with fastrnn.use_backend(name):
        data = pickle.dumps(thing.freeze())
    with fastrnn.use_backend("numpy"):
        monkeypatch.delitem(backends._loaded, name)
        monkeypatch.setitem(backends.ENTRIES, name, backends.Entry("no_such_module", needs="no_such_module"))
        with pytest.warns(RuntimeWarning, match=f"frozen .* for another backend; .*{name!r} is not installed"):
            other = pickle.loads(data)
        assert other.backend == "numpy"
        assert_same_bits(flat(other(x_for(thing)))[0], flat(thing.freeze()(x_for(thing)))[0], "y")


def test_what_a_frozen_one_keeps(backend):
    """The plain weights once: the ones it was packed from."""
    layer = fastrnn.LSTM(16, 256, rng=0)
    size = sum(array.nbytes for array in layer.params.values())
    served = layer.freeze()
    kept = [array for weights in served._weights[0] for array in weights if array is not None]
    assert sum(array.nbytes for array in kept) == size and all(array.flags.owndata for array in kept)
    if backend == "numpy":
        assert served._packed[0][1][0].w_ih is served._weights[0][0].w_ih
    assert size < len(pickle.dumps(served)) < size + 1000


def test_frozen_ones_in_dasks_workers():
    """By pickles out of band, to processes."""
    distributed = pytest.importorskip("distributed")
    layer, cell = fastrnn.LSTM(I, 64, 2, rng=0), fastrnn.GRUCell(I, 64, rng=0)
    sent = [layer, layer.freeze(), cell, cell.freeze()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the versions of Dask's own dependencies
        cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
        with cluster, distributed.Client(cluster) as client:
            for thing in sent:
                result = client.submit(thing, x_for(thing), pure=False).result(timeout=60)
                for array, expected in zip(flat(result), flat(thing(x_for(thing))), strict=True):
                    assert_same_bits(array, expected, repr(thing))
            scattered = client.scatter(layer.freeze())
            remote = client.submit(lambda served: served, scattered).result(timeout=60)
    assert_same_bits(remote(x_for(layer))[0], layer(x_for(layer))[0], "y")
