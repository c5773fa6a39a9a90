"""Layer normalisation of a cell's products, and of c on its way into h.

    n = (v - mean v) / √(variance of v + eps)      gain n + bias

over the units of all gates, or of each gate. Source: Ba, Kiros & Hinton, Layer normalization (2016).
"""

import numpy as np

from .functions import split


class Norm:
    """The gains of a direction of a cell that normalises, each (G·H,), and those of c, (H,) each."""

    def __init__(self, cell, w, H):
        gates, options = len(cell.gates), cell.options
        self.eps, self.groups = options.eps, gates if options.each_gate else 1
        self.gates, self.cell = gates, cell
        self.gain_x, self.gain_h, *of_c = np.split(w.vectors, [gates * H, 2 * gates * H, (2 * gates + 1) * H])
        self.gain_c, self.bias_c = of_c if len(cell.states) == 2 else (None, None)
        self.b_ih, self.b_hh = (0 if b is None else b for b in (w.b_ih, w.b_hh))

    def shares(self, a, u):
        """What the equation takes of the two products."""
        return (
            self.gain_x * standard(a, self.groups, self.eps)[0] + self.b_ih,
            self.gain_h * standard(u, self.groups, self.eps)[0] + self.b_hh,
        )

    def output(self, own, o, c):
        """h of the equation."""
        return o * own.output(self.gain_c * standard(c, 1, self.eps)[0] + self.bias_c)

    def backward(self, step, dh, dc, h, h_prev, c_prev, saved, own):
        """As a cell's backward, of (da, du) by the products themselves; and before them those by what was added."""
        kept = len(saved) - 2 * self.gates
        saved, products = list(saved[:kept]), saved[kept:]
        a, u = np.concatenate(products[: self.gates], axis=-1), np.concatenate(products[self.gates :], axis=-1)
        if self.gain_c is not None:
            i, f, g, o, c = saved
            c = f * c_prev + i * g if own.zoneout else c  # what is saved is what zoneout left of it
            n, _ = standard(c, 1, self.eps)
            out = own.output(self.gain_c * n + self.bias_c)
            d_normal, do = dh * o * own.d_output(out), dh * out * own.d_gate(o)
            dh, dc = np.zeros_like(dh), dc + d_standard(c, self.gain_c * d_normal, 1, self.eps)
        da, du, dh_prev, dc_prev, _ = step(dh, dc, h, h_prev, c_prev, saved, own)
        dp = []
        if self.gain_c is not None:
            da[..., -do.shape[-1] :] = do
            dp = [d_normal * n, d_normal]
        by_gain = [
            part
            for v, dv in ((a, da), (u, du))
            for part in split(dv * standard(v, self.groups, self.eps)[0], self.gates)
        ]
        d_products = [
            d_standard(v, gain * dv, self.groups, self.eps)
            for v, gain, dv in ((a, self.gain_x, da), (u, self.gain_h, du))
        ]
        return (da, du), (*d_products, dh_prev, dc_prev, by_gain + dp)


def standard(v, groups, eps):
    """n of v (…, units), and 1 / √(variance + eps) of each of the groups that the units are cut into."""
    parts = np.stack(split(v, groups), axis=-2)
    centred = parts - parts.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + v.dtype.type(eps))
    return (centred * scale).reshape(v.shape), scale


def d_standard(v, dn, groups, eps):
    """The gradient by v from that by its n."""
    n, scale = standard(v, groups, eps)
    n, parts = (np.stack(split(array, groups), axis=-2) for array in (n, dn))
    mean, along = parts.mean(axis=-1, keepdims=True), (parts * n).mean(axis=-1, keepdims=True)
    return (scale * (parts - mean - n * along)).reshape(v.shape)
