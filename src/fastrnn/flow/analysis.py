"""How a gradient fares on its way back through time: `gradient_flow`, for any layer and input."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.geometry import Array, Call, read_call, sequence_shape, time_major
from ..core.steps import CallSteps
from . import gates
from .jacobians import (
    FLOAT64,
    KINDS,
    Path,
    bare,
    follow,
    gradient_above,
    in_order,
    one_direction,
    outputs_below,
    step_jacobian,
)
from .limits import Float32Limits, float32_limits
from .scaled import Scaled, grow

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RESOLVED = 1e-10  # of a product's largest singular value: those below are of rounding errors
UNCOUNTED = 10  # the first of so many parts of the steps lets the QR method's directions settle


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """What `gradient_flow` finds in one row of the batch, for one direction of one layer; everything is float64.

        T  time steps      H  hidden_size      n  numbers in a state: H, or for LSTM's (h, c) 2·H

    Index t of an array stands for the state h_t after step t, counted from 0 in the order in which the direction visits
    the steps; the last is T - 1, here called T as in the formulas. Derivatives are total: those of an LSTM count the
    way through c as well as that through h.

    cell                 "rnn_tanh", "rnn_relu", "lstm" or "gru"
    loss_to_state        (T,) the norm of ∂L/∂h_t, with what step t's own output gives to the loss
    state_to_state       (T,) the spectral norm of ∂h_T/∂h_t; 1 at the end
    loss_to_cell         (T,) for LSTM the norm of ∂L/∂c_t, else None
    cell_to_cell         (T,) for LSTM the spectral norm of ∂c_T/∂c_t, else None
    log10_…              (T,) of each: the norms themselves underflow below 1e-308, and overflow, as float64 does
    step_singular_values         (T, H) those of ∂h_t/∂h_(t-1), for LSTM with c_(t-1) held fixed; largest first
    step_state_singular_values   (T, n) those of the whole state's Jacobian, of (h, c) for LSTM; else the same array
    log10_product_singular_values  (T, H) of ∂h_T/∂h_t, largest first; NaN below 1e-10 of the largest, where the product
                         of T matrices has rounding errors only
    lyapunov_exponents   (k,) the largest Lyapunov exponents of the state, per step, natural logarithms, largest first:
                         by the QR method on the transposed Jacobians, back in time as a gradient goes; the first tenth
                         of these steps lets the directions settle and is not counted
    forget_products      (T, H) ∏ f_s over the steps s after t: what the forget gates leave of c_t at the end, unit by
                         unit; of a GRU likewise ∏ z_s; None for RNN
    log10_forget_products        (T, H)
    memory_horizon       (H,) steps after which the gates leave 1/e: -1 / mean of log f (of a GRU log z); None for RNN
    saturation           gate name → (T,) the fraction of its units that are saturated at each step: a sigmoid below 0.1
                         or above 0.9, a tanh below -0.9 or above 0.9 (Karpathy et al. 2015); a relu at zero.
                         LSTM: i, f, g, o; GRU: r, z, n; RNN: h, its output
    saturation_low, saturation_high      the two parts of it: at the low end, and at the high end
    loss_limits          where ∂L/∂h_t first leaves what float32 can do, in steps back from the last: see Float32Limits
    state_limits         likewise ∂h_T/∂h_t
    """

    cell: str
    loss_to_state: Array
    state_to_state: Array
    loss_to_cell: Array | None
    cell_to_cell: Array | None
    log10_loss_to_state: Array
    log10_state_to_state: Array
    log10_loss_to_cell: Array | None
    log10_cell_to_cell: Array | None
    step_singular_values: Array
    step_state_singular_values: Array
    log10_product_singular_values: Array
    lyapunov_exponents: Array
    forget_products: Array | None
    log10_forget_products: Array | None
    memory_horizon: Array | None
    saturation: dict[str, Array]
    saturation_low: dict[str, Array]
    saturation_high: dict[str, Array]
    loss_limits: Float32Limits
    state_limits: Float32Limits

    def __repr__(self) -> str:
        T, H = self.step_singular_values.shape
        return (
            f"<GradientFlow of {self.cell}, T={T}, H={H}, largest exponent {self.lyapunov_exponents[0]:.3g} per step>"
        )


def gradient_flow(
    layer: Any,
    x: ArrayLike,
    state: Any = None,
    dy: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    row: int = 0,
    layer_index: int = -1,
    direction: int = 0,
    num_exponents: int = 32,
) -> GradientFlow:
    """Follow the gradient back in time through an RNN, LSTM or GRU, exactly, step by step.

    x, state, lengths and dy are as in the layer's `forward` and `backward`; dropout is inactive, zoneout as in a call,
    its expectation. Rows of a batch do not depend on each other: it is the one called `row` that is looked at, over its
    valid steps. Of a stack it is the layer `layer_index` (-1: the last), of a bidirectional layer the `direction`
    (0: forward, 1: reverse), each along its own recurrence. dy None stands for a loss that grows with
    the last visited state of that layer and direction, its gradient of norm 1 and the same for every unit.

    Everything is computed in float64, on the backend in force, from a copy of the parameters; each step's Jacobian
    comes from one backward of the layer's kernels with n rows. `num_exponents` is how many Lyapunov exponents to find,
    at most as many as the state has numbers.

    Time grows as T·n³ (H = 128, T = 200: one to three seconds), memory as n² + T·n.

    Raises TypeError for a layer that is none of the three, or as `forward` does; ValueError for a layer that projects
    its h or normalises, for shapes, as `forward` does, for an index out of range, a row without a step, and for values
    that are not finite, or do not stay so.
    """
    if not isinstance(layer, KINDS):
        raise TypeError(f"layer: expected an RNN, LSTM, GRU or LeakyRNN, got {checks.kind(layer)}")
    if layer.proj_size:
        raise ValueError(f"layer: expected one without a projection, got proj_size={layer.proj_size}")
    if layer._spec.cell.normal:
        raise ValueError(f"layer: expected one without layer normalisation, got {layer}")
    k = index("layer_index", layer_index, layer.num_layers)
    d = index("direction", direction, 2 if layer.bidirectional else 1)
    num_exponents = checks.integer("num_exponents", num_exponents)
    call, dy_row = read_row(layer, x, state, dy, lengths, row)
    return analyse(*read_path(layer, call, dy_row, k, d), num_exponents)


def index(name: str, value: Any, size: int) -> int:
    """A place among `size`, counted from the end if negative."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {checks.kind(value)}")
    if not -size <= number < size:
        raise ValueError(f"{name}: expected an index among {size}, got {checks.digits(number)}")
    return number % size


