"""The replay ratio: how many updates so many inserted transitions are worth. Pure."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from multiserverrl.errors import ConfigError

__all__ = ["ReplayRatio"]

_ROUNDING = 1e-9  # 0.1 * 30 must be 3


@dataclass(frozen=True)
class ReplayRatio:
    """After `warmup` transitions, each further one is worth `updates_per_insert` updates: never more, never less.

    It may begin in the middle of a run (`beginning_at`): what was inserted and updated before is settled.
    """

    updates_per_insert: float
    warmup: int
    since_inserted: int = 0
    since_updates: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.updates_per_insert < math.inf or self.warmup < 0:
            raise ConfigError(
                f"a replay ratio of {self.updates_per_insert} after {self.warmup} transitions never lets the learner "
                "update; --replay-ratio must be a positive number, --warmup-steps not negative"
            )

    def beginning_at(self, inserted: int, updates: int) -> ReplayRatio:
        """The same from here on: the difference to what another ratio made of it is neither owed nor paid."""
        return dataclasses.replace(self, since_inserted=inserted, since_updates=updates)

    def is_like(self, other: ReplayRatio) -> bool:
        """Whether both want the same, whenever they began."""
        return (self.updates_per_insert, self.warmup) == (other.updates_per_insert, other.warmup)

    def earned(self, inserted: int) -> int:
        """Updates that so many transitions, ever inserted, are worth."""
        more = math.floor((inserted - self._first) * self.updates_per_insert + _ROUNDING)
        return self.since_updates + max(0, more)

    def owed(self, inserted: int, updates: int) -> int:
        """Updates to be made before another transition may be inserted."""
        return max(0, self.earned(inserted) - updates)

    def inserts_allowed(self, inserted: int, updates: int) -> int:
        """Transitions that may be inserted until an update is owed; 0 while one is."""
        if self.owed(inserted, updates):
            return 0
        more = updates - self.since_updates + 1
        return self._first + math.ceil(more / self.updates_per_insert - _ROUNDING) - inserted

    def measured(self, inserted: int, updates: int) -> float:
        """Updates per transition since the warm-up, or since it began; 0 before."""
        return (updates - self.since_updates) / (inserted - self._first) if inserted > self._first else 0.0

    @property
    def _first(self) -> int:
        """Transitions that are worth nothing."""
        return max(self.warmup, self.since_inserted)
