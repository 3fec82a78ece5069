from __future__ import annotations

import contextlib
import copy
import errno
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiserverrl.errors import CheckpointError, DivergedError, RunError
from multiserverrl.train import learner, saving
from multiserverrl.train.algorithms import dqn_numpy
from multiserverrl.train.algorithms.protocol import Updated
from multiserverrl.train.algorithms.schedules import learning_rate_at
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.checkpoint import Checkpoint, load_newest
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.learner import Training, run_learner
from multiserverrl.train.task import Task
from multiserverrl.train.weights import publication_of
from tests.train.fakes import FakeCounters, FakeRun, FakeWeights, store_arrays

TASK = Task(obs_shape=(2,), num_actions=2)
CONFIG = TrainConfig(hidden="8", warmup_steps=40, buffer_size=300, batch_size=16, publish_every=4, n_step=3)


def raw_steps(number: int, N: int = 8) -> RawSteps:
    rng = np.random.default_rng(number)
    return RawSteps(
        group=number % 2,
        obs=rng.normal(size=(N, 2)).astype(np.float32),
        action=rng.integers(0, 2, N),
        reward=rng.normal(size=N).astype(np.float32),
        terminated=rng.random(N) < 0.1,
        truncated=np.zeros(N, bool),
        next_obs=rng.normal(size=(N, 2)).astype(np.float32),
        valid=np.ones(N, bool),
        weights_version=1,
    )


class ListedReader:
    """Gives out `count` raw steps and counts them as an explorer would, then stops the run."""

    def __init__(self, run: FakeRun, counters: FakeCounters, first: int, count: int) -> None:
        self._run, self._numbers, self._explorer = run, list(range(first, first + count)), counters.row("explorer")

    def read(self, timeout_s: float) -> RawSteps | None:
        if not self._numbers:
            self._run.stop()
            return None
        steps = raw_steps(self._numbers.pop(0))
        self._explorer.add("env_steps", len(steps.valid))
        return steps

    def done(self, group: int, number: int) -> None:
        pass

    def last_done(self) -> list[RawSteps]:
        return []


class Learned:
    """A whole learner process on so many raw steps."""

    def __init__(
        self,
        directory: Path,
        first: int,
        count: int,
        config: TrainConfig = CONFIG,
        *,
        counters: FakeCounters | None = None,
        task: Task = TASK,
        replay_arrays: dict[str, Any] | None = None,
    ) -> None:
        self.run, self.weights, self.counters = FakeRun(set()), FakeWeights(), counters or FakeCounters()
        reader = ListedReader(self.run, self.counters, first, count)
        ends = self.counters.row("learner"), self.run.control("learner")
        run_learner(config, task, reader, self.weights, *ends, directory, replay_arrays=replay_arrays)


def test_updates_are_exactly_those_that_the_replay_ratio_is_worth(tmp_path: Path) -> None:
    counters = Learned(tmp_path, 0, 60, replace(CONFIG, replay_ratio=0.5, publish_every=1)).counters
    inserted = counters.get("inserted")
    assert inserted > 400
    assert counters.get("updates") == np.floor((inserted - 40) * 0.5)
    assert counters.get("replay_ratio") == pytest.approx(0.5, abs=0.003)
    assert counters.get("replay_size") == 300


def test_it_is_ready_only_when_its_first_weights_are_there_and_kept(tmp_path: Path) -> None:
    run, counters, weights = FakeRun(set()), FakeCounters(), FakeWeights()
    versions, kept = [], []

    class Control:
        def ready(self) -> None:
            versions.append(weights.version())
            kept.append(load_newest(tmp_path))
            run.stop()

        def is_stopping(self) -> bool:
            return run.is_stopped

        def wait_until_started(self) -> bool:
            return True

    run_learner(CONFIG, TASK, ListedReader(run, counters, 0, 0), weights, counters.row("l"), Control(), tmp_path)
    assert versions == [1]
    assert kept[0] is not None and kept[0].state["updates"] == 0
    again = Training(
        CONFIG,
        TASK,
        store_arrays(CONFIG, TASK),
        FakeWeights(),
        FakeCounters().row("l"),
    )
    again.resume(kept[0])  # it is whole, though its replay buffer is empty


def test_weights_are_published_in_time_with_what_they_were_made_from(tmp_path: Path) -> None:
    learned = Learned(tmp_path, 0, 40)
    assert (
        learned.counters.get("weights_version") == learned.weights.version() == 1 + learned.counters.get("updates") // 4
    )
    newest = learned.weights.read()
    assert newest is not None
    publication = publication_of(newest[0])
    assert publication.updates == learned.counters.get("updates")
    assert 0 < publication.env_steps <= learned.counters.get("env_steps")


