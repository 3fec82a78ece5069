"""The whole trainer on what must be seen: pictures, and pictures beside numbers. Its roles are threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from multiserverrl.train.config import TrainConfig
from multiserverrl.train.evaluate import greedy_returns
from multiserverrl.train.policy import load_policy
from tests.train.fakes import local_envs, train_here

SIDE = 6
CONFIG = TrainConfig(
    n_step=1, reward_scale=1.0, epsilon_start=1.0, epsilon_end=0.3, epsilon_steps=1500, warmup_steps=100,
    buffer_size=3000, batch_size=32, hidden="16", eval_episodes=40, stop_at_return=1.0, checkpoint_every_s=60.0,
)  # fmt: skip


class Quadrants(gymnasium.Env[Any, Any]):
    """One step: which quarter of a noisy picture is the bright one?"""

    observation_space: gymnasium.Space[Any] = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: Any) -> Any:
        is_right = bool(action == self._answer)
        return self._show(), float(is_right), True, False, {}

    def _show(self) -> Any:
        self._answer = int(self.np_random.integers(4))
        picture = self.np_random.integers(0, 100, (SIDE, SIDE), np.uint8)
        row, column = divmod(self._answer, 2)
        half = SIDE // 2
        picture[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
        return picture


class Marked(Quadrants):
    """The same, but a number beside the picture may say that the opposite quarter is meant."""

    observation_space = gymnasium.spaces.Dict(
        picture=Quadrants.observation_space, is_opposite=gymnasium.spaces.Box(-1.0, 1.0, (1,))
    )

    def _show(self) -> Any:
        picture = super()._show()
        is_opposite = bool(self.np_random.integers(2))
        self._answer = 3 - self._answer if is_opposite else self._answer
        return {"picture": picture, "is_opposite": np.array([1.0 if is_opposite else -1.0], np.float32)}


@pytest.mark.parametrize("make_env", [Quadrants, Marked])
def test_what_is_seen_is_learned_from_in_seconds(make_env: Callable[[], Quadrants], tmp_path: Path) -> None:
    assert train_here(CONFIG, make_env, 8, tmp_path).best == 1.0
    policy = load_policy(tmp_path / "policy.safetensors")
    assert greedy_returns(local_envs(make_env, 4), policy, 40, seed=5).mean() > 0.9


@pytest.mark.cuda
@pytest.mark.parametrize("make_env", [Quadrants, Marked])
def test_a_gpu_learns_and_acts(make_env: Callable[[], Quadrants], cuda: Any, tmp_path: Path) -> None:
    assert train_here(replace(CONFIG, device="cuda"), make_env, 8, tmp_path).best == 1.0
    policy = load_policy(tmp_path / "policy.safetensors")
    assert greedy_returns(local_envs(make_env, 4), policy, 40, seed=5).mean() > 0.9
