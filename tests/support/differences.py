"""Gradients by central differences in float64, and inputs for them, for the tests of fastrnn.train."""

import numpy as np

STEP = 1e-6
F64 = {"dtype": np.float64, "rng": 0}


def differences(function, array):
    """The gradient of a scalar function by an array that it reads; zero where that is no finite number: padding."""
    found = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        if not np.isfinite(value):
            continue
        sides = []
        for side in (value + STEP, value - STEP):
            array[index] = side
            sides.append(function())
        array[index] = value
        found[index] = (sides[0] - sides[1]) / (2 * STEP)
    return found


def values(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def past(T, lengths):
    """(T, B): which steps are past their row's length."""
    return np.arange(T)[:, None] >= np.array(lengths)


def padded(T, B, F, lengths=None):
    """Random sequences, NaN past each row's length."""
    x = values(T, B, F)
    if lengths is not None:
        x[past(T, lengths)] = np.nan
    return x
