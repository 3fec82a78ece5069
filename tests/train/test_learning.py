"""The whole trainer in one process: its four roles in threads, or in lock-step where a seed must say all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.train.acting import exploration_rng
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.checkpoint import load_newest
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.evaluate import greedy_returns
from multiserverrl.train.explorer import ExplorerGroup, run_explorer
from multiserverrl.train.learner import Training
from multiserverrl.train.policy import Policy, load_policy
from multiserverrl.train.recipes import RECIPES, recipe_for
from multiserverrl.train.stores.rollouts import RolloutStore
from multiserverrl.train.task import Task, task_of
from tests.train.fakes import FakeCounters, FakeRun, FakeWeights, ScriptedActions, local_envs, store_arrays, train_here

LENGTH = 6


class Chain(gymnasium.Env[Any, Any]):
    """A row of states: action 4 goes right, 3 back to the start; reward 1 at the right end only, 20 steps at most."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (LENGTH,))
    action_space = gymnasium.spaces.Discrete(2, start=3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._place = self._steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self._place = self._place + 1 if action == 4 else 0
        self._steps += 1
        is_there = self._place == LENGTH - 1
        return self._obs(), float(is_there), is_there, self._steps == 20, {}

    def _obs(self) -> np.ndarray:
        return np.eye(LENGTH, dtype=np.float32)[self._place]


EPSILON = {"epsilon_start": 1.0, "epsilon_end": 0.2, "epsilon_steps": 2000}
C51 = {"distributional": "c51", "v_min": -1.0, "v_max": 2.0, "atoms": 31}
RAINBOW = {"algorithm": "rainbow", **RECIPES["rainbow", None], **C51, "head_hidden": 16, "seed": 2}


@pytest.mark.parametrize(
    "settings",
    [EPSILON, {**EPSILON, **C51}, {**EPSILON, "distributional": "qr", "atoms": 11}, {"noisy": True}, RAINBOW],
    ids=["dqn", "c51", "qr", "noisy", "rainbow"],
)  # fmt: skip
def test_a_chain_is_learned_in_seconds(settings: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig(**{
        "hidden": "32", "n_step": 3, "reward_scale": 1.0, "warmup_steps": 100, "buffer_size": 5000, "batch_size": 32,
        "eval_episodes": 4, "stop_at_return": 1.0, **settings,
    })  # fmt: skip
    task = task_of(Chain.observation_space, Chain.action_space)
    fresh = Policy(config, task, algorithm_for(config, task).init().weights(), 0)
    assert greedy_returns(local_envs(Chain, 2), fresh, 4, seed=0).tolist() == [0.0] * 4
    outcome = train_here(config, Chain, 8, tmp_path)
    assert outcome.best == 1.0
    policy = load_policy(tmp_path / "policy.safetensors")
    assert greedy_returns(local_envs(Chain, 2), policy, 4, seed=0).tolist() == [1.0] * 4
    assert load_newest(tmp_path / "checkpoints") is not None


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_chain_is_learned_from_rollouts_alone(tmp_path: Path, backend: str) -> None:
    config = TrainConfig(
        algorithm="pqn", backend=backend, hidden="32", reward_scale=1.0, epsilon_start=1.0, epsilon_end=0.2,
        epsilon_steps=2000, rollout_steps=8, minibatches=2, eval_episodes=4, stop_at_return=1.0,
    )  # fmt: skip
    outcome = train_here(config, Chain, 8, tmp_path)
    assert outcome.best == 1.0
    policy = load_policy(tmp_path / "policy.safetensors")
    assert greedy_returns(local_envs(Chain, 2), policy, 4, seed=0).tolist() == [1.0] * 4


def test_one_env_is_shared_with_the_evaluator(tmp_path: Path) -> None:
    config = TrainConfig(
        hidden="16", n_step=3, reward_scale=1.0, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1000,
        warmup_steps=50, buffer_size=5000, batch_size=32, eval_episodes=1, stop_at_return=1.0, eval_every_s=0.05,
    )  # fmt: skip
    assert train_here(config, Chain, 1, tmp_path, borrows_envs=True).best == 1.0


def test_a_run_ends_when_the_episodes_are_used_up(tmp_path: Path) -> None:
    config = TrainConfig(hidden="8", warmup_steps=10, buffer_size=100, episodes=3)
    counters = train_here(config, Chain, 5, tmp_path).counters
    assert counters.get("explorers_finished") == 1
    assert counters.get("episodes") == 15


class Lockstep:
    """The trainer without concurrency, so that a seed says all: both ends of every channel are called in turn."""

    def __init__(self, config: TrainConfig, task: Task, eval_envs: gymnasium.vector.SyncVectorEnv) -> None:
        self.config, self.task, self.eval_envs = config, task, eval_envs
        self.run, self.counters, self.weights = FakeRun(set()), FakeCounters(), FakeWeights()
        arrays = store_arrays(config, task)
        self.training = Training(config, task, arrays, self.weights, self.counters.row("learner"))
        self.training.publish()
        self.algorithm, self.rng = algorithm_for(config, task), exploration_rng(config.seed, 0)
        self.best, self._evaluated_at = -np.inf, 0.0

    def act(self, obs: np.ndarray) -> np.ndarray:
        snapshot = self.weights.read()
        assert snapshot is not None
        explore = self.algorithm.exploration(int(self.counters.get("env_steps")))
        return self.algorithm.act(snapshot[0], obs, {}, explore, self.rng)[0]

    def write(self, steps: RawSteps, timeout_s: float) -> bool:
        self.training.take(steps)
        while self.training.owes_updates():
            self.training.update()
        env_steps = self.counters.get("env_steps")
        if env_steps - self._evaluated_at >= 2000:
            self._evaluated_at = env_steps
            policy = Policy(self.config, self.task, self.training.learner.weights(), self.training.version)
            self.best = greedy_returns(self.eval_envs, policy, self.config.eval_episodes, seed=0).mean()
        if self.best >= 475.0 or env_steps >= 60_000:
            self.run.stop()
        return True

    def settled(self, group: int, timeout_s: float) -> bool:
        return True


def lockstep_cartpole(config: TrainConfig, num_envs: int) -> Lockstep:
    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("CartPole-v1")

    eval_envs = local_envs(make, config.eval_episodes)
    task = task_of(eval_envs.single_observation_space, eval_envs.single_action_space)
    trainer = Lockstep(config, task, eval_envs)
    groups = [
        ExplorerGroup(number, lambda: local_envs(make, num_envs // 2), ScriptedActions(trainer.act))
        for number in range(2)
    ]
    run_explorer(config, task, groups, trainer, trainer.counters.row("explorer"), trainer.run.control("explorer"))
    eval_envs.close()
    return trainer


def recipe_of(algorithm: str) -> dict[str, Any]:
    """What `train CartPole-v1` begins from."""
    settings = {**recipe_for(algorithm, "CartPole-v1").settings, "algorithm": algorithm}
    settings.pop("count", None)  # of envs
    return settings


@pytest.mark.parametrize("settings", [{}, recipe_of("dqn"), recipe_of("pqn")], ids=["defaults", "dqn", "pqn"])
def test_cartpole_is_solved_within_a_bounded_number_of_steps(settings: dict[str, Any]) -> None:
    config = TrainConfig(**{"seed": 0, **settings})
    trainer = lockstep_cartpole(config, num_envs=64)
    assert trainer.best >= 475.0
    assert trainer.counters.get("env_steps") < 60_000
    if config.algorithm == "dqn":
        assert trainer.counters.get("replay_ratio") == pytest.approx(config.replay_ratio, rel=0.02)


def test_a_rollout_holds_steps_of_at_most_two_versions_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batch = RolloutStore.batch

    def noted(store: RolloutStore) -> dict[str, np.ndarray]:
        rollout = batch(store)
        seen.append(len(np.unique(rollout["weights_version"])))
        return rollout

    monkeypatch.setattr(RolloutStore, "batch", noted)
    config = TrainConfig(algorithm="pqn", hidden="8", rollout_steps=6, eval_episodes=1)
    train_here(config, Chain, 8, tmp_path, max_env_steps=4000)
    assert len(seen) > 20
    assert max(seen) <= 2


def test_processes_that_only_act_import_no_torch() -> None:
    rooms = "channels config evaluate explorer inference learner policy task weights"
    imports = "; ".join(f"import multiserverrl.train.{room}" for room in rooms.split())
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
