"""The recurrent nodes of an ONNX model: ONNX Runtime's time over fastrnn's, in turns, on one thread.

    python bench/onnx_nodes.py [MODEL.onnx]

Without a model, one of each kind at (T, B, I, H) = (100, 1, 64, 64) and (100, 32, 128, 128). Each layer that
`from_onnx` finds is written as a model of its own, which runs on ONNX Runtime, on onnx's evaluator with `OPS`, and as
the frozen layer.
"""

import argparse

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx_session import session

import fastrnn
import fastrnn.onnx
from fastrnn.benchmark.machine import describe
from fastrnn.benchmark.measure import LocalCall, interleave

SIZES = ((100, 1, 64, 64), (100, 32, 128, 128))
BUDGET = 0.7  # seconds of each competitor


def measure(name, layer, T, B):
    """Print the two ratios of a layer."""
    model = fastrnn.onnx.to_onnx(layer, initial_state=False)
    shape = (B, T, layer.input_size) if layer.batch_first else (T, B, layer.input_size)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    runtime, frozen = session(model), layer.freeze()
    evaluator = ReferenceEvaluator(model, new_ops=fastrnn.onnx.OPS)
    calls = [lambda: runtime.run(["y"], {"x": x}), lambda: evaluator.run(["y"], {"x": x}), lambda: frozen(x)]
    times = [timing.median for timing in interleave([LocalCall(call) for call in calls], BUDGET)]
    size = str((T, B, layer.input_size, layer.hidden_size))
    print(f"{name:24} {size:22} {times[0] / times[1]:8.2f} {times[0] / times[2]:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    model = parser.parse_args().model
    fastrnn.set_num_threads(1)
    machine = describe()
    print(f"{machine['cpu']}, {machine['instruction_set']}; ", end="")
    print(f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}")
    print(f"{'node':24} {'(T, B, I, H)':22} {'OPS':>8} {'frozen':>8}")
    if model is not None:
        found = fastrnn.onnx.from_onnx(model)
        for name, why in found.skipped.items():
            print(f"{name}: not read: {why}")
        for name, layer in found.items():
            for T, B in ((100, 1), (100, 32)):
                measure(name, layer, T, B)
        return
    for kind in (fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU):
        for T, B, I, H in SIZES:
            measure(kind.__name__, kind(I, H, rng=0), T, B)


if __name__ == "__main__":
    main()
