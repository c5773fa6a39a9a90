"""Arrays that speak DLPack are read where they are: torch's, jax's and those of an exporter of nothing else."""

import numpy as np
import pytest

import fastrnn
from fastrnn.core import checks

T, B, I, H = 5, 2, 3, 4
X = np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)


class Exporter:
    """An array that has nothing but DLPack."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.device


def same(wrap):
    """Whether a layer gives the same with everything wrapped."""
    layer, lengths = fastrnn.LSTM(I, H, rng=0), np.array([5, 3])
    state = (np.ones((1, B, H), np.float32), np.ones((1, B, H), np.float32))
    expected = layer(X, state, lengths=lengths)[0]
    found = layer(wrap(X), tuple(map(wrap, state)), lengths=wrap(lengths))[0]
    np.testing.assert_array_equal(found, expected)
    _, _, tape = layer.forward(wrap(X))
    np.testing.assert_array_equal(layer.backward(tape, wrap(expected)).x, layer.backward(tape, expected).x)
    other = fastrnn.LSTM(I, H, rng=1)
    other.load_state_dict({name: wrap(array) for name, array in layer.state_dict().items()})
    np.testing.assert_array_equal(other.params["weight_hh_l0"], layer.params["weight_hh_l0"])


def test_an_exporter_of_nothing_else():
    same(Exporter)
    assert np.shares_memory(checks.real("x", Exporter(X)), X)


def test_torch():
    torch = pytest.importorskip("torch")
    same(torch.from_numpy)
    tensor = torch.from_numpy(X.copy())
    assert checks.real("x", tensor).__array_interface__["data"][0] == tensor.data_ptr()
    with pytest.raises(TypeError, match=r"x: expected an array, got Tensor: .*detach\(\)"):
        fastrnn.RNN(I, H)(tensor.requires_grad_())
    with pytest.raises(TypeError, match="x: expected an array, got Tensor: .*BFloat16"):
        fastrnn.RNN(I, H)(torch.zeros(T, B, I, dtype=torch.bfloat16))


def test_jax():
    jnp = pytest.importorskip("jax.numpy")
    given = jnp.asarray(X)
    found = checks.real("x", given)
    assert found.__array_interface__["data"][0] == given.unsafe_buffer_pointer()
    layer = fastrnn.GRU(I, H, rng=0)
    np.testing.assert_array_equal(layer(given)[0], layer(X)[0])
    with pytest.raises(TypeError, match="x: expected real numbers, got dtype bfloat16; convert it with astype"):
        layer(jnp.zeros((T, B, I), jnp.bfloat16))


CELLS = {"lstm_cell": ("h", "c"), "gru_cell": ("h",), "rnn_tanh_cell": ("h",), "rnn_relu_cell": ("h",)}


@pytest.mark.parametrize("name", CELLS)
def test_functional_cells(name):
    rng = np.random.default_rng(2)
    rows = {"lstm_cell": 4, "gru_cell": 3}.get(name, 1) * H
    shapes = [(rows, I), (rows, H), (rows,), (rows,)]
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    parts = tuple(rng.normal(size=(B, H)).astype(np.float32) for _ in CELLS[name])
    wrapped = tuple(map(Exporter, parts))
    state, other = (parts, wrapped) if len(parts) == 2 else (parts[0], wrapped[0])
    compute, forward, backward = (getattr(fastrnn.functional, name + end) for end in ("", "_forward", "_backward"))
    given = [Exporter(X[0]), other, *map(Exporter, weights)]
    np.testing.assert_array_equal(compute(*given), compute(X[0], state, *weights))
    expected, tape = forward(X[0], state, *weights)
    found, other_tape = forward(*given)
    np.testing.assert_array_equal(found, expected)
    ours, theirs = backward(other_tape, *wrapped), backward(tape, *parts)
    for field in ("x", "w_ih", "w_hh", "b_ih", "b_hh"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_out_takes_arrays_of_numpy_alone():
    """What fastrnn writes into has to be writable memory of NumPy's: others may hand out a copy."""
    frozen = fastrnn.GRU(I, H, rng=0).freeze()
    y, state = np.empty((B, H), np.float32), np.empty((1, B, H), np.float32)
    for k, out in enumerate(((Exporter(y), state), (y, Exporter(state)))):
        with pytest.raises(TypeError, match=rf"^out\[{k}\]: expected an array, got Exporter"):
            frozen.step(X[0], out=out)
    frozen.step(Exporter(X[0]), out=(y, state))
    np.testing.assert_array_equal(y, frozen.step(X[0])[0])


def test_what_is_elsewhere_is_named():
    layer = fastrnn.GRU(I, H)
    with pytest.raises(TypeError, match=r"^x: expected an array on the CPU, got Exporter on device \(2, 0\)$"):
        layer(Exporter(X, (2, 0)))
    with pytest.raises(TypeError, match="^state: expected an array on the CPU"):
        layer(X, Exporter(np.zeros((1, B, H), np.float32), (2, 1)))
