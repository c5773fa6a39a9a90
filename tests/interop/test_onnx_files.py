"""Files that are no ONNX models, given to from_onnx."""

import pytest

pytest.importorskip("onnx")

from fastrnn.onnx import from_onnx


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_bytes(b"no model at all, but text")
    with pytest.raises(ValueError, match="model: expected an ONNX model, got '.*text.onnx'"):
        from_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no graph"):
        from_onnx(path)
    with pytest.raises(TypeError, match="model: expected a ModelProto or a path, got NoneType"):
        from_onnx(None)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
