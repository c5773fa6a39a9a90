"""`fit`: what a run learns, where it stops, and that a broken one goes on with the same bits."""

import os
import signal
import threading

import numpy as np
import pytest

import fastrnn
from fastrnn.train import (
    SGD,
    Adam,
    Chain,
    CosineSchedule,
    Dropout,
    Embedding,
    LastStep,
    Linear,
    Model,
    Outcome,
    Plateau,
    Sequences,
    Stream,
    WarmUp,
    batches,
    cross_entropy,
    evaluate,
    fit,
    mean_squared,
)

pytest.importorskip("safetensors")


def tagger(seed=0, dropout=0.0):
    """Tags each item of a sequence; of two layers where it drops out between them."""
    options = {"num_layers": 2, "dropout": dropout} if dropout else {}
    gru = fastrnn.GRU(6, 12, rng=seed, **options)
    return Chain(emb=Embedding(7, 6, rng=seed), drop=Dropout(dropout, rng=seed), gru=gru, out=Linear(12, 7, rng=seed))


def tag_data(n=50, seed=0):
    """Sequences of 3 to 9 items, each to be answered by the one before it."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(0, 7, rng.integers(3, 10)) for _ in range(n)]
    return Sequences(x, [np.concatenate([[0], items[:-1]]) for items in x], per_step=True)


def same(one, other):
    return all(np.array_equal(one.params[name], other.params[name]) for name in one.params)


def test_learns():
    model, data = tagger(), tag_data(200)
    history = fit(model, data, cross_entropy, Adam(model.params, lr=0.01), epochs=15, rng=0)
    assert history.stopped == "epochs" and history.steps == 15 * 7
    assert evaluate(model, tag_data(50, seed=1), cross_entropy) < 0.2
    assert np.mean(history.losses[:5]) > 1.5


def test_one_step_is_the_gradient():
    """A step of plain SGD on one batch, against the same written out."""
    model, data = tagger(), tag_data(8)
    right = tagger()
    batch = next(batches(data, 8, rng=None))
    y, tape = right.forward(batch.x, lengths=batch.lengths)
    loss, dy = cross_entropy(y, batch.targets, lengths=batch.lengths)
    grads = right.backward(tape, dy).params
    for name, array in right.params.items():
        array -= np.float32(0.1) * grads[name]
    history = fit(model, data, cross_entropy, SGD(model.params, lr=0.1), steps=1, batch_size=8)
    np.testing.assert_allclose(history.losses, [loss], rtol=1e-6)
    for name in model.params:
        np.testing.assert_allclose(model.params[name], right.params[name], atol=1e-6)


# --- data


def test_batches_hold_every_row_once_and_like_lengths():
    data = tag_data(1000)
    seen, waste = [], 0
    for batch in batches(data, 16, rng=0):
        seen += batch.rows.tolist()
        T, B = batch.x.shape
        lengths = np.full(B, T) if batch.lengths is None else batch.lengths
        waste += T * B - lengths.sum()
        for k, row in enumerate(batch.rows):
            np.testing.assert_array_equal(batch.x[: lengths[k], k], data.x[row])
            np.testing.assert_array_equal(batch.targets[: lengths[k], k], data.targets[row])
            assert not batch.x[lengths[k] :, k].any()
        assert batch.num_targets == lengths.sum()
    assert sorted(seen) == list(range(1000))
    assert waste < 0.03 * data.lengths.sum()
    again = [batch.rows.tolist() for batch in batches(data, 16, rng=0)]
    assert np.concatenate(again).tolist() == seen
    assert [batch.rows.tolist() for batch in batches(data, 16, rng=1)] != again


@pytest.mark.parametrize("parts", [1, 2, 8, 64])
def test_parts_of_a_batch_are_the_batch(parts):
    data = tag_data(30)
    key = data.plan(20, np.random.default_rng(0))[0]
    whole, found = data.batch(key), [data.batch(key, part, parts) for part in range(parts)]
    rows = [row for part in found if part is not None for row in part.rows]
    assert rows == whole.rows.tolist()
    assert sum(part.num_targets for part in found if part is not None) == whole.num_targets


def test_padded_arrays_as_data():
    x, lengths = np.full((4, 6, 2), np.nan), [6, 2, 3, 1]
    for k, length in enumerate(lengths):
        x[k, :length] = k
    data = Sequences(x, np.arange(4), lengths=lengths)
    (batch,) = batches(data, 4)
    assert batch.x.shape == (6, 4, 2) and batch.x.dtype == np.float32 and not np.isnan(batch.x).any()
    np.testing.assert_array_equal(batch.lengths, lengths)
    assert batch.num_targets == 4 and not batch.per_step


def test_stream_carries_on():
    items = np.arange(101)
    stream = Stream.next_items(items, rows=4, steps=5)
    found = list(batches(stream))
    assert len(found) == 5 and stream.carries
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in found])[:, 1], np.arange(25, 50))
    for batch in found:
        np.testing.assert_array_equal(batch.targets, batch.x + 1)


def test_carried_state_is_used():
    """Pieces of a stream give the losses of the whole sequence, whose state they carry: nothing is learnt at lr=0."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 7, (40, 3))
    model = tagger()
    history = fit(model, Stream(items, items, steps=10), cross_entropy, SGD(model.params, lr=0.0), epochs=1)
    y, _ = model.run(items, None, None)
    whole = [cross_entropy(y[k : k + 10], items[k : k + 10])[0] for k in range(0, 40, 10)]
    np.testing.assert_allclose(history.losses, whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sequences([], []), ValueError, "x: expected at least one sequence"),
        (lambda: Sequences([[1], [2]], [1]), ValueError, "targets: expected as many as sequences in x, 2, got 1"),
        (lambda: Sequences([[1, 2]], [[1]], per_step=True), ValueError, r"targets\[0\]: expected 2 steps"),
        (lambda: Sequences([[1, 2]], [1], lengths=[2]), ValueError, "lengths: expected None for a list"),
        (lambda: Sequences([[[1.0]], [2.0]], [1, 2]), ValueError, r"x\[1\]: expected shape \(T, 1\), got \(1,\)"),
        (
            lambda: Sequences(np.ones((2, 3)), [1, 2], lengths=[4, 1]),
            ValueError,
            "lengths: expected integers from 0 to",
        ),
        (lambda: Sequences(["ab"], [1]), TypeError, r"x\[0\]: expected real numbers"),
        (lambda: Stream(np.ones((4, 2)), np.ones((4, 3)), 2), ValueError, r"targets: expected shape \(4, 2\)"),
        (lambda: Stream(np.ones((4, 2)), np.ones((4, 2)), 5), ValueError, "steps: expected at most the T = 4"),
        (lambda: Stream.next_items(np.ones(10), 3, 4), ValueError, "items: expected more than rows · steps = 12"),
    ],
)
def test_bad_data(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- limits, validation, patience


def test_limits():
    data = tag_data(64)
    for limits, steps, why in (({"steps": 5}, 5, "steps"), ({"epochs": 2, "steps": 50}, 4, "epochs")):
        model = tagger()
        history = fit(model, data, cross_entropy, **limits)
        assert (history.steps, history.stopped) == (steps, why)
    history = fit(tagger(), data, cross_entropy, seconds=0.2)
    assert history.stopped == "seconds" and 0.2 <= history.seconds < 2
    with pytest.raises(TypeError, match="epochs, steps, seconds: expected at least one"):
        fit(tagger(), data, cross_entropy)


def test_patience_goes_back_to_the_best():
    model, data, values = tagger(), tag_data(64), iter([3.0, 2.0, 1.0, 5.0, 4.0, 6.0, 0.0])
    kept = []

    def validation(model):
        kept.append({name: array.copy() for name, array in model.params.items()})
        return next(values)

    history = fit(model, data, cross_entropy, epochs=50, validation=validation, patience=3)
    assert history.stopped == "patience" and [value for _, value in history.validations] == [3, 2, 1, 5, 4, 6]
    assert history.best == (6, 1.0)
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, kept[2][name])
        assert not np.array_equal(array, kept[5][name]) or name == "emb.weight"


