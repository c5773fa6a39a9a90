"""Gradients followed back in time: against central differences, backward itself, closed forms and exact products."""

import json
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from cases import KINDS, bare, make_case, make_layer, parts_of

import fastrnn
from fastrnn import cli
from fastrnn.flow import Float32Limits, GradientFlow, gradient_flow
from fastrnn.flow.jacobians import follow, one_direction, step_jacobian
from fastrnn.flow.limits import float32_limits
from fastrnn.flow.models import classic, found_in, scaled_rnn, spans
from fastrnn.flow.scaled import Scaled, grow

STEP = 1e-5
T, I, H = 6, 3, 4


def small(kind, **options):
    """A layer with weights large enough for every term to matter, and its input, state and dy of one row."""
    case = make_case(kind, T, 1, I, H, seed=3, dtype=np.float64, **options)
    for array in case.layer.params.values():
        array *= 1.5
    return case


def state_after(case, t):
    """The parts of the state after step t, each (1, 1, H)."""
    if t < 0:
        return case.state
    return parts_of(case.layer(case.x[: t + 1], bare(case.state))[1])


def central_jacobian(function, parts):
    """The derivative of `function`, which takes the parts of a state, by their elements."""
    columns = []
    for s, part in enumerate(parts):
        for index in np.ndindex(part.shape):
            sides = []
            for side in (STEP, -STEP):
                moved = [other.copy() for other in parts]
                moved[s][index] += side
                sides.append(np.concatenate([out.ravel() for out in parts_of(function(bare(moved)))]))
            columns.append((sides[0] - sides[1]) / (2 * STEP))
    return np.stack(columns, axis=1)


def explicit(case, t, end=T):
    """The derivative of the state after step end - 1 by that after step t."""
    parts = state_after(case, t)
    if t == end - 1:
        return np.eye(len(parts) * H)
    return central_jacobian(lambda state: case.layer(case.x[t + 1 : end], state)[1], parts)


