"""Files of weights as other packages write them, for tests of `fastrnn.read`."""

import pickle

import numpy as np


def arrays(seed=0):
    """Arrays of several kinds and shapes, one empty, one a number, one in Fortran's order."""
    rng = np.random.default_rng(seed)
    return {
        "rnn.weight_ih_l0": rng.normal(size=(16, 3)).astype(np.float32),
        "rnn.weight_hh_l0": np.asfortranarray(rng.normal(size=(16, 4))),
        "half": rng.normal(size=5).astype(np.float16),
        "count": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False, True]),
    }


def write_safetensors(path):
    import safetensors.numpy

    safetensors.numpy.save_file({k: v.copy(order="C") for k, v in arrays().items()}, path, {"by": "test"})


def write_npz(path):
    np.savez(path, **arrays())


def write_deflated(path):
    np.savez_compressed(path, **arrays())


def tensors():
    import torch

    found = {name: torch.from_numpy(array) for name, array in arrays().items()}
    return {"model": found, "epoch": 3, "lr": [0.1, None], "name": "ünit"}


def write_torch(path):
    import torch

    torch.save(tensors(), path)


def write_old_torch(path):
    import torch

    torch.save(tensors(), path, _use_new_zipfile_serialization=False)


def write_script(path):
    import torch

    torch.jit.save(torch.jit.script(torch.nn.LSTM(3, 4)), str(path))


def write_pickle(path):
    path.write_bytes(pickle.dumps({"model": arrays(), "epoch": 3}, protocol=4))


def write_onnx(path):

    from onnx import helper, numpy_helper

    held = [numpy_helper.from_array(array.copy(order="C"), name) for name, array in arrays().items()]
    held.append(helper.make_tensor("typed", 1, (2, 2), [1, 2, 3, 4]))
    inner = helper.make_graph([], "inner", [], [], [numpy_helper.from_array(np.arange(3), "below")])
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(np.ones(2), "")),
        helper.make_node("Loop", [], [], name="loop", body=inner),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], held)
    path.write_bytes(helper.make_model(graph).SerializeToString())


def write_h5(path):
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays().items():
            file[name.replace(".", "/")] = array
        file.create_dataset("deflated", data=np.zeros((50, 50)), compression="gzip")
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {"layers": []}}'


def write_keras(path):
    """A .keras archive: what it says of a model, and a layer's weights."""
    import io
    import json
    from zipfile import ZIP_DEFLATED, ZipFile

    import h5py

    config = {"name": "lstm", "units": 4, "use_bias": True, "activation": "relu", "recurrent_activation": "sigmoid"}
    layers = [{"module": "keras.layers", "class_name": "LSTM", "registered_name": None, "config": config}]
    model = {"module": "keras", "class_name": "Sequential", "config": {"name": "model", "layers": layers}}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for k, shape in enumerate(((3, 16), (4, 16), (16,))):
            file[f"layers/lstm/cell/vars/{k}"] = np.ones(shape, np.float32)
    with ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.10.0"}))
        archive.writestr("config.json", json.dumps(model), ZIP_DEFLATED)
        archive.writestr("model.weights.h5", weights.getvalue())


WRITERS = {
    "safetensors": write_safetensors, "npz": write_npz, "deflated": write_deflated, "torch": write_torch,
    "old torch": write_old_torch, "script": write_script, "pickle": write_pickle, "onnx": write_onnx, "h5": write_h5,
    "keras": write_keras,
}  # fmt: skip
SUFFIXES = {"npz": ".npz", "deflated": ".npz", "h5": ".h5", "onnx": ".onnx"}
