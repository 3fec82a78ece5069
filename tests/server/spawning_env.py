"""An env that starts a process beside itself, as those do that drive a simulator."""

from __future__ import annotations

import subprocess
from typing import Any

import gymnasium
import numpy as np


class Spawning(gymnasium.Env[Any, Any]):
    """The observation is the id of the process that it started, which sleeps."""

    observation_space = gymnasium.spaces.Box(0, 1 << 30, (1,), np.int64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._pid = subprocess.Popen(["sleep", "1000"]).pid

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.array([self._pid]), {}

    def step(self, action: Any) -> Any:
        return np.array([self._pid]), 0.0, False, False, {}
