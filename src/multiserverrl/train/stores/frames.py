"""Observations of a replay buffer, each kept once: a ring of frames, and which one came before each.

Items hold numbers of frames. A frame's number says where it lies (modulo the ring's length) and, as numbers grow,
whether it lies there still. A stack of K is the frame and the K - 1 before it in its episode, whose first is repeated.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import Fields

__all__ = ["FrameRing", "frame_layout", "keeps_frames"]

Array = NDArray[Any]
LEAST_BYTES = 1024  # of an observation that is kept once; smaller ones are copied into both ends of a transition
_MORE = 1024  # frames beyond an item's one: those of steps that wait in windows
_NONE = -1
_KEPT = ("frame", "before")


def keeps_frames(config: TrainConfig, obs: tuple[str, tuple[int, ...]]) -> bool:
    """Whether observations of this (dtype, shape) are kept once a frame."""
    dtype, shape = obs
    return config.frame_stack > 1 or np.dtype(dtype).itemsize * math.prod(shape) >= LEAST_BYTES


def frame_layout(config: TrainConfig, obs: tuple[str, tuple[int, ...]], new_steps: int) -> Fields:
    """(dtype, shape) of the arrays of a `FrameRing`; `obs` as a network sees it, stacked.

    A step adds one frame, and one more where an episode begins: there is room for one such step in eight.
    """
    dtype, shape = obs
    frame_shape = shape[1:] if config.frame_stack > 1 else shape
    steps = config.buffer_size * new_steps
    count = steps + steps // 8 + _MORE
    return {
        "frame": (dtype, (count, *frame_shape)),
        "before": ("int64", (count,)),  # the number of the one before it in its episode; its own, where that begins
        "step": ("int64", (count, 3)),  # what it came with: group, number of the steps, 2 · row + (it is their `obs`)
        "begun": ("int64", (1,)),  # frames ever begun to be written: those under them are gone
    }


class FrameRing:
    """`written` frames were put in and are spoken of; what was put in after them is put in again."""

    def __init__(self, arrays: dict[str, Array], written: int, stack: int) -> None:
        self._frames, self._before, self._step, self._begun = (
            arrays[name] for name in ("frame", "before", "step", "begun")
        )
        self.written, self._stack = written, stack
        self._capacity = len(self._frames)
        self._stands_at: dict[int, Array] = {}  # each group's (N,) frame that its envs stand at; -1: an episode begins

    def put(self, raw: RawSteps) -> RawSteps:
        """Put in what these steps have shown for the first time; the steps with numbers for observations (N,)."""
        obs = self._stands_at.get(raw.group, np.full(len(raw.valid), _NONE)).copy()
        first = np.flatnonzero((obs == _NONE) & raw.valid)
        obs[first] = self._append(raw.obs[first], None, raw, first)
        good = np.flatnonzero(raw.valid)
        next_obs = np.full(len(obs), _NONE)
        next_obs[good] = self._append(raw.next_obs[good], obs[good], raw, good)
        return self._noted(raw, obs, next_obs)

    def find(self, raw: RawSteps) -> RawSteps:
        """The same of steps that were put in before, by a learner that died."""
        begun, next_obs = self._found(raw, raw.number, is_first=True), self._found(raw, raw.number, is_first=False)
        before = self._found(raw, raw.number - 1, is_first=False)
        return self._noted(raw, np.where(begun == _NONE, before, begun), next_obs)

    def begin_anew(self) -> None:
        """Episodes begin with the next steps of all envs."""
        self._stands_at.clear()

    def chains(self, numbers: Array) -> Array:
        """(...) → (..., K) the frames of each stack, the oldest first; those of a stack that is gone mean nothing."""
        chain, oldest = [numbers], self._oldest()
        for _ in range(self._stack - 1):
            last = chain[-1]
            chain.append(np.where(last >= oldest, self._before[last % self._capacity], last))
        return np.stack(chain[::-1], axis=-1)

    def are_there(self, chains: Array) -> Array:
        """(..., K) → (...) whether all frames of a stack are there still."""
        there: Array = chains.min(axis=-1) >= self._oldest()
        return there

    def stacks(self, chains: Array) -> Array:
        """(..., K) → (..., K, *frame shape), or (..., *frame shape) where nothing is stacked."""
        wanted = chains if self._stack > 1 else chains[..., 0]
        stacks: Array = self._frames[wanted % self._capacity]
        return stacks

    def contents(self) -> dict[str, Array]:
        """Views of all that must be kept to make the same ring again."""
        size = min(self.written, self._capacity)
        return {"frame": self._frames[:size], "before": self._before[:size], "written": np.array([self.written])}

    def restore(self, contents: dict[str, Array]) -> None:
        """Make the ring what `contents` says. ValueError when it is of another shape, dtype or capacity."""
        written = int(contents["written"][0])
        for name, array in (("frame", self._frames), ("before", self._before)):
            kept, wanted = contents[name], (min(written, self._capacity), *array.shape[1:])
            if kept.shape != wanted or kept.dtype != array.dtype:
                raise ValueError(f"{name!r} of the frames is {kept.dtype}{kept.shape}, not {array.dtype}{wanted}")
        for name, array in (("frame", self._frames), ("before", self._before)):
            array[: len(contents[name])] = contents[name]
        self._step[:] = _NONE  # the steps of this run are others, though they have the same numbers
        self.written = self._begun[0] = written

    def _append(self, frames: Array, before: Array | None, raw: RawSteps, rows: Array) -> Array:
        """Put in (M, ...) frames of these rows; (M,) numbers. Without `before` episodes begin with them."""
        numbers = self.written + np.arange(len(rows))
        self._begun[0] = max(self._begun[0], self.written + len(rows))
        slots = numbers % self._capacity
        self._frames[slots] = frames
        self._before[slots] = numbers if before is None else before
        self._step[slots] = np.stack(
            [*np.broadcast_arrays(raw.group, raw.number, 2 * rows + (before is None))], axis=-1
        )
        self.written += len(rows)
        return numbers

    def _noted(self, raw: RawSteps, obs: Array, next_obs: Array) -> RawSteps:
        ends = raw.terminated | raw.truncated | ~raw.valid
        self._stands_at[raw.group] = np.where(ends, _NONE, next_obs)
        return dataclasses.replace(raw, obs=obs, next_obs=next_obs)

    def _found(self, raw: RawSteps, number: int, is_first: bool) -> Array:
        """(N,) numbers of the frames that came with the steps of this number; -1 where none did, or it is gone."""
        found = np.full(len(raw.valid), _NONE)
        slots = np.flatnonzero((self._step[:, 0] == raw.group) & (self._step[:, 1] == number))
        slots = slots[self._step[slots, 2] % 2 == is_first]
        numbers = slots + self._capacity * ((self.written - 1 - slots) // self._capacity)
        rows = self._step[slots, 2] // 2
        written = numbers >= 0
        found[rows[written]] = numbers[written]
        return found

    def _oldest(self) -> int:
        """The number of the oldest frame that is there."""
        return max(0, int(self._begun[0]) - self._capacity)
