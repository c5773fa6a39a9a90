"""Optimisers, schedules and clipping, against torch step for step."""

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn.train import optimisers
from fastrnn.train.clipping import clip_grad_norm
from fastrnn.train.optimisers import SGD, Adam, AdamW, RMSprop
from fastrnn.train.schedules import CosineSchedule, Plateau, Schedule, StepSchedule, WarmUp

torch = pytest.importorskip("torch")

STEPS = 60
SHAPES = {"weight": (7, 5), "bias": (7,), "scale": (), "none": (0, 3)}

CASES = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (RMSprop, {}),
    (RMSprop, {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.9}),
    (RMSprop, {"centered": True}),
    (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    (Adam, {}),
    (Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"lr": 0.05, "betas": (0.3, 0.9), "weight_decay": 0.3}),
]
every_case = pytest.mark.parametrize(
    "kind, options", CASES, ids=lambda value: value.__name__ if isinstance(value, type) else None
)


def arrays(seed, dtype=np.float64, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def torch_course(kind, options, params, gradients):
    """The parameters after each step, as torch's optimiser of that name has them."""
    tensors = {name: torch.tensor(array) for name, array in params.items()}
    optimiser = getattr(torch.optim, kind.__name__)(tensors.values(), foreach=False, **options)
    for grads in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        optimiser.step()
        yield {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def gradients(dtype=np.float64, steps=STEPS, shapes=SHAPES):
    """Of very different sizes, from step to step."""
    return [
        {name: np.asarray(10.0 ** (k % 5 - 3) * array, dtype) for name, array in arrays(k + 1, shapes=shapes).items()}
        for k in range(steps)
    ]


# --- against torch


@every_case
def test_every_step_is_torchs(kind, options):
    params, given = arrays(0), gradients()
    expected = torch_course(kind, options, params, given)
    optimiser = kind(params, **options)
    for grads, after in zip(given, expected):
        optimiser.step(grads)
        for name, array in params.items():
            np.testing.assert_allclose(array, after[name], rtol=1e-12, atol=1e-15)


@every_case
def test_float32_keeps_within_rounding_of_torch(kind, options):
    """Each step rounds a handful of times, relative to the parameter and to how far it moves."""
    params, given = arrays(0, np.float32), gradients(np.float32)
    optimiser = kind(params, **options)
    before, moved = {name: array.copy() for name, array in params.items()}, dict.fromkeys(params, 0.0)
    for k, (grads, after) in enumerate(zip(given, torch_course(kind, options, params, given))):
        optimiser.step(grads)
        for name, array in params.items():
            assert array.dtype == np.float32
            moved[name] = moved[name] + np.abs(after[name] - before[name]) + np.abs(after[name])
            assert (np.abs(array - after[name]) <= 2 * np.finfo(np.float32).eps * moved[name]).all(), k
        before = after


@every_case
def test_blocks_and_layouts_change_no_bits(kind, options, monkeypatch):
    """Parameters and gradients that are longer than a block, transposed, or strided, end up with the same bits."""
    shapes = {"weight": (50, 40), "bias": (77,)}
    given = gradients(np.float32, 5, shapes)
    whole = arrays(0, np.float32, shapes)
    optimiser = kind(whole, **options)
    for grads in given:
        optimiser.step(grads)
    monkeypatch.setattr(optimisers, "BLOCK", 64)
    strided = np.zeros((2 * 77,), np.float32)[::2]
    pieces = {"weight": np.empty((40, 50), np.float32).T, "bias": strided}
    for name, array in arrays(0, np.float32, shapes).items():
        pieces[name][...] = array
    optimiser = kind(pieces, **options)
    for grads in given:
        optimiser.step({name: np.asfortranarray(array) for name, array in grads.items()})
    for name, array in whole.items():
        np.testing.assert_array_equal(array, pieces[name])


def test_variance_that_rounding_makes_negative():
    """Of the same gradient again and again the mean square and the squared mean become equal but for rounding."""
    params = {"w": np.zeros(1000, np.float32)}
    gradient = np.linspace(0.1, 3, 1000, dtype=np.float32)
    optimiser = RMSprop(params, lr=1e-6, alpha=0.5, centered=True)
    negative = False
    for _ in range(100):
        optimiser.step({"w": gradient})
        state = optimiser.state_dict()
        negative |= bool((state["square_avg.w"] < state["grad_avg.w"] ** 2).any())
        assert np.isfinite(params["w"]).all()
    assert negative  # or this has tested nothing


# --- gradients and parameters as they come


@every_case
def test_gradients_of_another_dtype_are_converted_and_none_is_changed(kind, options):
    params, same, given = arrays(0, np.float32), arrays(0, np.float32), gradients()
    one, other = kind(params, **options), kind(same, **options)
    for grads in given[:5]:
        for array in grads.values():
            array.flags.writeable = False
        one.step(grads)
        other.step({name: array.astype(np.float32) for name, array in grads.items()})
    one.step({name: np.ones(array.shape, int) for name, array in params.items()})
    other.step({name: np.ones(array.shape, np.float32) for name, array in params.items()})
    for name, array in params.items():
        np.testing.assert_array_equal(array, same[name])


def test_layer_is_trained_through_its_params():
    layer = fastrnn.GRU(3, 4, rng=0)
    before = layer.state_dict()
    x = np.ones((5, 2, 3), np.float32)
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, np.ones_like(y))
    SGD(layer.params, lr=0.5).step(grads.params)
    for name, array in layer.params.items():
        np.testing.assert_array_equal(array, before[name] - np.float32(0.5) * grads.params[name])


def test_step_takes_no_more_memory_than_a_block():
    import tracemalloc

    params = {"w": np.zeros(1_000_000)}
    grads = {"w": np.ones(1_000_000, np.float32)}
    optimiser = AdamW(params)
    tracemalloc.start()
    optimiser.step(grads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@every_case
def test_learning_rate_may_change(kind, options):
    """A step at rate 0 learns nothing of the parameters; the next goes on at its own rate, as torch's."""
    params, given = arrays(0), gradients(steps=3)
    tensors = {name: torch.tensor(array) for name, array in params.items()}
    optimiser, torchs = kind(params, **options), getattr(torch.optim, kind.__name__)(tensors.values(), **options)
    for lr, grads in zip([np.float64(0.3), 0, 2], given):
        optimiser.lr = torchs.param_groups[0]["lr"] = lr
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        optimiser.step(grads)
        torchs.step()
        assert type(optimiser.lr) is float and optimiser.lr == lr
    for name, array in params.items():
        np.testing.assert_allclose(array, tensors[name].numpy(), rtol=1e-12, atol=1e-15)


# --- state


@every_case
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_going_on_gives_the_same_bits(kind, options, how):
    params, given = arrays(0, np.float32), gradients(np.float32, 20)
    optimiser = kind(params, **options)
    for grads in given[:10]:
        optimiser.step(grads)
    if how == "state_dict":
        copied = {name: array.copy() for name, array in params.items()}
        other = kind(copied, **options)
        saved = optimiser.state_dict()
        other.load_state_dict({name: np.asarray(value) for name, value in saved.items()})
    else:
        both = (params, optimiser)
        copied, other = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
        if not all(other._params[name] is array for name, array in copied.items()):
            pytest.fail("the copy does not train the copied parameters")
    for grads in given[10:]:
        optimiser.step(grads)
        other.step(grads)
    for name, array in params.items():
        np.testing.assert_array_equal(array, copied[name])


def test_state_dict_is_flat_and_a_copy():
    params = arrays(0)
    optimiser = Adam(params)
    optimiser.step(arrays(1))
    state = optimiser.state_dict()
    assert list(state) == ["lr", "steps", *(f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in SHAPES)]
    assert state["lr"] == 1e-3 and state["steps"] == 1
    for name, shape in SHAPES.items():
        assert state[f"exp_avg.{name}"].shape == shape
        np.testing.assert_allclose(state[f"exp_avg.{name}"], 0.1 * arrays(1)[name], rtol=1e-12)
        state[f"exp_avg.{name}"][...] = 7
        assert not (optimiser.state_dict()[f"exp_avg.{name}"] == 7).any()
    assert list(SGD(params).state_dict()) == ["lr", "steps"]


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"lr": None}, ValueError, "lr is missing"),
        ({"momentum_buffer.w": np.zeros(3)}, ValueError, "momentum_buffer.w is unexpected"),
        ({"exp_avg.bias": np.zeros(3)}, ValueError, "state_dict['exp_avg.bias']: expected shape (7,), got (3,)"),
        ({"exp_avg_sq.scale": "x"}, TypeError, "state_dict['exp_avg_sq.scale']: expected real numbers"),
        ({"steps": -1}, ValueError, "state_dict['steps']: expected an integer of at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "state_dict['steps']: expected an integer, got float"),
        ({"lr": -1}, ValueError, "state_dict['lr']: expected a finite number of at least 0, got -1"),
    ],
)
def test_wrong_state_changes_nothing(changes, error, message):
    optimiser = Adam(arrays(0))
    optimiser.step(arrays(1))
    before = optimiser.state_dict()
    other = Adam(arrays(0), lr=0.5)
    other.step(arrays(2))
    wrong = {name: value for name, value in (other.state_dict() | changes).items() if value is not None}
    with pytest.raises(error) as caught:
        optimiser.load_state_dict(wrong)
    assert message in str(caught.value)
    for name, value in optimiser.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


