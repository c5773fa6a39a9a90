"""fastrnn.torch among processes and modes: workers forked or spawned, ranks of gloo, inference mode, threads."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch")

import fastrnn  # noqa: E402
import fastrnn.torch  # noqa: E402
from fastrnn.torch import threads as torch_threads  # noqa: E402


class Encoded(torch.utils.data.Dataset):
    """Items that a layer of the process which loads them has computed."""

    def __init__(self):
        torch.manual_seed(0)
        self.rnn = fastrnn.torch.GRU(3, 16, bidirectional=True)
        self.items = torch.randn(12, 40, 3)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        with torch.no_grad():
            return self.rnn(self.items[k])[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method):
    data = Encoded()
    expected = torch.stack([data[k] for k in range(len(data))])  # and the pool has been in use when they are forked
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=method, timeout=120)
    assert torch.equal(torch.cat(list(loader)), expected)


def train_rank(rank, ranks, path, where):
    """A step of training of one rank of `ranks`, each on its share of the rows."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = fastrnn.torch.accelerate(torch.nn.LSTM(4, 8, 2))
    shared = torch.nn.parallel.DistributedDataParallel(model)
    x = torch.randn(10, 6, 4)
    rows = x.chunk(ranks, dim=1)[rank]
    optimiser = torch.optim.SGD(shared.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        shared(rows)[0].square().mean().backward()
        optimiser.step()
    torch.save(model.state_dict(), where / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_of_gloo_train_as_one_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=train_rank, args=(rank, 2, tmp_path / "meet", tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    torch.manual_seed(0)
    model = torch.nn.LSTM(4, 8, 2)
    x = torch.randn(10, 6, 4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(x)[0].square().mean().backward()
        optimiser.step()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


PROGRAM = """
import os
import torch
import fastrnn.torch
torch.manual_seed(0)
torch.set_num_threads(2)
rnn, x = fastrnn.torch.LSTM(64, 64, bidirectional=True), torch.randn(10, 16, 64)  # too small for torch to divide
def train():
    rnn.zero_grad()
    rnn(x)[0].square().sum().backward()
    return [param.grad.clone() for param in rnn.parameters()]
def threads():
    return len(os.listdir("/proc/self/task"))
torch.randn(400, 400) @ torch.randn(400, 400), torch.randn(10 ** 6).exp()
before = threads()
found = train()
assert threads() == before, "threads of the pool's beside OpenMP's"
if os.fork() == 0:
    again = train()  # OpenMP has no threads here
    os._exit(0 if threads() == 2 and all(map(torch.equal, again, found)) else 1)
assert os.wait()[1] == 0, "in a child of fork"
torch.set_num_threads(1)
assert all(map(torch.equal, train(), found)), "one thread has other bits"
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted where /proc shows them")
def test_two_threads_are_openmps():
    environment = {key: value for key, value in os.environ.items() if key != "FASTRNN_NUM_THREADS"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True, timeout=120, env=environment)


def test_inference_mode():
    rnn = fastrnn.torch.LSTM(3, 5, 2)
    x = torch.randn(7, 2, 3)
    expected = rnn(x)[0].detach()
    with torch.inference_mode():
        y, state = rnn(x)
        assert torch.equal(y, expected) and y.is_inference()
        again, _ = rnn(y.new_zeros(4, 2, 3), state)  # tensors of the mode go in again
    assert again.shape == (4, 2, 5)


def test_torchs_number_of_threads_is_followed(monkeypatch):
    from fastrnn.torch import autograd

    asked = []
    record = autograd.stack.record

    def noted(*args, threads=None, **options):
        asked.append(threads)
        return record(*args, threads=threads, **options)

    monkeypatch.setattr(autograd.stack, "record", noted)
    rnn, before = fastrnn.torch.GRU(3, 4), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        rnn(torch.randn(2, 2, 3))
        torch.set_num_threads(3)
        rnn(torch.randn(2, 2, 3))
        monkeypatch.setattr(torch_threads, "own_threads", True)  # as FASTRNN_NUM_THREADS would have it at import
        rnn(torch.randn(2, 2, 3))
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 3, None]


def test_python_threads_share_a_module():
    rnn = fastrnn.torch.LSTM(8, 32)
    inputs = [torch.randn(20, 4, 8) for _ in range(4)]
    resets = [torch.rand(20, 4) < 0.2 for _ in inputs]
    expected = [rnn(x, resets=r)[0].detach() for x, r in zip(inputs, resets)]
    wrong = []

    def work(k):
        for _ in range(30):
            if not torch.equal(rnn(inputs[k], resets=resets[k])[0], expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_on_openmps_threads_answers_ctrl_c():
    rnn, x = fastrnn.torch.LSTM(8, 1024), torch.zeros(20_000, 8, 8)
    threads, before = torch.get_num_threads(), signal.signal(signal.SIGALRM, signal.default_int_handler)
    torch.set_num_threads(2)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with torch.no_grad(), pytest.raises(KeyboardInterrupt):
            rnn(x)  # 1.3 TFLOP: seconds
        with torch.no_grad():
            rnn(x[:2])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_num_threads(threads)
