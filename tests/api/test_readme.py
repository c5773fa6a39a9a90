"""The README's code: it runs as written, and does what its comments say."""

import re

import numpy as np
import pytest
from paths import ROOT, python_blocks

import fastrnn

README = ROOT / "README.md"
if not README.exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)
CODE = python_blocks(README)
LOOP = "for step in range(100):\n"


@pytest.fixture(scope="module")
def names():
    """What is defined after all of the README's code, losses recorded step by step."""
    defined = {"losses": []}
    for block in CODE:
        exec(block.replace("    grads = lstm.backward", "    losses.append(loss)\n    grads = lstm.backward"), defined)
    return defined


def test_there_is_code_and_a_training_loop():
    assert sum(LOOP in block for block in CODE) == 1


def test_the_shapes_in_its_comments(names):
    assert names["x"].shape == (50, 16, 8)
    assert names["y"].shape == (50, 16, 32)
    assert names["h"].shape == names["c"].shape == (1, 16, 32)


def test_training_lowers_the_loss(names):
    assert len(names["losses"]) == 100
    assert names["losses"][-1] < 0.5 * names["losses"][0]


def test_the_gradient_is_that_of_the_loss_named():
    """In float64, against central differences of the README's own expression, for one step of its loop."""
    (block,) = (block for block in CODE if LOOP in block)
    setup, rest = block.replace("hidden_size=32,", "hidden_size=32, dtype=np.float64,").split(LOOP)
    step = rest.partition("    for name, array")[0]
    defined = {}
    exec(setup + "target += 1\nfor step in range(1):\n" + step, defined)
    lstm, grads = defined["lstm"], defined["grads"]

    def loss():
        exec("y, (h, c) = lstm(x)\n" + re.search(r"loss = .*", step)[0], defined)
        return defined["loss"]

    eps = 1e-6
    for name, place in (("weight_ih_l0", (3, 2)), ("weight_hh_l0", (70, 31)), ("bias_ih_l0", (40,))):
        parameter = lstm.params[name]
        before = parameter[place]
        parameter[place] = before + eps
        above = loss()
        parameter[place] = before - eps
        below = loss()
        parameter[place] = before
        np.testing.assert_allclose(grads.params[name][place], (above - below) / (2 * eps), rtol=1e-6)


def test_the_steps_that_are_served_are_the_layer(names):
    y, state = names["lstm"](names["x"][:2])
    np.testing.assert_array_equal(names["y_t"], y[1])
    for part, expected in zip(names["state"], state):
        np.testing.assert_array_equal(part, expected)


def test_every_name_it_uses_of_the_package_is_public():
    used = {word for block in CODE for word in re.findall(r"fastrnn\.(\w+)", block)}
    assert used <= set(fastrnn.__all__)
