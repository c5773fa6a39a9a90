"""Real numbers in a form that is not taken: masked arrays, small floats, tables. The message says what to do."""

import numpy as np
import pytest
from cases import assert_same_bits, parts_of

import fastrnn

T, B, I, H = 5, 3, 4, 6
LAYERS = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}
CELLS = {"rnn": fastrnn.RNNCell, "lstm": fastrnn.LSTMCell, "gru": fastrnn.GRUCell}


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def masked(array):
    mask = np.zeros(array.shape, bool)
    mask.flat[-1] = True
    return np.ma.masked_array(array, mask)


def unmasked(array):
    return np.ma.masked_array(array, np.zeros(array.shape, bool))


def bare_mask(array):
    return np.ma.masked_array(array)


def pair(kind, first, second):
    return (first, second) if kind == "lstm" else second


def uses(kind, form):
    """Every place an array is taken, by the name that a message gives it: a function that gives one there."""
    layer, cell = LAYERS[kind](I, H, rng=0), CELLS[kind](I, H, rng=0)
    served, frozen_cell = layer.freeze(), cell.freeze()
    x, x_t, h, h_t = ones(T, B, I), ones(B, I), ones(1, B, H), ones(B, H)
    y, after, tape = layer.forward(x)
    cell_tape = cell.forward(x_t)[1]
    state = "state[1]" if kind == "lstm" else "state"
    cases = [("x", lambda f=f: f(form(x))) for f in (layer, layer.forward, served)]
    cases += [("x", lambda f=f: f(form(x_t))) for f in (cell, cell.forward, frozen_cell)]
    cases += [("x_t", lambda: served.step(form(x_t)))]
    cases += [(state, lambda f=f: f(x, pair(kind, h, form(h)))) for f in (layer, layer.forward, served)]
    cases += [(state, lambda f=f: f(x_t, pair(kind, h_t, form(h_t)))) for f in (cell, cell.forward, frozen_cell)]
    cases += [(state, lambda: served.step(x_t, pair(kind, h, form(h))))]
    cases += [("lengths", lambda f=f: f(x, lengths=form(np.full(B, T)))) for f in (layer, layer.forward, served)]
    cases += [("dy", lambda: layer.backward(tape, form(y.copy())))]
    cases += [("d" + state, lambda: layer.backward(tape, None, pair(kind, h, form(h))))]
    cases += [
        ("dc" if kind == "lstm" else "dh", lambda: cell.backward(cell_tape, *parts_of(pair(kind, h_t, form(h_t)))))
    ]
    for owner, name in ((layer, "weight_hh_l0"), (cell, "bias_hh")):
        values = owner.state_dict()
        cases += [(f"state_dict['{name}']", lambda o=owner, v=values, n=name: o.load_state_dict({**v, n: form(v[n])}))]
        cases += [(f"params['{name}']", lambda o=owner, v=values, n=name: o.params.__setitem__(n, form(v[n])))]
    sums = layer.backward(tape, y).params
    cases += [
        (
            "accumulate['bias_hh_l0']",
            lambda: layer.backward(tape, y, accumulate={**sums, "bias_hh_l0": form(sums["bias_hh_l0"])}),
        )
    ]
    cases += [("out[0]", lambda: served.step(x_t, out=(form(h_t.copy()), pair(kind, h.copy(), h.copy()))))]
    name = "out[1][1]" if kind == "lstm" else "out[1]"
    cases += [(name, lambda: served.step(x_t, out=(h_t.copy(), pair(kind, h.copy(), form(h.copy())))))]
    weights = dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), cell.params.values(), strict=True))
    prefix = "rnn_tanh" if kind == "rnn" else kind
    for function in (getattr(fastrnn, f"{prefix}_cell"), getattr(fastrnn, f"{prefix}_cell_forward")):
        cases += [("x", lambda f=function: f(form(x_t), None, **weights))]
        cases += [(n, lambda f=function, n=n: f(x_t, None, **{**weights, n: form(weights[n])})) for n in weights]
    return cases


def test_a_masked_array_is_refused_everywhere(backend, kind):
    """Its mask would be dropped without a word, and what lies under it be data."""
    for name, call in uses(kind, masked):
        with pytest.raises(TypeError) as caught:
            call()
        what = f"{name}: expected an array without a mask, got one that masks elements; "
        assert str(caught.value).startswith(what), (name, str(caught.value))
        advice = (
            "say with lengths where rows end, or fill it" if name == "x" else "give its data" if "out" in name else ""
        )
        assert advice in str(caught.value)


@pytest.mark.parametrize("form", [unmasked, bare_mask])
def test_a_masked_array_that_masks_nothing_is_taken(backend, kind, form):
    """For every kind of argument: NumPy's readers give such arrays for complete data."""
    for name, call in uses(kind, form):
        try:
            call()
        except TypeError as error:
            pytest.fail(f"{name}: {error}")


def test_the_values_of_one_that_masks_nothing(backend):
    layer, x = fastrnn.GRU(I, H, rng=0), np.random.default_rng(1).standard_normal((T, B, I), np.float32)
    assert_same_bits(layer(unmasked(x))[0], layer(x)[0], "y")


@pytest.mark.parametrize(
    "x",
    [
        [masked(ones(B, I)), ones(B, I)],
        (ones(B, I), masked(ones(B, I))),
        [[masked(ones(I))] * B, [ones(I)] * B],
        [[[1.0, 1.0, 1.0, np.ma.masked]]],
    ],
)
@pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan")
def test_lists_of_masked_arrays(backend, x):
    with pytest.raises(TypeError, match="x: expected an array without a mask"):
        fastrnn.GRU(I, H, rng=0)(x)
    layer = fastrnn.GRU(I, H, rng=0)
    assert_same_bits(layer([unmasked(ones(B, I))] * T)[0], layer(ones(T, B, I))[0], "y")


# --- other forms


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
def test_floats_that_are_not_numpys(backend, name):
    dtype = getattr(pytest.importorskip("ml_dtypes"), name)
    for refused in (fastrnn.GRU(I, H), fastrnn.GRU(I, H).freeze()):
        with pytest.raises(TypeError, match=rf"x: expected real numbers, got dtype {name}; .* astype\(np.float32\)"):
            refused(ones(T, B, I).astype(dtype))


def test_arrays_of_objects():
    with pytest.raises(TypeError, match=r"got dtype object; convert it with astype\(np.float32\)"):
        fastrnn.GRU(I, H)(ones(T, B, I).astype(object))
    with pytest.raises(TypeError, match="x: expected real numbers, got dtype object$"):
        fastrnn.GRU(I, H)(None)


def test_tables(backend):
    pandas = pytest.importorskip("pandas")
    layer = fastrnn.GRU(2, H, rng=0)
    mixed = pandas.DataFrame({"a": [1.0, 2.0], "b": ["1", "2"]})
    missing = pandas.DataFrame({"a": [1, 2], "b": pandas.array([1, None], "Int64")})
    for table in (mixed, missing):
        with pytest.raises(TypeError, match=r"x: .* got dtype object; convert it with to_numpy\(dtype=np.float32\)"):
            layer(table)
    numbers = pandas.DataFrame({"a": [1, 2], "b": [0.5, 0.25]})
    assert_same_bits(layer(numbers)[0], layer(np.array([[1, 0.5], [2, 0.25]], np.float32))[0], "y")
    assert_same_bits(layer(mixed.to_numpy(dtype=np.float32))[0], layer(np.float32([[1, 1], [2, 2]]))[0], "y")
