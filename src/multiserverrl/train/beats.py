"""Heartbeats: each process writes into its own row of the counters what it is doing now, and since when.

Two stores in shared memory and no system call (0.5 µs), so every turn of every loop may afford them. A process that
hangs is seen by a beat that has grown old, and what hangs by what it was doing then.
"""

from __future__ import annotations

import time
from enum import IntEnum

from multiserverrl.train.channels import Counters

__all__ = ["Doing", "beat"]


class Doing(IntEnum):
    """What a process of a run may be at."""

    NOTHING = 0
    OPENING_ENVS = 1
    # explorer
    WAITING_FOR_ACTIONS = 2
    STEPPING = 3
    WAITING_FOR_LEARNER = 4
    LENDING_ENVS = 5
    FINISHED = 6
    RESTING = 16  # at a barrier of a deterministic run
    # inference server
    WAITING_FOR_REQUESTS = 7
    WAITING_FOR_WEIGHTS = 8
    ACTING = 9
    # learner
    WAITING_FOR_STEPS = 10
    UPDATING = 11
    SAVING = 12
    # evaluator
    PLAYING = 13
    PAUSING = 14
    WAITING_FOR_ENVS = 15


def beat(counters: Counters, doing: Doing) -> None:
    """This process comes to `doing` now."""
    counters.set("doing", doing)
    counters.set("beat_s", time.monotonic())
