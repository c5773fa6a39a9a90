"""MinGRU, MinLSTM and IndRNN: layers whose recurrence is a scan, since no unit's state feeds another unit."""

from .frozen import FrozenScan
from .layers import IndRNN, MinGRU, MinLSTM, ScanLayer

__all__ = ["FrozenScan", "IndRNN", "MinGRU", "MinLSTM", "ScanLayer"]
