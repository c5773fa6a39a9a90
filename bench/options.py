"""What options cost: times of the plain cell over those with an option, in turns, on one thread.

    python bench/options.py

Every option is measured in inference (frozen) and training at (T, B, I, H) = (100, 32, 128, 128) and (100, 1, 64, 64);
those that ONNX Runtime has, in inference against it, too; LeakyRNN's training against a loop of PyTorch's operations.
A projection changes how much there is to do: of it the rates, and its training against PyTorch's.
"""

from functools import partial
from typing import Any

import numpy as np

import fastrnn
from fastrnn.benchmark.measure import LocalCall, Timing, interleave

SIZES = ((100, 32, 128, 128), (100, 1, 64, 64))
BUDGET = 0.7  # seconds of each competitor
ACTIVATIONS = {"gru": ("hard_sigmoid", "softsign"), "lstm": ("hard_sigmoid", "softsign", "softsign")}
OPTIONS: dict[str, tuple[Any, dict[str, Any], Any, dict[str, Any]]] = {  # of a layer, and of the plain one beside it
    "peephole": (fastrnn.LSTM, {"peephole": True}, fastrnn.LSTM, {}),
    "coupled": (fastrnn.LSTM, {"coupled": True}, fastrnn.LSTM, {}),
    "lstm clip": (fastrnn.LSTM, {"clip": 3.0}, fastrnn.LSTM, {}),
    "gru clip": (fastrnn.GRU, {"clip": 3.0}, fastrnn.GRU, {}),
    "lstm activations": (fastrnn.LSTM, {"activations": ACTIVATIONS["lstm"]}, fastrnn.LSTM, {}),
    "gru activations": (fastrnn.GRU, {"activations": ACTIVATIONS["gru"]}, fastrnn.GRU, {}),
    "reset before": (fastrnn.GRU, {"reset": "before"}, fastrnn.GRU, {}),
    "lstm layer norm": (fastrnn.LSTM, {"layer_norm": True}, fastrnn.LSTM, {}),
    "gru layer norm": (fastrnn.GRU, {"layer_norm": True}, fastrnn.GRU, {}),
    "recurrent dropout": (fastrnn.LSTM, {"recurrent_dropout": 0.2}, fastrnn.LSTM, {}),
    "lstm zoneout": (fastrnn.LSTM, {"zoneout": 0.1}, fastrnn.LSTM, {}),
    "gru zoneout": (fastrnn.GRU, {"zoneout": 0.1}, fastrnn.GRU, {}),
    "leaky": (fastrnn.LeakyRNN, {}, fastrnn.RNN, {}),
    "leaky, alpha trained": (fastrnn.LeakyRNN, {"train_alpha": True}, fastrnn.RNN, {}),
}
ONNX = {  # attributes, and whether there are peepholes
    "peephole": ("LSTM", {}, True),
    "lstm clip": ("LSTM", {"clip": 3.0}, False),
    "gru clip": ("GRU", {"clip": 3.0, "linear_before_reset": 1}, False),
    "lstm activations": ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Softsign"]}, False),
    "reset before": ("GRU", {}, False),
    "gru activations": ("GRU", {"activations": ["HardSigmoid", "Softsign"], "linear_before_reset": 1}, False),
}


def training(layer, x, dy, **between):
    return lambda: layer.backward(layer.forward(x, **between)[2], dy)


def ratios(calls):
    """Each call's median, after the first, under the first's."""
    first, *others = (t.median if isinstance(t, Timing) else float("nan") for t in interleave(calls, BUDGET))
    return [first / other for other in others]


