"""The names that the forward functions of torch's recurrent modules know; but `_VF` is kernels.py.

It is a module since torch.compile looks up by its module what a function knows.
"""

from torch.nn.modules import rnn

from . import kernels

globals().update({name: value for name, value in vars(rnn).items() if not name.startswith("__")})
_VF = kernels
