"""The optimisers' formulas, those of torch.optim, over flat arrays of one dtype and length, in place.

Arguments: the parameter, the gradient (not changed), the state arrays, two scratch arrays `s` and `r`, then numbers.
Every operation is a pass over single elements, in a fixed order; csrc/level/update.c has the same in one pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def decayed(param: Array, grad: Array, s: Array, weight_decay: float) -> Array:
    """grad + weight_decay · param, the gradient with that of weight_decay · ‖param‖² / 2; it may be in `s`."""
    if not weight_decay:
        return grad
    np.multiply(param, weight_decay, out=s)
    s += grad
    return s


def sgd(
    param: Array,
    grad: Array,
    buffer: Array | None,
    s: Array,
    r: Array,
    lr: float,
    momentum: float,
    share: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Descend along the gradient, or along the buffer ← momentum · buffer + share · gradient where there is one.

    With `nesterov` (Sutskever et al. 2013) along gradient + momentum · buffer.
    """
    grad = decayed(param, grad, s, weight_decay)
    if buffer is not None:
        buffer *= momentum
        buffer += np.multiply(grad, share, out=r)
        if nesterov:
            np.multiply(buffer, momentum, out=r)
            grad = np.add(grad, r, out=s)
        else:
            grad = buffer
    param -= np.multiply(grad, lr, out=s)


def rmsprop(
    param: Array,
    grad: Array,
    square_avg: Array,
    grad_avg: Array | None,
    buffer: Array | None,
    s: Array,
    r: Array,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Descend along the gradient over the root of its mean square (Tieleman & Hinton 2012).

    With `grad_avg` over its standard deviation (Graves 2013); with `buffer` along that buffer, which gathers momentum.
    """
    grad = decayed(param, grad, s, weight_decay)
    square_avg *= alpha
    np.multiply(grad, grad, out=r)
    r *= 1 - alpha
    square_avg += r
    if grad_avg is None:
        np.sqrt(square_avg, out=r)
    else:
        np.subtract(grad, grad_avg, out=r)
        r *= 1 - alpha
        grad_avg += r
        np.multiply(grad_avg, grad_avg, out=r)
        np.subtract(square_avg, r, out=r)
        np.maximum(r, 0, out=r)  # of equal gradients rounding may leave a variance below zero
        np.sqrt(r, out=r)
    r += eps
    np.divide(grad, r, out=r)
    if buffer is not None:
        buffer *= momentum
        buffer += r
        np.copyto(r, buffer)
    r *= lr
    param -= r


def adam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    s: Array,
    r: Array,
    lr: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    weight_decay: float,
    shrink: float,
) -> None:
    """Descend along the mean gradient over the root of its mean square (Kingma & Ba 2015).

    lr      that of the step t, from 1 on, over 1 - beta1^t, the correction of the mean
    root    √(1 - beta2^t), that of the mean square
    shrink  what the parameter is multiplied by first: 1 - lr · decay in AdamW (Loshchilov & Hutter 2019), else 1
    """
    if shrink != 1:
        param *= shrink
    grad = decayed(param, grad, s, weight_decay)
    np.subtract(grad, exp_avg, out=r)
    r *= 1 - beta1
    exp_avg += r
    np.multiply(grad, grad, out=r)
    r *= 1 - beta2
    exp_avg_sq *= beta2
    exp_avg_sq += r
    np.sqrt(exp_avg_sq, out=r)
    r /= root
    r += eps
    np.divide(exp_avg, r, out=r)
    r *= lr
    param -= r


FORMULAS: dict[str, Callable[..., None]] = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam}
