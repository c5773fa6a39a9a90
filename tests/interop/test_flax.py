"""fastrnn.flax against the cells of flax.linen and flax.nnx: the same weights, the same numbers, both ways."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

import fastrnn  # noqa: E402
from fastrnn.flax import from_flax, to_flax  # noqa: E402

T, B, I, H = 6, 3, 4, 5
LINEN = ["SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"]
KINDS = {"SimpleCell": "RNN", "LSTMCell": "LSTM", "OptimizedLSTMCell": "LSTM", "GRUCell": "GRU"}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)


def randomised(tree, seed=1):
    """The same tree with other numbers, so that biases are not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), tree)


def linen_params(name, **options):
    cell = getattr(nn, name)(features=H, **options)
    carry = cell.initialize_carry(jax.random.key(0), (B, I))
    return cell, randomised(cell.init(jax.random.key(1), carry, jnp.zeros((B, I)))["params"])


def run_linen(cell, params, x):
    """y (T, B, H) and the final carry as fastrnn's state."""
    carry = cell.initialize_carry(jax.random.key(0), (B, I))
    ys = []
    for step in x:
        carry, y = cell.apply({"params": params}, carry, step)
        ys.append(np.asarray(y))
    return np.stack(ys), carry


def run_nnx(cell, x):
    carry = cell.initialize_carry((B, I), nnx.Rngs(0))
    ys = []
    for step in x:
        carry, y = cell(carry, step)
        ys.append(np.asarray(y))
    return np.stack(ys), carry


def nnx_cell(name, **options):
    cell = getattr(nnx, name)(I, H, rngs=nnx.Rngs(0), **options)
    nnx.update(cell, randomised(nnx.state(cell, nnx.Param)))
    return cell


def close(ours, theirs):
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=2e-5, atol=2e-6)


def same_run(layer, x, y, carry):
    found, state = layer(x)
    close(found, y)
    if isinstance(state, tuple):
        close(state[0][0], carry[1])
        close(state[1][0], carry[0])
    else:
        close(state[0], carry)


@pytest.mark.parametrize("name", LINEN)
def test_linen_cells_in_and_out(name, x):
    cell, params = linen_params(name)
    layer = from_flax(params)
    assert type(layer).__name__ == KINDS[name]
    same_run(layer, x, *run_linen(cell, params, x))
    same_run(from_flax({"params": params}), x, *run_linen(cell, params, x))
    other = getattr(fastrnn, KINDS[name])(I, H, rng=3)
    y, _ = other(x)
    close(y, run_linen(cell, to_flax(other), x)[0])
    assert jax.tree.structure(to_flax(other)) == jax.tree.structure(dict(params))


@pytest.mark.parametrize("name", LINEN)
def test_nnx_cells_in_and_out(name, x):
    cell = nnx_cell(name)
    same_run(from_flax(cell), x, *run_nnx(cell, x))
    same_run(from_flax(nnx.to_pure_dict(nnx.state(cell, nnx.Param))), x, *run_nnx(cell, x))
    other = getattr(fastrnn, KINDS[name])(I, H, rng=3)
    if name == "GRUCell":
        other.params["bias_hh_l0"][2 * H :] = 0
    nnx.update(cell, to_flax(other, form="nnx_optimized" if name == "OptimizedLSTMCell" else "nnx"))
    close(other(x)[0], run_nnx(cell, x)[0])


def test_plain_numpy_mappings_need_nothing_of_flax(x):
    cell, params = linen_params("GRUCell")
    arrays = {name: {leaf: np.array(value) for leaf, value in part.items()} for name, part in params.items()}
    close(from_flax(arrays)(x)[0], run_linen(cell, params, x)[0])


def test_layers_and_directions(x):
    forward, backward = linen_params("LSTMCell"), linen_params("LSTMCell")
    params = randomised(backward[1], seed=2)
    layer = from_flax(forward[1], params)
    y, _ = layer(x)
    close(y[..., :H], run_linen(*forward, x)[0])
    close(y[::-1, :, H:], run_linen(backward[0], params, x[::-1])[0])
    close(to_flax(layer, 0, True)["if"]["kernel"], params["if"]["kernel"])
    second = nn.LSTMCell(features=H)
    carry = second.initialize_carry(jax.random.key(0), (B, H))
    upper = randomised(second.init(jax.random.key(1), carry, jnp.zeros((B, H)))["params"], seed=3)
    y, _ = from_flax([forward[1], upper], batch_first=True)(x.swapaxes(0, 1))
    lower = run_linen(*forward, x)[0]
    for step in lower:
        carry, last = second.apply({"params": upper}, carry, step)
    close(y[:, -1], last)


def test_functions_of_nnx_cells_are_read(x):
    cell = nnx_cell("LSTMCell", gate_fn=jax.nn.hard_sigmoid, activation_fn=nnx.relu)
    close(from_flax(cell)(x)[0], run_nnx(cell, x)[0])
    cell, params = linen_params("GRUCell", gate_fn=jax.nn.hard_sigmoid, activation_fn=nn.soft_sign)
    layer = from_flax(params, activations=[("hard_sigmoid", 1 / 6, 0.5), "softsign"])
    close(layer(x)[0], run_linen(cell, params, x)[0])


def test_what_fastrnn_has_not_is_named():
    with pytest.raises(ValueError, match="gate_fn.*swish|gate_fn.*silu"):
        from_flax(nnx_cell("GRUCell", gate_fn=nnx.swish))
    with pytest.raises(ValueError, match="residual"):
        from_flax(nnx_cell("SimpleCell", residual=True))
    with pytest.raises(ValueError, match="MGUCell"):
        from_flax(linen_params("MGUCell")[1])
    with pytest.raises(ValueError, match="expected the parts of a SimpleCell"):
        from_flax({"kernel": np.zeros((2, 2))})
    with pytest.raises(TypeError, match="cells: expected a mapping"):
        from_flax(3)
    with pytest.raises(ValueError, match="bias_hh of zeros for n"):
        to_flax(fastrnn.GRU(I, H, rng=0), form="nnx")
    with pytest.raises(ValueError, match="peephole: expected a layer without it for Flax"):
        to_flax(fastrnn.LSTM(I, H, peephole=True))
    with pytest.raises(ValueError, match="nonlinearity"):
        to_flax(fastrnn.RNN(I, H, nonlinearity="relu"))
    with pytest.raises(ValueError, match="LeakyRNN"):
        to_flax(fastrnn.LeakyRNN(I, H))
    _, params = linen_params("LSTMCell")
    with pytest.raises(ValueError, match=r"params\['hf'\]\['kernel'\]: expected shape \(5, 5\)"):
        from_flax({**params, "hf": {"kernel": np.zeros((H + 1, H)), "bias": np.zeros(H)}})
    with pytest.raises(ValueError, match="got GRU and LSTM"):
        from_flax([params, linen_params("GRUCell")[1]])


def test_layers_without_biases(x):
    cell, _ = linen_params("LSTMCell")
    layer = fastrnn.LSTM(I, H, bias=False, rng=0)
    close(layer(x)[0], run_linen(cell, to_flax(layer), x)[0])