def read_row(
    layer: Any, x: ArrayLike, state: Any, dy: ArrayLike | None, lengths: ArrayLike | None, row: int
) -> tuple[Call, Array | None]:
    """Check and convert the arguments; of the batch, the one row, cut to its length."""
    for name, array in layer.params.items():
        if not np.isfinite(array).all():
            raise ValueError(f"layer: expected finite parameters, got NaN or infinity in {name}")
    spec = layer._spec._replace(dtype=FLOAT64)
    call = read_call(spec, x, state, lengths)
    T, B, _ = call.x.shape
    b = index("row", row, B)
    valid = T if call.steps.lengths is None else int(call.steps.lengths[b])
    if valid == 0:
        raise ValueError(f"x: expected at least one valid step in row {b}, got none")
    if dy is not None:
        dy = checks.shaped("dy", checks.real("dy", dy), sequence_shape(spec, call, spec.output_size))
        dy = time_major(checks.strided(dy, FLOAT64), spec.batch_first)[:valid, b : b + 1]
        finite("dy", dy)
    alone = call._replace(
        x=call.x[:valid, b : b + 1],
        state=tuple(part[:, b : b + 1] for part in call.state),
        steps=CallSteps(),
        batched=True,
    )
    finite("x", alone.x)
    for name, part in checks.parts("state", bare(alone.state), len(alone.state)):
        finite(name, part)
    return alone, dy


