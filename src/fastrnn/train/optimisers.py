"""Optimisers: SGD, RMSprop, Adam and AdamW, with torch.optim's names, defaults and formulas.

optimiser = Adam(layer.params, lr=1e-3)
optimiser.step(grads.params)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..core import checks, config
from .formulas import FORMULAS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray

BLOCK = (
    65536  # elements that all passes of a formula see before the next: fewer cost more in calls, more leave the caches
)


class Optimiser:
    """Changes parameters in place by their gradients.

    params  a mapping of names to float32 or float64 arrays, such as a layer's or a Model's `params`, to which the
            optimiser refers: a copy of it has copies of them
    lr      the learning rate, which may be set between steps

    Everything is computed in the parameter's dtype, with scratch memory for a block of elements only.
    """

    rule: ClassVar[str]  # of FORMULAS
    slots: ClassVar[tuple[str, ...]]  # the state arrays that the formula takes
    settings: ClassVar[tuple[str, ...]] = ()  # the attributes that `repr` shows after lr

    def __init__(self, params: Mapping[str, Array], lr: float, weight_decay: float, states: Sequence[str]) -> None:
        self.lr = lr
        self.weight_decay = checks.not_negative("weight_decay", weight_decay)
        self.steps = 0
        self._params = read_params(params)
        self._states = {
            state: {name: np.zeros(array.size, array.dtype) for name, array in self._params.items()} for state in states
        }
        size = min(BLOCK, max(array.size for array in self._params.values()))
        self._scratch = {array.dtype: np.empty((3, size), array.dtype) for array in self._params.values()}

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = checks.not_negative("lr", value)

    def step(self, grads: Mapping[str, ArrayLike]) -> None:
        """Change the parameters by their gradients: real arrays of their names and shapes, which are not changed.

        Raises ValueError for missing, unexpected or misshapen gradients and for a read-only parameter, and TypeError
        for a gradient that is not real; then nothing has changed.
        """
        checks.names("grads", grads, list(self._params))
        given: dict[str, Array] = {}
        for name, param in self._params.items():
            label = f"grads[{name!r}]"
            given[name] = checks.shaped(label, checks.real(label, grads[name]), param.shape)
            if not param.flags.writeable:
                raise ValueError(f"params[{name!r}]: expected a writable array, got a read-only one")
        self.steps += 1
        numbers, update = self._numbers(), getattr(config.backend(), "update", None)
        at_once: list[tuple[Array | None, ...]] = []
        with np.errstate(all="ignore"):
            for name, param in self._params.items():
                states = [self._states.get(slot, {}).get(name) for slot in self.slots]
                if update is not None and fits(param, given[name]):
                    at_once.append((param, given[name], *states))
                else:
                    self._update(param, given[name], states, numbers)
        if update is not None:
            update(self.rule, at_once, numbers)

    def _update(self, param: Array, grad: Array, states: Sequence[Array | None], numbers: Mapping[str, Any]) -> None:
        """Update a parameter block by block."""
        flat, grad = param.ravel(), grad.ravel()  # views where they are contiguous, else copies
        for block in blocks(flat.size):
            part = grad[block]
            s, r, converted = self._scratch[param.dtype][:, : part.size]
            if part.dtype != param.dtype:
                np.copyto(converted, part, casting="unsafe")
                part = converted
            kept = [None if state is None else state[block] for state in states]
            FORMULAS[self.rule](flat[block], part, *kept, s, r, **numbers)
        if not param.flags.c_contiguous:
            param[...] = flat.reshape(param.shape)

    def _numbers(self) -> dict[str, Any]:
        """The numbers of the formula for this step."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, beside the parameters and the constructor's arguments: "lr", "steps", and
        copies of the state arrays under names such as "exp_avg.weight_ih_l0", shaped as the parameters."""
        found: dict[str, Any] = {"lr": self.lr, "steps": self.steps}
        for state, arrays in self._states.items():
            for name, array in arrays.items():
                found[f"{state}.{name}"] = array.reshape(self._params[name].shape).copy()
        return found

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` of an optimiser of this kind and these parameters gave.

        Raises ValueError for missing, unexpected or misshapen entries, and TypeError for those of another kind; then
        nothing has changed.
        """
        kept = {f"{state}.{name}": (state, name) for state in self._states for name in self._params}
        checks.names("state_dict", mapping, ["lr", "steps", *kept])
        lr = checks.not_negative("state_dict['lr']", plain(mapping["lr"]))
        steps = read_steps(plain(mapping["steps"]))
        found: dict[str, Array] = {}
        for key, (_, name) in kept.items():
            param, label = self._params[name], f"state_dict[{key!r}]"
            array = checks.shaped(label, checks.real(label, mapping[key]), param.shape)
            found[key] = np.array(array, param.dtype).reshape(-1)
        self._lr, self.steps = lr, steps
        for key, (state, name) in kept.items():
            self._states[state][name][...] = found[key]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("lr", *self.settings, "weight_decay"))
        return f"{type(self).__name__}({shown})"