# --- arguments


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"bias": None}, ValueError, "bias is missing"),
        ({"other": np.zeros(2)}, ValueError, "other is unexpected"),
        ({"none": np.zeros((3, 0))}, ValueError, "grads['none']: expected shape (0, 3), got (3, 0)"),
        ({"scale": np.zeros(1)}, ValueError, "grads['scale']: expected shape (), got (1,)"),
        ({"scale": 1j}, TypeError, "grads['scale']: expected real numbers, got dtype complex128"),
    ],
)
def test_wrong_gradients_change_nothing(changes, error, message):
    params = arrays(0)
    optimiser = Adam(params)
    grads = {name: value for name, value in (arrays(1) | changes).items() if value is not None}
    with pytest.raises(error) as caught:
        optimiser.step(grads)
    assert message in str(caught.value)
    assert optimiser.steps == 0
    for name, array in arrays(0).items():
        np.testing.assert_array_equal(params[name], array)


def test_parameter_that_became_read_only_changes_nothing():
    params = arrays(0)
    optimiser = Adam(params)
    params["scale"].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['scale'\]: expected a writable array, got a read-only one"):
        optimiser.step(arrays(1))
    for name, array in arrays(0).items():
        np.testing.assert_array_equal(params[name], array)


def read_only():
    array = np.zeros(3)
    array.flags.writeable = False
    return array


