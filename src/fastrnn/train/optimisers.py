"""SGD, RMSprop, Adam and AdamW: torch's names, defaults and formulas, step for step.

Each formula is one function over arrays, in place: the parameter, its gradient, what the optimiser keeps of it, and two
scratch arrays of its shape. Their operations are NumPy's, in the parameter's dtype.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import checks

Array = np.ndarray


def number(name: str, value: Any, least: float, below: float = math.inf) -> float:
    """A number from `least` to below `below`."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {checks.kind(value)}")
    if not least <= float(value) < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name}: expected a number of at least {least:g}{limit}, got {value}")
    return float(value)


class Optimiser:
    """Changes parameters in place, by their gradients.

    `params` is a mapping of names to arrays, such as a layer's or a model's; `step` takes gradients by the same names.
    `lr` may be read and set at any time. State dicts are flat: "exp_avg.rnn.weight_ih_l0" and the like.
    """

    keeps: tuple[str, ...] = ()  # the arrays kept of each parameter

    def __init__(self, params: Mapping[str, Array], lr: float, weight_decay: float) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping of names to arrays, got {checks.kind(params)}")
        if not params:
            raise ValueError("params: expected at least one parameter, got none")
        self._params = dict(params)
        self.lr, self.weight_decay = lr, number("weight_decay", weight_decay, 0)
        self.steps = 0  # that were taken
        self._kept = {key: {name: np.zeros_like(a) for name, a in params.items()} for key in self.keeps}
        most = max(array.size for array in params.values())
        self._scratch = {a.dtype: (np.empty(most, a.dtype), np.empty(most, a.dtype)) for a in params.values()}

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number("lr", value, 0)

    def step(self, grads: Mapping[str, Any]) -> None:
        """Change every parameter; `grads` has an array of its shape for each, and is left as it is.

        Raises ValueError for missing, unexpected or misshapen gradients, or a read-only parameter: none has changed.
        """
        checks.names("grads", grads, list(self._params))
        found: dict[str, Array] = {}
        for name, param in self._params.items():
            given = checks.shaped(f"grads[{name!r}]", checks.real(f"grads[{name!r}]", grads[name]), param.shape)
            found[name] = checks.contiguous(given, param.dtype)
            if not param.flags.writeable:
                raise ValueError(f"params[{name!r}]: expected a writable array, got a read-only one")
        self.steps += 1
        with np.errstate(all="ignore"):
            for name, param in self._params.items():
                one, two = (array[: param.size].reshape(param.shape) for array in self._scratch[param.dtype])
                kept = [arrays[name] for arrays in self._kept.values()]
                self._update(param, found[name], kept, one, two)

    def _update(self, param: Array, grad: Array, kept: list[Array], one: Array, two: Array) -> None:
        """Change one parameter."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the learning rate, the number of steps, and copies of the arrays kept."""
        arrays = {f"{key}.{name}": a.copy() for key, found in self._kept.items() for name, a in found.items()}
        return {"lr": self.lr, "steps": self.steps} | arrays

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same kind of optimiser and parameters; on an error nothing has changed."""
        own = self.state_dict()
        checks.names("state_dict", mapping, list(own))
        found = {
            name: checks.shaped(f"state_dict[{name!r}]", checks.real(f"state_dict[{name!r}]", mapping[name]), a.shape)
            for name, a in own.items()
            if isinstance(a, np.ndarray)
        }
        self.lr, self.steps = float(mapping["lr"]), int(mapping["steps"])
        for key, arrays in self._kept.items():
            for name, array in arrays.items():
                array[...] = found[f"{key}.{name}"]


def decayed(param: Array, grad: Array, weight_decay: float, scratch: Array) -> Array:
    """The gradient with weight decay in it: grad + weight_decay · param."""
    if not weight_decay:
        return grad
    np.multiply(param, weight_decay, out=scratch)
    return np.add(scratch, grad, out=scratch)


class SGD(Optimiser):
    """param -= lr · v, where v = momentum · v + (1 - dampening) · grad, the first v being grad (torch.optim.SGD).

    With nesterov=True the step is grad + momentum · v (Sutskever et al. 2013).
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum, self.dampening = number("momentum", momentum, 0), number("dampening", dampening, 0)
        self.nesterov = checks.flag("nesterov", nesterov)
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov: expected a momentum above 0 and no dampening beside it")
        self.keeps = ("momentum_buffer",) if self.momentum else ()
        super().__init__(params, lr, weight_decay)

    def _update(self, param: Array, grad: Array, kept: list[Array], one: Array, two: Array) -> None:
        grad = decayed(param, grad, self.weight_decay, one)
        if kept:
            (v,) = kept
            if self.steps == 1:
                v[...] = grad
            else:
                v *= self.momentum
                v += grad if not self.dampening else np.multiply(grad, 1 - self.dampening, out=two)
            grad = np.add(grad, np.multiply(v, self.momentum, out=two), out=two) if self.nesterov else v
        param -= np.multiply(grad, self.lr, out=two)


