"""The replay ratio: how many updates so many inserted transitions are worth. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from multiserverrl.errors import ConfigError

__all__ = ["ReplayRatio"]

_ROUNDING = 1e-9  # 0.1 * 30 must be 3


@dataclass(frozen=True)
class ReplayRatio:
    """After `warmup` transitions, each further one is worth `updates_per_insert` updates: never more, never less."""

    updates_per_insert: float
    warmup: int

    def __post_init__(self) -> None:
        if not 0.0 < self.updates_per_insert < math.inf or self.warmup < 0:
            raise ConfigError(
                f"a replay ratio of {self.updates_per_insert} after {self.warmup} transitions never lets the learner "
                "update; --replay-ratio must be a positive number, --warmup-steps not negative"
            )

    def earned(self, inserted: int) -> int:
        """Updates that so many transitions, ever inserted, are worth."""
        return max(0, math.floor((inserted - self.warmup) * self.updates_per_insert + _ROUNDING))

    def owed(self, inserted: int, updates: int) -> int:
        """Updates to be made before another transition may be inserted."""
        return max(0, self.earned(inserted) - updates)

    def inserts_allowed(self, inserted: int, updates: int) -> int:
        """Transitions that may be inserted until an update is owed; 0 while one is."""
        if self.owed(inserted, updates):
            return 0
        return self.warmup + math.ceil((updates + 1) / self.updates_per_insert - _ROUNDING) - inserted

    def measured(self, inserted: int, updates: int) -> float:
        """Updates per transition since the warm-up; 0 within it."""
        return updates / (inserted - self.warmup) if inserted > self.warmup else 0.0