SHARED = np.zeros(5)


@pytest.mark.parametrize(
    "params, error, message",
    [
        ([np.zeros(3)], TypeError, "params: expected a mapping of names to arrays, got list"),
        ({}, ValueError, "params: expected at least one parameter, got none"),
        ({"w": [1.0, 2.0]}, TypeError, "params['w']: expected an array, got list"),
        ({"w": np.zeros(3, int)}, TypeError, "params['w']: expected float32 or float64, got int64"),
        ({"w": read_only()}, ValueError, "params['w']: expected a writable array, got a read-only one"),
        (
            {"w": SHARED, "v": SHARED[2:]},
            ValueError,
            "params['v']: expected an array of its own, got one that overlaps params['w']",
        ),
        (
            {"w": np.lib.stride_tricks.as_strided(SHARED, (3, 3), (8, 8))},
            ValueError,
            "params['w']: expected an array of its own, got one that overlaps itself",
        ),
    ],
)
def test_wrong_parameters(params, error, message):
    with pytest.raises(error) as caught:
        SGD(params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "kind, options, error, message",
    [
        (SGD, {"lr": -1}, ValueError, "lr: expected a finite number of at least 0, got -1"),
        (SGD, {"lr": np.nan}, ValueError, "lr: expected a finite number of at least 0, got nan"),
        (SGD, {"lr": "fast"}, TypeError, "lr: expected a real number, got str"),
        (SGD, {"momentum": -0.1}, ValueError, "momentum: expected a finite number of at least 0"),
        (SGD, {"dampening": 2}, ValueError, "dampening: expected a number between 0 and 1"),
        (SGD, {"nesterov": True}, ValueError, "nesterov: expected False without momentum or with dampening"),
        (SGD, {"nesterov": 1}, TypeError, "nesterov: expected True or False, got int"),
        (SGD, {"weight_decay": -1}, ValueError, "weight_decay: expected a finite number of at least 0"),
        (RMSprop, {"alpha": 1.5}, ValueError, "alpha: expected a number between 0 and 1"),
        (RMSprop, {"eps": -1}, ValueError, "eps: expected a finite number of at least 0"),
        (Adam, {"betas": (0.9, 1.0)}, ValueError, "betas[1]: expected a number of at least 0 and below 1, got 1.0"),
        (Adam, {"betas": (0.9,)}, ValueError, "betas: expected a pair of numbers, got 1 items"),
        (Adam, {"betas": 0.9}, TypeError, "betas: expected a pair of numbers, got float"),
        (AdamW, {"eps": np.inf}, ValueError, "eps: expected a finite number of at least 0, got inf"),
    ],
)
def test_wrong_settings(kind, options, error, message):
    with pytest.raises(error) as caught:
        kind(arrays(0), **options)
    assert message in str(caught.value)
    if "lr" in options:
        optimiser = kind(arrays(0), lr=0.25)
        with pytest.raises(error):
            optimiser.lr = options["lr"]
        assert optimiser.lr == 0.25


