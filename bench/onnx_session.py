"""Models on ONNX Runtime, for the scripts that measure against it."""

import onnxruntime


def session(model):
    """A model, or the path of one, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