class SGD(Optimiser):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    buffer ← momentum · buffer + (1 - dampening) · g, at the first step g; param ← param - lr · buffer, or with
    `nesterov` (Sutskever et al. 2013) param - lr · (g + momentum · buffer); without momentum param - lr · g. Here g is
    the gradient + weight_decay · param. Its state has "momentum_buffer" where there is momentum.
    """

    rule, slots = "sgd", ("momentum_buffer",)
    settings = ("momentum", "dampening", "nesterov")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = checks.not_negative("momentum", momentum)
        self.dampening = checks.probability("dampening", dampening)
        self.nesterov = checks.flag("nesterov", nesterov)
        if self.nesterov and (not self.momentum or self.dampening):
            given = f"momentum={self.momentum} and dampening={self.dampening}"
            raise ValueError(f"nesterov: expected False without momentum or with dampening, got True with {given}")
        super().__init__(params, lr, weight_decay, ["momentum_buffer"] if self.momentum else [])

    def _numbers(self) -> dict[str, Any]:
        share = 1.0 if self.steps == 1 else 1 - self.dampening
        found = {"lr": self.lr, "momentum": self.momentum, "share": share, "nesterov": self.nesterov}
        return found | {"weight_decay": self.weight_decay}


class RMSprop(Optimiser):
    """Gradients divided by the root of their mean square, as torch.optim.RMSprop (Tieleman & Hinton 2012).

    v ← alpha · v + (1 - alpha) · g²; param ← param - lr · g / (√v + eps), where g is the gradient + weight_decay ·
    param. With `centered` v is the variance, with `momentum` a buffer ← momentum · buffer + g / (√v + eps) takes the
    place of the quotient (Graves, Generating sequences with recurrent neural networks, 2013). Its state has
    "square_avg", and where they are needed "grad_avg" and "momentum_buffer".
    """

    rule, slots = "rmsprop", ("square_avg", "grad_avg", "momentum_buffer")
    settings = ("alpha", "eps", "momentum", "centered")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.alpha = checks.probability("alpha", alpha)
        self.eps = checks.not_negative("eps", eps)
        self.momentum = checks.not_negative("momentum", momentum)
        self.centered = checks.flag("centered", centered)
        states = ["square_avg"] + ["grad_avg"] * self.centered + ["momentum_buffer"] * bool(self.momentum)
        super().__init__(params, lr, weight_decay, states)

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("lr", "alpha", "eps", "momentum", "weight_decay")}


class Adam(Optimiser):
    """Mean gradients divided by the root of their mean square, as torch.optim.Adam (Kingma & Ba 2015, algorithm 1).

    m ← beta1 · m + (1 - beta1) · g; v ← beta2 · v + (1 - beta2) · g²; at step t, counted from 1,
    param ← param - lr · m / (1 - beta1^t) / (√(v / (1 - beta2^t)) + eps), where g is the gradient + weight_decay ·
    param. Its state has m as "exp_avg" and v as "exp_avg_sq".
    """

    rule, slots = "adam", ("exp_avg", "exp_avg_sq")
    settings = ("betas", "eps")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.betas = read_betas(betas)
        self.eps = checks.not_negative("eps", eps)
        super().__init__(params, lr, weight_decay, ["exp_avg", "exp_avg_sq"])

    def _decays(self) -> tuple[float, float]:
        """The weight decay within the gradient, and the factor of the parameter beside it."""
        return self.weight_decay, 1.0

    def _numbers(self) -> dict[str, Any]:
        (beta1, beta2), t = self.betas, self.steps
        weight_decay, shrink = self._decays()
        found = {"lr": self.lr / (1 - beta1**t), "beta1": beta1, "beta2": beta2, "root": (1 - beta2**t) ** 0.5}
        return found | {"eps": self.eps, "weight_decay": weight_decay, "shrink": shrink}


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient, as torch.optim.AdamW (Loshchilov & Hutter 2019).

    param ← (1 - lr · weight_decay) · param before Adam's step, in which g is the gradient alone.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _decays(self) -> tuple[float, float]:
        return 0.0, 1 - self.lr * self.weight_decay


# --- what they share


def fits(param: Array, grad: Array) -> bool:
    """Whether a backend's one pass takes a parameter and its gradient as they are."""
    return (
        all(array.flags.c_contiguous and array.flags.aligned for array in (param, grad)) and grad.dtype == param.dtype
    )


def blocks(size: int) -> Iterator[slice]:
    """Consecutive slices of at most BLOCK elements."""
    return (slice(begin, min(begin + BLOCK, size)) for begin in range(0, size, BLOCK))


def read_params(params: Any) -> dict[str, Array]:
    """The parameters themselves: at least one array, each writable and with memory of its own."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping of names to arrays, got {checks.kind(params)}")
    if not params:
        raise ValueError("params: expected at least one parameter, got none")
    found: dict[str, Array] = {}
    for name in params:
        array, label = params[name], f"params[{name!r}]"
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{label}: expected an array, got {checks.kind(array)}")
        array = checks.output(label, array, array.shape, checks.float_dtype(array.dtype, label), contiguous=False)
        checks.own_memory(label, array, [(f"params[{other!r}]", earlier) for other, earlier in found.items()])
        found[name] = array
    return found


def read_betas(betas: Any) -> tuple[float, float]:
    if not isinstance(betas, (tuple, list)):
        raise TypeError(f"betas: expected a pair of numbers, got {checks.kind(betas)}")
    if len(betas) != 2:
        raise ValueError(f"betas: expected a pair of numbers, got {len(betas)} items")
    return checks.fraction("betas[0]", betas[0]), checks.fraction("betas[1]", betas[1])


def plain(value: Any) -> Any:
    """A number that a file has given back as an array of no dimensions."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def read_steps(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"state_dict['steps']: expected an integer, got {checks.kind(value)}")
    if value < 0:
        raise ValueError(f"state_dict['steps']: expected an integer of at least 0, got {value}")
    return int(value)