def test_repr():
    assert repr(Adam(arrays(0))) == "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"
    expected = "SGD(lr=0.1, momentum=0.9, dampening=0.0, nesterov=True, weight_decay=0.0)"
    assert repr(SGD(arrays(0), 0.1, 0.9, nesterov=True)) == expected


# --- schedules


def torch_factors(make, steps):
    """The rates of a schedule of torch's for an optimiser of rate 1."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = make(optimiser)
    for _ in range(steps):
        yield optimiser.param_groups[0]["lr"]
        optimiser.step()
        schedule.step()


rates = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    "schedule, make, steps",
    [
        (StepSchedule(3), lambda o: rates.StepLR(o, 3), 20),
        (StepSchedule(4, gamma=0.5), lambda o: rates.StepLR(o, 4, 0.5), 20),
        (CosineSchedule(10), lambda o: rates.CosineAnnealingLR(o, 10), 11),
        (CosineSchedule(7, least=0.2), lambda o: rates.CosineAnnealingLR(o, 7, 0.2), 8),
        (WarmUp(5), lambda o: rates.LinearLR(o, 1 / 5, total_iters=4), 12),
        (
            WarmUp(4, then=CosineSchedule(6)),
            lambda o: rates.SequentialLR(
                o, [rates.LinearLR(o, 1 / 4, total_iters=3), rates.CosineAnnealingLR(o, 6)], [4]
            ),
            10,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's own, of SequentialLR
def test_schedules_are_torchs(schedule, make, steps):
    found = [schedule(k) for k in range(steps)]
    np.testing.assert_allclose(found, list(torch_factors(make, steps)), rtol=1e-12, atol=1e-15)
    assert all(type(factor) is float for factor in found)


def test_schedules_at_their_ends():
    assert CosineSchedule(10)(0) == 1 and CosineSchedule(10)(10) == CosineSchedule(10)(1000) == 0
    assert CosineSchedule(10, least=0.1)(99) == pytest.approx(0.1)
    falling = WarmUp(2, then=CosineSchedule(least=0.5))
    assert falling(5) == 1
    falling.reach(0.5)
    assert falling(5) == pytest.approx(0.75)
    assert WarmUp(1)(0) == 1
    assert [WarmUp(2, then=lambda step: 0.5**step)(k) for k in range(5)] == [0.5, 1, 1, 0.5, 0.25]


@pytest.mark.parametrize(
    "options", [{}, {"factor": 0.1, "patience": 0}, {"patience": 2, "threshold": 0.05, "least": 0.2}]
)
def test_plateau_is_torchs(options):
    metrics = np.abs(3 * 0.9 ** np.arange(60.0) * (1 + 0.2 * np.random.default_rng(0).standard_normal(60)))
    metrics[40:] = metrics[40]
    metrics[45] = np.nan
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    names = {"least": "min_lr"}
    given = {"factor": 0.5, "patience": 3} | options
    torchs = rates.ReduceLROnPlateau(optimiser, eps=0, **{names.get(name, name): v for name, v in given.items()})
    schedule, resumed = Plateau(**options), Plateau(**options)
    for k, metric in enumerate(metrics):
        schedule.observe(metric)
        resumed.observe(metric)
        torchs.step(metric)
        assert schedule(k) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        kept, resumed = resumed.state_dict(), Plateau(**options)
        resumed.load_state_dict(kept)
        assert resumed.state_dict() == schedule.state_dict()
    assert schedule(60) < 1


def test_plateau_of_negative_metrics():
    """Better is smaller, by the threshold: a log-likelihood that falls by less is none the better."""
    schedule = Plateau(patience=0, threshold=0.1)
    for metric, factor in [(-1.0, 1), (-1.05, 0.5), (-1.2, 0.5), (-1.1, 0.25)]:
        schedule.observe(metric)
        assert schedule(0) == factor


def test_warm_up_observes_for_its_plateau():
    schedule = WarmUp(2, then=Plateau(patience=0))
    for metric in (1, 2, 2):
        schedule.observe(metric)
    assert [schedule(k) for k in range(4)] == [0.5, 1, 0.25, 0.25]
    other = WarmUp(2, then=Plateau(patience=0))
    other.load_state_dict(schedule.state_dict())
    assert other(2) == 0.25
    WarmUp(2).observe(1.0)
    assert WarmUp(2).state_dict() == {}
    WarmUp(2, then=StepSchedule(1)).load_state_dict({})


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: StepSchedule(0), ValueError, "step_size: expected an integer of at least 1, got 0"),
        (lambda: StepSchedule(1, gamma=-1), ValueError, "gamma: expected a finite number of at least 0"),
        (lambda: StepSchedule(2)(-1), ValueError, "step: expected an integer of at least 0, got -1"),
        (lambda: CosineSchedule(2)(0.5), TypeError, "step: expected an integer, got float"),
        (lambda: CosineSchedule(2, least=2), ValueError, "least: expected a number between 0 and 1"),
        (lambda: WarmUp(2, then=3), TypeError, "then: expected a schedule or None, got int"),
        (lambda: Plateau(factor=1.0), ValueError, "factor: expected a number of at least 0 and below 1, got 1.0"),
        (lambda: Plateau(patience=-1), ValueError, "patience: expected an integer of at least 0, got -1"),
        (lambda: Plateau().observe("good"), TypeError, "metric: expected a real number, got str"),
        (lambda: Plateau().load_state_dict({"best": 1.0}), ValueError, "current is missing"),
        (lambda: StepSchedule(2).load_state_dict({"best": 1.0}), ValueError, "best is unexpected"),
        (lambda: WarmUp(2).load_state_dict({"best": 1.0}), ValueError, "best is unexpected"),
    ],
)
def test_wrong_schedules(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_a_schedule_of_ones_own():
    class Halves(Schedule):
        def __call__(self, step):
            return 0.5**step

    schedule = Halves()
    schedule.observe(1.0)
    assert schedule(2) == 0.25 and schedule.state_dict() == {}


# --- clipping


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e3, np.inf])
def test_clipping_is_torchs(dtype, max_norm):
    grads = arrays(0, dtype, SHAPES | {"long": (70_001,)})
    tensors = [torch.zeros(array.shape, dtype=getattr(torch, np.dtype(dtype).name)) for array in grads.values()]
    for tensor, array in zip(tensors, grads.values()):
        tensor.grad = torch.tensor(array)
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm).item()
    norm = clip_grad_norm(grads, max_norm)
    bound = 16 * float(np.finfo(dtype).eps)  # torch sums in the gradients' dtype
    assert type(norm) is float
    assert norm == pytest.approx(expected, rel=bound)
    for tensor, array in zip(tensors, grads.values()):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, tensor.grad.numpy(), rtol=bound)


def test_small_gradients_are_scaled_as_torch_does():
    """The constant that torch adds to the norm counts where the norm is small."""
    grads, tensor = {"w": np.full(4, 1e-6)}, torch.zeros(4, dtype=torch.float64)
    tensor.grad = torch.tensor(grads["w"])
    torch.nn.utils.clip_grad_norm_([tensor], 1e-6)
    assert clip_grad_norm(grads, 1e-6) == pytest.approx(2e-6, rel=1e-12)
    np.testing.assert_allclose(grads["w"], tensor.grad.numpy(), rtol=1e-12)


def test_norm_is_summed_in_float64():
    """A million equal numbers: float32 sums would have lost the third digit of one chain, and more than this bound."""
    assert clip_grad_norm({"w": np.full(1_000_000, 0.1, np.float32)}, np.inf) == pytest.approx(
        1000 * float(np.float32(0.1)), rel=1e-12
    )
    assert clip_grad_norm({"w": np.full(10, 1e30, np.float32)}, np.inf) == pytest.approx(
        float(np.float32(1e30)) * 10**0.5, rel=1e-12
    )
    assert clip_grad_norm({}, 1.0) == 0


def test_gradients_are_scaled_in_place_whatever_their_layout():
    whole = np.full((4, 6), 2.0)
    strided = whole[:, ::2]
    norm = clip_grad_norm({"w": strided}, 1.0)
    assert norm == pytest.approx(48**0.5)
    np.testing.assert_allclose(strided, 2 / (norm + 1e-6))
    assert (whole[:, 1::2] == 2).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_norm_that_is_not_finite_is_named_and_nothing_changes(value):
    grads = arrays(0, np.float32)
    grads["bias"][3] = value
    grads["scale"][...] = np.nan
    kept = {name: array.copy() for name, array in grads.items()}
    shown = "nan" if np.isnan(value) else "inf"
    with pytest.raises(ValueError, match=rf"grads: expected a finite norm, got \w+; that of 'bias' is {shown}"):
        clip_grad_norm(grads, 1.0)
    for name, array in grads.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    "grads, max_norm, error, message",
    [
        ({"w": np.ones(2)}, -1, ValueError, "max_norm: expected a number of at least 0, got -1"),
        ({"w": np.ones(2)}, np.nan, ValueError, "max_norm: expected a number of at least 0, got nan"),
        ({"w": np.ones(2)}, None, TypeError, "max_norm: expected a real number, got NoneType"),
        ([np.ones(2)], 1, TypeError, "grads: expected a mapping of names to arrays, got list"),
        ({"w": [1.0]}, 1, TypeError, "grads['w']: expected an array, got list"),
        ({"w": np.ones(2, int)}, 1, TypeError, "grads['w']: expected float32 or float64, got int64"),
        ({"v": np.ones(2), "w": read_only()}, 1, ValueError, "grads['w']: expected a writable array"),
    ],
)
def test_wrong_arguments_of_clipping(grads, max_norm, error, message):
    with pytest.raises(error) as caught:
        clip_grad_norm(grads, max_norm)
    assert message in str(caught.value)
    if isinstance(grads, dict) and "v" in grads:
        assert (grads["v"] == 1).all()