def test_validation_is_the_loss_of_the_data():
    model, data = tagger(), tag_data(64)
    other = tag_data(20, seed=1)
    history = fit(model, data, cross_entropy, steps=4, validation=other, validate_every=2)
    assert [step for step, _ in history.validations] == [2, 4]
    total = count = 0
    for row in range(20):
        y = model(other.x[row][:, None])
        total += cross_entropy(y, other.targets[row][:, None])[0] * len(other.x[row])
        count += len(other.x[row])
    np.testing.assert_allclose(history.validations[-1][1], total / count, rtol=1e-5)


def test_schedule_and_clipping():
    model, data = tagger(), tag_data(64)
    history = fit(model, data, cross_entropy, SGD(model.params, lr=0.5), steps=6, schedule=CosineSchedule(6), clip=1e-3)
    np.testing.assert_allclose(history.rates, 0.25 * (1 + np.cos(np.pi * np.arange(6) / 6)), rtol=1e-12)
    before, after = tagger(), tagger()
    history = fit(after, data, cross_entropy, SGD(after.params, lr=1.0), steps=1, clip=1e-3)
    moved = np.sqrt(sum(((after.params[n] - before.params[n]).astype(float) ** 2).sum() for n in before.params))
    assert history.norms[0] > 1e-2
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("limits", "steps"), [({"steps": 6}, 6), ({"epochs": 3}, 6), ({"epochs": 2, "steps": 1000}, 4)]
)
def test_a_schedule_falls_to_the_end_of_the_run(limits, steps):
    model, data = tagger(), tag_data(64)  # two batches an epoch
    history = fit(model, data, cross_entropy, SGD(model.params, lr=0.5), schedule=CosineSchedule(), **limits)
    np.testing.assert_allclose(history.rates, 0.25 * (1 + np.cos(np.pi * np.arange(steps) / steps)), rtol=1e-12)


