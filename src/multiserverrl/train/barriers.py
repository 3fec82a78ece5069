"""The explorer's side of barriers, where a deterministic run comes to rest (docs/decisions/016)."""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeVar

from multiserverrl.train.beats import Doing, beat
from multiserverrl.train.channels import Control, Counters
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.opening import sleep_unless_stopping

__all__ = ["Barriers"]

POLL_S = 0.002


class Resting(Protocol):
    """A group of envs that can be brought to rest."""

    number: int  # over all explorers

    def come_to_rest(self) -> bool:
        """Finish what is under way. False when all episodes are used up."""

    def begin(self) -> None:
        """Begin new episodes."""

    def close(self) -> None:
        """Close the envs."""


Lane = TypeVar("Lane", bound=Resting)


class Barriers:
    """Where a deterministic run comes to rest: after so many env steps, whatever the clock says."""

    def __init__(self, config: TrainConfig, counters: Counters, control: Control) -> None:
        self._every, self._counters, self._control = config.barrier_steps, counters, control
        self._passed = int(counters.get("barriers"))
        self._rested_at = counters.get("env_steps")  # a resumed run begins where it rested

    def is_due(self) -> bool:
        """Whether the next barrier is reached."""
        return self._counters.get("env_steps") >= self._every * (self._passed + 1)

    def has_gone_on(self) -> bool:
        """Whether anything was played since the last barrier."""
        return self._counters.get("env_steps") > self._rested_at

    def wait(self, lanes: deque[Lane]) -> None:
        """End all episodes, wait until learner and evaluator are through with this barrier, and begin new ones."""
        for lane in list(lanes):
            if not lane.come_to_rest():
                lanes.remove(lane)
                lane.close()
        self._passed += 1
        self._rested_at = self._counters.get("env_steps")
        self._counters.set("barrier_asked", self._passed)
        self._wait_until("barriers_passed")
        self.wait_for_evaluation()
        ordered = sorted(lanes, key=lambda lane: lane.number)  # as in a run that is resumed here
        lanes.clear()
        lanes.extend(ordered)
        for lane in lanes:
            lane.begin()

    def wait_for_evaluation(self) -> None:
        """Wait for that of the last barrier: after a resume, too, so that a run which passed goes no further."""
        self._wait_until("barriers_evaluated")

    def _wait_until(self, name: str) -> None:
        beat(self._counters, Doing.RESTING)
        while self._counters.get(name) < self._passed:
            sleep_unless_stopping(POLL_S, self._control)
