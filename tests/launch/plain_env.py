"""An env of CartPole's shape that renders nothing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Plain(gymnasium.Env[Any, Any]):
    """Ends at its first step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(4, np.float32), 1.0, True, False, {}
