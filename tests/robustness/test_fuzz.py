"""Random programs of calls, each checked against the NumPy backend on copies of the parameters.

FASTRNN_FUZZ_PROGRAMS sets how many there are in the normal tests, FASTRNN_FUZZ_SECONDS for how long the slow test tries
programs of its own drawing, by default an hour.
"""

import copy
import os
import pickle
import time
from functools import partial

import numpy as np
import pytest
from cases import (
    CELL_KINDS,
    KINDS,
    Case,
    assert_close,
    assert_results_close,
    assert_same_bits,
    bare,
    make_layer,
    parts_of,
    tolerance,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule, run_state_machine_as_test

import fastrnn
from fastrnn.spec import CELLS as TABLE

BACKENDS = fastrnn.available_backends()
SIZES = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33, 48, 65]))
SEEDS = st.integers(0, 2**31)
SEQUENCE = {  # of a call's input
    "T": st.integers(1, 30),
    "B": st.integers(1, 20),
    "unbatched": st.booleans(),
    "lengths": st.booleans(),
    "seed": SEEDS,
}
BLOCK = 256  # (step, row) terms that the compiled backends add up before they join a gradient
OPTIONS = {  # smooth ones: what two backends compute agrees
    "lstm": {"peephole": True},
    "lstm_coupled": {"peephole": True, "activations": ("sigmoid", "softsign", "tanh")},
    "gru": {"activations": ("sigmoid", "softsign")},
    "gru_reset_first": {"activations": ("sigmoid", "softsign")},
    "rnn_tanh": {"activations": ["softplus"]},
}
MASKS = [{}, {"recurrent_dropout": 0.3}, {"zoneout": 0.2}, {"recurrent_dropout": 0.1, "zoneout": 0.4}]
CELLS = {"lstm": fastrnn.LSTMCell, "gru": fastrnn.GRUCell}


def make_cell(kind, *sizes, **options):
    return (
        fastrnn.RNNCell(*sizes, nonlinearity=kind[4:], **options)
        if kind[:3] == "rnn"
        else CELLS[kind](*sizes, **options)
    )


class Pair:
    """A layer or cell, and what its parameters should be, in a dict of arrays of its own."""

    def __init__(self, kind, make, layer, arrays):
        self.kind, self.make, self.layer, self.arrays = kind, make, layer, arrays
        self.parts = len(TABLE[kind].states)

    def shadow(self):
        """A new layer with these parameters, which has a history of its own: none."""
        layer = self.make()
        for name, array in layer.params.items():
            array[...] = self.arrays[name]
        return layer

    def check(self):
        """The parameters are the same bits."""
        assert list(self.layer.params) == list(self.arrays)
        for name, array in self.layer.params.items():
            assert_same_bits(array, self.arrays[name], name)

    def copied(self, layer):
        return Pair(self.kind, self.make, layer, {name: array.copy() for name, array in self.arrays.items()})


def new_pair(kind, make, seed):
    layer = make(rng=seed)
    return Pair(kind, make, layer, layer.state_dict())


class Recorded:
    """A tape of the layer, one of the shadow, and what both were given."""

    def __init__(self, pair, shadow, tapes, case, y):
        self.pair, self.shadow, self.tapes, self.case, self.y = pair, shadow, tapes, case, y
        self.params = pair.layer.state_dict()  # as they were: a tape refers to the parameters themselves

    @property
    def valid(self):
        return all(np.array_equal(self.params[name], array) for name, array in self.pair.layer.params.items())


def inputs(pair, T, B, unbatched, with_lengths, seed):
    """Random arguments of a layer, as a Case."""
    layer, rng = pair.layer, np.random.default_rng(seed)
    D = 1 + layer.bidirectional
    rows = () if unbatched else (B,)
    lead = (T,) if unbatched else (B, T) if layer.batch_first else (T, B)
    shapes = [(layer.num_layers * D, *rows, layer.hidden_size)] * (2 * pair.parts)
    x, dy, *states = (
        rng.standard_normal(shape).astype(layer.dtype)
        for shape in [(*lead, layer.input_size), (*lead, D * layer.hidden_size), *shapes]
    )
    lengths = rng.integers(0, T + 1, B) if with_lengths and not unbatched else None
    return Case(layer, x, tuple(states[: pair.parts]), lengths, dy, tuple(states[pair.parts :]))


