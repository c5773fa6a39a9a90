"""ONNX's recurrent operators on fastrnn: graphs run by onnx's evaluator, and their layers in and out.

    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=fastrnn.onnx.OPS)    # RNN, LSTM and GRU by fastrnn

    found = fastrnn.onnx.from_onnx("model.onnx")                                      # layers by node names
    model = fastrnn.onnx.to_onnx(layer, "model.onnx")                                 # for ONNX Runtime and OpenVINO

The evaluator hands its new operators to graphs and their subgraphs, but not to the model's own functions: a model that
has some goes through `onnx.inliner.inline_local_functions` first.
"""

try:
    import onnx as _onnx  # noqa: F401
except ImportError as error:
    raise ImportError("fastrnn.onnx needs onnx: pip install 'fastrnn[onnx]'") from error

from .ops import OPS
from .reader import Layers, Node, from_onnx
from .writer import to_onnx

__all__ = ["OPS", "Layers", "Node", "from_onnx", "to_onnx"]