def test_a_schedule_falls_with_the_clock(monkeypatch):
    model, clock = tagger(), iter(range(1000))
    monkeypatch.setattr("fastrnn.train.loop.time.perf_counter", lambda: float(next(clock)))
    schedule = WarmUp(1, then=CosineSchedule(least=0.1))
    history = fit(model, tag_data(640), cross_entropy, SGD(model.params, lr=1.0), schedule=schedule, seconds=15)
    assert history.rates[0] == 1 and history.rates == sorted(history.rates, reverse=True)
    assert 0.1 < history.rates[-1] < 0.2 and history.stopped == "seconds"


def test_plateau_learns_of_validations():
    model, values = tagger(), iter([1.0, 2.0, 2.0, 2.0, 2.0])
    schedule = Plateau(factor=0.5, patience=1)
    history = fit(
        model, tag_data(64), cross_entropy, SGD(model.params, lr=1.0), epochs=4, schedule=schedule,
        validation=lambda model: next(values),
    )  # fmt: skip
    assert history.rates == [1.0] * 6 + [0.5] * 2


def test_flow_is_looked_at():
    model, data = tagger(dropout=0.2), tag_data(64)
    history = fit(model, data, cross_entropy, steps=4, flow=True, rng=0)
    assert [step for step, _ in history.flow] == [2, 4]
    found = history.flow[-1][1]["gru"]
    steps = len(found.state_to_state)
    assert 3 <= steps <= 9 and found.state_to_state[-1] == 1 and (np.diff(found.log10_state_to_state) > 0).any()
    plain = tagger(dropout=0.2)
    fit(plain, data, cross_entropy, steps=4, rng=0)
    assert same(model, plain)
    with pytest.raises(ValueError, match="flow: expected a Chain"):
        fit(Model(a=Linear(1, 1)), data, objective=print, steps=1, flow=True)


# --- going on


def runs(path, limits, **options):
    """A run in pieces that end at each of these limits of steps, every piece in a model and optimiser of its own."""
    histories = []
    for steps in limits:
        model = tagger(dropout=0.3)
        optimiser = Adam(model.params, lr=0.01)
        options.setdefault("rng", 5)
        history = fit(model, tag_data(100), cross_entropy, optimiser, steps=steps, checkpoint=path, **options)
        histories.append(history)
    return model, optimiser, histories


def test_resumed_run_has_the_same_bits(tmp_path):
    options = {"clip": 1.0, "validation": tag_data(20, seed=1), "patience": 100}
    whole, optimiser, (history,) = runs(tmp_path / "whole", [13], schedule=CosineSchedule(20), **options)
    pieces, other, histories = runs(tmp_path / "pieces", [1, 4, 8, 13], schedule=CosineSchedule(20), **options)
    assert same(whole, pieces)
    assert history.losses == histories[-1].losses and history.validations == histories[-1].validations
    for name, value in optimiser.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name])
    assert not same(whole, runs(tmp_path / "other", [13], rng=6, **options)[0])