def test_a_stopped_run_goes_on_exactly_where_it_was(tmp_path: Path, logged: list[str]) -> None:
    first = Learned(tmp_path, 0, 40)
    before = load_newest(tmp_path)
    assert before is not None
    resumed = Learned(tmp_path, 40, 0)
    (line,) = [line for line in logged if line.startswith("run_resumed")]
    assert f"digest={before.digest()}" in line, "what it is after the resume is what was saved, to the bit"
    assert resumed.counters.get("env_steps") == first.counters.get("env_steps") == 320
    assert resumed.counters.get("updates") == before.state["updates"]
    assert resumed.weights.version() > before.state["version"]
    assert resumed.counters.get("wall_before_s") == before.state["wall_s"] > 0


def test_a_resume_learns_at_the_rate_that_the_run_had_come_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, learning_rate_steps=1000)
    Learned(tmp_path, 0, 40, config)
    rates: list[float] = []

    def noted(config: TrainConfig, env_steps: int) -> float:
        rates.append(learning_rate_at(config, env_steps))
        return rates[-1]

    monkeypatch.setattr(dqn_numpy, "learning_rate_at", noted)
    Learned(tmp_path, 40, 10, config)
    assert rates[0] == pytest.approx(config.learning_rate * (1.0 - 328 / 1000)), "after 40 + 1 steps of 8 envs"
    assert rates[-1] == pytest.approx(config.learning_rate * (1.0 - 400 / 1000))


@pytest.mark.parametrize("backends", [("numpy", "torch"), ("torch", "numpy"), ("torch", "torch")])
def test_either_backend_restores_what_the_other_saved_to_the_bit(
    tmp_path: Path, logged: list[str], backends: tuple[str, str]
) -> None:
    for backend, steps in zip(backends, (40, 0), strict=True):
        Learned(tmp_path, 0, steps, replace(CONFIG, backend=backend))
    saved = [load_newest_of(tmp_path, number) for number in (2, 3)]  # after the one of the start
    assert saved[0].state["updates"] == saved[1].state["updates"] > 0
    assert f"digest={saved[0].digest()}" in logged[-1]
    for name in saved[0].arrays:
        if name.startswith("learner/"):
            np.testing.assert_array_equal(saved[0].arrays[name], saved[1].arrays[name], err_msg=name)


def load_newest_of(directory: Path, number: int) -> Checkpoint:
    """The checkpoint of that number, in a directory of its own."""
    alone = directory / f"only-{number}"
    shutil.copytree(directory / f"checkpoint-{number:09d}", alone / f"checkpoint-{number:09d}")
    checkpoint = load_newest(alone)
    assert checkpoint is not None
    return checkpoint


def test_what_each_env_has_played_comes_back_with_the_rest() -> None:
    def training(played: list[np.ndarray]) -> Training:
        arrays = store_arrays(CONFIG, TASK)
        return Training(CONFIG, TASK, arrays, FakeWeights(), FakeCounters().row("l"), played)

    first = training([np.array([4, 2]), np.array([7])])
    learn(first, 0, 10)
    played = [np.zeros(2, np.int64), np.zeros(1, np.int64)]
    training(played).resume(copy.deepcopy(first.checkpoint()))
    assert [array.tolist() for array in played] == [[4, 2], [7]]


SPOILERS: dict[str, Callable[[Training], object]] = {
    "a network's or its optimiser's number": lambda one: one.learner.load_state(
        {
            name: np.nextafter(array, np.inf, dtype=array.dtype) if array.dtype.kind == "f" else array
            for name, array in one.learner.state().items()
        }
    ),
    "a reward in the replay buffer": lambda one: one.store.replay.arrays["reward"].__setitem__(3, 0.125),
    "where the next transition goes": lambda one: setattr(one.store.replay, "inserted", one.store.replay.inserted + 1),
    "the random numbers of sampling": lambda one: one.store.rng.random(),
    "the updates that are owed": lambda one: setattr(one.store, "ratio", one.store.ratio.beginning_at(1, 1)),
    "the number of updates": lambda one: setattr(one, "updates", one.updates + 1),
    "the env steps": lambda one: one._counters.add("env_steps", 1),
}