class RMSprop(Optimiser):
    """param -= lr · grad / (√v + eps), where v = alpha · v + (1 - alpha) · grad² (Hinton 2012; torch.optim.RMSprop).

    With centered=True the square of the mean gradient is taken off v (Graves 2013); with a momentum the steps are
    summed up first.
    """

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
        self.alpha, self.eps = number("alpha", alpha, 0), number("eps", eps, 0)
        self.momentum, self.centered = number("momentum", momentum, 0), checks.flag("centered", centered)
        self.keeps = ("square_avg", *("grad_avg",) * self.centered, *("momentum_buffer",) * bool(self.momentum))
        super().__init__(params, lr, weight_decay)

    def _update(self, param: Array, grad: Array, kept: list[Array], one: Array, two: Array) -> None:
        grad = decayed(param, grad, self.weight_decay, one)
        square, *more = kept
        square *= self.alpha
        np.multiply(grad, grad, out=two)
        two *= 1 - self.alpha
        square += two
        if self.centered:
            mean = more.pop(0)
            np.subtract(grad, mean, out=two)
            two *= 1 - self.alpha
            mean += two
            np.multiply(mean, mean, out=two)
            np.subtract(square, two, out=two)
            np.sqrt(two, out=two)
        else:
            np.sqrt(square, out=two)
        two += self.eps
        np.divide(grad, two, out=two)
        if more:
            (v,) = more
            v *= self.momentum
            v += two
            np.multiply(v, self.lr, out=two)
        else:
            two *= self.lr
        param -= two


class Adam(Optimiser):
    """param -= lr · m̂ / (√v̂ + eps), from running means m of grad and v of grad², corrected for their start at zero.

    (Kingma & Ba 2015; torch.optim.Adam.) weight_decay is added to the gradient.
    """

    keeps = ("exp_avg", "exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas: expected a pair of numbers, got {betas!r}")
        self.betas = number("betas[0]", betas[0], 0, 1), number("betas[1]", betas[1], 0, 1)
        self.eps = number("eps", eps, 0)
        super().__init__(params, lr, weight_decay)

    def _update(self, param: Array, grad: Array, kept: list[Array], one: Array, two: Array) -> None:
        m, v = kept
        if self.decoupled:
            param *= 1 - self.lr * self.weight_decay
        else:
            grad = decayed(param, grad, self.weight_decay, one)
        beta1, beta2 = self.betas
        np.subtract(grad, m, out=two)
        two *= 1 - beta1
        m += two
        v *= beta2
        np.multiply(grad, grad, out=two)
        two *= 1 - beta2
        v += two
        np.sqrt(v, out=two)
        two /= math.sqrt(1 - beta2**self.steps)
        two += self.eps
        np.divide(m, two, out=two)
        two *= self.lr / (1 - beta1**self.steps)
        param -= two


class AdamW(Adam):
    """As Adam, but weight_decay shrinks the parameter itself, by lr · weight_decay (Loshchilov & Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
