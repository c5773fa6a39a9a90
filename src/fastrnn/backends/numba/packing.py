"""Weights into panels, whose rows serve a tile one after the other."""

from .compiling import inlined, unsigned


@inlined
def pack_weights(panels, w, gates, units, turn, first, last):
    """w (gates·H, terms) in panels (terms, gates, units), first to last-1, gate g at (g + turn) % gates."""
    H, terms, pitch = w.shape[0] // gates, w.shape[1], gates * units
    for start in range(first * units, min(last * units, H), units):
        for g in range(gates):
            at = start // units * terms * pitch + (g + turn) % gates * units
            for k in range(terms):
                for j in range(min(units, H - start)):
                    panels[unsigned(at + k * pitch + j)] = w[unsigned(g * H + start + j), unsigned(k)]


@inlined
def pack(panels_ih, panels_hh, starts, w_ih, w_hh, b_ih, b_hh, gates, units, count, turn, first, last):
    """The weights in panels first to last-1, and the starts of the pre-activations' chains, (panel, count, units).

    All begin as zero. A start is the sum of both biases, but each alone for the gate that `turn` takes apart; an absent
    bias is empty.
    """
    H = w_hh.shape[0] // gates
    for g in range(gates):
        for j in range(first * units, min(last * units, H)):
            panel = j // units * count * units + j % units
            if b_ih.size:
                starts[panel + (g + turn) % gates * units] += b_ih[g * H + j]
            if b_hh.size:
                starts[panel + (g + turn) % count * units] += b_hh[g * H + j]
    pack_weights(panels_ih, w_ih, gates, units, turn, first, last)
    pack_weights(panels_hh, w_hh, gates, units, 0, first, last)
