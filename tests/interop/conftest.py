"""Keras has one backend in a process: torch, unless the environment says otherwise."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
