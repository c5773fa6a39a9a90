"""`fit`: the loop over batches, with what a long run needs around it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..console.progress import progress_bar
from ..core import checks
from .checkpoints import load_checkpoint, save_checkpoint
from .clipping import clip_grad_norm, norm_of
from .data import Data
from .history import History
from .model import Chain
from .objective import Loss, Objective, evaluate, supervised
from .optimisers import Adam, Optimiser
from .shards import Shards
from .watch import flows

Array = np.ndarray
Validation = Data | Callable[[Any], float]

SHARDS = 8  # of a batch, where several machines share it
CHECKPOINT_SECONDS = 60.0  # between checkpoints, where nothing else asks for one


def fit(
    model: Any,
    data: Data,
    loss: Loss | None = None,
    optimiser: Optimiser | None = None,
    *,
    objective: Objective | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 32,
    rng: Any = None,
    schedule: Any = None,
    clip: float | None = None,
    validation: Validation | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    after_step: Callable[[int, float], None] | None = None,
    comm: Any = None,
    shards: int | None = None,
    flow: bool = False,
) -> History:
    """Train a model until one of `epochs`, `steps` and `seconds` is over; return what happened.

    model       a Chain, or with `objective` any model that has `params`
    data        Sequences or Stream, or what has their plan and batch
    loss        one of the losses, of the model's output and the batch's targets
    optimiser   default: Adam(model.params)
    objective   instead of `loss`: a function of (model, batch, state) that returns an Outcome
    batch_size  rows of a batch; of a Stream they are its own
    rng         a seed or Generator: the order of batches, and the masks that dropout draws in the run
    schedule    a function of the step, from 0 on, to a factor of the learning rate; Plateau learns of validations,
                CosineSchedule() of the end of the run
    clip        the largest norm that a step's gradient may have, beyond which it is scaled
    validation  data on which the loss is measured, or a function of the model to a number, the smaller the better
    validate_every  steps between validations; default: at the end of each epoch
    patience    stop after so many validations without a better one, and go back to the best parameters
    checkpoint  a file to which the run is saved at each validation, each minute and at the end; where it is there, the
                run goes on from it, with the bits of one that was never broken
    progress    a bar on stderr: True, False, or None for one where stderr is a terminal and rich is installed
    after_step  called with the number of steps done and the loss of the last
    comm        an mpi4py communicator: its ranks share each batch, with the same bits on 1, 2, 4, ... `shards` of them
    shards      a power of two: the parts of a batch whose gradients are summed apart; default 8 with `comm`, else 1
    flow        at each validation's turn, note how gradients go back in time through each recurrent layer of a Chain,
                on the first row of a batch: `history.flow`, to find out why a run stalls

    Ctrl-C saves the checkpoint and goes on as KeyboardInterrupt. Raises FloatingPointError for a loss or gradient that
    is not finite, before it changes a parameter: the checkpoint is the last good one. Raises TypeError or ValueError
    that names the argument.
    """
    limits = read_limits(epochs, steps, seconds)
    if (loss is None) == (objective is None):
        raise TypeError("loss, objective: expected one of them, got both or none")
    if patience is not None and validation is None:
        raise ValueError("patience: expected a validation to wait for, got none")
    run = Run(model, data, objective or supervised(loss), optimiser or Adam(model.params), limits)  # type: ignore[arg-type]
    run.batch_size = checks.integer("batch_size", batch_size)
    run.schedule, run.validation, run.after_step = schedule, validation, after_step
    run.loss = loss
    run.clip = None if clip is None else checks.positive("clip", clip)
    run.validate_every = None if validate_every is None else checks.integer("validate_every", validate_every)
    run.patience = None if patience is None else checks.integer("patience", patience)
    run.path = None if checkpoint is None else Path(checkpoint)
    run.flow = checks.flag("flow", flow)
    if run.flow and not isinstance(model, Chain):
        raise ValueError(f"flow: expected a Chain to look into, got {checks.kind(model)}")
    run.shards = Shards((1 if comm is None else SHARDS) if shards is None else shards, comm)
    run.entropy = read_entropy(rng, comm)
    if callable(validation) is False and loss is None and validation is not None:
        raise ValueError("validation: expected a function of the model beside `objective`, got data")
    with progress_bar(progress if run.shards.rank == 0 else False) as show, run.shards.together():
        run.train(show)
    return run.history


def read_limits(epochs: Any, steps: Any, seconds: Any) -> dict[str, float]:
    """The limits that are given, at least one."""
    limits: dict[str, float] = {}
    if epochs is not None:
        limits["epochs"] = checks.integer("epochs", epochs)
    if steps is not None:
        limits["steps"] = checks.integer("steps", steps)
    if seconds is not None:
        limits["seconds"] = checks.positive("seconds", seconds)
    if not limits:
        raise TypeError("epochs, steps, seconds: expected at least one of them, got none")
    return limits


def read_entropy(rng: Any, comm: Any) -> int:
    """The seed of all that a run draws; the ranks share the first one's."""
    generator = checks.generator(rng)
    entropy = int(rng) if isinstance(rng, (int, np.integer)) else int(generator.integers(1 << 62))
    return entropy if comm is None else comm.bcast(entropy)


