"""Models of other packages: the time of the packages' own code over that of docs/models.md, in turns, on one thread.

    python bench/models.py [NAME ...]        # as in the page; default: all. What is missing is fetched by pip

Each is measured whole, as the page runs it, and where the package's recurrent layers can be called by themselves, these
alone. What is not recurrent is NumPy in the page and the package's own runtime beside it, but for ddddocr, whose
convolutions ONNX Runtime computes on both sides.
"""

import sys

import model_packages as packages
import numpy as np
import onnx
import torch
from onnx_session import session as open_session

import fastrnn
from fastrnn.benchmark.machine import describe
from fastrnn.benchmark.measure import LocalCall, interleave
from fastrnn.core import blas

BUDGET = 1.0  # seconds of each competitor
RNG = np.random.default_rng(0)


def uniform(*shape):
    return RNG.random(shape, np.float32)


def g2p_en(page):
    theirs = packages.g2p()
    words = "activationist recurrent phonology straightforward xylophonist".split()
    yield (
        "NumPy",
        "5 words",
        lambda: [theirs.predict(word) for word in words],
        lambda: [page["phonemes"](word) for word in words],
    )
    x = theirs.encode(words[0])
    weights = [getattr(theirs, "enc_" + name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    yield (
        "NumPy",
        f"its encoder, {x.shape[1]} steps",
        lambda: theirs.gru(x, x.shape[1], *weights),
        lambda: page["encoder"](x[0]),
    )


def g2pm(page):
    theirs, lengths = packages.g2pm(), RNG.integers(5, 40, 16)
    ids = np.zeros((16, lengths.max()), int)
    for row, length in zip(ids, lengths):
        row[:length] = RNG.integers(2, 5000, length)
    where = np.zeros(ids.shape, bool)
    where[:, 1] = True
    alone = [row[None, :length] for row, length in zip(ids, lengths)]
    yield (
        "NumPy",
        "16 sentences, one by one",
        lambda: [theirs.predict(row, [1]) for row in alone],
        lambda: [page["readings"](row, where[:1, : row.size]) for row in alone],
    )
    places = np.ones(16, int)
    yield "NumPy", "16 sentences at once", lambda: theirs.predict(ids, places), lambda: page["readings"](ids, where)


def silero_vad(page):
    theirs, x = packages.silero(), uniform(512 * 31)
    yield "ONNX Runtime", "a second, in chunks", lambda: theirs(x), lambda: list(page["speech"](x))


def node_alone(model, path):
    """ONNX Runtime on the first recurrent node of a model alone."""
    ((name, _), *_) = fastrnn.onnx.from_onnx(path).items()
    (node,) = (node for node in model.graph.node if node.name == name)
    constant = {tensor.name: tensor for tensor in model.graph.initializer}
    x = onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, (None, 1, None))
    y = onnx.helper.make_empty_tensor_value_info(node.output[0])
    del node.output[1:]
    for k, given in enumerate(node.input):
        if k and given and given not in constant:  # states of zeros, which the graph computes
            node.input[k] = ""
    weights = [constant[given] for given in node.input if given in constant]
    graph = onnx.helper.make_graph([node], "node", [x], [y], weights)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return node.input[0], open_session(alone)


def text2tashkeel(page):
    theirs, ids = packages.tashkeel().sess, RNG.integers(2, 40, 60)
    yield (
        "ONNX Runtime, 8 bits",
        "a sentence of 60 characters",
        lambda: theirs.run(None, {"input": ids[None]}),
        lambda: page["marks"](ids),
    )
    name, session = node_alone(onnx.load(page["path"]), page["path"])
    x = np.ascontiguousarray(page["embedding"][ids][:, None])
    yield (
        "ONNX Runtime, 8 bits",
        "its first layer alone",
        lambda: session.run(None, {name: x}),
        lambda: page["layers"][0](x),
    )


def ddddocr(page):
    reader, picture = packages.ocr(), uniform(1, 1, 64, 200)
    theirs = reader.ocr_engine.session
    page["columns"] = open_session(page["before"])
    yield (
        "ONNX Runtime",
        "a picture of 200 columns",
        lambda: theirs.run(None, {"input1": picture}),
        lambda: page["letters"](picture),
    )
    (x,) = page["columns"].run(None, {"input1": picture})
    name, session = node_alone(page["model"], packages.files("ddddocr") / "common.onnx")
    yield (
        "ONNX Runtime",
        f"its LSTM alone, {len(x)} steps",
        lambda: session.run(None, {name: x}),
        lambda: page["lstm"](x),
    )


def resemblyzer(page):
    module, mels = packages.resemblyzer(), uniform(8, 160, 40)
    given = torch.from_numpy(mels)
    yield "torch", "8 pieces of 1.6 s", lambda: module(given), lambda: page["voices"](mels)
    yield "torch", "1 piece of 1.6 s", lambda: module(given[:1]), lambda: page["voices"](mels[:1])
    yield "torch", "its LSTM alone, 8 pieces", lambda: module.lstm(given), lambda: page["lstm"](mels)


def beatnet(page):
    module, frames = packages.beatnet(), uniform(1000, 272)
    given = torch.from_numpy(frames)[None]
    yield "torch", "20 s of music", lambda: module(given), lambda: page["beats"](frames)
    zeros = (np.zeros((2, 150), np.float32),) * 2
    yield "torch", "a frame of it", lambda: module(given[:, :1]), lambda: page["beats"](frames[:1], zeros)
    x = uniform(1000, 150)
    row = torch.from_numpy(x)[None]
    yield "torch", "its LSTM alone, 20 s", lambda: module.lstm(row), lambda: page["lstm"](x)


PROGRAMS = {
    "g2p-en": g2p_en, "g2pM": g2pm, "silero-vad": silero_vad, "text2tashkeel": text2tashkeel, "ddddocr": ddddocr,
    "Resemblyzer": resemblyzer, "BeatNet": beatnet,
}  # fmt: skip


def main():
    names = sys.argv[1:] or list(PROGRAMS)
    if unknown := set(names) - set(PROGRAMS):
        sys.exit(f"NAME: expected some of {', '.join(PROGRAMS)}, got {', '.join(sorted(unknown))}")
    packages.fetch()
    torch.set_num_threads(1)
    with blas.threads_everywhere(1), torch.inference_mode():
        print("; ".join(f"{key} {value}" for key, value in describe().items()))
        print(f"{'package':16}{'':30}{'its runtime':22}{'its ms':>10}{'ours':>10}{'times':>8}")
        for name in names:
            for runtime, what, *calls in PROGRAMS[name](packages.page(name)):
                theirs, ours = (t.median for t in interleave([LocalCall(call) for call in calls], BUDGET))
                print(
                    f"{name:16}{what:30}{runtime:22}{theirs * 1e3:10.3f}{ours * 1e3:10.3f}{theirs / ours:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
