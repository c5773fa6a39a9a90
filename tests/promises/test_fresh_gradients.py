"""New gradients begin from memory as it comes: whatever is in it, nothing of it is left in a result."""

import numpy as np
import pytest
from cases import assert_same_bits
from kinds import KINDS, B, H, I, T, make, make_cell, normal, pair, parts

import fastrnn
from fastrnn import backends

LENGTHS = {"whole": None, "some empty": [5, 0, 2], "all empty": [0, 0, 0]}


def gradients(grads):
    by_param = grads.params if hasattr(grads, "params") else grads._asdict()
    return {"x": grads.x, **{f"state {k}": part for k, part in enumerate(parts(grads.state))}, **by_param}


def check(monkeypatch, run):
    """The same bits whether new memory is as it comes or full of NaN; returns the gradients."""
    expected, empty = run(), np.empty

    def full_of_nan(*args, **options):
        array = empty(*args, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", full_of_nan)
        if "native" in backends.available():  # it has NumPy's function since it was loaded
            native, dtypes = backends.load("native"), (np.dtype(np.float32), np.dtype(np.float64))
            patch.setattr(native, "cell_step", type(native.cell_step)(np.ndarray, full_of_nan, dtypes))
        found = run()
    for name, right in gradients(expected).items():
        if isinstance(right, np.ndarray):
            assert_same_bits(gradients(found)[name], right, name)
    return gradients(expected)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_layer(everywhere, monkeypatch, kind, options, lengths):
    layer = make(kind, **options)
    x, dy = normal(T, B, I), normal(T, B, layer._spec.output_size)
    found = check(monkeypatch, lambda: layer.backward(layer.forward(x, lengths=lengths)[2], dy))
    if lengths == LENGTHS["all empty"]:
        assert not any(found[name].any() for name in layer.params)


@pytest.mark.parametrize("sizes", [(0, B), (T, 0)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_call_without_steps_or_rows(everywhere, monkeypatch, kind, sizes):
    layer = make(kind)
    found = check(monkeypatch, lambda: layer.backward(layer.forward(np.zeros((*sizes, I)))[2], np.zeros((*sizes, H))))
    assert not any(found[name].any() for name in layer.params)


OPTIONS = {
    "peephole": (fastrnn.LSTM, {"peephole": True}),
    "projection": (fastrnn.LSTM, {"proj_size": 3}),
    "LSTM, layer_norm": (fastrnn.LSTM, {"layer_norm": True}),
    "GRU, layer_norm": (fastrnn.GRU, {"layer_norm": True}),
    "reset before": (fastrnn.GRU, {"reset": "before"}),
    "leaky": (fastrnn.LeakyRNN, {"alpha": np.full(H, 0.3), "train_alpha": True}),
    "MinGRU": (fastrnn.MinGRU, {}),
    "IndRNN": (fastrnn.IndRNN, {}),
}


@pytest.mark.parametrize("rows", [B, 150], ids="{} rows".format)  # of five steps: one block of terms, and several
@pytest.mark.parametrize("make_layer, options", OPTIONS.values(), ids=OPTIONS)
def test_of_options(everywhere, monkeypatch, make_layer, options, rows):
    layer = make_layer(I, H, dtype="float64", rng=1, **options)
    x, dy = normal(T, rows, I), normal(T, rows, layer._spec.output_size)
    check(monkeypatch, lambda: layer.backward(layer.forward(x)[-1], dy))


def test_with_checkpoints(everywhere, monkeypatch):
    layer = make("lstm")
    x, dy = normal(40, B, I), normal(40, B, H)
    check(monkeypatch, lambda: layer.backward(layer.forward(x, checkpoint=7)[2], dy))


@pytest.mark.parametrize("closer", [False, True], ids=["plain", "converted"])
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_step(everywhere, monkeypatch, kind, closer):
    cell, x, dh = make_cell(kind), normal(B, I), normal(B, H)
    state = pair(kind, lambda seed: normal(B, H, seed=seed))
    given = x.tolist() if closer else x
    check(monkeypatch, lambda: cell.backward(cell.forward(given, state)[1], dh))
    forward, backward = (getattr(fastrnn, f"{kind}_cell_{way}") for way in ("forward", "backward"))
    check(monkeypatch, lambda: backward(forward(given, state, *cell.params.values())[1], dh))