def drawing(entropy: int, *place: int) -> np.random.SeedSequence:
    """The seed of what is drawn at one place of a run: nothing before it counts, so a resumed run draws the same."""
    return np.random.SeedSequence(entropy, spawn_key=place)


@contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C within the block is answered at its end: what it changes is changed as a whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *caught: waiting.append(caught))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting and callable(before):
        before(*waiting[0])


class Run:
    """A run of `fit`: where it is, and one step of it."""

    batch_size: int
    schedule: Any
    validation: Validation | None
    after_step: Callable[[int, float], None] | None
    loss: Loss | None
    clip: float | None
    validate_every: int | None
    patience: int | None
    path: Path | None
    flow: bool
    shards: Shards
    entropy: int

    def __init__(
        self, model: Any, data: Data, objective: Objective, optimiser: Optimiser, limits: Mapping[str, float]
    ) -> None:
        self.model, self.data, self.objective, self.optimiser, self.limits = model, data, objective, optimiser, limits
        self.base_rate = optimiser.lr
        self.history = History()
        self.epoch = self.position = 0  # of the next batch
        self.batches = 1  # of an epoch
        self.states: list[Any] = []  # carried, one for each of this rank's shards
        self.waited = 0  # validations since the best
        self.best: dict[str, Array] | None = None

    # --- the loop

    def train(self, show: Callable[[str, float, float], None]) -> None:
        """Run until a limit is reached."""
        if self.path is not None and self.path.exists():
            self.restore()
        self.saved_at = self.started = time.perf_counter()
        self.seconds_before = self.history.seconds
        try:
            while not self.finished():
                keys = self.data.plan(self.batch_size, np.random.default_rng(drawing(self.entropy, 0, self.epoch)))
                if not len(keys):
                    raise ValueError("data: expected at least one batch, got none")
                self.run_epoch(keys, show)
        except KeyboardInterrupt:
            self.save()
            raise
        if self.patience is not None and self.best is not None:
            self.go_back()
        self.save()

    def run_epoch(self, keys: Any, show: Callable[[str, float, float], None]) -> None:
        """The batches of an epoch from the place on where the run is."""
        self.batches = len(keys)
        for position in range(self.position, len(keys)):
            if self.finished():
                return
            self.step(keys[position], position == len(keys) - 1)
            show(self.label(), self.done(), 1.0)
            if time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS:
                self.save()

    def step(self, key: Any, last: bool) -> None:
        """One batch: gradients, clipping, the update; then what is due after it."""
        number = self.history.steps
        if not self.states or (self.position == 0 and not self.data.carries):
            self.states = [None] * len(self.shards.mine)
        states = self.states if self.data.carries and self.position else [None] * len(self.shards.mine)
        loss, grads, after = self.shards.gradients(self.model, self.data, key, self.seeded(number), states)
        norm = self.checked_norm(number, loss, grads)
        factor = self.factor(number)
        with undivided():
            rate = self.base_rate * factor
            self.optimiser.lr = rate
            self.optimiser.step(grads)
            self.states = after
            self.position += 1
            self.history.losses.append(loss)
            self.history.norms.append(norm)
            self.history.rates.append(rate)
            self.history.seconds = self.seconds_before + time.perf_counter() - self.started
            if last:
                self.epoch, self.position = self.epoch + 1, 0
        if self.after_step is not None:
            self.after_step(number + 1, loss)
        if self.shards.stopping:
            raise KeyboardInterrupt
        due = last if self.validate_every is None else (number + 1) % self.validate_every == 0
        if due:
            if self.flow and (batch := self.data.batch(key)) is not None:
                self.history.flow.append((number + 1, flows(self.model, batch)))
            self.validate()
            self.save()

    def factor(self, number: int) -> float:
        """What the learning rate is multiplied by at this step: on all ranks the same, though their clocks differ."""
        if self.schedule is None:
            return 1.0
        if hasattr(self.schedule, "reach"):
            self.schedule.reach(self.done())
        return self.shards.agree(self.schedule(number))

    def seeded(self, number: int) -> Objective:
        """The objective, with the masks of dropout drawn for this step and shard, whoever computes it."""
        generators = list(getattr(self.model, "generators", {}).values())
        if not generators:
            return self.objective

        def objective(model: Any, batch: Any, state: Any) -> Any:
            shard = int(batch.rows[0])
            for k, generator in enumerate(generators):
                seed = drawing(self.entropy, 1, number, shard, k)
                generator.bit_generator.state = type(generator.bit_generator)(seed).state
            return self.objective(model, batch, state)

        return objective

    def checked_norm(self, number: int, loss: float, grads: dict[str, Array]) -> float:
        """The norm of the gradients, scaled to `clip` if there is one; an error where they are not finite."""
        norms = {name: norm_of(array) for name, array in grads.items()}
        norm = math.hypot(*norms.values())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            worst = next((name for name, value in norms.items() if not math.isfinite(value)), None)
            worst = max(norms, key=lambda name: norms[name]) if worst is None else worst
            raise FloatingPointError(
                f"step {number + 1}: expected a finite loss and gradient, got the loss {loss} and, of {worst!r}, "
                f"a gradient of norm {norms[worst]}"
            )
        if self.clip is not None:
            clip_grad_norm(grads, self.clip)
        return norm

    def validate(self) -> None:
        """Measure on the validation data, and remember the best."""
        if self.validation is None:
            return
        if callable(self.validation):
            value = float(self.validation(self.model))
        else:
            assert self.loss is not None  # `fit` has refused data beside an objective
            value = evaluate(self.model, self.validation, self.loss)
        best = self.history.best
        self.history.validations.append((self.history.steps, value))
        if hasattr(self.schedule, "observe"):
            self.schedule.observe(value)
        if best is None or value < best[1]:
            self.waited = 0
            if self.patience is not None:
                self.best = {name: array.copy() for name, array in self.model.params.items()}
        else:
            self.waited += 1

    def go_back(self) -> None:
        """Make the best parameters the model's."""
        assert self.best is not None
        for name, array in self.model.params.items():
            array[...] = self.best[name]

    # --- where it ends

    def finished(self) -> bool:
        """Whether a limit is reached; ranks agree, since their clocks do not."""
        reached = {"epochs": self.epoch, "steps": self.history.steps, "seconds": self.history.seconds}
        why = next((name for name, limit in self.limits.items() if reached[name] >= limit), "")
        if not why and self.patience is not None and self.waited >= self.patience:
            why = "patience"
        if "seconds" in self.limits:
            why = self.shards.agree(why)
        self.history.stopped = why
        return bool(why)

    def done(self) -> float:
        """How much of the run is over, from 0 to 1, by the limit that is nearest."""
        history, limits = self.history, self.limits
        reached = {
            "epochs": (self.epoch + self.position / self.batches) / limits.get("epochs", math.inf),
            "steps": history.steps / limits.get("steps", math.inf),
            "seconds": history.seconds / limits.get("seconds", math.inf),
        }
        return min(max(reached.values()), 1.0)

    def label(self) -> str:
        """A line for the progress bar."""
        history = self.history
        words = [f"epoch {self.epoch + 1}", f"step {history.steps}", f"loss {np.mean(history.losses[-50:]):.4g}"]
        if history.validations:
            words.append(f"validation {history.validations[-1][1]:.4g}")
        return ", ".join(words)

    # --- checkpoints

    def save(self) -> None:
        """Write the checkpoint, on the first rank only."""
        self.saved_at = time.perf_counter()
        if self.path is None:
            return
        states = self.shards.gather(self.states)
        if self.shards.rank:
            return
        run = {
            "params": dict(self.model.params),
            "optimiser": self.optimiser.state_dict(),
            "base_rate": self.base_rate,
            "schedule": self.schedule.state_dict() if hasattr(self.schedule, "state_dict") else None,
            "entropy": self.entropy,
            "epoch": self.epoch,
            "position": self.position,
            "shards": self.shards.count,
            "states": states,
            "waited": self.waited,
            "best": self.best,
            "history": self.history.recorded(),
        }
        save_checkpoint(self.path, run)

    def restore(self) -> None:
        """Go on from the checkpoint."""
        assert self.path is not None
        run = load_checkpoint(self.path)
        params = self.model.params
        checks.names(f"checkpoint {str(self.path)!r}", run["params"], list(params))
        for name, array in params.items():
            checks.shaped(f"checkpoint {str(self.path)!r}, {name}", run["params"][name], array.shape)
        if run["shards"] != self.shards.count:
            raise ValueError(f"shards: expected {run['shards']}, as in the checkpoint, got {self.shards.count}")
        self.optimiser.load_state_dict(run["optimiser"])
        for name, array in params.items():
            array[...] = run["params"][name]
        if run["schedule"] is not None:
            self.schedule.load_state_dict(run["schedule"])
        self.base_rate, self.entropy, self.waited, self.best = (
            run[name] for name in ("base_rate", "entropy", "waited", "best")
        )
        self.epoch, self.position = run["epoch"], run["position"]
        self.states = run["states"][self.shards.mine.start : self.shards.mine.stop]
        self.history = History(**run["history"])
