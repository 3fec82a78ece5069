"""Bounds of what is learned towards: values that feed on themselves do not burst."""

from __future__ import annotations

import math

import numpy as np

from multiserverrl.train.algorithms.protocol import Array
from multiserverrl.train.config import TrainConfig

__all__ = ["TargetRange"]


class TargetRange:
    """What the rewards learned from so far can add up to: no target lies outside, whatever a network claims.

    A transition with the reward r and the discount d (0 after termination, γᵏ after k steps) wants r + d·V. Returns of
    at most M everywhere stay so where r + d·M ≤ M, that is r / (1 - d) ≤ M, for every transition. The greatest of these
    quotients, or 0, is the least M of which that is true; the least return alike. With γ = 1 nothing is known, nor
    after a resume of a run that had γ = 1: what it had gathered stays in its replay buffer.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._is_known, self._clips = bool(np.float32(config.gamma) < 1.0), config.clip_targets
        self._least = self._most = 0.0

    def with_batch(self, reward: Array, discount: Array) -> tuple[float, float]:
        """The least and the greatest target, now that transitions with these (B,) were seen, too."""
        if self._is_known:
            returns = reward / (np.float32(1.0) - discount)
            self._least = min(self._least, float(np.minimum.reduce(returns)))
            self._most = max(self._most, float(np.maximum.reduce(returns)))
        return (self._least, self._most) if self._clips and self._is_known else (-math.inf, math.inf)

    def state(self) -> dict[str, Array]:
        return {"target_range": np.array([self._least, self._most] if self._is_known else [])}

    def load_state(self, state: dict[str, Array]) -> None:
        if len(state["target_range"]):
            self._least, self._most = state["target_range"].tolist()
        else:
            self._is_known = False
