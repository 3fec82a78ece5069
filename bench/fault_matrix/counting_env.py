"""An env whose observations say which episode and which step they are of: what was learned from can be checked."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

LONGEST = 60


class CountingEnv(gymnasium.Env[Any, Any]):
    """(episode, step); the episode is a number of its own, the reward 1, its end terminates or truncates at random."""

    observation_space = gymnasium.spaces.Box(0.0, 1e9, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._episode, self._step = int(self.np_random.integers(1 << 24)), 0
        self._length, self._terminates = int(self.np_random.integers(1, LONGEST)), bool(self.np_random.random() < 0.5)
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        is_over = self._step == self._length
        return self._obs(), 1.0, is_over and self._terminates, is_over and not self._terminates, {}

    def _obs(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array([self._episode, self._step], np.float32)


def wrong_transitions(replay: dict[str, Any], *, n: int, gamma: float, reward_scale: float) -> int:
    """How many rows span two episodes, or have not the reward and the discount of the steps that they span."""
    inserted = min(int(replay["inserted"][0]), len(replay["obs"]))
    obs, next_obs, reward, discount = (replay[name][:inserted] for name in ("obs", "next_obs", "reward", "discount"))
    steps = next_obs[:, 1] - obs[:, 1]
    returns = np.cumsum(reward_scale * gamma ** np.arange(n))
    is_right = (obs[:, 0] == next_obs[:, 0]) & (steps >= 1) & (steps <= n)
    steps = np.clip(steps, 1, n).astype(int)
    is_right &= np.isclose(reward, returns[steps - 1], rtol=1e-4)
    is_right &= (discount == 0.0) | np.isclose(discount, gamma**steps, rtol=1e-4)
    return int(np.count_nonzero(~is_right))
