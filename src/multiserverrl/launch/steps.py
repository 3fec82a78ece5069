"""Raw steps on their way from an explorer to the learner: a bounded ring of slots for each group of envs.

One writer and one reader a ring, each with a running number that only it writes: there is no lock
that a killed process could hold. What was not wholly written is not counted, and so not read. What was read
keeps its slot until the reader is done with it, and some slots longer: a reader that starts again begins there.
(Stores are seen in order on x86-64; elsewhere the door-bell's system call orders them. Not tested there.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from multiserverrl.launch.bells import Bell, Waiter
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.task import Task

__all__ = ["RingReader", "RingWriter", "StepRing", "ring_fields"]

Array = NDArray[Any]
Fields = Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
_EXTRAS = "extras."
_ARRAYS = ("obs", "action", "reward", "terminated", "truncated", "next_obs", "valid")


def ring_fields(task: Task, num_envs: int, slots: int, extras: Fields) -> Fields:
    """The arrays of one group's ring; `extras` as an algorithm declares them, of one env."""
    rows = (slots, num_envs)
    return {
        "written": (np.int64, (1,)),  # slots ever filled; the writer's
        "read": (np.int64, (1,)),  # slots ever emptied; the reader's
        "version": (np.int64, (slots,)),
        "obs": (task.obs_dtype, (*rows, *task.frame_shape)),
        "action": (task.action_dtype, (*rows, *task.action_shape)),
        "reward": (np.float32, rows),
        "terminated": (np.bool_, rows),
        "truncated": (np.bool_, rows),
        "next_obs": (task.obs_dtype, (*rows, *task.frame_shape)),
        "valid": (np.bool_, rows),
        **{f"{_EXTRAS}{name}": (dtype, (*rows, *shape)) for name, (dtype, shape) in extras.items()},
    }


class StepRing:
    """One group's ring, on the arrays of `ring_fields`; `kept` of its slots hold what was done with last."""

    def __init__(self, group: int, views: Mapping[str, Array], kept: int = 0) -> None:
        self.group, self._kept = group, kept
        self._views = views
        self._extras = {name.removeprefix(_EXTRAS): view for name, view in views.items() if name.startswith(_EXTRAS)}
        self._written, self._read = views["written"], views["read"]
        self._slots = len(views["version"])

    def put(self, steps: RawSteps) -> bool:
        """Copy the steps in; False when the ring is full."""
        written = int(self._written[0])
        if written - int(self._read[0]) >= self._slots - self._kept:
            return False
        slot = written % self._slots
        for name in _ARRAYS:
            self._views[name][slot] = getattr(steps, name)
        for name, array in self._extras.items():
            array[slot] = steps.extras[name]
        self._views["version"][slot] = steps.weights_version
        self._written[0] = written + 1
        return True

    def oldest(self) -> RawSteps | None:
        """The oldest steps that are not done with, copied out; None when there are none."""
        read = int(self._read[0])
        return None if read == int(self._written[0]) else self._copy(read)

    def done(self, number: int) -> bool:
        """Give the slot of the oldest steps back, if this is their number."""
        if number != int(self._read[0]) or number == int(self._written[0]):
            return False
        self._read[0] = number + 1
        return True

    def is_settled(self) -> bool:
        """Whether all was done with."""
        return int(self._read[0]) == int(self._written[0])

    def last_done(self) -> list[RawSteps]:
        """What was done with last, the oldest first."""
        read = int(self._read[0])
        return [self._copy(number) for number in range(max(0, read - self._kept), read)]

    def _copy(self, number: int) -> RawSteps:
        slot = number % self._slots
        copies = {name: self._views[name][slot].copy() for name in _ARRAYS}
        version = int(self._views["version"][slot])
        extras = {name: array[slot].copy() for name, array in self._extras.items()}
        return RawSteps(group=self.group, weights_version=version, number=number, extras=extras, **copies)


class RingWriter:
    """An explorer's end of its groups' rings (`StepWriter`)."""

    def __init__(self, rings: Mapping[int, StepRing], room: Mapping[int, Bell], arrived: Bell, stop: Bell) -> None:
        self._rings = rings
        self._room = {group: Waiter(room[group], stop) for group in rings}
        self._arrived = arrived

    def write(self, steps: RawSteps, timeout_s: float) -> bool:
        """See `StepWriter.write`."""
        ring = self._rings[steps.group]
        if self._room[steps.group].until(lambda: ring.put(steps) or None, timeout_s) is None:
            return False
        self._arrived.ring()
        return True

    def settled(self, group: int, timeout_s: float) -> bool:
        """See `StepWriter.settled`."""
        ring = self._rings[group]
        return self._room[group].until(lambda: ring.is_settled() or None, timeout_s) is not None


class RingReader:
    """The learner's end of all rings (`StepReader`): the groups take turns."""

    def __init__(self, rings: list[StepRing], room: list[Bell], arrived: Bell, stop: Bell) -> None:
        self._rings, self._room = rings, room
        self._arrived = Waiter(arrived, stop)
        self._next = 0

    def read(self, timeout_s: float) -> RawSteps | None:
        """See `StepReader.read`."""
        return self._arrived.until(self._oldest, timeout_s)

    def done(self, group: int, number: int) -> None:
        """See `StepReader.done`."""
        if 0 <= group < len(self._rings):
            self._next = (group + 1) % len(self._rings)
            if self._rings[group].done(number):
                self._room[group].ring()

    def last_done(self) -> list[RawSteps]:
        """See `StepReader.last_done`."""
        return [steps for ring in self._rings for steps in ring.last_done()]

    def _oldest(self) -> RawSteps | None:
        for turn in range(len(self._rings)):
            index = (self._next + turn) % len(self._rings)
            steps = self._rings[index].oldest()
            if steps is not None:
                return steps
        return None