def node(op, attributes, peephole, size):
    """ONNX's operator alone, on ONNX Runtime."""
    import onnx
    from onnx_session import session

    T, B, I, H = size
    gates, rng = {"LSTM": 4, "GRU": 3}[op], np.random.default_rng(0)
    feed = {"x": (T, B, I), "W": (1, gates * H, I), "R": (1, gates * H, H), "B": (1, 2 * gates * H)}
    inputs = ["x", "W", "R", "B"]
    if peephole:
        feed["P"] = (1, 3 * H)
        inputs += ["", "", "", "P"]
    constants = [
        onnx.numpy_helper.from_array(rng.uniform(-0.1, 0.1, shape).astype(np.float32), name)
        for name, shape in feed.items()
        if name != "x"
    ]
    made = onnx.helper.make_node(op, inputs, ["y"], hidden_size=H, **attributes)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, feed["x"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([made], "g", [given], [result], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    return session(model)


def report_options():
    print("plain / option, one thread; in brackets ONNX Runtime's time over ours")
    print(f"{'':24}" + "".join(f"{'forward':>16}{'training':>12}   " for _ in SIZES))
    for name, (kind, own, other, others_own) in OPTIONS.items():
        line = f"{name:24}"
        for size in SIZES:
            T, B, I, H = size
            plain, layer = other(I, H, rng=0, **others_own), kind(I, H, rng=0, **own)
            x, dy = np.random.default_rng(0).standard_normal((T, B, I), np.float32), np.ones((T, B, H), np.float32)
            frozen = [LocalCall(partial(each.freeze(), x)) for each in (plain, layer)]
            (forward,) = ratios(frozen)
            (trained,) = ratios([LocalCall(training(each, x, dy)) for each in (plain, layer)])
            against = ""
            if name in ONNX:
                run = node(*ONNX[name], size).run
                (ours,) = ratios([LocalCall(partial(run, None, {"x": x})), frozen[1]])
                against = f" ({ours:.2f})"
            line += f"{f'{forward:.2f}{against}':>16}{trained:12.2f}   "
        print(line, flush=True)


def report_between():
    print("\nwithout / with, training at (100, 32, 128, 128), one thread")
    T, B, I, H = SIZES[0]
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, I), np.float32), np.ones((T, B, H), np.float32)
    for name, kind in (("rnn", fastrnn.RNN), ("lstm", fastrnn.LSTM), ("gru", fastrnn.GRU)):
        layer = kind(I, H, rng=0)
        given = {
            "1 % resets": {"resets": rng.random((T, B)) < 0.01},
            "state_scale (T, B)": {"state_scale": rng.uniform(0.5, 1, (T, B)).astype(np.float32)},
            "mask, 90 %": {"mask": rng.random((T, B)) < 0.9},
        }
        found = ratios([LocalCall(training(layer, x, dy, **between)) for between in ({}, *given.values())])
        print(f"{name:8}" + "   ".join(f"{what} {ratio:.2f}" for what, ratio in zip(given, found)), flush=True)


def report_leaky():
    import torch

    torch.set_num_threads(1)
    T, B, I, H = 200, 32, 64, 128
    layer = fastrnn.LeakyRNN(I, H, rng=0)
    x, dy = np.random.default_rng(0).standard_normal((T, B, I), np.float32), np.ones((T, B, H), np.float32)
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in layer.params.items()}
    given = torch.tensor(x, requires_grad=True)

    def loop():
        h, outputs = torch.zeros(B, H), []
        inputs = given @ weights["weight_ih_l0"].T + (weights["bias_ih_l0"] + weights["bias_hh_l0"])
        recurrent = weights["weight_hh_l0"].T
        for t in range(T):
            h = 0.9 * h + 0.1 * torch.tanh(inputs[t] + h @ recurrent)
            outputs.append(h)
        return torch.autograd.grad(torch.stack(outputs).sum(), [given, *weights.values()])

    (ratio,) = ratios([LocalCall(loop), LocalCall(training(layer, x, dy))])
    print(f"\nLeakyRNN training at (200, 32, 64, 128): a torch loop takes {ratio:.1f} times as long")


def report_projection():
    import torch

    torch.set_num_threads(1)
    print("\nLSTM(proj_size=H/2), one thread: its operations per second over the plain layer's; torch's time over ours")
    for T, B, I, H in (*SIZES, (50, 32, 256, 512)):
        P, rng = H // 2, np.random.default_rng(0)
        plain, layer = fastrnn.LSTM(I, H, rng=0), fastrnn.LSTM(I, H, proj_size=P, rng=0)
        more = (4 * H * (I + P) + H * P) / (4 * H * (I + H))
        module = torch.nn.LSTM(I, H, proj_size=P)
        x = rng.standard_normal((T, B, I), np.float32)
        dy, dy_plain = (np.ones((T, B, n), np.float32) for n in (P, H))
        given, parameters = torch.tensor(x, requires_grad=True), list(module.parameters())

        def peer(module=module, given=given, parameters=parameters):
            return torch.autograd.grad(module(given)[0].sum(), [given, *parameters])

        (forward,) = ratios([LocalCall(partial(each.freeze(), x)) for each in (plain, layer)])
        ours = LocalCall(training(layer, x, dy))
        (trained,) = ratios([LocalCall(training(plain, x, dy_plain)), ours])
        (against,) = ratios([LocalCall(peer), ours])
        rates = f"forward {forward * more:.2f}, training {trained * more:.2f}, torch's training {against:.2f}"
        print(f"{(T, B, I, H)}: {rates}", flush=True)


if __name__ == "__main__":
    fastrnn.set_num_threads(1)
    report_options()
    report_between()
    report_leaky()
    report_projection()
