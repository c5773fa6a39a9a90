"""The contract of the scans: recurrences in which no unit feeds another, and the product before them.

A backend has the four functions of `Scans` beside those of base.py; what is said there of inputs, strides, NaN and
denormals holds here.

    T  time steps     B  rows     D  units     G  gates of the kind, in GATES

With p for h_(t-1), and a, a1, a2 for what a unit has of the array `a` at a step and row:

    linear                     h = a p + b
    mingru                     z = σ(a);  h = (1 - z) p + z a1
    minlstm                    f, i = σ(a), σ(a1);  h = f / (f + i) p + i / (f + i) a2
    indrnn_tanh, indrnn_relu   h = f(a + u p)

Every row and unit is a chain of operations in one order, which neither threads nor neighbours change.
"""

from typing import Any, Protocol

import numpy as np

GATES = {"linear": 1, "mingru": 2, "minlstm": 3, "indrnn_tanh": 1, "indrnn_relu": 1}
Array = np.ndarray


class Scans(Protocol):
    """T, B and D are at least 1 in every call; the dtypes are float32 and float64, of "linear" complex ones, too."""

    def scan_forward(
        self,
        kind: str,
        a: Array,  # (T, B, G·D), features contiguous, the k-th gate from k·D on
        b: Array | None,  # (T, B, D), features contiguous; linear only
        u: Array | None,  # (D,); indrnn only
        h0: Array | None,  # (B, D), C-contiguous as all arrays of this shape, or None for zero
        h: Array,  # (T, B, D), features contiguous
        last: Array | None,  # (B, D); of linear None
        lengths: Array | None,  # (B,) int64, or None for T in all rows; of linear None
        reverse: bool,
        threads: int,
    ) -> None:
        """Fill h, with zeros past a row's end, and `last` with the final state.

        `a` and b are read at valid steps only. Of mingru and minlstm z, or f and i, take the place of what they are the
        sigmoid of.
        """

    def scan_backward(
        self,
        kind: str,
        a: Array,  # as the forward pass left it, like h
        u: Array | None,
        h: Array,
        h0: Array | None,
        lengths: Array | None,
        reverse: bool,
        dy: Array | None,  # (T, B, D), features contiguous, or None for zero; read at valid steps only
        dlast: Array | None,  # (B, D), or None for zero
        da: Array | None,  # (T, B, G·D), features contiguous; of linear None where `total` takes its place
        db: Array | None,  # (T, B, D), features contiguous; linear only
        total: Array | None,  # (B, D): the sum over time of the gradients by `a` (linear) or by u (indrnn)
        dh0: Array,  # (B, D)
        threads: int,
    ) -> None:
        """Fill da, db, total and dh0; da and db with zeros past a row's end."""

    def pack_linear(self, w: Array, bias: Array | None, transposed: bool, threads: int) -> Any:
        """Arrange w (M, K), or, transposed, (K, M), and the bias (M,) for `linear`; both C-contiguous.

        The result may refer to them: they stay unchanged while it is in use.
        """

    def linear(self, packed: Any, x: Array, y: Array, threads: int) -> None:
        """y (N, M) = x (N, K) wᵀ + bias, or, transposed, x w + bias; x and y are C-contiguous.

        A row of y is the same bits whatever the other rows are, but for the reference.
        """
