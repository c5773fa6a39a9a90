"""`fastrnn.read` against what wrote the files: values, names, what is mapped, and what is refused by name."""

import collections
import io
import json
import mmap
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from weight_files import SUFFIXES, WRITERS, arrays

import fastrnn

WHOLE = {kind: writer for kind, writer in WRITERS.items() if kind not in ("script", "keras")}
PREFIX = dict.fromkeys(("torch", "old torch", "pickle"), "model.")
PACKAGES = {"safetensors": "safetensors", "onnx": "onnx", "h5": "h5py", "torch": "torch", "old torch": "torch"}


def refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        fastrnn.read(path)
    assert str(caught.value).startswith("path: ")


@pytest.mark.parametrize("kind", WHOLE)
def test_every_format_gives_what_was_written(kind, tmp_path):
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind])
    path = tmp_path / f"file{SUFFIXES.get(kind, '')}"
    WRITERS[kind](path)
    path = path.rename(tmp_path / "no_suffix")  # the content says what it is
    found = fastrnn.read(str(path))
    for name, array in arrays().items():
        name = name.replace(".", "/") if kind == "h5" else PREFIX.get(kind, "") + name
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
        assert found.shapes[name] == array.shape
        assert found.dtypes[name] == str(array.dtype)
        assert not found[name].flags.writeable
    if kind in PREFIX:
        assert "epoch" in found.left_out
    assert f"{len(found)} arrays" in repr(found)


def mapped(array):
    """Whether an array lies in a mapped file."""
    while hasattr(array, "base"):  # NumPy's as_strided puts an object of its own between
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "torch", "old torch"])
def test_arrays_are_mapped(kind, tmp_path):
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind])
    path = tmp_path / f"file{SUFFIXES.get(kind, '')}"
    WRITERS[kind](path)
    found = fastrnn.read(path)
    assert all(mapped(found[name]) for name in found if found[name].size)


# --- torch


def torch_dtypes(torch):
    names = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 complex64 complex128 bool"
    )
    names += " float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
    return {name: getattr(torch, name) for name in names.split()}


def as_numpy(tensor):
    narrow = "bfloat16" in str(tensor.dtype) or "float8" in str(tensor.dtype)
    return (tensor.float() if narrow else tensor).numpy()


@pytest.mark.parametrize("writer", ["torch", "safetensors"])
def test_every_dtype(writer, tmp_path):
    torch = pytest.importorskip("torch")
    everything = torch.arange(256, dtype=torch.uint8).repeat_interleave(16)
    tensors = {
        name: everything.clone().view(dtype) for name, dtype in torch_dtypes(torch).items() if dtype != torch.bool
    }
    tensors["bool"] = torch.tensor([True, False])
    path = tmp_path / "file"
    if writer == "torch":
        torch.save(tensors, path)
    else:
        from safetensors.torch import save_file

        tensors = {name: t for name, t in tensors.items() if name not in ("complex128",)}
        save_file(tensors, path)
    found = fastrnn.read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = as_numpy(tensor)
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert found.dtypes[name] == name


@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_a_storage(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "part": base[1:3, ::2], "transposed": base.T, "whole": base, "repeated": torch.ones(1).expand(3, 2),
        "parameter": torch.nn.Parameter(base), "number": torch.tensor(5), "none": torch.zeros(2, 0),
        "two": [base, (base,)], 3: {"deep": {"er": base}}, "same": base[2],
    }  # fmt: skip
    torch.save(tensors, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    found = fastrnn.read(tmp_path / "file")
    for name in ("part", "transposed", "whole", "repeated", "number", "none", "same"):
        np.testing.assert_array_equal(found[name], tensors[name].numpy())
    for name in ("parameter", "two.0", "two.1.0", "3.deep.er"):
        np.testing.assert_array_equal(found[name], base.numpy())
    assert np.shares_memory(found["part"], found["whole"])


def test_a_state_dict_with_metadata_and_attributes(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LSTM(3, 4, bidirectional=True))
    module[0].weight.note = "kept by torch.save"
    torch.save({"state_dict": module.state_dict(), "parameters": dict(module.named_parameters())}, tmp_path / "file")
    found = fastrnn.read(tmp_path / "file")
    for name, tensor in module.state_dict().items():
        for part in ("state_dict", "parameters"):
            np.testing.assert_array_equal(found[f"{part}.{name}"], tensor.numpy())


def test_a_script(tmp_path):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(3, 4, num_layers=2)
            self.register_buffer("shift", torch.arange(3.0))

        def forward(self, x):
            return self.rnn(x + self.shift)[0]

    model = Model()
    for script in (torch.jit.script(model), torch.jit.trace(model, torch.zeros(5, 1, 3))):
        path = tmp_path / f"{type(script).__name__}.pt"
        torch.jit.save(script, str(path))
        found = fastrnn.read(path)
        assert found.format == "TorchScript"
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(found[name], tensor.numpy())


def test_the_other_byte_order(tmp_path):
    torch = pytest.importorskip("torch")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    torch.save({"a": torch.from_numpy(values), "b": torch.arange(3).bfloat16()}, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as little, zipfile.ZipFile(tmp_path / "big.pt", "w") as big:
        for name in little.namelist():
            content = little.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "u4" if len(content) == 24 else "u2").byteswap().tobytes()
            big.writestr(name, content)
    found = fastrnn.read(tmp_path / "big.pt")
    np.testing.assert_array_equal(found["a"], values)
    np.testing.assert_array_equal(found["b"], [0, 1, 2])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused_by_name(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.LSTM(2, 3), tmp_path / "file", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"^path: .*(torch\.nn\.modules\.rnn\.LSTM|module).*state_dict"):
        fastrnn.read(tmp_path / "file")


def test_quantised_tensors_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "w": torch.ones(2)}, tmp_path / "f")
    found = fastrnn.read(tmp_path / "f")
    assert found["w"].tolist() == [1, 1] and found.shapes["q"] == (2,)
    with pytest.raises(ValueError, match=r"^path: expected an array 'q' .*quantised"):
        found["q"]