@pytest.mark.parametrize("masks", [{}, {"zoneout": 0.3, "recurrent_dropout": 0.5}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_step_jacobians_and_norms_against_central_differences(backend, kind, masks):
    case = small(kind, **masks)
    flow = gradient_flow(case.layer, case.x, bare(case.state), case.dy)
    path = follow(one_direction(case.layer, 0, 0), case.x[:, 0], [part[0, 0] for part in case.state])
    assert flow.state_to_state[-1] == 1
    for t in range(T):
        step = explicit(case, t - 1, t + 1)
        np.testing.assert_allclose(step_jacobian(path, t), step, rtol=0, atol=1e-8)
        close = {"rtol": 1e-6, "atol": 1e-8}
        np.testing.assert_allclose(flow.step_state_singular_values[t], np.linalg.svd(step)[1], **close)
        np.testing.assert_allclose(flow.step_singular_values[t], np.linalg.svd(step[:H, :H])[1], **close)
        to_end = explicit(case, t)
        np.testing.assert_allclose(flow.state_to_state[t], np.linalg.norm(to_end[:H, :H], 2), **close)
        if kind == "lstm":
            np.testing.assert_allclose(flow.cell_to_cell[t], np.linalg.norm(to_end[H:, H:], 2), **close)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_against_backward_of_the_rest(kind):
    """The gradient by the state after step t is that by the initial state of a run from t + 1, and dy_t."""
    case = small(kind)
    flow = gradient_flow(case.layer, case.x, bare(case.state), case.dy)
    for t in range(T):
        expected = [np.zeros(H) for _ in case.state]
        if t < T - 1:
            _, _, tape = case.layer.forward(case.x[t + 1 :], bare(state_after(case, t)))
            expected = [part[0, 0] for part in parts_of(case.layer.backward(tape, case.dy[t + 1 :]).state)]
        np.testing.assert_allclose(flow.loss_to_state[t], np.linalg.norm(expected[0] + case.dy[t, 0]), rtol=1e-12)
        if kind == "lstm":
            np.testing.assert_allclose(flow.loss_to_cell[t], np.linalg.norm(expected[1]), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_without_dy_is_a_unit_gradient_of_the_last_state(kind):
    case = small(kind)
    flow = gradient_flow(case.layer, case.x, bare(case.state))
    dy = np.zeros_like(case.dy)
    dy[-1] = H**-0.5
    np.testing.assert_allclose(
        flow.loss_to_state, gradient_flow(case.layer, case.x, bare(case.state), dy).loss_to_state, rtol=1e-13
    )
    assert flow.loss_to_state[-1] == pytest.approx(1, rel=1e-15)


def stacked_loss(layer, x, dy, moved_layer=-1, moved_step=-1, by=0.0):
    """Σ dy·y of a GRU of two layers, written as a loop over cells; `by` is added to one layer's h at one step."""
    h = [np.zeros((1, layer.hidden_size)) for _ in range(2)]
    names = "weight_ih", "weight_hh", "bias_ih", "bias_hh"
    total, kept = 0.0, layer.config.get("zoneout", 0.0)
    for t, value in enumerate(x):
        for k in range(2):
            made = fastrnn.gru_cell(value, h[k], *(layer.params[f"{name}_l{k}"] for name in names))
            h[k] = kept * h[k] + (1 - kept) * made
            if (k, t) == (moved_layer, moved_step):
                h[k] = h[k] + by
            value = h[k]
        total += (dy[t] * value).sum()
    return total


@pytest.mark.parametrize("zoneout", [0.0, 0.25])
@pytest.mark.parametrize("k", [0, 1])
def test_loss_by_a_layer_of_a_stack(k, zoneout):
    case = small("gru", num_layers=2, zoneout=zoneout)
    flow = gradient_flow(case.layer, case.x, None, case.dy, layer_index=k)
    for t in range(T):
        gradient = [
            stacked_loss(case.layer, case.x, case.dy, k, t, STEP * unit)
            - stacked_loss(case.layer, case.x, case.dy, k, t, -STEP * unit)
            for unit in np.eye(H)
        ]
        np.testing.assert_allclose(flow.loss_to_state[t], np.linalg.norm(gradient) / (2 * STEP), rtol=1e-7)


def same(a, b):
    for name in ("log10_loss_to_state", "log10_state_to_state", "step_singular_values", "lyapunov_exponents"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_reverse_direction_is_the_forward_one_of_the_sequence_reversed():
    case = small("lstm", bidirectional=True)
    alone = make_layer("lstm", I, H, dtype=np.float64)
    alone.load_state_dict({name: case.layer.params[f"{name}_reverse"] for name in alone.params})
    state = tuple(part[1:] for part in case.state)
    expected = gradient_flow(alone, case.x[::-1], state, case.dy[::-1, :, H:])
    same(gradient_flow(case.layer, case.x, case.state, case.dy, direction=1), expected)


@pytest.mark.parametrize("layer_index", [0, 1, 2])
def test_a_stack_of_alternating_directions(layer_index):
    """Each layer alone, forward, on the reversed sequences that its neighbours give it."""
    case = small("lstm", num_layers=3, direction=("reverse", "forward", "reverse"))
    alone = [make_layer("lstm", H if k else I, H, dtype=np.float64) for k in range(3)]
    for k, layer in enumerate(alone):
        layer.load_state_dict({name: case.layer.params[name.replace("_l0", f"_l{k}")] for name in layer.params})
    states = [tuple(part[k : k + 1] for part in case.state) for k in range(3)]
    turns, x, tapes = (-1, 1, -1), case.x, []
    for layer, turn, state in zip(alone, turns, states):
        y, _, tape = layer.forward(x[::turn], state)
        tapes.append((x, tape))
        x = y[::turn]
    dy = case.dy
    for k in reversed(range(layer_index + 1, 3)):
        dy = alone[k].backward(tapes[k][1], dy[:: turns[k]]).x[:: turns[k]]
    x, turn = tapes[layer_index][0], turns[layer_index]
    expected = gradient_flow(alone[layer_index], x[::turn], states[layer_index], dy[::turn])
    same(gradient_flow(case.layer, case.x, case.state, case.dy, layer_index=layer_index), expected)


def test_the_second_layer_of_a_bidirectional_stack_reads_both_directions_of_the_first():
    case = small("gru", bidirectional=True, num_layers=2)
    below = make_layer("gru", I, H, dtype=np.float64, bidirectional=True)
    below.load_state_dict({name: case.layer.params[name] for name in below.params})
    above = make_layer("gru", 2 * H, H, dtype=np.float64)
    above.load_state_dict({name: case.layer.params[name.replace("_l0", "_l1")] for name in above.params})
    y, _ = below(case.x, case.state[0][:2])
    expected = gradient_flow(above, y, case.state[0][2:3], case.dy[..., :H])
    same(gradient_flow(case.layer, case.x, case.state[0], case.dy), expected)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm"])
def test_a_row_of_a_batch_is_that_row_alone(kind, batch_first):
    case = make_case(kind, T, 3, I, H, seed=5, dtype=np.float64, batch_first=batch_first)
    x, dy = (array.swapaxes(0, 1) if batch_first else array for array in (case.x.copy(), case.dy.copy()))
    x[4:, 1] = dy[4:, 1] = np.nan
    given = [array.swapaxes(0, 1) if batch_first else array for array in (x, dy)]
    flow = gradient_flow(case.layer, given[0], bare(case.state), given[1], lengths=[6, 4, 6], row=1)
    assert flow.loss_to_state.shape == (4,)
    alone = gradient_flow(case.layer, x[:4, 1], bare([part[:, 1] for part in case.state]), dy[:4, 1])
    same(flow, alone)


def test_a_float32_layer_is_looked_at_in_float64():
    case = small("gru")
    rounded = make_layer("gru", I, H)
    rounded.load_state_dict(case.layer.params)
    case.layer.load_state_dict(rounded.params)
    x = case.x.astype(np.float32)
    flow = gradient_flow(rounded, x)
    same(flow, gradient_flow(case.layer, x))
    assert flow.loss_to_state.dtype == np.float64 and rounded.params["weight_ih_l0"].dtype == np.float32


# --- layers whose Jacobian is known


def constant(nonlinearity, matrix, steps):
    """An RNN whose Jacobian is `matrix` at every step: tanh at zero, or relu of states that stay positive."""
    matrix = np.asarray(matrix, float)
    layer = fastrnn.RNN(1, len(matrix), nonlinearity=nonlinearity, bias=False, dtype=np.float64, rng=0)
    layer.params["weight_ih_l0"][...] = 1
    layer.params["weight_hh_l0"][...] = matrix
    return layer, np.full((steps, 1), 0.0 if nonlinearity == "tanh" else 1.0)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_textbook(nonlinearity, factor):
    flow = gradient_flow(*constant(nonlinearity, factor * np.eye(3), 101))
    np.testing.assert_allclose(flow.state_to_state, factor ** np.arange(100.0, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(flow.loss_to_state, factor ** np.arange(100.0, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(flow.step_singular_values, factor, rtol=1e-15)
    np.testing.assert_allclose(flow.lyapunov_exponents, np.log(factor), rtol=1e-12)
    assert flow.forget_products is None and flow.memory_horizon is None


def test_norms_that_no_float64_holds():
    flow = gradient_flow(*constant("tanh", 0.1 * np.eye(2), 501))
    np.testing.assert_allclose(flow.log10_state_to_state, -np.arange(500.0, -1, -1), rtol=1e-12)
    assert flow.state_to_state[0] == 0


def test_lyapunov_exponents_of_a_constant_jacobian_are_its_eigenvalues():
    eigenvalues = np.array([1.05, 0.8, 0.4, 0.1])
    matrix = np.diag(eigenvalues) + np.triu(np.full((4, 4), 0.3), 1)
    flow = gradient_flow(*constant("relu", matrix, 600))
    np.testing.assert_allclose(flow.lyapunov_exponents, np.log(eigenvalues), rtol=0, atol=1e-6)
    few = gradient_flow(*constant("relu", matrix, 600), num_exponents=2)
    np.testing.assert_allclose(few.lyapunov_exponents, np.log(eigenvalues[:2]), rtol=0, atol=1e-6)


def test_units_without_a_way_back_have_no_gradient():
    layer, x = constant("relu", np.diag([0.5, -1e6]), 40)
    flow = gradient_flow(layer, x)  # the second unit alternates between a relu that is open and one that is shut
    assert flow.lyapunov_exponents[1] == -np.inf
    np.testing.assert_allclose(flow.state_to_state, 0.5 ** np.arange(39.0, -1, -1), rtol=0.3)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gates_that_are_constant(kind):
    """Without weights the gates are sigmoids of biases: of the keeping gate 2 and -3."""
    bias = np.array([2.0, -3.0])
    layer = make_layer(kind, 1, 2, dtype=np.float64)
    for array in layer.params.values():
        array[...] = 0
    layer.params["bias_hh_l0"][2:4] = bias
    flow = gradient_flow(layer, np.ones((51, 1)))
    gate = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(flow.forget_products, gate ** np.arange(50.0, -1, -1)[:, None], rtol=1e-12)
    np.testing.assert_allclose(flow.memory_horizon, -1 / np.log(gate), rtol=1e-12)
    name = "f" if kind == "lstm" else "z"  # σ(2) = 0.88 is not saturated, σ(-3) = 0.05 is
    np.testing.assert_array_equal(flow.saturation_low[name], np.full(51, 0.5))
    np.testing.assert_array_equal(flow.saturation_high[name], np.zeros(51))
    assert set(flow.saturation) == set("ifgo" if kind == "lstm" else "rzn")
    # h keeps z of itself, c keeps f of itself: the Jacobians are diagonal.
    norms = flow.cell_to_cell if kind == "lstm" else flow.state_to_state
    np.testing.assert_allclose(norms, gate[0] ** np.arange(50.0, -1, -1), rtol=1e-12)


def test_forget_gates_are_those_of_the_equations():
    case = small("lstm")
    flow = gradient_flow(case.layer, case.x, case.state)
    p = case.layer.params
    for t in range(1, T):
        h = state_after(case, t - 1)[0][0, 0]
        pre = p["weight_ih_l0"] @ case.x[t, 0] + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]
        i, f, g, o = np.split(pre, 4)
        sigmoid_f = 1 / (1 + np.exp(-f))
        np.testing.assert_allclose(flow.forget_products[t - 1], flow.forget_products[t] * sigmoid_f, rtol=1e-12)
        assert flow.saturation_high["g"][t] == np.mean(np.tanh(g) > 0.9)
        assert flow.saturation["o"][t] == np.mean(np.abs(1 / (1 + np.exp(-o)) - 0.5) > 0.4)


def test_saturation_of_rnns():
    layer, x = constant("relu", np.diag([0.5, -1e6]), 3)
    np.testing.assert_array_equal(gradient_flow(layer, x).saturation["h"], [0, 0.5, 0])
    layer, x = constant("tanh", np.zeros((2, 2)), 2)
    layer.params["weight_ih_l0"][...] = [[3], [-3]]
    flow = gradient_flow(layer, x + np.array([[1], [0.1]]))
    np.testing.assert_array_equal(flow.saturation["h"], [1, 0])
    np.testing.assert_array_equal(flow.saturation_low["h"], [0.5, 0])


# --- products of many matrices


def exact_singular_values(matrices):
    """Those of the product of the matrices, the last one leftmost, to 60 digits."""
    with mpmath.workdps(60):
        product = mpmath.eye(matrices[0].shape[0])
        for matrix in matrices:
            product = mpmath.matrix(matrix.tolist()) * product
        return [float(mpmath.log10(value)) for value in mpmath.svd_r(product, compute_uv=False)]


def test_product_spectra_against_exact_products():
    layer = scaled_rnn(3, 0.9, seed=0)
    x = np.random.default_rng(1).standard_normal((61, 16))
    flow = gradient_flow(layer, x)
    path = follow(one_direction(layer, 0, 0), x, [np.zeros(3)])
    jacobians = [step_jacobian(path, t) for t in range(len(x))]
    unresolved = 0
    for t in (0, 20, 40, 59):
        exact = np.array(exact_singular_values(jacobians[t + 1 :]))
        found = flow.log10_product_singular_values[t]
        resolved = exact > exact[0] - 9.9
        np.testing.assert_allclose(found[resolved], exact[resolved], rtol=0, atol=1e-4)
        assert np.isnan(found[exact < exact[0] - 10.1]).all()
        unresolved += np.isnan(found).sum()
    assert 0 < unresolved < 9
    np.testing.assert_array_equal(flow.log10_product_singular_values[:, 0], flow.log10_state_to_state)


def test_the_qr_method_against_the_product_itself():
    """The first k growths add up to the log of the volume that the first k directions span after all steps."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((7, 5, 5))
    q, total, product = np.eye(5, 4), np.zeros(4), np.eye(5)
    for matrix in matrices:
        q, growth = grow(q, matrix)
        total, product = total + growth, matrix @ product
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-14)
    for k in range(1, 5):
        volume = np.linalg.slogdet(product[:, :k].T @ product[:, :k])[1] / 2
        np.testing.assert_allclose(total[:k].sum(), volume, rtol=1e-10)


def test_scaled_arrays():
    tiny = Scaled(np.array([3.0, 4.0]))
    for _ in range(10_000):
        tiny = tiny.times(np.diag([0.125, 0.125]))
    assert tiny.log10(np.linalg.norm(tiny.mantissa)) == pytest.approx(np.log10(5) - 30_000 * np.log10(2), rel=1e-14)
    more = tiny.plus(np.array([0.0, 6.0]))
    assert more.exponent == 3 and more.mantissa.tolist() == [0, 0.75]
    assert tiny.plus(np.zeros(2)) is tiny
    assert Scaled(np.zeros(2)).plus(np.array([1.0, 0.5])).log10(1.0) == pytest.approx(np.log10(2))
    assert Scaled(np.zeros(2), 5).log10(0.0) == -np.inf


# --- float32


def test_where_float32_gives_out():
    flow = gradient_flow(*constant("tanh", 0.6 * np.eye(2), 301))
    below_eps, below_normal = (int(np.ceil(np.log(value) / np.log(0.6))) for value in (2.0**-23, 2.0**-126))
    assert flow.state_limits == flow.loss_limits == Float32Limits(below_eps, below_normal, None)
    growing = gradient_flow(*constant("relu", 3 * np.eye(2), 201))
    assert growing.state_limits == Float32Limits(None, None, int(np.ceil(128 * np.log(2) / np.log(3))))


def test_float32_itself_gives_out_there():
    """The kernels' float32 gradient is zero where the limit says so, and not a step before."""
    layer, x = constant("tanh", 0.6 * np.eye(2), 301)
    k = gradient_flow(layer, x).state_limits.smallest_normal
    rounded = make_layer("rnn_tanh", 1, 2, bias=False)
    rounded.load_state_dict(layer.params)
    for steps, vanished in ((k - 1, False), (k, True)):
        _, _, tape = rounded.forward(x[:steps])
        gradient = rounded.backward(tape, dstate=np.array([[1, 0]])).state
        assert (np.abs(gradient).max() < np.finfo(np.float32).smallest_normal) == vanished


def test_limits_count_from_the_last_step_with_a_gradient():
    norms = np.array([-50.0, -45, -5, 0, 1, -np.inf, -np.inf])
    assert float32_limits(norms) == Float32Limits(5, 5, None)
    assert float32_limits(np.full(3, -np.inf)) == Float32Limits(None, None, None)
    assert float32_limits(np.array([50.0, -9.0, 0.0])) == Float32Limits(1, None, 2)


# --- arguments


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"layer": fastrnn.LSTMCell(3, 4)}, TypeError, "layer: expected an RNN, LSTM, GRU or LeakyRNN, got LSTMCell"),
        ({"x": np.zeros((6, 2, 5))}, ValueError, "x: expected"),
        ({"x": np.zeros((0, 3))}, ValueError, "x: expected at least one valid step in row 0, got none"),
        ({"x": np.full((6, 3), np.nan)}, ValueError, "x: expected finite numbers"),
        ({"x": "text"}, TypeError, "x: expected"),
        ({"dy": np.zeros((5, 4))}, ValueError, "dy: expected"),
        ({"dy": np.full((6, 4), np.inf)}, ValueError, "dy: expected finite numbers"),
        ({"state": np.zeros((1, 3))}, ValueError, "state: expected"),
        ({"state": np.full((1, 4), np.nan)}, ValueError, "state: expected finite numbers"),
        ({"row": 1}, ValueError, "row: expected an index among 1, got 1"),
        ({"row": 0.5}, TypeError, "row: expected an integer, got float"),
        ({"layer_index": 1}, ValueError, "layer_index: expected an index among 1, got 1"),
        ({"direction": 1}, ValueError, "direction: expected an index among 1, got 1"),
        ({"direction": True}, TypeError, "direction: expected an integer, got bool"),
        ({"num_exponents": 0}, ValueError, "num_exponents: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_input(change, error, message):
    given = {"layer": fastrnn.GRU(3, 4, rng=0), "x": np.zeros((6, 3))} | change
    with pytest.raises(error, match=message):
        gradient_flow(**given)


def test_a_row_without_a_step():
    x = np.zeros((6, 2, 3))
    with pytest.raises(ValueError, match="x: expected at least one valid step in row 1, got none"):
        gradient_flow(fastrnn.GRU(3, 4), x, lengths=[6, 0], row=1)


def test_values_that_do_not_stay_finite():
    layer = fastrnn.GRU(3, 4)
    layer.params["weight_hh_l0"][1, 2] = np.nan
    with pytest.raises(ValueError, match="layer: expected finite parameters, got NaN or infinity in weight_hh_l0"):
        gradient_flow(layer, np.zeros((6, 3)))
    with pytest.raises(ValueError, match="x: expected states that stay finite, got an overflow at step 103"):
        gradient_flow(*constant("relu", 1e3 * np.eye(2), 120))


def test_nothing_is_changed_and_the_result_shows_itself():
    case = small("lstm")
    before = [array.copy() for array in (case.x, case.dy, *case.state, *case.layer.params.values())]
    flow = gradient_flow(case.layer, case.x, case.state, case.dy)
    for old, new in zip(before, (case.x, case.dy, *case.state, *case.layer.params.values())):
        np.testing.assert_array_equal(old, new)
    assert isinstance(flow, GradientFlow) and repr(flow).startswith("<GradientFlow of lstm, T=6, H=4, largest exponent")


# --- the command


def test_spans():
    assert spans(200) == [1, 10, 50, 100, 200]
    assert spans(1) == [1]
    assert spans(5) == [1, 5]
    assert spans(2000) == [100, 200, 500, 1000, 2000]


@pytest.mark.parametrize("wanted", [[0.0, 9.0, 5.0], [5.0] * 6, [0.0, 0.1, 9.9, 10.0], [4.0, 4.5, 5.5, 0.2, 9.0]])
def test_labels_keep_their_order_and_apart(wanted):
    pytest.importorskip("matplotlib")
    from fastrnn.flow.figure import spread

    placed = np.array(spread(wanted, 1.0, 0.0, 10.0))
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= 1 - 1e-12).all()
    assert placed.min() >= 0 and placed.max() <= 10
    if min(np.diff(np.sort(wanted))) >= 1:
        np.testing.assert_allclose(placed, wanted)


def test_the_classic_layers():
    by_name = {subject.name: subject.layer for subject in classic(8, seed=0)}
    for radius in (0.9, 1.7):
        weight = by_name[f"RNN, radius {radius}"].params["weight_hh_l0"]
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)), radius, rtol=1e-5)
    for name, bias in (("LSTM, forget +4", 4), ("GRU, update +1", 1)):
        params = by_name[name].params
        np.testing.assert_array_equal((params["bias_ih_l0"] + params["bias_hh_l0"])[8:16], bias)


def test_the_command(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    figures, picture = tmp_path / "flow.json", tmp_path / "flow.svg"
    assert cli.main(["flow", "--T", "12", "--hidden", "5", "--json", str(figures), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(figures.read_text())
    names = [model["name"] for model in document["models"]]
    assert len(names) == 8 and all(name in printed for name in names)
    assert {key: document[key] for key in ("T", "seed")} == {"T": 12, "seed": 0}
    assert "<svg" in picture.read_text()
    subject = classic(5, seed=0)[3]
    flow = gradient_flow(subject.layer, np.random.default_rng(0).standard_normal((13, 16)))
    model = document["models"][3]
    assert model["cell"] == "lstm" and len(model["memory_horizon"]) == 5
    np.testing.assert_allclose(model["log10_state_to_state"], flow.log10_state_to_state[::-1], rtol=1e-9, atol=1e-12)
    assert set(model["saturation"]) == set("ifgo")
    assert set(model["log10_product_singular_values"]) == {"0", "1", "10", "12"}
    assert set(model["log10_forget_products_percentiles"]) == {"10", "50", "90"}
    assert document["models"][0]["memory_horizon"] is None


def test_the_layers_of_a_file(capsys, monkeypatch, tmp_path):
    pytest.importorskip("rich")
    model = SimpleNamespace(parts={"encoder": fastrnn.GRU(2, 3, num_layers=2, bidirectional=True), "out": object()})
    loaded = {"model": model, "rnn": fastrnn.RNN(4, 3, nonlinearity="relu")}
    names = [subject.name for subject in found_in(loaded)]
    assert names == [f"model.encoder, layer {k}{d}" for k in (0, 1) for d in ("", ", reverse")] + ["rnn"]
    monkeypatch.setattr(fastrnn, "load", lambda path: loaded, raising=False)
    assert cli.main(["flow", "--T", "3", "--load", "file", "--plot", str(tmp_path / "flow.png")]) == 0
    assert "model.encoder" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--T", "0"), "argument --T: expected an integer of at least 1, got '0'"),
        (("--hidden", "many"), "argument --hidden: expected an integer"),
        (("--plot", "flow.txt"), "argument --plot: expected a name that ends in"),
        (("--load", "file", "--hidden", "3"), "argument --hidden: expected none beside --load"),
        (("--load", "missing"), "argument --load: expected a file of fastrnn.save, got 'missing': No such file"),
        (("--load", "empty"), "argument --load: expected a file with an RNN, LSTM or GRU, got 'empty'"),
        (("--load", "overflows"), "expected finite parameters"),
    ],
)
def test_the_command_refuses(capsys, monkeypatch, arguments, message):
    pytest.importorskip("rich")
    broken = fastrnn.GRU(2, 3)
    broken.params["weight_hh_l0"][0, 0] = np.nan

    def load(path):
        if path == "missing":
            raise FileNotFoundError(2, "No such file or directory")
        return {} if path == "empty" else {"rnn": broken}

    monkeypatch.setattr(fastrnn, "load", load, raising=False)
    try:
        code = cli.main(["flow", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_command_without_its_extra(capsys, monkeypatch):
    monkeypatch.setattr("fastrnn.flow.command.find_spec", lambda name: None)
    assert cli.main(["flow", "--plot", "x.png"]) == 2
    assert "rich and matplotlib not installed: pip install 'fastrnn[bench]'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_loses_no_other(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "flow.svg"
    small_run = ["flow", "--T", "2", "--hidden", "2"]
    assert cli.main([*small_run, "--json", "/dev/full", "--plot", str(picture)]) == 2
    assert "cannot write '/dev/full': No space left on device" in capsys.readouterr().err
    assert "<svg" in picture.read_text()
