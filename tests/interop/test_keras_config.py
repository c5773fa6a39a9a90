"""Layers in Keras' files of whole models compute what the configuration beside the weights says, as Keras does."""

import json
import shutil
import zipfile

import numpy as np
import pytest

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
torch = pytest.importorskip("torch")

import fastrnn  # noqa: E402
import fastrnn.keras  # noqa: E402
from fastrnn.formats import kerasjson  # noqa: E402

L = keras.layers
B, T, I, H = 3, 6, 4, 5
FORMS = (".keras", ".h5")


class Odd(L.LSTM):
    """A layer that Keras does not have."""


def own(v):
    return v


def layers():
    """Layers by name, whose options are not the defaults, with what Keras has of them beside fastrnn's y."""
    all_steps = {"return_sequences": True, "bias_initializer": "uniform"}
    both = {"backward_layer": L.LSTM(H, **all_steps, activation="elu", go_backwards=True, name="other")}
    inner = [L.GRU(H, **all_steps, activation="softsign"), L.GRU(H, **all_steps, recurrent_activation="relu")]
    return [
        L.LSTM(H, **all_steps, activation="relu", recurrent_activation="hard_sigmoid", dropout=0.5, name="functions"),
        L.LSTM(H, **all_steps, name="plain"),
        L.GRU(H, **all_steps, go_backwards=True, reset_after=False, activation=None, name="backwards"),
        L.GRU(H, return_sequences=True, use_bias=False, reset_after=True, name="bare"),
        L.Bidirectional(L.GRU(H, **all_steps, activation="softplus"), merge_mode="sum", name="backward_sum"),
        L.Bidirectional(L.SimpleRNN(H, **all_steps), name="concat"),
        L.Bidirectional(L.LSTM(H, **all_steps, activation="elu"), merge_mode="mul", name="two", **both),
        L.SimpleRNN(H, **all_steps, activation=L.LeakyReLU(negative_slope=0.3), name="leaky"),
        L.SimpleRNN(H, **all_steps, activation="relu", name="forward_relu"),
        L.SimpleRNN(H, **all_steps, activation="tanh", name="backward_tanh"),
        keras.Sequential(inner, name="inner"),
        L.RNN([L.LSTMCell(H, activation="softsign"), L.LSTMCell(H)], return_sequences=True, name="stack"),
        fastrnn.keras.GRU(H, **all_steps, recurrent_activation="tanh", recurrent_dropout=0.25, name="ours"),
        L.GRU(H, **all_steps, activation="gelu", name="gelu"),
        L.LSTM(H, **all_steps, recurrent_activation=own, name="function"),
        Odd(H, **all_steps, name="odd"),
    ]  # fmt: skip


def saved(model, folder):
    """A model, and its files by their form."""
    for form in FORMS:
        model.save(folder / f"model{form}")
    return model, {form: folder / f"model{form}" for form in FORMS}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return saved(keras.Sequential([keras.Input((T, I)), *layers()]), tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def functional(tmp_path_factory):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((T, I))
    for layer in layers():
        x = layer(x)
    return saved(keras.Model(inputs, x), tmp_path_factory.mktemp("functional"))


def recurrent(model):
    """The recurrent layers, those of a model within it, and the cells of a stack, with their kernels."""
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from recurrent(layer)
        elif isinstance(getattr(layer, "cell", None), L.StackedRNNCells):
            yield from ((layer.name, cell) for cell in layer.cell.cells)
        elif layer.weights:
            yield layer.name, layer


def matching(path, layer):
    """The found layer that has a Keras layer's first kernel."""
    arrays, kernel = fastrnn.read(path), keras.ops.convert_to_numpy(layer.weights[0])
    found = fastrnn.find_layers(arrays)
    return next(each for each in found if any(np.array_equal(kernel, arrays[name]) for name in each.names))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["models", "functional"])
def test_layers_compute_what_the_configuration_says(way, form, request):
    model, files = request.getfixturevalue(way)
    theirs = [*recurrent(model)]
    assert len(theirs) == len(fastrnn.find_layers(fastrnn.read(files[form]))) == 18
    for name, layer in theirs:
        ours = matching(files[form], layer)
        assert not any("are not among" in note for note in ours.ambiguous) and not ours.undecided
        if name in ("gelu", "function", "odd"):
            why = {"gelu": "got 'gelu'", "function": "recurrent_activation: .*'own of its own'", "odd": "is a Odd"}
            with pytest.raises(ValueError, match=why[name]):
                ours.layer()
            continue
        x = np.random.default_rng(1).normal(size=(B, T, ours.input_size)).astype(np.float32)
        if isinstance(layer, L.LSTMCell):
            layer = cell_alone(layer, ours.input_size)
        expected = keras.ops.convert_to_numpy(layer(x))
        y = ours.layer(batch_first=True)(x)[0]
        if name == "backwards":
            y = y[:, ::-1]
        if name in ("backward_sum", "two"):
            y = y[..., :H] + y[..., H:] if name == "backward_sum" else y[..., :H] * y[..., H:]
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-6, err_msg=name)


def cell_alone(cell, inputs):
    """A layer of a cell that a stack has."""
    layer = L.RNN(L.LSTMCell.from_config(cell.get_config()), return_sequences=True)
    layer.build((None, None, inputs))
    layer.set_weights(cell.get_weights())
    return layer