# --- pickles


class Bad:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_is_called(protocol, tmp_path):
    """What a pickle names is refused, whichever opcode names it, and has not been run."""
    made = tmp_path / "made"
    for call, arguments in ((os.mkdir, (str(made),)), (eval, ("1",)), (getattr, (1, "real")), (io.open, ("x", "w"))):
        content = pickle.dumps({"a": np.ones(2), "b": Bad(call, *arguments)}, protocol=protocol)
        refused(tmp_path / "f", content, rf"got '\w+\.{call.__name__}'")
    assert not made.exists()


@pytest.mark.parametrize(
    "content, match",
    [
        (b"(S'a'\np0\nios\nsystem\n.", "none of these"),  # protocol 0 has no beginning of its own
        (b"\x80\x02ios\nsystem\n.", "INST"),
        (b"\x80\x02(cbuiltins\nset\no.", "OBJ"),
        (b"\x80\x02cbuiltins\nset\n)\x81.", "makes an object"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02K\x01Q.", "refers to what is not in it"),
        (b"\x80\x02]K\x01b.", "sets the state"),
        (b"\x80\x02K\x01)R.", "calls 'int'"),
        (b"\x80\x02cbuiltins\nlist\n)R.", "calls 'builtins.list'"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "ends too early"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "integer of 2147483647 bytes"),
        (b"\x80\x02h\x07.", "recalls"),
        (b"\x80\x02u.", "mark"),
        (b"\x80\x02.", "stack"),
        (b"\x80\x63.", "none of these"),
        (b"\x80\x02]" + b"q\x00]h\x00a" + b"q\x00h\x00a" + b".", "nested more than"),
    ],
)
def test_other_opcodes_are_refused_by_name(content, match, tmp_path):
    refused(tmp_path / "f", content, match)


def test_functions_within_each_other_many_times(tmp_path):
    once = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    content = b"\x80\x02" + once + b"(" + (once + b"N(") * 5000 + b")N" + b"tN" * 5000 + b"tR."
    refused(tmp_path / "f", content, "unknown function")


def test_containers_within_each_other_many_times(tmp_path):
    """Lists of ten of the list before: ten to the fifteenth entries of a hundred bytes."""
    level = [1]
    for _ in range(15):
        level = [level] * 10
    refused(tmp_path / "f", pickle.dumps(level, protocol=2), "too many times")
    long = {"k" * 1000: 1}
    for _ in range(150):
        long = {"k" * 1000: long, "again": long}
    refused(tmp_path / "f", pickle.dumps(long, protocol=2), "too many times")


def test_plain_containers_of_the_standard_library(tmp_path):
    kinds = collections.defaultdict(list, a=[np.ones(2)]), collections.OrderedDict(b=np.ones(3))
    for protocol in (2, 4):
        content = [
            *kinds,
            collections.Counter("aab"),
            {1, 2},
            frozenset((3,)),
            2 + 1j,
            b"bytes",
            bytearray(b"x"),
            2**80,
        ]
        (tmp_path / f"f{protocol}").write_bytes(pickle.dumps(content, protocol=protocol))
        found = fastrnn.read(tmp_path / f"f{protocol}")
        assert list(found) == ["0.a.0", "1.b"] and "2.a" in found.left_out


def test_pickles_of_arrays(tmp_path):
    for protocol in (2, 3, 4, 5):
        given = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.eye(3)), "b": np.arange(3, dtype=">i4")}
        extra = {"s": np.float32(3), "set": {1, 2}, "o": np.array([{}]), "text": "x", ("key", 1): 2}
        (tmp_path / "f").write_bytes(pickle.dumps(given | extra, protocol=protocol))
        found = fastrnn.read(tmp_path / "f")
        for name, array in given.items():
            np.testing.assert_array_equal(found[name], array)
        assert "s" in found.left_out
        with pytest.raises(ValueError, match="'o'.*Python objects"):
            found["o"]
        (tmp_path / "f").unlink()


