"""The learner: owns the replay buffer, updates the network, publishes weights, writes checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from multiserverrl.errors import CheckpointError, DivergedError
from multiserverrl.observe.log import log
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.checks import require_learner
from multiserverrl.train.beats import Doing, beat
from multiserverrl.train.channels import Control, Counters, RawSteps, StepReader, WeightsWriter
from multiserverrl.train.checkpoint import Checkpoint, load_newest
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.finite import require_finite
from multiserverrl.train.played import copies_of, has_same_groups, restore_played
from multiserverrl.train.replay import new_arrays
from multiserverrl.train.saving import CheckpointWriter
from multiserverrl.train.stores import store_for, store_layout
from multiserverrl.train.task import Task
from multiserverrl.train.weights import stamped

__all__ = ["Training", "run_learner"]

READ_TIMEOUT_S = 0.1  # how long a stop may go unnoticed
LOCK_STEP_TIMEOUT_S = 0.005  # how long a barrier may
CARRIED_OVER = (
    "env_steps",
    "episodes",
    "return_sum",
    "faults",
    "barriers",
)  # counters of other processes that a resume begins with


def run_learner(
    config: TrainConfig,
    task: Task,
    steps: StepReader,
    weights: WeightsWriter,
    counters: Counters,
    control: Control,
    checkpoint_dir: Path,
    *,
    replay_arrays: dict[str, NDArray[Any]] | None = None,
    played: Sequence[NDArray[Any]] = (),
) -> None:
    """Learn until the run stops, then write a last checkpoint; a disk that refuses one does not end the run.

    A checkpoint in `checkpoint_dir` is gone on from; CheckpointError when none there loads.
    `replay_arrays` (zeros at first, laid out by `store_layout`) outlive this process where they
    are shared memory: a learner that starts again finds its replay buffer in them, and learns from every
    step once. `played` are the explorers' counts of episodes, for each group (N,): they are set when a run is resumed.
    """
    arrays = replay_arrays or new_arrays(store_layout(config, algorithm_for(config, task)))
    training = Training(config, task, arrays, weights, counters, played)
    checkpoints = CheckpointWriter(checkpoint_dir, config.checkpoint_every_s, counters)
    training.resume(newest := load_newest(checkpoint_dir))
    training.take_up(steps)
    if config.deterministic and newest is not None:
        training.version -= 1  # what is published now is what was published last, at the barrier
    training.publish()
    counters.set("barriers_passed", counters.get("barriers"))
    if newest is None:  # before the first env step: 3 ms with the default network, and nobody waits for them
        checkpoints.write(training.checkpoint)
    control.ready()
    learn = _learn_in_lock_step if config.deterministic else _learn
    learn(training, steps, checkpoints, control)


def _learn(training: Training, steps: StepReader, checkpoints: CheckpointWriter, control: Control) -> None:
    while not control.is_stopping():
        training.comes_to(Doing.WAITING_FOR_STEPS)
        raw = steps.read(READ_TIMEOUT_S)
        if raw is not None:
            training.take(raw)
            steps.done(raw.group, raw.number)
        while training.owes_updates() and not control.is_stopping():
            training.update()
        if checkpoints.is_due():
            training.comes_to(Doing.SAVING)
            checkpoints.write(training.checkpoint)
    checkpoints.write(training.checkpoint)


def _learn_in_lock_step(training: Training, steps: StepReader, checkpoints: CheckpointWriter, control: Control) -> None:
    """Steps are done with only after their updates: until then the explorer waits. Checkpoints are barriers alone."""
    while not control.is_stopping():
        training.comes_to(Doing.WAITING_FOR_STEPS)
        raw = steps.read(LOCK_STEP_TIMEOUT_S)
        if raw is not None:
            training.take(raw)
            while training.owes_updates():
                training.update()
            steps.done(raw.group, raw.number)
        elif training.is_asked_for_barrier():
            training.pass_barrier(checkpoints)


class _State(msgspec.Struct, frozen=True):
    """What a checkpoint holds beside its arrays."""

    task: Task
    algorithm: str
    updates: int
    version: int
    store: dict[str, Any]
    wall_s: float
    counters: dict[str, float]


class Training:
    """Everything that learning changes, and the one order in which it may change."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        replay_arrays: dict[str, NDArray[Any]],
        weights: WeightsWriter,
        counters: Counters,
        played: Sequence[NDArray[Any]] = (),
    ) -> None:
        self.config, self.task, self.played = config, task, played
        algorithm = algorithm_for(config, task)
        self.learner = algorithm.init()
        require_learner(self.learner, config.algorithm)
        self.store = store_for(config, algorithm, replay_arrays)
        self.updates, self.version = 0, 0
        self._weights, self._counters = weights, counters
        self._env_steps = 0
        self._loss = 0.0
        self._wall_before_s, self._began_at_s = 0.0, math.inf

    def comes_to(self, doing: Doing) -> None:
        """The learner's heartbeat."""
        beat(self._counters, doing)

    def take(self, raw: RawSteps) -> None:
        """Take the steps into the store."""
        if self._began_at_s == math.inf:
            self._begin()
        self._counters.set("steps_at_s", time.monotonic())
        self.store.take(raw)
        self._env_steps = int(self._counters.get("env_steps"))
        self._counters.set("inserted", self.store.inserted)
        self._counters.set("replay_size", len(self.store))

    def owes_updates(self) -> bool:
        """True while another transition may not be inserted."""
        return self.store.owes(self.updates)

    def update(self) -> None:
        """One update; the weights are published when it is time. DivergedError when it has broken them."""
        self.comes_to(Doing.UPDATING)
        updated = self.learner.update(self.store.batch(), self._env_steps)
        self.store.learned(updated)
        before, self.updates = self.updates, self.updates + updated.updates
        is_due = self.updates // self.store.publish_every > before // self.store.publish_every
        if is_due or isinstance(updated.loss, float):  # reading a tensor takes 12 µs, and waits for a GPU
            self._loss = float(updated.loss)
        if not math.isfinite(self._loss):
            raise DivergedError(
                f"the loss is {self._loss} after {self.updates} updates: lower --learning-rate or --reward-scale, "
                "and look for rewards or observations that are not finite"
            )
        if is_due:
            self.publish()

    def publish(self) -> None:
        """Make the weights of now the newest. DivergedError, and nothing is published, when they are not finite."""
        weights = self.learner.weights()
        require_finite(weights, self.updates)
        self.version += 1
        self._counters.set("weights_version", self.version)  # first: no version is given twice, whoever dies when
        self._weights.publish(stamped(weights, self._env_steps, self.updates), self.version)
        self._counters.set("updates", self.updates)
        self._counters.set("loss", self._loss)
        self._counters.set("replay_ratio", self.store.achieved_ratio(self.updates))

    def is_asked_for_barrier(self) -> bool:
        """Whether the explorer waits at a barrier that is not passed."""
        return self._counters.get("barrier_asked") > self._counters.get("barriers")

    def pass_barrier(self, checkpoints: CheckpointWriter) -> None:
        """End all episodes, publish, and write a checkpoint that a resumed run begins with exactly like this one."""
        self.comes_to(Doing.SAVING)
        self.store.cut_off()
        self.publish()
        self._counters.add("barriers", 1)
        checkpoints.write(self.checkpoint)
        self._counters.set("barriers_passed", self._counters.get("barriers"))

    def checkpoint(self) -> Checkpoint:
        """All that a resume needs. Views of living arrays: save it before going on. DivergedError as `publish`."""
        return self._snapshot({**_over("tails/", self.store.tails()), **_over("played/", copies_of(self.played))})

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint. Of the episodes that ran, the last steps count as truncated where they led.

        A replay buffer that is not empty outlived the learner, and is kept. CheckpointError when
        the checkpoint is of another env, network or buffer.
        """
        outlived = self.store.inserted > 0
        # a learner of this same run may have published versions that no checkpoint knows
        self.version = int(self._counters.get("weights_version"))
        is_alone = outlived or self._counters.get("env_steps") > 0  # the rest of its run lives
        if checkpoint is not None:
            self._load(checkpoint)
        if outlived:  # updates that were lost with a learner are not owed again: no burst of them
            self.store.go_on_from(self.updates)
            self._tell_loss()
        self._env_steps = int(self._counters.get("env_steps"))
        self._wall_before_s = self._counters.get("wall_before_s")
        if checkpoint is not None and not is_alone:
            self._begin_anew(checkpoint)
        self.store.keep_ratio(self.updates)

    def take_up(self, steps: StepReader) -> None:
        """Go on where a learner before us was killed: the windows as they were, no step twice, none left out."""
        steps.done(*self.store.source)  # it may have died before it said so
        for raw in steps.last_done():
            self.store.retake(raw)

    def _load(self, checkpoint: Checkpoint) -> None:
        state = self._state_of(checkpoint)
        try:
            self.learner.load_state(_under("learner/", checkpoint.arrays))
            self.store.restore(_under("replay/", checkpoint.arrays), state.store)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint is of a run with other settings: {error}; go on with those, or begin a new run"
            ) from error
        self.updates = state.updates
        self.version = max(self.version, state.version)
        self._carry_over(state)

    def _snapshot(self, of_envs: dict[str, NDArray[Any]]) -> Checkpoint:
        """`of_envs`: what they played, and what the steps that wait would become were their episodes cut off now."""
        learned = self.learner.state()
        require_finite(learned, self.updates)
        arrays = {**_over("learner/", learned), **_over("replay/", self.store.contents()), **of_envs}
        state = _State(
            task=self.task,
            algorithm=self.config.algorithm,
            updates=self.updates,
            version=self.version,
            store=self.store.state(),
            wall_s=self._wall_s(),
            counters={name: self._counters.get(name) for name in CARRIED_OVER},
        )
        return Checkpoint(arrays, msgspec.to_builtins(state))

    def _state_of(self, checkpoint: Checkpoint) -> _State:
        try:
            state = msgspec.convert(checkpoint.state, _State)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"{checkpoint.name} does not hold the state of a run: {error}") from error
        if (state.task, state.algorithm) != (self.task, self.config.algorithm):
            kept, here = f"{state.algorithm} on {state.task}", f"{self.config.algorithm} on {self.task}"
            raise CheckpointError(f"the checkpoint is of {kept}; this run is of {here}")
        return state

    def _carry_over(self, state: _State) -> None:
        """Begin the counters where the run left them, unless they outlived the learner."""
        if self._counters.get("env_steps") == 0:
            for name, value in state.counters.items():
                self._counters.set(name, value)
            self._counters.set("wall_before_s", state.wall_s)

    def _begin(self) -> None:
        """The learner's clock runs from the first steps on, also while it is dead."""
        self._began_at_s = self._counters.get("learning_since_s") or time.monotonic()
        self._counters.set("learning_since_s", self._began_at_s)

    def _tell_loss(self) -> None:
        lost = max(int(self._counters.get("updates")) - self.updates, 0)
        steps_lost = max(int(self._counters.get("replay_size")) - len(self.store), 0)
        self._counters.add("updates_lost", lost)
        self._counters.add("steps_lost", steps_lost)
        self._counters.set("replay_size", len(self.store))
        log(
            "learner_went_on",
            replay_size=len(self.store),
            updates=self.updates,
            updates_lost=lost,
            steps_lost=steps_lost,
        )

    def _begin_anew(self, checkpoint: Checkpoint) -> None:
        """The whole run was ended: make sure that its state is back to the bit, and end the episodes that ran."""
        tails, played = _under("tails/", checkpoint.arrays), _under("played/", checkpoint.arrays)
        restore_played(played, self.played)
        if has_same_groups(played, self.played):  # where they are others, the numbers are meant to differ
            played = copies_of(self.played)
        # what waited in windows that are gone cannot be read back from anything: it becomes part of the replay below
        restored = self._snapshot({**_over("tails/", tails), **_over("played/", played)})
        if (digest := restored.digest()) != checkpoint.digest():
            raise CheckpointError(f"{checkpoint.name} was not restored as it was saved; its settings are another run's")
        log(
            "run_resumed",
            level=logging.INFO,
            checkpoint=checkpoint.name,
            digest=digest,
            updates=self.updates,
            env_steps=self._env_steps,
            inserted=self.store.inserted,
            tails=len(tails["reward"]) if tails else 0,
        )
        self.store.end_episodes(tails)

    def _wall_s(self) -> float:
        return self._wall_before_s + max(0.0, time.monotonic() - self._began_at_s)


def _over(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
