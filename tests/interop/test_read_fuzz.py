"""`fastrnn.read` of damaged files: arrays or a ValueError that names `path`, and little memory, whatever they claim."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import SUFFIXES, WRITERS

import fastrnn

MOST = 24 * 2**20  # bytes, of files of some thousand; a deflated zero takes a thousandth of itself
NEEDS = {"safetensors": "safetensors", "onnx": "onnx", "h5": "h5py", "keras": "h5py"} | dict.fromkeys(
    ("torch", "old torch", "script"), "torch"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a whole file, by format."""
    found = {}

    def get(kind):
        if kind not in found:
            if kind in NEEDS:
                pytest.importorskip(NEEDS[kind])
            path = tmp_path_factory.mktemp("whole") / f"file{SUFFIXES.get(kind, '')}"
            WRITERS[kind](path)
            found[kind] = path.read_bytes()
        return found[kind]

    return get


def read_all(path):
    """Read every array, and return the most memory that this took."""
    tracemalloc.start()
    try:
        try:
            arrays = fastrnn.read(path)
        except ValueError as error:
            assert str(error).startswith("path: ")
        else:
            fastrnn.find_layers(arrays)
            for name in arrays:
                try:
                    assert arrays[name].shape == arrays.shapes[name]
                except ValueError as error:
                    assert str(error).startswith("path: ")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def damage(content, draw):
    """Bytes changed, one part put over another, and the end cut off."""
    found = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in draw(st.lists(places, max_size=4)):
        found[place] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)) | st.integers(0, 255))
    if draw(st.booleans()):
        start, target, size = draw(places), draw(places), draw(st.integers(1, 64))
        found[target : target + size] = content[start : start + size]
    if draw(st.integers(0, 3)) == 0:
        del found[draw(places) :]
    return bytes(found)


def fuzz(kind, content, tmp_path, examples):
    path = tmp_path / "damaged"

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        path.unlink(missing_ok=True)
        path.write_bytes(damage(content, data.draw))
        assert read_all(path) < MOST

    check()


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_value_errors(kind, whole, tmp_path):
    fuzz(kind, whole(kind), tmp_path, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_value_errors_at_length(kind, whole, tmp_path):
    fuzz(kind, whole(kind), tmp_path, 5000)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_shorter_file_is_refused(kind, whole, tmp_path):
    content = whole(kind)
    path = tmp_path / "shorter"
    for size in np.unique(np.linspace(0, len(content) - 1, 40).astype(int)):
        path.unlink(missing_ok=True)
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"^path: "):
            arrays = fastrnn.read(path)
            [arrays[name] for name in arrays]


def importable(package):
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def test_random_bytes_are_refused(tmp_path):
    """Or, where a format's package is not there, that is what is said."""
    rng = np.random.default_rng(0)
    path = tmp_path / "random"
    needs = {b"\x89HDF\r\n\x1a\n": "h5py", b"\x08\x08": "onnx"}
    for start in (b"", b"PK\x03\x04", b"\x80\x02", *needs, b"\x40" + 7 * b"\0" + b"{"):
        missing = start in needs and not importable(needs[start])
        for _ in range(20):
            path.unlink(missing_ok=True)
            path.write_bytes(start + rng.bytes(300))
            error = (ValueError, ImportError) if missing else ValueError
            with pytest.raises(error, match=r"^path: |pip install 'fastrnn"):
                fastrnn.read(path)
