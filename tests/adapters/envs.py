"""A small environment with several observations and several switches, as SB3's MultiInputPolicy takes them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Switches(gymnasium.Env[dict[str, Any], Any]):
    """Reward: how many of two switches are as the lamps were; episodes of 5 steps, then truncated."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict({"lamps": spaces.Box(0, 1, (2,)), "steps": spaces.Box(0, 5, (1,))})
        self.action_space = spaces.MultiBinary(2)
        self.steps = 0
        self.lamps = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(np.sum(action == self.lamps))
        return self._obs(), reward, False, self.steps >= 5, {}

    def _obs(self) -> dict[str, Any]:
        self.lamps = self.np_random.integers(0, 2, 2).astype(np.float32)
        return {"lamps": self.lamps, "steps": np.array([self.steps], np.float32)}
