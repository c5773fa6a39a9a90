"""Saved parts come back as they were; what is no such file is refused, and a failed save leaves the old one."""

import errno
import os
import stat

import numpy as np
import pytest

import fastrnn
from fastrnn import files
from fastrnn.train import AttentionPooling, Chain, Dropout, Embedding, LastStep, Linear, Model

pytest.importorskip("safetensors")

PARTS = {
    "lstm": fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True, bias=False, dtype=np.float64, rng=0),
    "rnn": fastrnn.RNN(3, 4, nonlinearity="relu", batch_first=True, rng=1),
    "alternating": fastrnn.GRU(3, 4, num_layers=2, direction=("reverse", "forward"), rng=9),
    "cell": fastrnn.GRUCell(3, 4, rng=2),
    "chain": Chain(Embedding(5, 3, rng=3), fastrnn.GRU(3, 4, rng=4), Dropout(0.2), LastStep(), Linear(4, 2, rng=5)),
    "model": Model(
        encoder=Chain(emb=Embedding(5, 3, rng=6), rnn=fastrnn.LSTM(3, 4, bidirectional=True, rng=7)),
        pooling=AttentionPooling(8, rng=8),
    ),
}


def assert_same(loaded, parts):
    assert list(loaded) == list(parts)
    for name, part in parts.items():
        assert type(loaded[name]) is type(part) and loaded[name].config == part.config
        assert list(loaded[name].params) == list(part.params)
        for key, array in part.params.items():
            assert loaded[name].params[key].dtype == array.dtype
            np.testing.assert_array_equal(loaded[name].params[key], array)


def test_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    fastrnn.save(path, **PARTS)
    assert_same(fastrnn.load(path), PARTS)
    assert_same(fastrnn.load(str(path)), PARTS)
    x = np.arange(5)[:, None]
    np.testing.assert_array_equal(fastrnn.load(path)["chain"](x), PARTS["chain"](x))


def test_others_can_read_the_arrays(tmp_path):
    import safetensors.numpy

    fastrnn.save(tmp_path / "f", rnn=PARTS["rnn"])
    arrays = safetensors.numpy.load_file(tmp_path / "f")
    np.testing.assert_array_equal(arrays["rnn.weight_hh_l0"], PARTS["rnn"].params["weight_hh_l0"])


def test_permissions_are_those_of_a_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        fastrnn.save(tmp_path / "f", rnn=PARTS["rnn"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "f"
    fastrnn.save(path, rnn=PARTS["rnn"])
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        fastrnn.save(path, rnn=fastrnn.RNN(3, 4, rng=9))
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["f"]


def test_what_is_no_such_file(tmp_path):
    import safetensors.numpy

    path = tmp_path / "f"
    with pytest.raises(FileNotFoundError):
        fastrnn.load(path)
    fastrnn.save(path, **PARTS)
    whole = path.read_bytes()
    for content in (b"", b"\0" * 8, whole[:7], whole[:100], whole[:-1], b"\xff" * 100, os.urandom(64)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: expected a safetensors file, got"):
            fastrnn.load(path)
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    with pytest.raises(ValueError, match="path: expected a file of fastrnn.save, got another safetensors file"):
        fastrnn.load(path)


@pytest.mark.parametrize(
    ("parts", "arrays", "message"),
    [
        ({"a": ["Popen", {}]}, {}, "expected a kind among .* got 'Popen'"),
        ({"a": ["LSTM", {"input_size": 3}]}, {}, "hidden_size"),
        ({"a": ["LSTM", {"input_size": 3, "hidden_size": -1}]}, {}, "hidden_size"),
        ({"a": ["LSTM", {"input_size": 3, "hidden_size": 2, "rm": 1}]}, {}, "rm"),
        ({"a": ["GRU", {"input_size": 3, "hidden_size": 2}]}, {"a.weight_ih_l0": (6, 3)}, "weight_hh_l0 is missing"),
        ({"a": 3}, {}, "int"),
        ([1], {}, "whole file"),
    ],
)
def test_a_file_whose_configuration_is_wrong(tmp_path, parts, arrays, message):
    path = tmp_path / "f"
    given = {name: np.zeros(shape, np.float32) for name, shape in arrays.items()} or {"x": np.zeros(1)}
    files.write(path, given, {"kind": files.PARTS, "version": "0", "parts": parts})
    with pytest.raises(ValueError, match=message):
        fastrnn.load(path)


def test_a_configuration_cannot_ask_for_all_memory(tmp_path):
    path = tmp_path / "f"
    parts = {"a": ["LSTM", {"input_size": 1000000000, "hidden_size": 1000000000}]}
    files.write(path, {"x": np.zeros(1)}, {"kind": files.PARTS, "version": "0", "parts": parts})
    with pytest.raises((ValueError, MemoryError)):
        fastrnn.load(path)


@pytest.mark.parametrize("part", [3, "LSTM", np.ones(3), PARTS["rnn"].freeze(), object()])
def test_what_cannot_be_saved(tmp_path, part):
    with pytest.raises(TypeError, match="a: expected a layer, cell, part or model of fastrnn"):
        fastrnn.save(tmp_path / "f", a=part)
    with pytest.raises(TypeError, match="parts: expected at least one"):
        fastrnn.save(tmp_path / "f")
    assert not os.listdir(tmp_path)