def timed(case):
    """The case as `tolerance` takes it, which asks x for its T."""
    return case._replace(x=case.x[None]) if case.layer.batch_first and case.x.ndim == 2 else case


def compare(case, actual, expected):
    """Named arrays of the layer's and the shadow's."""
    assert_results_close(actual, expected, timed(case))


def outputs(y, state):
    return {"y": y, **{f"state[{i}]": part for i, part in enumerate(parts_of(state))}}


def gradients(y, grads):
    states = {f"grads.state[{i}]": part for i, part in enumerate(parts_of(grads.state))}
    return {"y": y, "grads.x": grads.x, **states, **grads.params}


class Program(RuleBasedStateMachine):
    """Calls in any order; the reference is asked within `use_backend`, so the backend in force is under test, too."""

    pairs, tapes, frozen, cells = Bundle("pairs"), Bundle("tapes"), Bundle("frozen"), Bundle("cells")

    def __init__(self):
        super().__init__()
        self.before = fastrnn.get_backend(), fastrnn.get_num_threads()

    def teardown(self):
        fastrnn.set_backend(self.before[0])
        fastrnn.set_num_threads(self.before[1])

    # --- settings

    @initialize(target=pairs, name=st.sampled_from(BACKENDS), kind=st.sampled_from(KINDS), I=SIZES, H=SIZES, seed=SEEDS)
    def begin(self, name, kind, I, H, seed):
        """With something to call."""
        fastrnn.set_backend(name)
        return new_pair(kind, partial(make_layer, kind, I, H), seed)

    @rule(name=st.sampled_from(BACKENDS))
    def set_backend(self, name):
        fastrnn.set_backend(name)
        assert fastrnn.get_backend() == name

    @rule(n=st.integers(1, 4))
    def set_num_threads(self, n):
        fastrnn.set_num_threads(n)
        assert fastrnn.get_num_threads() == n

    # --- layers

    @rule(
        target=pairs,
        kind=st.sampled_from(KINDS),
        sizes=st.tuples(SIZES, SIZES, st.integers(1, 3)),
        bias=st.booleans(),
        batch_first=st.booleans(),
        directions=st.sampled_from([{}, {"bidirectional": True}, {"direction": "reverse"}]),
        dtype=st.sampled_from([np.float32, np.float64]),
        general=st.booleans(),
        masks=st.sampled_from(MASKS),
        seed=SEEDS,
    )
    def construct(self, kind, sizes, seed, directions, general, masks, **options):
        I, H, L = sizes
        L = 1 if kind.endswith("relu") else L  # see assert_results_close
        options |= masks | (OPTIONS.get(kind, {}) if general else {})
        return new_pair(kind, partial(make_layer, kind, I, H, L, **directions, **options), seed)

    @rule(target=pairs, pair=pairs, how=st.sampled_from([copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]))
    def copy_layer(self, pair, how):
        copied = pair.copied(how(pair.layer))
        copied.check()
        assert repr(copied.layer) == repr(pair.layer)
        return copied

    @rule(pair=pairs, seed=SEEDS, kept=st.sampled_from([0.0, 0.5, 0.9]))
    def change_in_place(self, pair, seed, kept):
        """Within ±1/√H still: with larger weights a layer is chaotic, and no two ways to round it stay close."""
        bound = (1 - kept) / pair.layer.hidden_size**0.5
        for params in (pair.layer.params, pair.arrays):
            rng = np.random.default_rng(seed)
            for array in params.values():
                array *= kept
                array += rng.uniform(-bound, bound, array.shape).astype(array.dtype)
        pair.check()

    @rule(pair=pairs, other=pairs)
    def load_state_dict(self, pair, other):
        """From another layer; where that has other shapes, nothing changes."""
        state, before = other.layer.state_dict(), pair.layer.state_dict()
        fits = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in before.items()}
        if fits:
            pair.layer.load_state_dict(state)
            pair.arrays = {name: array.astype(before[name].dtype) for name, array in state.items()}
        else:
            with pytest.raises(ValueError):
                pair.layer.load_state_dict(state)
        pair.check()

    @rule(pair=pairs, **SEQUENCE)
    def call(self, pair, T, B, unbatched, lengths, seed):
        case = inputs(pair, T, B, unbatched, lengths, seed)
        arguments = (case.x, bare(case.state))
        actual = outputs(*pair.layer(*arguments, lengths=case.lengths))
        with fastrnn.use_backend("numpy"):
            compare(case, actual, outputs(*pair.shadow()(*arguments, lengths=case.lengths)))

    # --- training

    @rule(target=tapes, pair=pairs, checkpoint=st.none() | st.integers(1, 9), **SEQUENCE)
    def forward(self, pair, T, B, unbatched, lengths, seed, checkpoint):
        case = inputs(pair, T, B, unbatched, lengths, seed)
        arguments, rng = (case.x, bare(case.state)), copy.deepcopy(pair.layer.rng)
        y, state, tape = pair.layer.forward(*arguments, lengths=case.lengths, checkpoint=checkpoint)
        with fastrnn.use_backend("numpy"):
            shadow = pair.shadow()
            if rng is not None:  # the same masks
                shadow.rng.bit_generator.state = rng.bit_generator.state
            expected, expected_state, shadow_tape = shadow.forward(*arguments, lengths=case.lengths)
        compare(case, outputs(y, state), outputs(expected, expected_state))
        return Recorded(pair, shadow, (tape, shadow_tape), case, (y, expected))

    @rule(recorded=tapes, without=st.sampled_from(["nothing", "dy", "dstate"]), accumulate=st.booleans())
    def backward(self, recorded, without, accumulate):
        """Any number of times, while the parameters are those of the forward pass."""
        if not recorded.valid:
            return
        pair, case = recorded.pair, recorded.case
        dy = None if without == "dy" else case.dy
        dstate = None if without == "dstate" else bare(case.dstate)
        actual = pair.layer.backward(recorded.tapes[0], dy, dstate)
        expected = recorded.shadow.backward(recorded.tapes[1], dy, dstate)
        compare(case, gradients(recorded.y[0], actual), gradients(recorded.y[1], expected))
        pair.check()
        if accumulate:
            self.check_accumulation(recorded, actual, dy, dstate)

    def check_accumulation(self, recorded, once, dy, dstate):
        """Twice into the same arrays: the double, to the bit where a compiled backend adds all terms as one block.

        Otherwise the additions round anew on the way from the single to the double: the tolerance of any gradient.
        """
        tape, case = recorded.tapes[0], recorded.case
        sums = {name: array.copy() for name, array in once.params.items()}
        twice = recorded.pair.layer.backward(tape, dy, dstate, accumulate=sums)
        assert_same_bits(twice.x, once.x, "grads.x")
        one_block = tape.backend.name != "numpy" and np.prod(case.x.shape[:-1]) <= BLOCK
        for name, array in sums.items():
            assert twice.params[name] is array
            double = 2 * once.params[name]
            if one_block:
                assert_same_bits(array, double, name)
            else:
                assert_close(array, double, tolerance(name, timed(case)), name, max(1, float(np.abs(double).max())))

    # --- serving

    @rule(target=frozen, pair=pairs, change=st.booleans(), seed=SEEDS)
    def freeze(self, pair, change, seed):
        """What is frozen keeps the parameters of now, whatever becomes of the layer."""
        served = pair.layer.freeze()
        assert served.backend == fastrnn.get_backend()
        kept = pair.copied(pair.layer)
        if change:
            self.change_in_place(pair, seed, 0.5)
        return served, kept

    @rule(served=frozen, T=st.integers(1, 20), B=st.integers(1, 9), unbatched=st.booleans(), seed=SEEDS)
    def serve(self, served, T, B, unbatched, seed):
        frozen, pair = served
        case = inputs(pair, T, B, unbatched, seed % 2 == 0, seed)
        actual = outputs(*frozen(case.x, bare(case.state), lengths=case.lengths))
        with fastrnn.use_backend("numpy"):
            compare(case, actual, outputs(*pair.shadow()(case.x, bare(case.state), lengths=case.lengths)))

    @rule(
        served=frozen,
        steps=st.integers(1, 5),
        B=st.integers(1, 9),
        in_place=st.booleans(),
        plain=st.booleans(),
        seed=SEEDS,
    )
    def step(self, served, steps, B, in_place, plain, seed):
        """One step after the other, into arrays of the caller's or new ones."""
        frozen, pair = served
        case = inputs(pair, steps, B, False, False, seed)
        x = case.x.swapaxes(0, 1) if frozen.batch_first else case.x
        if frozen.bidirectional or frozen.direction != "forward":
            with pytest.raises(ValueError, match="the forward direction alone"):
                frozen.step(x[0])
            return
        state = tuple(part.copy() for part in case.state)
        out = (np.empty((B, frozen.hidden_size), frozen.dtype), bare(state)) if in_place else None
        ys = []
        for x_t in x:
            x_t = x_t.copy() if plain else x_t[:, ::-1].copy()[:, ::-1]  # the short way through the bridge, or not
            y, after = frozen.step(x_t, bare(state), out=out)
            ys.append(y.copy())
            state = parts_of(after)
        y = np.stack(ys, 1 if frozen.batch_first else 0)
        with fastrnn.use_backend("numpy"):
            compare(case, outputs(y, bare(state)), outputs(*pair.shadow()(case.x, bare(case.state))))

    @rule(served=consumes(frozen))
    def drop_frozen(self, served):
        """Its packed weights go, while others of the same layer stay."""

    # --- cells

    @rule(target=cells, kind=st.sampled_from(CELL_KINDS), I=SIZES, H=SIZES, bias=st.booleans(), seed=SEEDS)
    def construct_cell(self, kind, I, H, bias, seed):
        return new_pair(kind, partial(make_cell, kind, I, H, bias=bias), seed)

    @rule(pair=cells, B=st.integers(1, 9), unbatched=st.booleans(), seed=SEEDS)
    def use_cell(self, pair, B, unbatched, seed):
        """Called, frozen and trained."""
        cell, rng, rows = pair.layer, np.random.default_rng(seed), () if unbatched else (B,)
        x, *arrays = (rng.standard_normal((*rows, n)).astype("f4") for n in (cell.input_size, *[cell.hidden_size] * 4))
        state, dstate = bare(tuple(arrays[: pair.parts])), arrays[2 : 2 + pair.parts]
        after, tape = cell.forward(x, state)
        grads = cell.backward(tape, *dstate)
        with fastrnn.use_backend("numpy"):
            shadow = pair.shadow()
            expected, shadow_tape = shadow.forward(x, state)
            expected_grads = shadow.backward(shadow_tape, *dstate)
        for other in (cell(x, state), cell.freeze()(x, state)):
            for part, first in zip(parts_of(other), parts_of(after)):
                assert_close(part, first, 8, "state", 1)  # the same bits, but for the NumPy backend
        y = parts_of(after)[0], parts_of(expected)[0]
        layered = make_layer(pair.kind, cell.input_size, cell.hidden_size)
        case = Case(layered, np.empty((1, 1, cell.input_size)), (), None, None, ())
        compare(case, outputs(y[0], after), outputs(y[1], expected))
        compare(case, gradients(y[0], grads), gradients(y[1], expected_grads))


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_programs():
    """The same programs each time, by default about a minute of them."""
    programs = int(os.environ.get("FASTRNN_FUZZ_PROGRAMS", 1400))
    chosen = settings(
        max_examples=programs, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=CHECKS
    )
    run_state_machine_as_test(Program, settings=chosen)


@pytest.mark.slow
def test_programs_for_long(capsys):
    """New programs until the time is over."""
    chosen = settings(
        max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS, database=None
    )
    end, count = time.monotonic() + float(os.environ.get("FASTRNN_FUZZ_SECONDS", 3600)), 0
    while time.monotonic() < end:
        run_state_machine_as_test(Program, settings=chosen)
        count += chosen.max_examples
    with capsys.disabled():
        print(f" {count} programs of up to {chosen.stateful_step_count} calls, no finding")
