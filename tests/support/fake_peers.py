"""Peers for the tests of peers' processes: what can go right and wrong there, with nothing to install."""

import os
import signal
import threading

from fastrnn.benchmark.measure import LocalCall
from fastrnn.benchmark.peers import Ours


class Steady:
    """The reference, in its constructor and in every call as talkative as some libraries are."""

    modes = ("forward", "training")
    cells = Ours.cells

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
    """Crashes in training, between the samples of the whole sequence."""

    def prepare(self, problem):
        call = super().prepare(problem)
        whole = problem.workload.mode == "training" and problem.workload.size.T > 1
        return Dying(call) if whole else call


class Dying:
    """An estimate asks for more and more calls, so whoever asks for as many as before has begun to sample."""

    def __init__(self, call):
        self.call, self.asked = call, set()
        self.result = call.result

    def elapsed(self, calls):
        if calls in self.asked:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked.add(calls)
        return self.call.elapsed(calls)
