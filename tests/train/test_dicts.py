"""Dict observations from end to end: a real env server, explorer, replay buffer, checkpoint, and what is learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.testing.threaded import serving_from_thread
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.explorer import ExplorerGroup, run_explorer
from multiserverrl.train.stores import store_for
from multiserverrl.train.task import Task, task_of
from tests.train.fakes import FakeCounters, FakeRun, ListedSteps, ScriptedActions, local_envs, store_arrays, train_here
from tests.train.stores.scenes import Declared, store_on


class Signal(gymnasium.Env[Any, Any]):
    """A bright or dark picture and a number say together which action is rewarded; five steps an episode."""

    observation_space = gymnasium.spaces.Dict(
        {
            "camera": gymnasium.spaces.Box(0, 255, (12, 10, 3), np.uint8),
            "speed": gymnasium.spaces.Box(-1.0, 1.0, (2,)),
        }
    )
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 12) -> None:
        self._size = size

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._t = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        reward = float(action == (self._is_bright ^ (self._speed > 0)))
        self._t += 1
        return self._obs(), reward, False, self._t == 5, {}

    def _obs(self) -> dict[str, np.ndarray]:
        self._is_bright, self._speed = bool(self.np_random.integers(2)), self.np_random.choice([-1.0, 1.0])
        camera = self.np_random.integers(0, 100, (12, 10, 3)).astype(np.uint8) + np.uint8(150 * self._is_bright)
        return {"camera": camera, "speed": np.array([self._speed, self._t / 5], np.float32)}


def task() -> Task:
    return task_of(Signal.observation_space, Signal.action_space)


def explored(make_envs: Callable[[], Any], writes: int = 14) -> list[RawSteps]:
    run = FakeRun(set())
    steps = ListedSteps(run, stop_after=writes)
    group = ExplorerGroup(0, make_envs, ScriptedActions(lambda obs: obs["f0"].mean(axis=(1, 2, 3)) > 100))
    run_explorer(TrainConfig(), task(), [group], steps, FakeCounters().row("explorer"), run.control("explorer"))
    return steps.written


@pytest.fixture(scope="module")
def steps_of_a_server() -> list[RawSteps]:
    with serving_from_thread(Signal) as url:
        return explored(
            lambda: VirtualVectorEnv(url, num_envs=3, autoreset_mode="same_step", on_fault="truncate")  # type: ignore[return-value]
        )


def test_a_dict_env_behind_a_server_is_explored_as_a_local_one(steps_of_a_server: list[RawSteps]) -> None:
    local = explored(lambda: local_envs(Signal, 3))
    assert len(local) == len(steps_of_a_server) == 14
    assert sum(int(raw.truncated.sum()) for raw in local) == 6
    for ours, theirs in zip(steps_of_a_server, local, strict=True):
        for name in ("obs", "action", "reward", "truncated", "next_obs", "valid"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def test_the_last_observation_of_an_episode_is_its_own_and_not_the_next_ones(steps_of_a_server: list[RawSteps]) -> None:
    first = next(number for number, raw in enumerate(steps_of_a_server) if raw.truncated.any())
    ended, begun = steps_of_a_server[first], steps_of_a_server[first + 1]
    np.testing.assert_allclose(ended.next_obs["f1"][:, 1], 1.0)
    np.testing.assert_allclose(begun.obs["f1"][:, 1], 0.0)


@pytest.mark.parametrize("is_framed", [True, False])
def test_replay_and_checkpoint_hold_dicts_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_of_a_server: list[RawSteps], is_framed: bool
) -> None:
    from multiserverrl.train.stores import frames

    monkeypatch.setattr(frames, "LEAST_BYTES", 100 if is_framed else 10_000)
    config = TrainConfig(n_step=2, buffer_size=100, warmup_steps=1, batch_size=8)
    algorithm = Declared(task())
    first, second = store_on(config, algorithm), store_on(config, algorithm)
    assert (first.frames is not None) == is_framed
    for raw in steps_of_a_server:
        first.take(raw)
    checkpoint = Checkpoint(first.contents(), first.state())
    save_checkpoint(tmp_path, checkpoint)
    loaded = load_newest(tmp_path)
    assert loaded is not None and loaded.digest() == checkpoint.digest()
    second.restore(loaded.arrays, loaded.state)
    for _ in range(3):
        batches = first.batch(), second.batch()
        assert batches[0]["obs"].dtype == np.dtype(task().obs_dtype)
        for name, array in batches[0].items():
            np.testing.assert_array_equal(batches[1][name], array, err_msg=name)
    seen = {raw.obs[row].tobytes() for raw in steps_of_a_server for row in range(3)}
    assert {row.tobytes() for row in batches[0]["obs"]} <= seen


def test_what_picture_and_number_say_together_is_learned(tmp_path: Path) -> None:
    config = TrainConfig(
        n_step=1, gamma=0.0, reward_scale=1.0, warmup_steps=100, buffer_size=3000, batch_size=32, hidden="32",
        eval_episodes=4, stop_at_return=5.0, learning_rate=1e-3, epsilon_steps=1000,
    )  # fmt: skip
    assert train_here(config, Signal, 8, tmp_path).best == 5.0
    checkpoint = load_newest(tmp_path / "checkpoints")
    assert checkpoint is not None
    store = store_for(config, algorithm_for(config, task()), store_arrays(config, task()))
    store.restore(
        {name.removeprefix("replay/"): array for name, array in checkpoint.arrays.items() if "replay/" in name},
        checkpoint.state["store"],
    )
    assert store.batch()["obs"].dtype == np.dtype(task().obs_dtype)
