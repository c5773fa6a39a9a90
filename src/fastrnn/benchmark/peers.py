"""Who is measured: fastrnn's backends, and torch, onnxruntime, openvino and jax, each of these in a process of its own.

A competitor turns a `Problem` into a `Call`, whose result is the array that all of them must agree on: y (T, B, H) of
forward, the gradient of x (T, B, I) of training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

import fastrnn

from .. import backends
from ..core.config import BackendName
from ..core.options import DEFAULTS, ROLES, read_functions
from ..spec import PLAIN, Cell, Options
from .kinds import KINDS
from .measure import Call, CallFailed, LocalCall
from .remote import RemotePeer
from .workloads import Problem


class Competitor(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def cells(self) -> tuple[str, ...]: ...

    def version(self) -> str: ...

    def prepare(self, problem: Problem) -> Call: ...


class Ours:
    """A backend of fastrnn: frozen layers for forward, mutable ones for training."""

    modes = ("forward", "training")
    cells = tuple(KINDS)

    def __init__(self, backend: str):
        backends.load(backend)
        self.name = cast(BackendName, backend)

    def version(self) -> str:
        return fastrnn.__version__

    def prepare(self, problem: Problem) -> LocalCall:
        layer, x, dy = problem.layer, problem.x, problem.dy
        if problem.workload.mode == "forward":
            with fastrnn.use_backend(self.name):
                served = layer.freeze()
            return LocalCall(lambda: served(x))

        drawn_from = None if layer.rng is None else layer.rng.bit_generator
        start = None if drawn_from is None else drawn_from.state

        def train() -> tuple:
            if drawn_from is not None:  # the same masks in every call, so that all compute the same
                drawn_from.state = start
            _, _, tape = layer.forward(x)
            grads = layer.backward(tape, dy)
            return grads.x, grads

        return LocalCall(train, lambda: fastrnn.use_backend(self.name))


class Torch:
    """torch.nn.RNN, LSTM and GRU: under inference_mode for forward, through autograd for training."""

    name = "torch"
    modes = ("forward", "training")
    cells = ("rnn", "lstm", "gru", "rnn_relu")

    def __init__(self, threads: int, dtype: np.dtype):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def version(self) -> str:
        return self.torch.__version__

    def prepare(self, problem: Problem) -> LocalCall:
        torch = self.torch
        _, (_, _, I, H), mode = problem.workload
        kind = problem.workload.kind
        x, dy = torch.from_numpy(problem.x), torch.from_numpy(problem.dy)
        module = getattr(torch.nn, kind.layer.__name__)(I, H, dtype=x.dtype, **kind.options)
        state = problem.layer.state_dict()
        module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        if mode == "forward":
            module.eval()
            return LocalCall(lambda: module(x), torch.inference_mode)
        x = x.clone().requires_grad_()
        wanted = (x, *module.parameters())
        return LocalCall(lambda: torch.autograd.grad(module(x)[0], wanted, dy))


class OnnxRuntime:
    """The RNN, LSTM and GRU operators of ONNX, with their options, on the CPU provider; it does not train."""

    name = "onnxruntime"
    modes = ("forward",)
    cells = (
        "rnn", "lstm", "gru", "rnn_relu", "lstm_peephole", "lstm_coupled", "lstm_clip", "lstm_activations",
        "gru_reset_first",
    )  # fmt: skip

    def __init__(self, threads: int, dtype: np.dtype):
        import onnx
        import onnxruntime

        if dtype != np.float32:
            raise Unsuitable(f"it computes these operators in float32 only, not in {dtype}")
        self.onnx, self.runtime = onnx, onnxruntime
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = 3

    def version(self) -> str:
        return self.runtime.__version__

    def prepare(self, problem: Problem) -> LocalCall:
        model = onnx_model(self.onnx, problem)
        session = self.runtime.InferenceSession(model, self.options, providers=["CPUExecutionProvider"])
        feed = {"x": problem.x}
        return LocalCall(lambda: session.run(["y"], feed))


class OpenVino:
    """The same ONNX operators on OpenVINO's CPU plugin, in float32 (by default it rounds to bfloat16 where it can)."""

    name = "openvino"
    modes = ("forward",)
    cells = ("rnn", "lstm", "gru", "rnn_relu", "lstm_clip", "gru_reset_first")  # the others are refused or wrong

    def __init__(self, threads: int, dtype: np.dtype):
        import onnx
        import openvino

        if dtype != np.float32:
            raise Unsuitable(f"it computes these operators in float32 only, not in {dtype}")
        self.onnx, self.openvino = onnx, openvino
        self.options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}

    def version(self) -> str:
        return self.openvino.__version__.partition("-")[0]

    def prepare(self, problem: Problem) -> LocalCall:
        core = self.openvino.Core()
        model = core.read_model(onnx_model(self.onnx, problem))
        model.reshape(list(problem.x.shape))
        request = core.compile_model(model, "CPU", self.options).create_infer_request()
        request.set_input_tensor(self.openvino.Tensor(problem.x))

        def run() -> list[np.ndarray]:
            request.infer()
            return [request.get_output_tensor().data]

        return LocalCall(run)


