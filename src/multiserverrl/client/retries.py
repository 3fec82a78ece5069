"""When a broken connection is tried again, and when it is given up: one budget for each kind of failure.

    kind        what happened                                                       given up after
    REFUSED     nobody listens there: the server is gone, its sessions with it      5 s of nothing but that
    CUT         it broke, or cannot be made: no route, no handshake                 the session's time to live
    TIMED_OUT   it can be made, but the request is not answered in `timeout_s`      that, or 2 · timeout_s if longer

The first try comes at once: one cut connection costs no more than the cut, and clients that are cut by one fault
cost their server one handshake each, sooner or later. Each further try waits for a random part of a pause that
doubles ("full jitter"), so that a thousand clients whose server is away come back spread over the pause.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Budgets", "Failure", "Outage", "failure_of"]

REFUSED_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.5  # the last also bounds how long after a network's return a step goes on
DOUBTS = 3


class Failure(enum.Enum):
    """How a try to go on failed."""

    REFUSED = "refused"
    CUT = "cut"
    TIMED_OUT = "timed out"


def failure_of(error: OSError) -> Failure:
    """The kind of a connection that could not be made."""
    is_refused = isinstance(error, ConnectionRefusedError) or isinstance(error.__cause__, ConnectionRefusedError)
    return Failure.REFUSED if is_refused else Failure.CUT


@dataclass(frozen=True)
class Budgets:
    """How long each kind of failure may go on, in seconds."""

    refused_s: float
    cut_s: float
    timed_out_s: float

    @classmethod
    def of(cls, time_to_live_s: float, timeout_s: float) -> Budgets:
        """Those of a session that outlives its connection by so much."""
        return cls(REFUSED_S, time_to_live_s, max(time_to_live_s, 2 * timeout_s))

    def until(self, kind: Failure) -> float:
        """How long after the outage began this kind ends it, whatever else happened in between."""
        return {
            Failure.REFUSED: max(self.cut_s, self.refused_s),
            Failure.CUT: self.cut_s,
            Failure.TIMED_OUT: self.timed_out_s,
        }[kind]


class Outage:
    """From the first failure until an answer comes: how long it lasts, and the pauses between the tries."""

    def __init__(
        self,
        budgets: Budgets,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        part: Callable[[], float] = random.random,
    ) -> None:
        self._budgets, self._clock, self._sleep, self._part = budgets, clock, sleep, part
        self._began = clock()
        self._refused_since: float | None = None
        self._pause_s = 0.0
        self._doubts = 0

    def lasts_s(self) -> float:
        """Since the first failure."""
        return self._clock() - self._began

    def is_over(self, kind: Failure) -> bool:
        """A try failed in this way: whether to give up."""
        now = self._clock()
        if kind is Failure.REFUSED:
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since > self._budgets.refused_s:
                return True
        else:
            self._refused_since = None
        return now - self._began > self._budgets.until(kind)

    def is_doubted(self) -> bool:
        """Whether what the server says of our bytes is not believed yet."""
        self._doubts += 1
        return self._doubts <= DOUBTS

    def pause(self) -> None:
        """None before the first try; a random part of one that doubles before the others."""
        if self._pause_s:
            self._sleep(self._pause_s * self._part())
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