@pytest.mark.parametrize("what", [None, *SPOILERS])
def test_a_state_that_comes_back_otherwise_ends_the_resume(monkeypatch: pytest.MonkeyPatch, what: str | None) -> None:
    first = Training(
        CONFIG,
        TASK,
        store_arrays(CONFIG, TASK),
        FakeWeights(),
        FakeCounters().row("l"),
    )
    learn(first, 0, 20)
    checkpoint = copy.deepcopy(first.checkpoint())
    second = Training(
        CONFIG,
        TASK,
        store_arrays(CONFIG, TASK),
        FakeWeights(),
        FakeCounters().row("l"),
    )
    load = second._load

    def load_otherwise(checkpoint: Checkpoint) -> None:
        load(checkpoint)
        if what is not None:
            SPOILERS[what](second)

    monkeypatch.setattr(second, "_load", load_otherwise)
    with pytest.raises(CheckpointError, match="not restored as it was saved") if what else contextlib.nullcontext():
        second.resume(checkpoint)


def test_episodes_played_that_come_back_otherwise_end_the_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    def training(played: list[np.ndarray]) -> Training:
        arrays = store_arrays(CONFIG, TASK)
        return Training(CONFIG, TASK, arrays, FakeWeights(), FakeCounters().row("l"), played)

    first = training([np.array([4, 2])])
    learn(first, 0, 10)
    monkeypatch.setattr(learner, "restore_played", lambda kept, played: None)
    with pytest.raises(CheckpointError, match="not restored as it was saved"):
        training([np.zeros(2, np.int64)]).resume(copy.deepcopy(first.checkpoint()))


def learn(training: Training, first: int, count: int) -> None:
    for number in range(first, first + count):
        training.take(raw_steps(number))
        while training.owes_updates():
            training.update()


def test_episodes_that_were_running_count_as_truncated_after_a_resume() -> None:
    config = replace(CONFIG, n_step=3, gamma=0.5, reward_scale=1.0)

    def training() -> Training:
        return Training(
            config,
            TASK,
            store_arrays(config, TASK),
            FakeWeights(),
            FakeCounters().row("l"),
        )

    def step(t: int, *, begins: bool = False) -> RawSteps:
        """One env whose observation is the time; every reward is 1."""
        at, nothing = np.full((1, 2), t, np.float32), np.zeros(1, bool)
        return RawSteps(0, at, np.zeros(1, np.int64), np.ones(1, np.float32), nothing, nothing, at + 1, ~nothing, 1)

    first, second = training(), training()
    for t in range(5):
        first.take(step(t))
    assert first.store.replay.inserted == 3, "two steps wait for their third"
    second.resume(copy.deepcopy(first.checkpoint()))
    for t in range(100, 103):
        second.take(step(t))
    rows = {name: array[: second.store.replay.inserted].tolist() for name, array in second.store.replay.arrays.items()}
    found = sorted(
        zip(
            (obs[0] for obs in rows["obs"]),
            (obs[0] for obs in rows["next_obs"]),
            rows["reward"],
            rows["discount"],
            strict=True,
        )
    )
    whole = 1 + 0.5 + 0.25
    assert found == [
        (0, 3, whole, 0.125), (1, 4, whole, 0.125), (2, 5, whole, 0.125),
        (3, 5, 1.5, 0.25), (4, 5, 1.0, 0.5),  # the tails: cut where they led, and bootstrapping from there
        (100, 103, whole, 0.125),
    ]  # fmt: skip


@pytest.mark.parametrize("replay_ratio", [0.05, 4.0])
def test_another_replay_ratio_holds_from_the_resume_on_and_nothing_is_made_up_for(replay_ratio: float) -> None:
    first = Training(
        CONFIG,
        TASK,
        store_arrays(CONFIG, TASK),
        FakeWeights(),
        FakeCounters().row("l"),
    )
    learn(first, 0, 30)
    other = replace(CONFIG, replay_ratio=replay_ratio)
    second = Training(other, TASK, store_arrays(other, TASK), FakeWeights(), FakeCounters().row("l"))
    second.resume(copy.deepcopy(first.checkpoint()))
    assert not second.owes_updates()
    inserted = second.store.replay.inserted
    learn(second, 30, 30)
    assert second.updates - first.updates == np.floor((second.store.replay.inserted - inserted) * replay_ratio)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("updates", "many"),
        ("task", {}),
        ("store", {"sampling_rng": {"bit_generator": "PCG64"}, "ratio": None}),
        ("store", 3),
        ("store", {}),
    ],
)
def test_a_state_that_is_none_of_ours_is_refused(field: str, value: Any) -> None:
    training = Training(
        CONFIG,
        TASK,
        store_arrays(CONFIG, TASK),
        FakeWeights(),
        FakeCounters().row("l"),
    )
    checkpoint = training.checkpoint()
    with pytest.raises(CheckpointError):
        training.resume(replace(checkpoint, state={**checkpoint.state, field: value}))


