"""Gradients one can see: how they vanish or explode over time, step by step, in a layer and an input of one's own.

    from fastrnn.flow import gradient_flow

    flow = gradient_flow(layer, x)
    flow.state_to_state      # the spectral norm of ∂h_T/∂h_t for every t
    flow.memory_horizon      # steps after which a unit's forget gates leave 1/e of its cell

The command `fastrnn flow` does so for RNN, LSTM and GRU side by side, as a table and as one figure.
"""

from .analysis import GradientFlow, gradient_flow
from .limits import Float32Limits

__all__ = ["Float32Limits", "GradientFlow", "gradient_flow"]
