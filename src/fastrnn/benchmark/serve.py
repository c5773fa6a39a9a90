"""The child's side of a peer in a process of its own: it answers what remote.py asks, one request after the other.

    python -m fastrnn.benchmark.serve MODULE:CLASS THREADS DTYPE INCOMING OUTGOING

The last two are the file descriptors of its pipes; stdout and stderr are left to the peer, which may print there.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from .measure import Call
from .peers import Competitor, Unsuitable
from .wire import Channel
from .workloads import Size, Workload, problem

PR_SET_PDEATHSIG = 1  # as in <sys/prctl.h>

Reply = tuple[dict[str, Any], bytes]


def main(entry: str, threads: str, dtype: str, incoming: str, outgoing: str) -> None:
    end_with_the_parent()
    channel = Channel(int(incoming), int(outgoing))
    for stream in (channel.incoming, channel.outgoing):
        os.set_inheritable(stream.fileno(), False)  # a process that the peer starts must not keep them open
    service = Service(entry, int(threads), np.dtype(dtype))
    while True:
        try:
            request, _ = channel.receive()
        except EOFError:
            return
        try:
            reply, data = service.answer(request)
        except Exception as error:
            reply, data = {"error": explain(error)}, b""
        channel.send(reply, data)


def end_with_the_parent() -> None:
    """A parent that dies takes this process along, stopped or not; an interrupt is the parent's to deal with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere the end of the pipe says so, to a process that is not stopped
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


class Service:
    """A peer, and the call that it prepared last."""

    peer: Competitor
    call: Call | None = None

    def __init__(self, entry: str, threads: int, dtype: np.dtype):
        self.entry, self.threads, self.dtype = entry, threads, dtype

    def answer(self, request: Mapping[str, Any]) -> Reply:
        match request:
            case {"ask": "start"}:
                self.peer = load_class(self.entry)(self.threads, self.dtype)
                about = {"version": self.peer.version(), "modes": self.peer.modes, "cells": self.peer.cells}
                return about, b""
            case {"ask": "prepare", "cell": cell, "size": size, "mode": mode, "seed": seed}:
                self.call = None  # makes room for the next
                self.call = self.peer.prepare(problem(Workload(cell, Size(*size), mode), self.dtype, seed))
                return {}, b""
            case {"ask": "elapsed", "calls": calls} if self.call:
                return {"seconds": self.call.elapsed(calls)}, b""
            case {"ask": "result", "shape": shape} if self.call:
                result = self.call.result(tuple(shape))
                return {"dtype": str(result.dtype)}, result.tobytes()
        raise ValueError(f"request: {request!r} is none of those above, or nothing is prepared")


def load_class(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def explain(error: Exception) -> str:
    """One line: what is missing as the importer says it, else the kind of error too."""
    text = str(error) if isinstance(error, (ImportError, Unsuitable)) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


if __name__ == "__main__":
    main(*sys.argv[1:])
