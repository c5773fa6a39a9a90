"""A peer in a process of its own, stopped but for the time of a request: threads that spin on after their last call, as
those of most libraries do, take no core from whoever is measured next.
"""

import os
import signal
import sys
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np

from .measure import CallFailed
from .wire import Channel
from .workloads import Problem

GRACE = 5.0  # seconds that a process which closed its pipe may take to end


class RemotePeer:
    """A competitor like the class that `entry` names as "module:class", which lives in the child (serve.py)."""

    def __init__(self, name: str, entry: str, threads: int, dtype: np.dtype):
        """CallFailed if the peer cannot be had."""
        self.name = name
        self.process, self.channel = start(entry, str(threads), str(dtype))
        self.close = finalize(self, end, self.process, self.channel)
        self.prepared = 0
        try:
            about, _ = self.ask("start")
        except CallFailed:
            self.close()
            raise
        self.modes: tuple[str, ...] = tuple(about["modes"])
        self.cells: tuple[str, ...] = tuple(about["cells"])
        self.released: str = about["version"]

    def version(self) -> str:
        return self.released

    def prepare(self, problem: Problem) -> "RemoteCall":
        cell, size, mode = problem.workload
        self.ask("prepare", cell=cell, size=size, mode=mode, seed=problem.seed)
        self.prepared += 1
        return RemoteCall(self, self.prepared)

    def ask(self, what: str, **details: Any) -> tuple[dict[str, Any], bytes]:
        """The reply to a request; CallFailed with the reason if the peer raised an exception, or died."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.channel.send({"ask": what, **details})
            reply, data = self.channel.receive()
        except (EOFError, OSError):
            raise CallFailed(f"its process ended: {cause_of_death(self.process)}") from None
        finally:
            self.process.send_signal(signal.SIGSTOP)
        if "error" in reply:
            raise CallFailed(reply["error"])
        return reply, data


class RemoteCall(NamedTuple):
    """What a peer prepared last: the next `prepare` ends it."""

    peer: RemotePeer
    number: int

    def elapsed(self, calls: int) -> float:
        return self.ask("elapsed", calls=calls)[0]["seconds"]

    def result(self, shape: tuple[int, ...]) -> np.ndarray:
        reply, data = self.ask("result", shape=shape)
        return np.frombuffer(data, reply["dtype"]).reshape(shape)

    def ask(self, what: str, **details: Any) -> tuple[dict[str, Any], bytes]:
        if self.number != self.peer.prepared:
            raise ValueError(f"{self.peer.name} has prepared another call since")
        return self.peer.ask(what, **details)


def start(*arguments: str) -> tuple[Popen, Channel]:
    """A child that imports what this process would, and this end of the pipes to it."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    channel = Channel(from_child, to_child)
    try:
        process = Popen(
            [sys.executable, "-P", "-m", f"{__package__}.serve", *arguments, str(from_parent), str(to_parent)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            stdin=DEVNULL,
            stdout=DEVNULL,
            pass_fds=(from_parent, to_parent),
        )
    finally:
        os.close(from_parent)
        os.close(to_parent)
    return process, channel


def end(process: Popen, channel: Channel) -> None:
    process.kill()  # stopped or not
    process.wait()
    channel.close()


def cause_of_death(process: Popen) -> str:
    """Waits for the end of a process that has closed its pipe."""
    try:
        code = process.wait(GRACE)
    except TimeoutExpired:
        process.kill()
        code = process.wait()
    return f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
