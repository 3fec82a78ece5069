"""Steps in a row of one env, for recurrent networks: the storage "sequences".

Kapturowski, Ostrovski, Quan, Munos and Dabney, "Recurrent Experience Replay in Distributed Reinforcement Learning"
(ICLR 2019), section 2.3: sequences of a fixed length T that overlap by half and never cross an episode's end, with
the recurrent state that the actor had where each begins. What is only burned in is the algorithm's matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms.protocol import Algorithm, Batch
from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import Fields
from multiserverrl.train.stores.protocol import Arrays
from multiserverrl.train.stores.replayed import ReplayStore, replay_layout

__all__ = ["GroupSequences", "SequenceStore", "kept_for_sequences", "sequence_layout"]

Array = NDArray[Any]
MADE_OF = "made_of"  # a field of the replay buffer: group + 1, row, number of the last steps; zeros: of another run
_STEPS = ("obs", "action", "reward", "terminated", "truncated")


def sequence_layout(config: TrainConfig, algorithm: Algorithm) -> Fields:
    """(dtype, shape) of each of the arrays of the replay buffer."""
    T, fields = config.sequence_length, algorithm.transition_fields
    obs, action = fields["obs"], fields["action"]
    item: Fields = {
        "obs": (obs[0], (T, *obs[1])),
        "action": (action[0], (T, *action[1])),
        "reward": ("float32", (T,)),
        "terminated": ("bool", (T,)),
        "truncated": ("bool", (T,)),
        "mask": ("bool", (T,)),  # False where the last step is repeated, for an episode ended before
        "next_obs": obs,  # that the last step led to
        "weights_version": ("int64", ()),  # of the last step
        MADE_OF: ("int64", (3,)),
    }
    return replay_layout(config, item | algorithm.extras_fields, obs, new_steps=T - T // 2)


def kept_for_sequences(config: TrainConfig, algorithm: Algorithm) -> int:
    """Those of a running sequence, and the one before its first, whose extras it begins with."""
    return config.sequence_length


class SequenceStore(ReplayStore):
    """See `Store`; the items are sequences, and so they are what the replay ratio counts.

    A batch has (B, T, ...) obs, action, reward, terminated, truncated and mask, (B, ...) next_obs, and the
    algorithm's extras (B, ...): those of the step before each sequence's first, zeros where an episode begins.
    """

    def __init__(self, config: TrainConfig, arrays: Arrays) -> None:
        super().__init__(config, arrays, Sequences(config.sequence_length, config.reward_scale, arrays[MADE_OF]))

    def batch(self) -> Batch:
        batch = super().batch()
        del batch[MADE_OF]
        return batch

    def contents(self) -> Arrays:
        contents = super().contents()
        # the steps of a run that is resumed are others, though they have the same numbers
        return contents | {MADE_OF: np.zeros_like(contents[MADE_OF])}


class Sequences:
    """The windows of all groups (`Windows`). `made_of` (K, 3) is the replay buffer's own."""

    def __init__(self, length: int, reward_scale: float, made_of: Array) -> None:
        self._length, self._reward_scale, self._made_of = length, reward_scale, made_of
        self._groups: dict[int, GroupSequences] = {}

    def push(self, steps: RawSteps) -> Arrays:
        return self._group(steps).push(steps)

    def push_again(self, steps: RawSteps) -> None:
        known = self._made_of
        rows = known[(known[:, 0] == steps.group + 1) & (known[:, 2] == steps.number), 1]
        self._group(steps).push(steps, was_made=np.isin(np.arange(len(steps.valid)), rows))

    def tails(self) -> Arrays:
        parts = [group.tails() for group in self._groups.values()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}

    def emptied(self) -> Sequences:
        return Sequences(self._length, self._reward_scale, self._made_of)

    def _group(self, steps: RawSteps) -> GroupSequences:
        group = self._groups.get(steps.group)
        if group is None:
            group = self._groups[steps.group] = GroupSequences(self._length, self._reward_scale, steps)
        return group


class GroupSequences:
    """The last T steps of each env of one group, in rings that are indexed by (slot, row)."""

    def __init__(self, length: int, reward_scale: float, like: RawSteps) -> None:
        N, T = len(like.valid), length
        self.length, self.stride, self._reward_scale = T, T - T // 2, np.float32(reward_scale)
        self._ring = {name: np.zeros((T, *getattr(like, name).shape), getattr(like, name).dtype) for name in _STEPS}
        self._last = {name: np.zeros_like(array) for name, array in like.extras.items()}  # of the step before
        self._before = {name: np.zeros((T, *array.shape), array.dtype) for name, array in like.extras.items()}
        self._steps = np.zeros(N, np.int64)  # of the sequence that runs
        self._fresh = np.zeros(N, np.int64)  # of these, that are in no sequence yet
        self._slot = 0
        self._newest = like

    def push(self, steps: RawSteps, was_made: Array | None = None) -> Arrays:
        """The sequences that are complete with these steps; `was_made` (N,): of steps seen again, which ones were."""
        broken = np.flatnonzero(~steps.valid & (self._fresh > 0))
        parts = [self._cut_off(broken)]  # their last good step was the one before
        slot = self._slot
        for name, ring in self._ring.items():
            ring[slot] = getattr(steps, name)
        self._ring["reward"][slot] *= self._reward_scale
        for name, before in self._before.items():
            before[slot] = self._last[name]
            self._last[name] = steps.extras[name].copy()
        self._newest = steps
        self._slot = (slot + 1) % self.length
        self._steps += 1
        self._fresh += 1
        ends = (steps.terminated | steps.truncated) & steps.valid
        complete = (self._steps >= self.length if was_made is None else was_made) & steps.valid & ~ends
        parts.append(self._made(np.flatnonzero(ends | complete), slot, steps))
        self._steps[complete] = self.length - self.stride
        self._fresh[complete] = 0
        over = ends | ~steps.valid
        self._steps[over] = self._fresh[over] = 0
        for last in self._last.values():
            last[over] = 0
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def tails(self) -> Arrays:
        """As `Windows.tails`, of this group; its windows stay as they are."""
        return self._cut_off(np.flatnonzero(self._fresh > 0))

    def _cut_off(self, rows: Array) -> Arrays:
        """The episodes of these rows are truncated where their last step led."""
        made = self._made(rows, (self._slot - 1) % self.length, self._newest)
        made["truncated"] |= np.arange(self.length) >= made["mask"].sum(axis=1)[:, None] - 1
        made[MADE_OF][:] = 0  # it was made by a later step than its last, which tells of the break again
        return made

    def _made(self, rows: Array, newest: int, steps: RawSteps) -> Arrays:
        """The sequence of each of these rows, up to slot `newest`; where it is short its last step is repeated."""
        T, count = self.length, np.minimum(self._steps[rows], self.length)
        places = np.arange(T)
        slots = (newest - np.maximum(count[:, None] - 1 - places, 0)) % T  # (K, T)
        made = {name: ring[slots, rows[:, None]] for name, ring in self._ring.items()}
        made["mask"] = places < count[:, None]
        made |= {name: before[slots[:, 0], rows] for name, before in self._before.items()}
        made["next_obs"] = steps.next_obs[rows]
        made["weights_version"] = np.full(len(rows), steps.weights_version)
        made[MADE_OF] = np.stack(np.broadcast_arrays(steps.group + 1, rows, steps.number), axis=-1)
        return made
