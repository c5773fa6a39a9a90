"""Peers in processes of their own: what they compute arrives, what goes wrong is told, nothing outlives its use."""

import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from paths import environment

from fastrnn.benchmark import peers, runner, workloads
from fastrnn.benchmark.kinds import KINDS
from fastrnn.benchmark.measure import CallFailed
from fastrnn.benchmark.remote import RemotePeer
from fastrnn.benchmark.workloads import Size, Workload

FLOAT32 = np.dtype(np.float32)
NEEDED = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
SETTINGS = runner.Settings((Size(8, 2, 3, 4),), ("gru",), workloads.MODES, FLOAT32, threads=1, seconds=0.002)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process does")


def skip_unless_installed(name):
    for module in NEEDED.get(name, (name,)):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="module", params=peers.PEERS)
def peer(request):
    skip_unless_installed(request.param)
    with peers.running_peers([request.param], 1, FLOAT32) as (running, missing):
        assert not missing
        yield running[0]


@pytest.fixture
def fake():
    """Starts the peers of fake_peers.py."""
    started = []

    def start(name, dtype=FLOAT32):
        started.append(RemotePeer(name, f"fake_peers:{name}", 1, np.dtype(dtype)))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize("mode", workloads.MODES)
def test_peers_compute_what_we_do(peer, mode):
    if mode not in peer.modes:
        assert mode == "training" and peer.name in ("onnxruntime", "openvino")
        return
    assert set(workloads.CELLS) < set(peer.cells) < set(KINDS)
    for cell in peer.cells:
        problem = workloads.problem(Workload(cell, Size(5, 3, 40, 6), mode), seed=4)  # so many inputs meet the clip
        shape = problem.dy.shape if mode == "forward" else problem.x.shape
        expected, result = (who.prepare(problem).result(shape) for who in (peers.Ours("numpy"), peer))
        peers.check_agreement(result, expected)
        assert np.abs(expected).max() > 0.1


def test_versions_of_peers(peer):
    assert peer.version()[0].isdigit()


def test_onnxruntime_is_left_out_in_float64():
    skip_unless_installed("onnxruntime")
    with peers.running_peers(["onnxruntime"], 1, np.dtype(np.float64)) as (running, (missing,)):
        assert running == []
        assert missing.name == "onnxruntime" and "float32 only, not in float64" in missing.reason


@pytest.mark.parametrize("mode", workloads.MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fake_peer_computes_the_same_bits_as_here(fake, dtype, mode):
    steady = fake("Steady", dtype)
    assert (steady.version(), steady.modes) == ("1.2.3", ("forward", "training"))
    part = workloads.problem(Workload("lstm", Size(6, 2, 3, 4), mode), dtype, seed=5).head(4)
    shape = (4, 2, 4 if mode == "forward" else 3)
    call = steady.prepare(part)
    result = call.result(shape)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, peers.Ours("numpy").prepare(part).result(shape))
    assert 0 < call.elapsed(3) < 60


def test_a_call_ends_with_the_next_preparation(fake):
    steady = fake("Steady")
    problem = workloads.problem(Workload("rnn", Size(2, 1, 2, 2), "forward"))
    first, second = steady.prepare(problem), steady.prepare(problem)
    with pytest.raises(ValueError, match="Steady has prepared another call since"):
        first.elapsed(1)
    second.elapsed(1)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("NotInstalled", "No module named 'not_installed'"),
        ("Stillborn", "its process ended: exit code 3"),
        ("NoSuchClass", "AttributeError: module 'fake_peers' has no attribute 'NoSuchClass'"),
    ],
)
def test_a_peer_that_cannot_be_had_is_named(monkeypatch, name, reason):
    monkeypatch.setitem(peers.PEERS, name, f"fake_peers:{name}")
    monkeypatch.setitem(peers.PEERS, "steady", "fake_peers:Steady")
    with peers.running_peers([name, "steady"], 1, FLOAT32) as (running, missing):
        assert [each.name for each in running] == ["steady"]
        assert missing == [peers.Missing(name, reason)]


def test_processes_end_with_an_interrupt(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "steady", "fake_peers:Steady")
    with pytest.raises(KeyboardInterrupt):
        with peers.running_peers(["steady"], 1, FLOAT32) as (running, _):
            raise KeyboardInterrupt
    assert running[0].process.returncode == -signal.SIGKILL  # waited for: no zombie stays


def test_an_exception_in_a_peer_is_carried_back(fake):
    with pytest.raises(CallFailed, match="^RuntimeError: out of luck, and of memory$"):
        fake("Failing").prepare(workloads.problem(Workload("rnn", Size(2, 1, 2, 2), "forward")))


def test_a_peer_that_dies_is_left_out_and_the_run_goes_on(fake):
    competitors = [peers.Ours("numpy"), fake("Mortal"), fake("Steady"), fake("Failing")]
    outcome = runner.run_grid(SETTINGS, competitors, lambda *what: None)
    forward, training = workloads.workloads(SETTINGS.sizes, SETTINGS.cells)
    assert [(r.workload, r.competitor) for r in outcome.results] == [
        (forward, "numpy"), (forward, "Mortal"), (forward, "Steady"), (training, "numpy"), (training, "Steady"),
    ]  # fmt: skip
    luck = "failed: RuntimeError: out of luck, and of memory"
    died = f"failed: its process ended: {signal.strsignal(signal.SIGKILL)}"
    assert set(outcome.left_out) == {
        runner.LeftOut(forward, "Failing", luck),
        runner.LeftOut(training, "Failing", luck),
        runner.LeftOut(training, "Mortal", died),
    }


def stat(pid):
    """State and clock ticks of CPU time of a process; None, 0 for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, 0
    return fields[0], int(fields[11]) + int(fields[12])


def wait_for(pid, states):
    deadline = time.monotonic() + 30
    while stat(pid)[0] not in states:
        assert time.monotonic() < deadline, f"{stat(pid)} is none of {states}"
        time.sleep(0.01)


@on_linux
def test_a_peer_uses_no_cpu_between_its_turns(fake):
    spinning = fake("Spinning")
    pid = spinning.process.pid
    call = spinning.prepare(workloads.problem(Workload("rnn", Size(2, 1, 2, 2), "forward")))
    wait_for(pid, "T")
    before = stat(pid)
    time.sleep(0.2)
    assert stat(pid) == before
    while stat(pid)[1] < before[1] + 2:  # in its turn it goes on
        call.elapsed(1000)


@on_linux
def test_a_stopped_peer_does_not_outlive_a_parent_that_is_killed():
    code = """if True:
        import os, signal
        import numpy as np
        from fastrnn.benchmark.remote import RemotePeer
        peer = RemotePeer("spinning", "fake_peers:Spinning", 1, np.dtype(np.float32))
        print(peer.process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    parent = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    wait_for(int(parent.stdout), (None, "Z", "X"))  # gone, or dead and not yet collected by the system