ONNX_OPERATORS = {  # by the names of our cells
    "rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "lstm_coupled": "LSTM",
    "gru": "GRU", "gru_reset_first": "GRU",
}  # fmt: skip
ONNX_GATES = {"RNN": "a", "LSTM": "iofg", "GRU": "zrn"}  # ours in ONNX's order
ONNX_PEEPHOLES = "iof"


def onnx_model(onnx: Any, problem: Problem) -> bytes:
    """A model of one operator, x (T, B, I) -> y (T, 1, B, H), with the layer's weights inside."""
    T, B, I, H = problem.workload.size
    cell, state = problem.workload.kind.cell, problem.layer.state_dict()
    operator = ONNX_OPERATORS[cell.name]

    def ordered(name: str, ours: Sequence[str], order: str) -> np.ndarray:
        """Put the blocks of a parameter into ONNX's order; zeros for the forget gate that follows from i."""
        blocks = dict(zip(ours, np.split(state[name], len(ours))))
        return np.concatenate([blocks.get(gate, np.zeros_like(state[name][:H])) for gate in order])

    w_ih, w_hh, b_ih, b_hh = (
        ordered(f"{name}_l0", cell.gates, ONNX_GATES[operator])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    weights = {"w": w_ih[None], "r": w_hh[None], "b": np.concatenate([b_ih, b_hh])[None]}
    inputs = ["x", *weights]
    if cell.own_vectors:
        weights["p"] = ordered("peephole_l0", cell.own_vectors, ONNX_PEEPHOLES)[None]
        inputs += ["", "", "", "p"]  # no lengths and no initial state
    helper = onnx.helper
    node = helper.make_node(operator, inputs, ["y"], hidden_size=H, **onnx_attributes(cell))
    float_type = helper.np_dtype_to_tensor_dtype(problem.x.dtype)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", float_type, ("T", B, I))],
        [helper.make_tensor_value_info("y", float_type, ("T", 1, B, H))],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()


def onnx_attributes(cell: Cell) -> dict[str, Any]:
    """What makes ONNX's operator this cell."""
    options = cell.options or Options(read_functions(cell, None))
    named = [options.functions[role] for role in ROLES[cell.name]] if options.functions != PLAIN else []
    numbers = [len(DEFAULTS[function.name]) for function in named]  # that the function takes: alpha, or alpha and beta
    attributes = {
        "activations": [function.name.title().replace("_", "") for function in named],
        "activation_alpha": [function.alpha for function, count in zip(named, numbers) if count > 0],
        "activation_beta": [function.beta for function, count in zip(named, numbers) if count > 1],
        "clip": options.clip,
        "input_forget": int(cell.name == "lstm_coupled"),
        "linear_before_reset": int(cell.name == "gru"),
    }
    return {name: value for name, value in attributes.items() if value}  # others have the operator's default


class Unsuitable(Exception):
    """A competitor is there and cannot do what is to be measured."""


# The classes, made of a number of threads and a dtype in the peer's process.
PEERS = {
    "torch": f"{__name__}:Torch",
    "onnxruntime": f"{__name__}:OnnxRuntime",
    "openvino": f"{__name__}:OpenVino",
    "jax": f"{__package__}.jax_peer:Jax",
}


class Missing(NamedTuple):
    """A competitor that was asked for and cannot run, and why."""

    name: str
    reason: str


def load_backends(names: Sequence[str]) -> tuple[list[Competitor], list[Missing]]:
    """Those of the named backends that run here, and the others."""
    return load(names, Ours)


@contextmanager
def running_peers(
    names: Sequence[str], threads: int, dtype: np.dtype
) -> Iterator[tuple[list[Competitor], list[Missing]]]:
    """Those of the named peers that are installed and compute in `dtype`, and the others; their processes end here."""
    with ExitStack() as processes:

        def run(name: str) -> Competitor:
            return processes.enter_context(closing(RemotePeer(name, PEERS[name], threads, dtype)))

        yield load(names, run)


def load(names: Sequence[str], make: Callable[[str], Competitor]) -> tuple[list[Competitor], list[Missing]]:
    loaded, missing = [], []
    for name in names:
        try:
            loaded.append(make(name))
        except (ImportError, OSError, CallFailed) as error:
            missing.append(Missing(name, str(error)))
    return loaded, missing


class Disagreement(Exception):
    """A competitor computes something else, by what share of the largest value: its time would mean nothing."""


AGREEMENT = 2000  # eps of the largest value: room for sums in another order, none for another equation


def check_agreement(result: np.ndarray, expected: np.ndarray, spare: int = 0) -> None:
    """Raise Disagreement unless two results are equal up to rounding, (T, B, ·) in all rows of B but `spare`."""
    errors = np.abs(result - expected)
    error = float(np.max(errors, initial=0))
    if spare and np.isfinite(error):
        error = float(np.sort(errors.max(axis=(0, 2)))[-1 - spare])
    largest = float(np.max(np.abs(expected), initial=0))
    if not error <= AGREEMENT * np.finfo(expected.dtype).eps * largest:
        raise Disagreement(f"{error / largest if largest else error:.1e}")
