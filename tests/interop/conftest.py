"""What tests of other packages share: Keras' backend, and torch on one thread."""

import os
import sys

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras has one in a process


@pytest.fixture(autouse=True)
def torch_on_one_thread():
    """Torch's threads wait for each other longer than these small products take, above all beside other work."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    if before > 1:
        torch.set_num_threads(1)
    yield
    if before > 1:
        torch.set_num_threads(before)
