"""Bounds of what is learned towards: values that feed on themselves can burst no further."""

from __future__ import annotations

import math

import numpy as np

from multiserverrl.train.algorithms.protocol import Array
from multiserverrl.train.config import TrainConfig

__all__ = ["TargetRange"]


class TargetRange:
    """What the rewards seen so far can add up to: no target lies outside, whatever a network claims.

    A return is a row of sums of n discounted rewards, each weighed by γⁿ more than the one before. So if no sum seen
    was above R ≥ 0 (what follows an episode's end adds nothing), no return is above R / (1 - γⁿ); below alike. With
    γ = 1 nothing is known.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._is_open = not config.clip_targets or config.gamma == 1.0
        self._sums = math.inf if self._is_open else 1.0 / (1.0 - config.gamma**config.n_step)
        self._least = self._most = 0.0  # of the sums of n rewards

    def with_rewards(self, reward: Array) -> tuple[float, float]:
        """The least and the greatest target, now that these (B,) sums of n rewards were seen, too."""
        if self._is_open:
            return -math.inf, math.inf
        self._least = min(self._least, float(np.minimum.reduce(reward)))
        self._most = max(self._most, float(np.maximum.reduce(reward)))
        return self._least * self._sums, self._most * self._sums

    def state(self) -> dict[str, Array]:
        return {"rewards_seen": np.array([self._least, self._most])}

    def load_state(self, state: dict[str, Array]) -> None:
        """Rewards seen before; of a checkpoint that knows none, they are seen anew."""
        self._least, self._most = state.get("rewards_seen", np.zeros(2)).tolist()
