"""`fastrnn learn`: the list of tasks, the command's files, and the smallest task."""

import json

import numpy as np
import pytest

import fastrnn
from fastrnn import cli
from fastrnn.learn import TASKS, hello
from fastrnn.learn.options import Options
from fastrnn.train.loop import Run


def test_alone_it_lists_the_tasks(capsys):
    assert cli.main(["learn"]) == 0
    printed = capsys.readouterr().out
    for name, task in TASKS.items():
        assert name in printed and task.shows in printed


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hello(cell, seed):
    result = hello.learn(Options(cell=cell, seed=seed))
    assert result.figures == {"exact": 1.0} and result.cell == cell
    assert result.lines == ["'h' → 'e'", "'he' → 'l'", "'hel' → 'l'", "'hell' → 'o'"]
    assert hello.learn(Options(cell=cell, epochs=1)).figures == {"exact": 0.0}


def test_files(capsys, tmp_path):
    pytest.importorskip("safetensors")
    figures, model = tmp_path / "figures.json", tmp_path / "model"
    assert cli.main(["learn", "hello", "--seed", "3", "--json", str(figures), "--save", str(model)]) == 0
    found = json.loads(figures.read_text())
    assert found.pop("seconds") > 0
    assert found == {"task": "hello", "cell": "rnn", "seed": 3, "figures": {"exact": 1.0}}
    chain = fastrnn.load(model)["model"]
    assert chain(np.eye(4)[:, None]).shape == (4, 1, 4)
    printed = capsys.readouterr().out
    assert "hello, rnn, seed 3:" in printed and f"wrote {model}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        (["hello", "--cell", "cnn"], "invalid choice: 'cnn'"),
        (["hello", "--seed", "-1"], "argument --seed: expected an integer"),
        (["hello", "--seconds", "0"], "argument --seconds: expected a positive number"),
        (["hello", "--data", "/no/such"], "argument --data: expected a file that can be read"),
        (["hello", "--save", "/no/such/file"], "argument --save: expected a file that can be written"),
        (["hello", "--plot", "x.txt"], "argument --plot: expected a name that ends in"),
    ],
)
def test_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["learn", *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_interrupted_it_goes_on_from_its_checkpoint(capsys, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    pytest.importorskip("sklearn")
    whole, left = tmp_path / "whole.json", tmp_path / "left.json"
    command = ["learn", "digits", "--quick", "--epochs", "2", "--checkpoint"]
    assert cli.main([*command, str(tmp_path / "whole"), "--json", str(whole)]) == 0
    step, asked = Run.step, str(tmp_path / "deep" / "left")

    def interrupted(run, key, last):
        if run.history.steps == 20:
            raise KeyboardInterrupt
        step(run, key, last)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", interrupted)
        assert cli.main([*command, asked, "--json", str(left)]) == 130
    assert len(list((tmp_path / "deep" / "left").iterdir())) == 1
    assert cli.main([*command, asked, "--json", str(left)]) == 0
    assert json.loads(left.read_text())["figures"] == json.loads(whole.read_text())["figures"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        cli.main([*command, str(tmp_path / "file")])
    assert "argument --checkpoint: expected a folder, got" in capsys.readouterr().err


def test_a_task_without_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert cli.main(["learn", "hello", "--epochs", "1", "--plot", str(tmp_path / "x.png")]) == 2
    assert "argument --plot: expected a task that has a picture, of sunspots" in capsys.readouterr().err