# --- what files claim


def header_of(described, body=b""):
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "described, match",
    [
        ({"a": entry([2], 0, 4)}, "has 4 bytes, not 8"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, "do not follow"),
        ({"a": entry([1], -4, 0)}, "said to be at bytes"),
        ({"a": entry([2**62, 2**62, 0], 0, 0)}, "no array has"),
        ({"a": entry([0] * 40, 0, 0)}, "40 axes"),
        ({"a": entry([-1], 0, 4)}, "at least 0"),
        ({"a": entry([True], 0, 4)}, "at least 0"),
        ({"a": entry([1], 0, 2**70)}, "said to be at bytes"),
        ({"a": entry([1.0], 0, 4)}, "at least 0"),
        ({"a": {"dtype": "F32"}}, "does not describe 'a'"),
        ({}, "take 0 bytes of 4"),
    ],
)
def test_safetensors_claims(described, match, tmp_path):
    refused(tmp_path / "f", header_of(described, b"\0" * 4), match)


def test_safetensors_headers(tmp_path):
    refused(tmp_path / "f", struct.pack("<Q", 2**40) + b"{}", "none of these")
    refused(tmp_path / "f", struct.pack("<Q", 50) + b"{}", "header")
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    refused(tmp_path / "f", struct.pack("<Q", len(deep)) + deep, "deep|JSON|recursion")
    twice = b'{"a":' + json.dumps(entry([1], 0, 4)).encode() + b',"a":' + json.dumps(entry([1], 0, 4)).encode() + b"}"
    refused(tmp_path / "f", struct.pack("<Q", len(twice)) + twice + b"\0" * 4, "twice")
    (tmp_path / "g").write_bytes(header_of({"a": entry([8], 0, 4, "F4"), "b": entry([1], 4, 8)}, b"\0" * 8))
    found = fastrnn.read(tmp_path / "g")
    assert found["b"].shape == (1,)
    with pytest.raises(ValueError, match=r"'a' .*'F4'"):
        found["a"]


def npy(header):
    text = header.encode() + b" " * 20 + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "header, match",
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", "has 0 bytes"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, %d, %d)}" % (2**62, 2**62), "no array has"),  # noqa: UP031
        ("{'descr': '|V0', 'fortran_order': False, 'shape': (5,)}", "bytes of an array"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "at least 0"),
        ("{'descr': '<f3', 'fortran_order': False, 'shape': (0,)}", "NumPy has not"),
        ("(" * 300 + ")" * 300, "plain values"),
        ("__import__('os')", "plain values"),
        ("[1]", "without descr"),
    ],
)  # fmt: skip
def test_npz_claims(header, match, tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as file:
        file.writestr("a.npy", npy(header))
    refused(tmp_path / "f", (tmp_path / "z").read_bytes(), match)


def test_zip_bombs(tmp_path):
    """A member that says it is larger than it can be, and members over each other, as in Fifield's bomb of 2019."""
    np.savez_compressed(tmp_path / "f.npz", a=np.zeros(1000))
    content = (tmp_path / "f.npz").read_bytes()
    at = content.rindex(b"PK\x01\x02")
    large = content[: at + 24] + struct.pack("<I", 2**31) + content[at + 28 :]
    refused(tmp_path / "g", large, "inflate to 2147483648|bytes of an array")
    with zipfile.ZipFile(tmp_path / "z", "w") as file:
        file.writestr("a.npy", b"x" * 100)
        file.writestr("b.npy", b"y" * 100)
        file.infolist()[1].header_offset = 0
    refused(tmp_path / "g", (tmp_path / "z").read_bytes(), "over each other")


def test_objects_in_npz_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "f.npz", a=np.array([{}]), b=np.ones(2), words=np.array(["a", "bc"]))
    found = fastrnn.read(tmp_path / "f.npz")
    assert found["b"].tolist() == [1, 1] and found["words"].tolist() == ["a", "bc"]
    with pytest.raises(ValueError, match=r"^path: expected an array 'a' in .*not made"):
        found["a"]


