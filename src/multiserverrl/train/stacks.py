"""Stacks of the last observations of each env, for whoever acts: what the replay buffer makes of single frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.task import Task

__all__ = ["FrameStacks"]

Array = NDArray[Any]


class FrameStacks:
    """The last `task.frame_stack` observations of each env of a group, the newest last; 1 is no stack."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._stacks = np.zeros((0, *task.obs_shape), task.obs_dtype)

    def pushed(self, frames: Array, begins: Array | None) -> Array:
        """(N, *frame_shape) → (N, *obs_shape), valid until the next; the first frame of an episode fills its stack.

        `begins` (N,) is True where an episode begins; None: nowhere. In envs that are others than before all begin.
        """
        if self._task.frame_stack == 1:
            return frames
        if len(self._stacks) != len(frames):
            self._stacks = np.zeros((len(frames), *self._task.obs_shape), self._task.obs_dtype)
            begins = np.ones(len(frames), bool)
        self._stacks[:, :-1] = self._stacks[:, 1:]
        self._stacks[:, -1] = frames
        if begins is not None:
            self._stacks[begins] = frames[begins][:, None]
        return self._stacks
