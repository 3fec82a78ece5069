"""Rollouts, T steps of every env, each learned from once and then forgotten: the storage "rollouts".

Steps wait until every group has T of them. A group that stays away (its episodes are used up, its envs are lost) is
waited for no longer once another has stepped twice as far: what it has goes in as it is, and it counts again from
its next step on. All of it follows from the steps alone, never from the clock.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms.protocol import Algorithm, Batch, Updated
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import NO_STEPS, Fields, Source
from multiserverrl.train.stacks import StepStacks
from multiserverrl.train.stores.protocol import Arrays

__all__ = ["RolloutStore", "rollout_layout"]

Array = NDArray[Any]
_ARRAYS = ("obs", "action", "reward", "terminated", "truncated", "next_obs", "valid")
_MARK = "mark"


def rollout_layout(config: TrainConfig, algorithm: Algorithm) -> Fields:
    """No step outlives its learner, only the mark: how many valid ones there were; the last one's group and number."""
    return {_MARK: ("int64", (3,))}


class RolloutStore:
    """See `Store`. An item is a valid step; those of a rollout are gone once it was given out."""

    publish_every = 1

    def __init__(self, config: TrainConfig, arrays: Arrays) -> None:
        self._length, self._reward_scale = config.rollout_steps, np.float32(config.reward_scale)
        self._groups: dict[int, list[RawSteps]] = {}  # those that are waited for
        self._frame_stack, self._stacks = config.frame_stack, StepStacks(config.frame_stack)
        self._mark = arrays[_MARK]
        self._size = 0

    @property
    def inserted(self) -> int:
        return int(self._mark[0])

    @property
    def source(self) -> Source:
        _, group, number = self._mark.tolist()
        return (group, number) if self.inserted else NO_STEPS

    def __len__(self) -> int:
        return self._size

    def take(self, raw: RawSteps) -> None:
        """See `Store`. The steps are kept as they are: they must not change afterwards."""
        raw = self._stacks.stacked(raw)
        count = int(np.count_nonzero(raw.valid))
        steps = self._groups.setdefault(raw.group, [])
        if count:
            steps.append(raw)
        elif steps:  # a group that begins anew: whatever ran in it ends where it was
            steps[-1] = dataclasses.replace(steps[-1], truncated=np.ones_like(raw.truncated))
        self._size += count
        self._mark[:] = (self.inserted + count, raw.group, raw.number)

    def retake(self, raw: RawSteps) -> None:
        self._stacks.stacked(raw)  # its rollout was lost with the learner that had it

    def owes(self, updates: int) -> bool:
        lengths = [len(steps) for steps in self._groups.values()]
        return bool(lengths) and (min(lengths) >= self._length or max(lengths) >= 2 * self._length)

    def batch(self) -> Batch:
        """The rollout, (T, N, ...) each, groups side by side, rewards scaled; it is forgotten here.

        Beside the explorers' arrays and extras: `weights_version`, of those that acted. Rows that are missing are not
        `valid`.
        """
        present = {group: steps for group, steps in sorted(self._groups.items()) if steps}
        parts = [self._part(steps[: self._length]) for steps in present.values()]
        self._groups = {group: steps[self._length :] for group, steps in present.items()}
        rollout = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        self._size -= int(np.count_nonzero(rollout["valid"]))
        return rollout

    def _part(self, steps: list[RawSteps]) -> Batch:
        """One group's, (T, N, ...) each."""
        part = {name: self._stacked([getattr(raw, name) for raw in steps]) for name in _ARRAYS}
        part |= {name: self._stacked([raw.extras[name] for raw in steps]) for name in steps[0].extras}
        part["weights_version"] = self._stacked([np.full(len(raw.valid), raw.weights_version) for raw in steps])
        part["reward"] *= self._reward_scale
        return part

    def _stacked(self, rows: list[Array]) -> Array:
        stacked = np.zeros((self._length, *rows[0].shape), rows[0].dtype)
        np.stack(rows, out=stacked[: len(rows)])
        return stacked

    def learned(self, updated: Updated) -> None:
        pass  # there is nothing that it could change

    def achieved_ratio(self, updates: int) -> float:
        return 0.0  # each step is learned from `epochs` times, whatever the explorers do

    def go_on_from(self, updates: int) -> None:
        pass  # updates are owed for the rollout that is complete, for none before it

    def keep_ratio(self, updates: int) -> None:
        pass

    def contents(self) -> Arrays:
        """Nothing: after a resume rollouts begin anew."""
        return {}

    def tails(self) -> Arrays:
        return {}

    def cut_off(self) -> None:
        """See `Store`. Rollouts that are not complete are forgotten, as after a resume."""
        self._groups, self._stacks, self._size = {}, StepStacks(self._frame_stack), 0

    def end_episodes(self, tails: Arrays) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"inserted": self.inserted}

    def restore(self, contents: Arrays, state: dict[str, Any]) -> None:
        if self.inserted == 0:
            self._mark[:] = (int(state["inserted"]), *NO_STEPS)
