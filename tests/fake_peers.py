"""Peers for the tests of peers' processes: what can go right and wrong there, with nothing to install."""

import os
import signal
import threading

from fastrnn.benchmark.measure import LocalCall
from fastrnn.benchmark.peers import Ours


class Steady:
    """The reference, in its constructor and in every call as talkative as some libraries are."""

    modes = ("forward", "training")

    def __init__(self, threads, dtype):
        print("hello from a library")
        self.reference = Ours("numpy")

    def version(self):
        return "1.2.3"

    def prepare(self, problem):
        call = self.reference.prepare(problem)

        def run():
            print("computing")
            return call.run()

        return LocalCall(run, call.context)


class Spinning(Steady):
    """Keeps a thread busy all the time."""

    def __init__(self, threads, dtype):
        super().__init__(threads, dtype)
        threading.Thread(target=spin, daemon=True).start()


def spin():
    while True:
        pass


class NotInstalled:
    def __init__(self, threads, dtype):
        raise ImportError("No module named 'not_installed'")


class Stillborn:
    def __init__(self, threads, dtype):
        os._exit(3)


class Failing(Steady):
    def prepare(self, problem):
        raise RuntimeError("out of luck,\n    and of memory")


class Mortal(Steady):
    """Crashes in training, once it has been timed there."""

    def prepare(self, problem):
        call, runs = super().prepare(problem), []

        def run():
            runs.append(problem)
            if problem.workload.mode == "training" and len(runs) > 30:
                os.kill(os.getpid(), signal.SIGKILL)
            return call.run()

        return LocalCall(run, call.context)