def finite(name: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def read_path(layer: Any, call: Call, dy: Array | None, k: int, d: int) -> tuple[Path, Array]:
    """The path of direction d of layer k, and the gradient by its output at every step: (T, H)."""
    H, D = layer.hidden_size, 2 if layer.bidirectional else 1
    backward = layer._spec.reverse_of(k)[d]
    inputs = outputs_below(layer, call, k if dy is None else layer.num_layers - 1)
    before = [part[k * D + d, 0] for part in call.state]
    path = follow(one_direction(layer, k, d), in_order(inputs[k][:, 0], backward), before)
    for part in path.states:
        stays = np.isfinite(part).all(axis=1)
        if not stays.all():
            raise ValueError(
                f"x: expected states that stay finite, got an overflow at step {int(np.argmin(stays)) - 1}"
            )
    if dy is None:
        by_output = np.zeros((path.T, H))
        by_output[-1] = H**-0.5
    else:
        by_output = in_order(gradient_above(layer, call, inputs, k, dy)[:, 0, d * H : (d + 1) * H], backward)
    return path, by_output


def analyse(path: Path, by_output: Array, num_exponents: int) -> GradientFlow:
    """Go back from the last step, one Jacobian at a time, and keep norms and spectra."""
    T, n, H = path.T, path.n, path.layer.hidden_size
    has_cell = n > H
    norms = {name: np.empty(T) for name in ("loss", "state", "loss_cell", "cell")}
    steps, whole, products = np.empty((T, H)), np.empty((T, n)), np.empty((T, H))
    growth, directions = np.zeros((T, min(num_exponents, n))), np.eye(n, min(num_exponents, n))
    gradient, product = Scaled(np.zeros(n)), Scaled(np.eye(n))  # by the state after step t: of L, and of the last state
    for t in reversed(range(T)):
        gradient = gradient.plus(np.concatenate([by_output[t], np.zeros(n - H)]))
        norms["loss"][t] = gradient.log10(np.linalg.norm(gradient.mantissa[:H]))
        products[t] = product_spectrum(product, H)
        norms["state"][t] = products[t, 0]
        if has_cell:
            norms["loss_cell"][t] = gradient.log10(np.linalg.norm(gradient.mantissa[H:]))
            norms["cell"][t] = product.log10(np.linalg.norm(product.mantissa[H:, H:], 2))
        jacobian = step_jacobian(path, t)
        whole[t] = np.linalg.svd(jacobian, compute_uv=False)
        steps[t] = np.linalg.svd(jacobian[:H, :H], compute_uv=False) if has_cell else whole[t]
        directions, growth[t] = grow(directions, jacobian.T)
        gradient, product = gradient.times(jacobian), product.times(jacobian)
    spectra = {
        "step_singular_values": steps,
        "step_state_singular_values": whole if has_cell else steps,
        "log10_product_singular_values": products,
        "lyapunov_exponents": np.sort(growth[: T - T // UNCOUNTED].mean(axis=0))[::-1],
    }
    return result(path, norms if has_cell else norms | {"loss_cell": None, "cell": None}, spectra)


def product_spectrum(product: Scaled, H: int) -> Array:
    """log10 of the singular values of ∂h_T/∂h_t, (H,), NaN where rounding has made them."""
    values = np.linalg.svd(product.mantissa[:H, :H], compute_uv=False)
    return np.where(values < RESOLVED * values[0], np.nan, product.log10(values))


def result(path: Path, norms: dict[str, Any], spectra: dict[str, Any]) -> GradientFlow:
    """Join norms (log10) and spectra with what the gates say."""
    name, values = gates.cell_name(path), gates.gates(path)
    low, high = gates.saturation(name, values)
    kept, horizon = gates.keeping(name, values)
    return GradientFlow(
        cell=name,
        loss_to_state=power(norms["loss"]),
        state_to_state=power(norms["state"]),
        loss_to_cell=power(norms["loss_cell"]),
        cell_to_cell=power(norms["cell"]),
        log10_loss_to_state=norms["loss"],
        log10_state_to_state=norms["state"],
        log10_loss_to_cell=norms["loss_cell"],
        log10_cell_to_cell=norms["cell"],
        forget_products=power(kept),
        log10_forget_products=kept,
        memory_horizon=horizon,
        saturation={gate: low[gate] + high[gate] for gate in values},
        saturation_low=low,
        saturation_high=high,
        loss_limits=float32_limits(norms["loss"]),
        state_limits=float32_limits(norms["state"]),
        **spectra,
    )


def power(log10: Any) -> Any:
    """10 to the power of an array; None stays None."""
    with np.errstate(over="ignore", under="ignore"):
        return None if log10 is None else 10.0**log10
