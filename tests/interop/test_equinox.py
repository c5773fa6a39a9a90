"""fastrnn.equinox against the cells of equinox.nn: the same weights, the same numbers, both ways."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")

import fastrnn  # noqa: E402
from fastrnn.equinox import from_equinox, to_equinox  # noqa: E402

T, B, I, H = 6, 3, 4, 5
CELLS = ["LSTMCell", "GRUCell"]


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)


def made(name, inputs=I, seed=0, **options):
    return getattr(eqx.nn, name)(inputs, H, key=jax.random.key(seed), **options)


def run(cell, x):
    """y (T, B, H) and the final state."""
    zeros = jax.numpy.zeros((B, H))
    state = (zeros, zeros) if isinstance(cell, eqx.nn.LSTMCell) else zeros
    ys = []
    for step in x:
        state = jax.vmap(cell)(step, state)
        ys.append(np.asarray(state[0] if isinstance(state, tuple) else state))
    return np.stack(ys), state


def close(ours, theirs):
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_cells_in_and_out(name, bias, x):
    cell = made(name, use_bias=bias)
    layer = from_equinox(cell)
    y, expected = run(cell, x)
    found, state = layer(x)
    close(found, y)
    for ours, theirs in zip(state if name == "LSTMCell" else [state], expected if name == "LSTMCell" else [expected]):
        close(ours[0], theirs)
    other = getattr(fastrnn, name[:-4])(I, H, bias=bias, rng=3)
    built = to_equinox(other, cell)
    close(other(x)[0], run(built, x)[0])
    close(from_equinox(cell)(x)[0], y)  # the template is as it was


def test_layers_and_directions(x):
    cells = [made("GRUCell"), made("GRUCell", 2 * H, seed=1)]
    reverse = [made("GRUCell", seed=2), made("GRUCell", 2 * H, seed=3)]
    layer = from_equinox(cells, reverse)
    lower = np.concatenate([run(cells[0], x)[0], run(reverse[0], x[::-1])[0][::-1]], -1)
    upper = np.concatenate([run(cells[1], lower)[0], run(reverse[1], lower[::-1])[0][::-1]], -1)
    close(layer(x)[0], upper)
    back = to_equinox(layer, cells[1], 1, reverse=True)
    close(back.weight_ih, reverse[1].weight_ih)
    close(run(back, lower)[0], run(reverse[1], lower)[0])


def test_a_layer_without_biases_for_a_cell_with_them(x):
    layer = fastrnn.GRU(I, H, bias=False, rng=0)
    close(layer(x)[0], run(to_equinox(layer, made("GRUCell")), x)[0])


def test_what_cannot_be_is_named():
    lstm = fastrnn.LSTM(I, H)
    for layer, template, error, message in (
        (lstm, made("GRUCell"), ValueError, "template: expected a cell for LSTM"),
        (lstm, made("LSTMCell", use_bias=False), ValueError, "use_bias=True"),
        (lstm, made("LSTMCell", I + 1), ValueError, r"weight_ih, for the template: expected shape \(20, 5\)"),
        (fastrnn.RNN(I, H), made("LSTMCell"), ValueError, "no cell of an RNN"),
        (fastrnn.LSTM(I, H, coupled=True), made("LSTMCell"), ValueError, "coupled: expected a layer without it"),
        (3, made("LSTMCell"), TypeError, "layer: expected a fastrnn.RNN"),
    ):
        with pytest.raises(error, match=message):
            to_equinox(layer, template)
    with pytest.raises(ValueError, match="index"):
        to_equinox(lstm, made("LSTMCell"), 1)
    with pytest.raises(ValueError, match="reverse"):
        to_equinox(lstm, made("LSTMCell"), reverse=True)
    with pytest.raises(TypeError, match="cells: expected an equinox.nn"):
        from_equinox(eqx.nn.Linear(2, 3, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="got GRU and LSTM"):
        from_equinox([made("LSTMCell"), made("GRUCell", H)])
