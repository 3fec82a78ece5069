"""A learner that dies at any point of taking steps in: the next one's replay buffer is what it would have been."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiserverrl.launch.channels import ChannelPlan, Channels
from multiserverrl.launch.steps import RingReader
from multiserverrl.train import replay
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.learner import Training
from multiserverrl.train.replay import Replay
from multiserverrl.train.stores import kept_steps, store_for, store_layout
from multiserverrl.train.stores.frames import FrameRing
from multiserverrl.train.stores.sequences import GroupSequences
from multiserverrl.train.task import Task
from multiserverrl.train.transitions import GroupWindows
from tests.train.fakes import FakeCounters, FakeWeights
from tests.train.plugged import plug_in

TASK = Task(obs_shape=(2,), num_actions=2)
CONFIG = TrainConfig(hidden="8", buffer_size=16, warmup_steps=16, n_step=3)  # the buffer goes around
# everything that a learner writes while it takes steps in
OPERATIONS = [
    (GroupWindows, "push"), (GroupSequences, "push"), (FrameRing, "_append"),
    (replay, "_write_around"), (Replay, "_commit"), (RingReader, "done"),
]  # fmt: skip


class Killed(Exception):
    """Stands for kill -9: nothing that comes after it is done."""


def raw_steps(number: int) -> RawSteps:
    group, N = number % 2, 3 - number % 2
    rng = np.random.default_rng(number)
    return RawSteps(
        group=group,
        obs=rng.normal(size=(N, 2)).astype(np.float32),
        action=rng.integers(0, 2, N),
        reward=rng.normal(size=N).astype(np.float32),
        terminated=rng.random(N) < 0.2,
        truncated=np.zeros(N, bool),
        next_obs=rng.normal(size=(N, 2)).astype(np.float32),
        valid=rng.random(N) < 0.9,
        weights_version=number,
        extras={"state": rng.normal(size=(N, 16)).astype(np.float32)},
    )


def learn(channels: Channels, numbers: list[int], config: TrainConfig) -> None:
    """A learner's life: take these steps in, as the explorers write them."""
    reader, writer = channels.step_reader(), channels.step_writer([0, 1])
    training = Training(
        config, TASK.stacked(config.frame_stack), channels.replay_arrays(), FakeWeights(), FakeCounters().row("learner")
    )
    training.take_up(reader)
    while True:
        while numbers and writer.write(raw_steps(numbers[0]), timeout_s=0.0):
            numbers.pop(0)
        raw = reader.read(timeout_s=0.0)
        if raw is None:
            return
        training.take(raw)
        reader.done(raw.group, raw.number)


@contextmanager
def new_channels(config: TrainConfig) -> Iterator[Channels]:
    task = TASK.stacked(config.frame_stack)
    algorithm = algorithm_for(config, task)
    layout, kept = store_layout(config, algorithm), kept_steps(config, algorithm)
    extras = algorithm.extras_fields
    channels = Channels.create(ChannelPlan(task, (3, 2), {}, rows=1, replay=layout, extras=extras, kept_steps=kept))
    try:
        yield channels
    finally:
        channels.close()


def content(channels: Channels, config: TrainConfig) -> dict[str, Any]:
    store = store_for(config, algorithm_for(config, TASK.stacked(config.frame_stack)), channels.replay_arrays())
    return {**{name: array.copy() for name, array in store.contents().items()}, "source": store.source}


@functools.cache
def undisturbed(config: TrainConfig) -> dict[str, Any]:
    with new_channels(config) as channels:
        learn(channels, list(range(taken(config))), config)
        return content(channels, config)


@contextmanager
def killed_at(call: int, after: bool) -> Iterator[list[int]]:
    """Raises in, or right after, that one of all calls; what is yielded counts them."""
    count = [0]

    def deadly(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            count[0] += 1
            is_the_one = count[0] == call
            result = operation(*arguments) if after or not is_the_one else None
            if is_the_one:
                raise Killed
            return result

        return run

    with pytest.MonkeyPatch.context() as patched:
        for owner, name in OPERATIONS:
            patched.setattr(owner, name, deadly(getattr(owner, name)))
        yield count


def taken(config: TrainConfig) -> int:
    """Steps; several of them make one sequence."""
    return 28 if config.algorithm == "recurrent-q" else 14


def config_of(kind: str) -> TrainConfig:
    if kind == "sequences":  # a plug-in, which has to be installed before it is named
        return replace(CONFIG, algorithm="recurrent-q", sequence_length=4, warmup_steps=4, buffer_size=20)
    return {"pairs": CONFIG, "stacks": replace(CONFIG, frame_stack=3, prioritised=True)}[kind]


@pytest.mark.parametrize("kind", ["pairs", "stacks", "sequences"])
@pytest.mark.parametrize("after", [False, True])
def test_a_learner_killed_at_any_point_leaves_no_step_out_and_learns_from_none_twice(
    after: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, tmp_path, recurrent_q="tests.train.doubles:RecurrentQ")
    config = config_of(kind)
    with killed_at(0, after) as count, new_channels(config) as channels:
        learn(channels, list(range(taken(config))), config)
    whole = undisturbed(config)
    assert whole["inserted"][0] > config.buffer_size
    assert count[0] > 5 * taken(config)
    for call in range(1, count[0] + 1, 5 if kind == "sequences" else 1):  # of these every fifth: they are many
        with new_channels(config) as channels:
            numbers = list(range(taken(config)))
            with killed_at(call, after), pytest.raises(Killed):
                learn(channels, numbers, config)
            learn(channels, numbers, config)
            found = content(channels, config)
        assert found.keys() == whole.keys()
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name}, killed at call {call}")
