"""Does faults to a training run while it learns, and measures how long each takes to heal. It is the run's Progress."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from multiserverrl.launch.status import Status
from scene import command_of, descendants_of, percentile

DEADLINE_S = 240.0  # tells a run that hangs from a slow machine


@dataclass(frozen=True)
class Fault:
    """One kind: how it is done; when the run has healed, given the status shortly after the fault and one of now."""

    name: str
    strike: Callable[[], None]
    has_healed: Callable[[Status, Status], bool]


def kill_one(role: str, below: int | None = None) -> None:
    """kill -9 to the one process below another (this one) that has this word in its command line."""
    (pid,) = [pid for pid in descendants_of(below or os.getpid()) if role in command_of(pid)]
    os.kill(pid, signal.SIGKILL)


def steps_again(after: Status, now: Status) -> bool:
    """Env steps reach the learner again."""
    return now.env_steps > after.env_steps


def learns_again(after: Status, now: Status) -> bool:
    """The first weights of a learner that was started again are those that it began with; then it has learned."""
    return now.weights_version > after.weights_version + 1


def evaluates_again(after: Status, now: Status) -> bool:
    """Another evaluation was reported."""
    return now.eval_version != after.eval_version


KILLS = (
    Fault("learner", lambda: kill_one("entries:learner"), learns_again),
    Fault("explorer", lambda: kill_one("entries:explorer"), steps_again),
    Fault("inference", lambda: kill_one("entries:inference"), steps_again),
    Fault("evaluator", lambda: kill_one("entries:evaluator"), evaluates_again),
)


@dataclass
class Killer:
    """Strikes with each of `plan` in turn, `pause_s` after the one before has healed, then calls `at_end`.

    The same fault comes `apart_s` after its last one has healed, or later: so long a process must live to be
    thought well of. The first comes when `begins` says so of a status.
    """

    plan: list[Fault]
    pause_s: float
    apart_s: float = 0.0
    at_end: Callable[[], None] = lambda: None
    begins: Callable[[Status], bool] = lambda status: status.updates > 0 and status.eval_version is not None
    every_s: float = 0.0
    heals_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lines: list[str] = field(default_factory=list)
    is_over: bool = False
    _struck: Fault | None = None
    _after: Status | None = None
    _struck_at_s: float = 0.0
    _healed_at_s: dict[str, float] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """See `Progress`."""
        self.lines.append(line)

    def close(self) -> None:
        """See `Progress`."""

    def show(self, status: Status) -> None:
        """See `Progress`: every tenth of a second."""
        now_s = time.monotonic()
        if self._struck is not None:
            self._watch(self._struck, status, now_s)
        elif self.plan and self._is_time(self.plan[0], status, now_s):
            self._struck, self._after, self._struck_at_s = self.plan.pop(0), None, now_s
            self._struck.strike()
        elif not self.plan and not self.is_over and now_s > max(self._healed_at_s.values(), default=0.0) + self.pause_s:
            self.is_over = True
            self.at_end()

    def _watch(self, fault: Fault, status: Status, now_s: float) -> None:
        if self._after is None:  # what was on its way has come
            self._after = status
        elif fault.has_healed(self._after, status):
            self.heals_s[fault.name].append(now_s - self._struck_at_s)
            self._healed_at_s[fault.name] = now_s
            self._struck = None
        elif now_s > self._struck_at_s + DEADLINE_S:
            raise RuntimeError(f"{fault.name}: not healed after {DEADLINE_S:.0f} s; {status}; {self.lines[-3:]}")

    def _is_time(self, fault: Fault, status: Status, now_s: float) -> bool:
        if not self._healed_at_s:
            return self.begins(status)
        mine_s = self._healed_at_s.get(fault.name, -self.apart_s)
        return now_s > max(self._healed_at_s.values()) + self.pause_s and now_s > mine_s + self.apart_s

    def count(self, name: str | None = None) -> int:
        """Faults that have healed, all or of this name."""
        return sum(len(heals_s) for kind, heals_s in self.heals_s.items() if name in (None, kind))

    def figures(self) -> str:
        """Of each kind, seconds to heal."""
        return ", ".join(
            f"{name} {percentile(heals_s, 0.5):.2f}/{percentile(heals_s, 0.95):.2f} s"
            for name, heals_s in self.heals_s.items()
        )
