"""`fastrnn inspect`: what it prints and writes of a file, with rich and without; and what it refuses."""

import json
import sys

import numpy as np
import pytest

from fastrnn.cli import main


def weights(kind="LSTM", prefix="", I=4, H=5):
    rows = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind] * H
    shapes = {"weight_ih_l0": (rows, I), "weight_hh_l0": (rows, H), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    return {prefix + name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **weights("LSTM", "enc.rnn."), **weights("RNN", "dec."), head=np.zeros((3, 2)))
    return path


@pytest.mark.parametrize("rich", [True, False])
def test_the_table(rich, file, capsys, monkeypatch):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setattr("fastrnn.weights.command.find_spec", lambda name: None)
    assert main(["inspect", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: npz, 9 arrays"
    assert lines[1].split() == ["name", "kind", "input", "hidden", "layers", "ways", "as", "in", "numbers", "notes"]
    assert lines[2].split() == ["enc.rnn", "LSTM", "4", "5", "1", "1", "torch", "220"]
    assert lines[3].split() == ["dec", "RNN", "4", "5", "1", "1", "torch", "55", "[1]"]
    assert lines[4].startswith("[1] ") and "nonlinearity" in lines[4]
    assert lines[5] == "1 other array of 6 numbers"


def test_tensors_and_json(file, tmp_path, capsys):
    assert main(["inspect", str(file), "--tensors", "--json", str(tmp_path / "o.json")]) == 0
    out = capsys.readouterr().out
    assert ["head", "float64", "(3,", "2)"] in [line.split() for line in out.splitlines()]
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["format"] == "npz" and document["arrays"]["head"] == {"dtype": "float64", "shape": [3, 2]}
    lstm, rnn = document["layers"]
    assert (lstm["kind"], lstm["name"], lstm["input_size"], lstm["hidden_size"], lstm["parameters"]) == (
        "LSTM", "enc.rnn", 4, 5, 220,
    )  # fmt: skip
    assert rnn["undecided"] == ["nonlinearity"] and lstm["undecided"] == []


def test_names_are_whole_where_no_terminal_reads(tmp_path, capsys):
    prefix = "model." + "encoder." * 20
    np.savez(tmp_path / "w.npz", **weights(prefix=prefix))
    assert main(["inspect", str(tmp_path / "w.npz")]) == 0
    assert prefix.rstrip(".") in capsys.readouterr().out


def test_a_file_without_layers_and_with_others_names(tmp_path, capsys):
    np.savez(tmp_path / "w.npz", **{"red\x1b[31m": np.zeros(2)})
    assert main(["inspect", str(tmp_path / "w.npz"), "--tensors"]) == 0
    out = capsys.readouterr().out
    assert "no recurrent layer; 1 other array of 2 numbers" in out
    assert "\x1b" not in out and r"red\x1b[31m" in out


def test_refused_layers_are_told(tmp_path, capsys):
    np.savez(tmp_path / "w.npz", **{name: array.astype(np.int8) for name, array in weights().items()})
    assert main(["inspect", str(tmp_path / "w.npz")]) == 0
    assert "[1] No layer can be made of it: 'weight_ih_l0' holds int8" in capsys.readouterr().out


@pytest.mark.parametrize("content, expected", [(b"junk", "none of these"), (None, "No such file"), (b"", "empty")])
def test_a_bad_file_is_one_line_and_2(content, expected, tmp_path, capsys):
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    assert main(["inspect", str(tmp_path / "f")]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("fastrnn inspect: error: argument FILE: ") and expected in err
    assert err.count("\n") == 1


def test_no_framework_is_imported(file):
    import subprocess

    code = f"import sys; from fastrnn.cli import main; main(['inspect', {str(file)!r}]); "
    code += "print({'torch', 'onnx', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
