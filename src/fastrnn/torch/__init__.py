"""torch's recurrent modules, computed by fastrnn: training and inference on the CPU, by one line.

    model = fastrnn.torch.accelerate(model)     # every nn.RNN, LSTM, GRU and cell in it; restore(model) undoes it
    rnn = fastrnn.torch.LSTM(8, 32)             # or one by one: constructors, parameters and files are torch's

float32 and float64 on the CPU go to fastrnn, without copies of weights, and autograd through it; all else, such as
other devices and dtypes, autocast, tracing, goes to torch's own functions. `explain(module)` says which way and why.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastrnn.torch needs torch: pip install 'fastrnn[torch]'") from error

from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .swap import accelerate, explain, restore

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "accelerate", "explain", "restore"]