def test_other_files_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(2))
    refused(tmp_path / "f", (tmp_path / "a.npy").read_bytes(), "numpy.load")
    refused(tmp_path / "f", b"", "empty")
    refused(tmp_path / "f", b"hello, world", "none of these")
    with zipfile.ZipFile(tmp_path / "z", "w") as file:
        file.writestr("text", b"x")
    refused(tmp_path / "f", (tmp_path / "z").read_bytes(), "without data.pkl")
    with pytest.raises(OSError):
        fastrnn.read(tmp_path / "absent")
    with pytest.raises(OSError):
        fastrnn.read(tmp_path)
    with pytest.raises(TypeError, match="path: expected a path"):
        fastrnn.read(5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        fastrnn.read(tmp_path / "pipe")


# --- ONNX


def onnx_model(onnx, *tensors):
    return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], list(tensors)))


def test_onnx_data_beside_the_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    values = np.arange(2000, dtype=np.float32)
    tensors = [onnx.numpy_helper.from_array(values + k, f"w{k}") for k in range(2)]
    model = onnx_model(onnx, *tensors)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    found = fastrnn.read(tmp_path / "m.onnx")
    for k in range(2):
        np.testing.assert_array_equal(found[f"w{k}"], values + k)
    assert mapped(found["w0"])
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"'w1' is said to be at bytes"):
        fastrnn.read(tmp_path / "m.onnx")["w1"]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ValueError, match=r"w\.bin"):
        fastrnn.read(tmp_path / "m.onnx")["w1"]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "", ".", "a\0b"])
def test_onnx_data_elsewhere_is_refused(location, tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"1234")
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(onnx_model(onnx, tensor).SerializeToString())
    with pytest.raises(ValueError, match="not in the model's folder"):
        fastrnn.read(folder / "m.onnx")["w"]


def test_onnx_dtypes_and_claims(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    cases = {
        name: getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT64")
    }
    cases |= {
        name: getattr(onnx.TensorProto, name) for name in ("UINT8", "UINT32", "BOOL", "FLOAT8E4M3FN", "FLOAT8E5M2")
    }
    values = [0, 1, 1, 0, 1]
    tensors = [helper.make_tensor(name, kind, (5,), values) for name, kind in cases.items()]
    tensors += [helper.make_tensor("C", onnx.TensorProto.COMPLEX64, (2,), [1 + 2j, 3])]
    (tmp_path / "m").write_bytes(onnx_model(onnx, *tensors).SerializeToString())
    found = fastrnn.read(tmp_path / "m")
    for name in cases:
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["BFLOAT16"].dtype == found["FLOAT8E5M2"].dtype == np.float32
    assert found["C"].tolist() == [1 + 2j, 3]
    for dims in ([2**40], [-1], [5, 0], [2**62, 2**62, 0]):
        tensor = onnx.TensorProto(name="w", data_type=1, dims=dims, float_data=[1, 2, 3])
        refused(tmp_path / "n", onnx_model(onnx, tensor).SerializeToString(), "'w'")


# --- HDF5


def test_h5_claims_and_links(tmp_path):
    h5py = pytest.importorskip("h5py")

    def written(fill):
        (tmp_path / "h").unlink(missing_ok=True)
        with h5py.File(tmp_path / "h", "w") as file:
            file["a"] = np.ones(2)
            fill(file)
        return (tmp_path / "h").read_bytes()

    refused(
        tmp_path / "f", written(lambda f: f.create_dataset("w", (2**40,), "f4", chunks=(64,))), "'w'.*bytes in the file"
    )
    refused(tmp_path / "f", written(lambda f: f.__setitem__("l", h5py.ExternalLink("other.h5", "/a"))), "'l' is a link")
    refused(tmp_path / "f", written(lambda f: f.__setitem__("l", h5py.SoftLink("/a"))), "'l' is a link")
    refused(tmp_path / "f", written(lambda f: f.create_group("g").__setitem__("g", f["g"])), "within itself")
    content = written(lambda f: f.create_dataset("w", (2,), "f4", external=[("/etc/passwd", 0, 8)]))
    (tmp_path / "g").write_bytes(content)
    found = fastrnn.read(tmp_path / "g")
    assert found["a"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="'w'.*another file"):
        found["w"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("h5py")
    for kind, package, extra in (("onnx", "onnx", "onnx"), ("h5", "h5py", "keras")):
        WRITERS[kind](tmp_path / kind)
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(ImportError, match=rf"fastrnn\[{extra}\]"):
            fastrnn.read(tmp_path / kind)