def test_a_disk_that_refuses_checkpoints_does_not_end_the_learning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_bytes(b"a file is where the directory should be")
    counters = FakeCounters()
    Learned(tmp_path / "checkpoints", 0, 30, replace(CONFIG, checkpoint_every_s=1e-9), counters=counters)
    assert counters.get("updates") > 0
    assert counters.get("checkpoints") == 0
    assert counters.get("checkpoint_errno") == errno.EEXIST
    (tmp_path / "checkpoints").unlink()
    Learned(tmp_path / "checkpoints", 30, 1, counters=counters)
    assert counters.get("checkpoints") == 2
    assert counters.get("checkpoint_errno") == 0


def test_a_resumed_learner_makes_the_updates_that_the_first_would_have_made(tmp_path: Path) -> None:
    counters, config = FakeCounters(), CONFIG

    def training() -> Training:
        return Training(
            config,
            TASK,
            store_arrays(config, TASK),
            FakeWeights(),
            counters.row("l"),
        )

    first, second = training(), training()
    for number in range(10):
        steps = raw_steps(number)
        steps.truncated = ~steps.terminated  # no window stays open
        first.take(steps)
        while first.owes_updates():
            first.update()
    second.resume(first.checkpoint())
    for trained in (first, second):
        for number in range(10, 20):
            trained.take(raw_steps(number))
            while trained.owes_updates():
                trained.update()
    assert second.updates == first.updates > 0
    for name, array in first.learner.state().items():
        np.testing.assert_array_equal(second.learner.state()[name], array)


def test_a_learner_that_starts_again_keeps_the_replay_buffer_that_outlived_it(tmp_path: Path) -> None:
    arrays = store_arrays(CONFIG, TASK)
    first = Learned(tmp_path, 0, 20, replay_arrays=arrays)
    obs = arrays["obs"].copy()
    inserted = first.counters.get("inserted")
    again = Learned(tmp_path, 20, 0, replay_arrays=arrays, counters=first.counters)
    np.testing.assert_array_equal(arrays["obs"], obs)
    assert again.counters.get("inserted") == inserted
    assert again.counters.get("env_steps") == 160, "counters that outlived it are not counted twice"
    assert again.weights.version() > first.weights.version()


def test_a_learner_that_died_after_its_last_checkpoint_keeps_the_replay_and_its_ratio_without_a_burst() -> None:
    arrays, counters, weights = (
        store_arrays(CONFIG, TASK),
        FakeCounters(),
        FakeWeights(),
    )

    def training() -> Training:
        return Training(CONFIG, TASK, arrays, weights, counters.row("learner"))

    def learn(trained: Training, first: int, count: int) -> None:
        for number in range(first, first + count):
            counters.row("explorer").add("env_steps", 8)
            trained.take(raw_steps(number))
            while trained.owes_updates():
                trained.update()

    died = training()
    learn(died, 0, 10)
    checkpoint = copy.deepcopy(died.checkpoint())
    learn(died, 10, 20)

    again = training()
    again.resume(checkpoint)
    assert again.store.replay.inserted == died.store.replay.inserted, "the replay buffer outlived it"
    assert again.updates == checkpoint.state["updates"] < died.updates
    assert counters.get("updates_lost") == pytest.approx(died.updates - again.updates, abs=CONFIG.publish_every)
    assert not again.owes_updates(), "what was lost is not made good in one go"
    inserted, updates = again.store.replay.inserted, again.updates
    learn(again, 30, 10)
    worth = (again.store.replay.inserted - inserted) * CONFIG.replay_ratio
    assert again.updates - updates == pytest.approx(worth, abs=1)
    assert weights.version() > died.version, "no version is given twice"
    assert counters.get("env_steps") == 40 * 8


def test_a_rollout_that_was_not_complete_is_lost_with_its_learner_and_its_steps_are_counted() -> None:
    config = TrainConfig(algorithm="pqn", hidden="8", rollout_steps=3, epochs=1, minibatches=2)
    counters, weights, arrays = FakeCounters(), FakeWeights(), store_arrays(config, TASK)

    def training() -> Training:
        return Training(config, TASK, arrays, weights, counters.row("learner"))

    def learn(trained: Training, first: int, count: int) -> None:
        for number in range(first, first + count):
            counters.row("explorer").add("env_steps", 8)
            trained.take(raw_steps(number))
            while trained.owes_updates():
                trained.update()

    died = training()
    learn(died, 0, 11)  # one rollout, and five steps of the next
    assert (died.updates, died.version) == (2, 1)
    again = training()
    again.resume(None)
    assert counters.get("steps_lost") == 5 * 8
    assert counters.get("replay_size") == 0
    learn(again, 11, 6)
    assert again.updates == 2
    assert counters.get("inserted") == 17 * 8
    assert counters.get("steps_lost") == 5 * 8


