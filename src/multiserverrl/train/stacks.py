"""Stacks of the last observations of each env, for whoever acts, and for rollouts; the replay buffer makes its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.channels import RawSteps

__all__ = ["FrameStacks", "StepStacks"]

Array = NDArray[Any]


class FrameStacks:
    """The last `frame_stack` observations of each env of a group, the newest last; 1 is no stack."""

    def __init__(self, frame_stack: int) -> None:
        self._frame_stack = frame_stack
        self._stacks = np.zeros((0, frame_stack))

    def pushed(self, frames: Array, begins: Array | None) -> Array:
        """(N, *frame_shape) → (N, *obs_shape), valid until the next; the first frame of an episode fills its stack.

        `begins` (N,) is True where an episode begins; None: nowhere. In envs that are others than before all begin.
        """
        if self._frame_stack == 1:
            return frames
        N, *shape = frames.shape
        if len(self._stacks) != N:
            self._stacks = np.zeros((N, self._frame_stack, *shape), frames.dtype)
            begins = np.ones(N, bool)
        self._stacks[:, :-1] = self._stacks[:, 1:]
        self._stacks[:, -1] = frames
        if begins is not None:
            self._stacks[begins] = frames[begins][:, None]
        return self._stacks


class StepStacks:
    """Steps of all groups with stacks in the place of single frames, at both of their ends."""

    def __init__(self, frame_stack: int) -> None:
        self._frame_stack = frame_stack
        self._groups: dict[int, FrameStacks] = {}
        self._begins: dict[int, Array] = {}

    def stacked(self, raw: RawSteps) -> RawSteps:
        """The same steps; call it with all of a group's, in their order."""
        if self._frame_stack == 1:
            return raw
        stacks = self._groups.setdefault(raw.group, FrameStacks(self._frame_stack))
        obs = stacks.pushed(raw.obs, self._begins.get(raw.group)).copy()
        self._begins[raw.group] = raw.terminated | raw.truncated | ~raw.valid
        next_obs = np.concatenate([obs[:, 1:], raw.next_obs[:, None]], axis=1)
        return dataclasses.replace(raw, obs=obs, next_obs=next_obs)
