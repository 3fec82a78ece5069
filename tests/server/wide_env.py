"""An environment with one large observation, always the same."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Wide(gymnasium.Env[NDArray[np.float64], np.int64]):
    """`size` numbers; episodes never end."""

    def __init__(self, size: int, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._obs = np.full(size, 0.5)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        return self._obs, {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        return self._obs, 0.0, False, False, {}
