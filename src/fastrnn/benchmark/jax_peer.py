"""jax as a peer: the cells as people write them there, the input product at once and a scan over time, compiled."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .measure import LocalCall
from .workloads import Problem


class Jax:
    """RNN, with tanh or relu, LSTM and GRU by `lax.scan` under `jit`; gradients by `grad`."""

    name = "jax"
    modes = ("forward", "training")
    cells = ("rnn", "lstm", "gru", "rnn_relu")

    def __init__(self, threads: int, dtype: np.dtype):
        if threads == 1:  # XLA can be told to use one thread or all, and only before it starts
            flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", dtype == np.float64)
        self.jax = jax

    def version(self) -> str:
        return self.jax.__version__

    def prepare(self, problem: Problem) -> LocalCall:
        jax = self.jax
        layer = scanned(jax, problem.workload.cell)
        state = problem.layer.state_dict()
        weights = [jax.numpy.asarray(state[f"{name}_l0"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        x, dy = jax.numpy.asarray(problem.x), jax.numpy.asarray(problem.dy)
        if problem.workload.mode == "forward":
            compiled = jax.jit(layer)
            return LocalCall(lambda: [compiled(x, weights).block_until_ready()])
        gradient = jax.jit(jax.grad(lambda x, weights: (layer(x, weights) * dy).sum(), argnums=(0, 1)))
        return LocalCall(lambda: jax.block_until_ready(gradient(x, weights)))


def scanned(jax: Any, cell: str) -> Callable[[Any, Any], Any]:
    """A function from x (T, B, I) and the weights to y (T, B, H)."""
    numpy, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh

    def rnn(state: Any, a: Any, u: Any) -> Any:
        h = tanh(a + u)
        return (h,), h

    def rnn_relu(state: Any, a: Any, u: Any) -> Any:
        h = jax.nn.relu(a + u)
        return (h,), h

    def lstm(state: Any, a: Any, u: Any) -> Any:
        i, f, g, o = numpy.split(a + u, 4, axis=-1)
        c = sigmoid(f) * state[1] + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    def gru(state: Any, a: Any, u: Any) -> Any:
        (a_r, a_z, a_n), (u_r, u_z, u_n) = numpy.split(a, 3, axis=-1), numpy.split(u, 3, axis=-1)
        r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
        n = tanh(a_n + r * u_n)
        h = (1 - z) * n + z * state[0]
        return (h,), h

    equation, parts = {"rnn": (rnn, 1), "rnn_relu": (rnn_relu, 1), "lstm": (lstm, 2), "gru": (gru, 1)}[cell]

    def layer(x: Any, weights: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = weights
        start = (numpy.zeros((x.shape[1], w_hh.shape[1]), x.dtype),) * parts
        step = lambda state, a: equation(state, a, state[0] @ w_hh.T + b_hh)  # noqa: E731
        return jax.lax.scan(step, start, x @ w_ih.T + b_ih)[1]

    return layer