def test_resumed_stream_has_the_same_bits(tmp_path):
    items = np.random.default_rng(0).integers(0, 7, (60, 3))
    found = []
    for path, limits in ((tmp_path / "whole", [9]), (tmp_path / "pieces", [2, 5, 9])):
        for steps in limits:
            model = tagger(dropout=0.3)
            history = fit(model, Stream(items, items, steps=10), cross_entropy, steps=steps, checkpoint=path, rng=1)
        found.append((model, history.losses))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_shards_are_the_batch():
    """Eight shards' gradients add up to the batch's, dropout apart."""
    found = {}
    for shards in (1, 2, 8):
        model = tagger()
        found[shards] = fit(
            model, tag_data(100), cross_entropy, SGD(model.params, lr=0.1), steps=6, rng=0, shards=shards
        )
    for shards in (2, 8):
        np.testing.assert_allclose(found[shards].losses, found[1].losses, rtol=1e-5)
        np.testing.assert_allclose(found[shards].norms, found[1].norms, rtol=1e-5)


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C: a shell starts what runs in its background with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_saves(tmp_path):
    """Ctrl-C between two steps or amid one: the checkpoint is that of the last whole step."""
    path = tmp_path / "run"
    whole, _, (history,) = runs(tmp_path / "whole", [12])
    model = tagger(dropout=0.3)
    calls = []

    def after_step(number, loss):
        calls.append(number)
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(model, tag_data(100), cross_entropy, Adam(model.params, lr=0.01), steps=12, rng=5, checkpoint=path,
            after_step=after_step)  # fmt: skip
    assert calls == [1, 2, 3, 4, 5] and path.exists()
    again, _, (resumed,) = runs(path, [12])
    assert same(whole, again) and resumed.losses == history.losses


@pytest.mark.usefixtures("interruptible")
def test_interrupt_within_the_update(tmp_path, monkeypatch):
    """The update is finished first: no parameter is a step ahead of the others."""
    path = tmp_path / "run"
    whole, _, (history,) = runs(tmp_path / "whole", [6])
    plain = Adam.step

    def step(self, grads):
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(None)
        plain(self, grads)

    seen = []
    monkeypatch.setattr(Adam, "step", step)
    with pytest.raises(KeyboardInterrupt):
        runs(path, [6])
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again, _, (resumed,) = runs(path, [6])
    assert same(whole, again) and resumed.losses == history.losses


def test_in_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(tagger(), tag_data(20), cross_entropy, steps=2)))
    thread.start()
    thread.join()
    assert found[0].steps == 2


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops(tmp_path, what):
    """Before a parameter changes, with the step and the parameter named; the last good checkpoint stays."""
    model, path = tagger(), tmp_path / "run"
    fit(model, tag_data(64), cross_entropy, steps=3, checkpoint=path, rng=0)
    content, before = path.read_bytes(), {name: array.copy() for name, array in model.params.items()}

    def objective(model, batch, state):
        grads = {name: np.ones_like(array) for name, array in model.params.items()}
        if what == "gradient":
            grads["gru.weight_hh_l0"][0, 0] = np.nan
        return Outcome(np.inf if what == "loss" else 1.0, grads)

    named = "gru.weight_hh_l0" if what == "gradient" else "out.weight|emb.weight|gru.weight_.h_l0"
    with pytest.raises(FloatingPointError, match=f"step 4: expected a finite loss.*({named}).*norm"):
        fit(model, tag_data(64), objective=objective, steps=6, checkpoint=path, rng=0)
    assert path.read_bytes() == content
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, before[name])


def test_checkpoints_of_others(tmp_path):
    path = tmp_path / "run"
    for content in (b"", b"no such thing", os.urandom(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a safetensors file"):
            fit(tagger(), tag_data(20), cross_entropy, steps=1, checkpoint=path)
    fastrnn.save(path, model=tagger())
    with pytest.raises(ValueError, match="checkpoint: expected a file that fit wrote"):
        fit(tagger(), tag_data(20), cross_entropy, steps=1, checkpoint=path)
    path.unlink()
    fit(tagger(), tag_data(20), cross_entropy, steps=1, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="safetensors"):
        fit(tagger(), tag_data(20), cross_entropy, steps=2, checkpoint=path)
    path.write_bytes(whole)
    other = Chain(gru=fastrnn.GRU(2, 3), last=LastStep(), out=Linear(3, 1))
    with pytest.raises(ValueError, match="emb.weight is unexpected"):
        fit(other, Sequences(np.ones((4, 5, 2)), np.ones((4, 1))), mean_squared, steps=2, checkpoint=path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: expected an integer of at least 1"),
        ({"seconds": -1}, ValueError, "seconds: expected a finite number above 0"),
        ({"steps": 1, "clip": 0}, ValueError, "clip: expected a finite number above 0"),
        ({"steps": 1, "patience": 2}, ValueError, "patience: expected a validation"),
        ({"steps": 1, "shards": 3}, ValueError, "shards: expected a power of two, got 3"),
        ({"steps": 1, "rng": "x"}, TypeError, "rng: expected"),
        ({"steps": 1, "batch_size": 1.5}, TypeError, "batch_size: expected an integer"),
        ({"steps": 1, "objective": print}, TypeError, "loss, objective: expected one of them"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        fit(tagger(), tag_data(20), cross_entropy, **options)