def test_rollouts_are_resumed_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    config = TrainConfig(algorithm="pqn", hidden="8", rollout_steps=3, epochs=1, minibatches=2)
    first = Learned(tmp_path, 0, 20, config)
    second = Learned(tmp_path, 20, 12, config)  # it compares digests itself
    assert second.counters.get("updates") == first.counters.get("updates") + 2 * 2
    assert second.weights.version() > first.weights.version()


def test_a_checkpoint_of_another_env_is_refused(tmp_path: Path) -> None:
    Learned(tmp_path, 0, 1)
    with pytest.raises(CheckpointError, match="this run is of dqn on"):
        Learned(tmp_path, 0, 0, task=Task(obs_shape=(3,), num_actions=2))


@pytest.mark.parametrize(("setting", "value"), [("hidden", "16"), ("buffer_size", 100)])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, setting: str, value: Any) -> None:
    Learned(tmp_path, 0, 40)
    with pytest.raises(CheckpointError, match="other settings"):
        Learned(tmp_path, 0, 0, replace(CONFIG, **{setting: value}))


def test_checkpoints_are_written_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "LEAST_REST", 0.0)
    assert (
        Learned(tmp_path, 0, 6, replace(CONFIG, checkpoint_every_s=1e-9)).counters.get("checkpoints") == 1 + 6 + 1 + 1
    )


def test_a_loss_that_is_not_finite_ends_the_run_at_once_and_the_checkpoint_before_it_stays(tmp_path: Path) -> None:
    class BrokenReader(ListedReader):
        def read(self, timeout_s: float) -> RawSteps | None:
            steps = super().read(timeout_s)
            if steps is not None and len(self._numbers) < 5:
                steps.reward[:] = np.nan
            return steps

    run, counters, weights = FakeRun(set()), FakeCounters(), FakeWeights()
    config = replace(CONFIG, checkpoint_every_s=1e-9)
    reader = BrokenReader(run, counters, 0, 30)
    with pytest.raises(RunError, match="--learning-rate"):
        run_learner(config, TASK, reader, weights, counters.row("l"), run.control("l"), tmp_path)
    kept, newest = load_newest(tmp_path), weights.read()
    assert kept is not None
    assert newest is not None
    for name, array in kept.arrays.items():
        assert name.startswith("replay/") or np.isfinite(array).all(), name
    assert all(np.isfinite(array).all() for array in newest[0].values())


def test_a_loss_that_is_a_tensor_is_read_when_weights_are_published_and_a_number_at_once() -> None:
    class Loss:
        def __init__(self) -> None:
            self.reads = 0

        def __float__(self) -> float:
            self.reads += 1
            return 0.5

    class OnGpu:
        def __init__(self, losses: list[Any]) -> None:
            self._losses = iter(losses)

        def update(self, batch: Any, env_steps: int) -> Updated:
            return Updated(next(self._losses))

        def weights(self) -> dict[str, Any]:
            return {}

    counters = FakeCounters()
    training = Training(CONFIG, TASK, store_arrays(CONFIG, TASK), FakeWeights(), counters.row("l"))
    for number in range(8):
        training.take(raw_steps(number))
    losses = [Loss() for _ in range(9)]
    training.learner = OnGpu([*losses, math.nan])  # type: ignore[assignment]
    for _ in range(9):
        training.update()
    assert [loss.reads for loss in losses] == [0, 0, 0, 1, 0, 0, 0, 1, 0]  # --publish-every 4
    assert counters.get("loss") == 0.5
    with pytest.raises(RunError, match="the loss is nan after 10 updates"):
        training.update()


def test_weights_that_are_not_finite_are_neither_published_nor_saved_though_the_loss_is() -> None:
    counters, weights = FakeCounters(), FakeWeights()
    training = Training(CONFIG, TASK, store_arrays(CONFIG, TASK), weights, counters.row("l"))
    training.publish()
    broken = training.learner.state()
    next(array for name, array in broken.items() if name.startswith("online.") and "bias" in name)[0] = np.nan
    training.learner.load_state(broken)
    with pytest.raises(DivergedError, match="bias"):
        training.publish()
    with pytest.raises(DivergedError, match="bias"):
        training.checkpoint()
    assert weights.version() == counters.get("weights_version") == 1