@pytest.mark.parametrize("form", FORMS)
def test_what_keras_does_beside_is_said(form, models):
    model, files = models
    notes = {name: matching(files[form], layer).ambiguous for name, layer in recurrent(model)}
    assert "merge_mode='sum'" in notes["backward_sum"][0] and "merge_mode='mul'" in notes["two"][0]
    assert "time's order" in notes["backwards"][0] and "dropout=0.5" in notes["functions"][0]
    assert notes["concat"] == notes["plain"] == notes["forward_relu"] == ()
    ours = matching(files[form], model.get_layer("ours"))
    assert ours.options == {"activations": ["tanh", "tanh"], "reset": "after", "recurrent_dropout": 0.25}
    assert matching(files[form], model.get_layer("plain")).options == {}
    bare = matching(files[form], model.get_layer("bare"))
    assert bare.options == {"reset": "after"}
    with pytest.raises(ValueError, match="^reset: expected 'after'"):
        bare.layer(reset="before")


@pytest.mark.parametrize("form", FORMS)
def test_without_the_configuration_it_is_said_that_it_is_missing(form, models):
    model, files = models
    kernel = keras.ops.convert_to_numpy(model.get_layer("functions").weights[0])
    arrays = dict(fastrnn.read(files[form]))
    found = next(
        one for one in fastrnn.find_layers(arrays) if any(np.array_equal(arrays[n], kernel) for n in one.names)
    )
    assert found.options == {} and "Activations" in found.ambiguous[0]


def rewritten(path, to, change):
    """The file at `to` with what `change` makes of its configuration."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, change(content.decode()) if name == "config.json" else content)
        return to
    shutil.copy(path, to)
    with h5py.File(to, "r+") as file:
        file.attrs["model_config"] = change(file.attrs["model_config"])
    return to


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content, why", [("{", "no JSON"), ("[1]", "no JSON object"), ("[" * 100_000, "no JSON"),
                                          (" " * (kerasjson.LARGEST + 1), "larger than")])  # fmt: skip
def test_what_is_no_configuration_is_refused(content, why, form, models, tmp_path):
    path = rewritten(models[1][form], tmp_path / "file", lambda text: content)
    with pytest.raises(ValueError, match=f"^path: expected a whole Keras file.*{why}"):
        fastrnn.read(path)


def test_an_attribute_of_numbers_is_refused(models, tmp_path):
    path = rewritten(models[1][".h5"], tmp_path / "file", lambda text: np.arange(3))
    with pytest.raises(ValueError, match="'model_config' is no string"):
        fastrnn.read(path)


def edited(name, **changes):
    """Change the arguments of a layer."""

    def change(text):
        model = json.loads(text)
        layer = next(layer for layer in model["config"]["layers"] if layer["config"]["name"] == name)
        layer["config"] |= changes
        return json.dumps(model)

    return change


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "changes, why",
    [
        ({"units": 6}, "units=6, its weights 5"),
        ({"use_bias": False}, "use_bias=False, its weights True"),
        ({"activation": 3}, "^activation: expected one of"),
        ({"activation": {"class_name": "ELU", "config": {"alpha": "x"}}}, "^activation: expected a real number"),
        ({"activation": {"class_name": "ReLU", "config": {}}}, "got 'ReLU of its own'"),
    ],
)
def test_configurations_against_the_weights_are_refused(changes, why, form, models, tmp_path):
    path = rewritten(models[1][form], tmp_path / "file", edited("plain", **changes))
    found = matching(path, models[0].get_layer("plain"))
    with pytest.raises(ValueError, match=why.removeprefix("^")):
        found.layer()
    assert found.refused.startswith(why[1:]) if why.startswith("^") else why in found.refused


def test_hard_sigmoid_is_that_of_the_version_that_wrote_it(tmp_path):
    """Keras 2's is 0.2 v + 0.5, Keras 3's v / 6 + 0.5; a Bidirectional of Keras 2 may not say its second layer."""
    model = keras.Sequential(
        [keras.Input((T, I)), L.Bidirectional(L.LSTM(H, recurrent_activation="hard_sigmoid", name="x"))]
    )
    model.save(tmp_path / "m.h5")
    functions = []
    for version in ("2.15.0", "3.0.0"):
        with h5py.File(tmp_path / "m.h5", "r+") as file:
            file.attrs["keras_version"] = version
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"].pop("backward_layer", None)
            file.attrs["model_config"] = json.dumps(config)
        (found,) = fastrnn.find_layers(fastrnn.read(tmp_path / "m.h5"))
        assert found.bidirectional
        functions.append(found.options["activations"][0])
    assert functions == [("hard_sigmoid", 0.2, 0.5), ("hard_sigmoid", 1 / 6, 0.5)]


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_of_a_model_that_does_not_list_it_is_not_guessed(form, models, tmp_path):
    def change(text):
        model = json.loads(text)
        model["config"] = {"name": "mine"}
        return json.dumps(model)

    found = matching(rewritten(models[1][form], tmp_path / "file", change), models[0].get_layer("functions"))
    assert found.options == {} and "Activations" in found.ambiguous[0]
