"""From raw steps to n-step transitions, at the replay's side. Pure NumPy.

A transition leads from a state over up to n rewards to the state that the last of them led to:

    reward   = Σ_j γ**j · r[t+j]                     for j in 0 … k-1
    discount = γ**k · (the last step did not terminate)

k is n in the middle of an episode and less in its tail: when an episode ends, every state that
still waits gets its transition at once. A truncated episode bootstraps, a terminated one does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.channels import RawSteps

__all__ = ["GroupWindows", "NStep"]

Array = NDArray[Any]
Transitions = dict[str, Array]


class NStep:
    """The windows of all groups; `push` takes steps of any of them."""

    def __init__(self, n: int, gamma: float, reward_scale: float) -> None:
        self.n, self.gamma, self.reward_scale = n, gamma, reward_scale
        self._groups: dict[int, GroupWindows] = {}

    def push(self, steps: RawSteps) -> Transitions:
        """The transitions, (K, ...) each, that are complete with these steps; K may be 0."""
        windows = self._groups.get(steps.group)
        if windows is None:
            windows = self._groups[steps.group] = GroupWindows(self.n, self.gamma, self.reward_scale, steps)
        return windows.push(steps)

    def emptied(self) -> NStep:
        """Windows like these in which nothing waits."""
        return NStep(self.n, self.gamma, self.reward_scale)

    def push_again(self, steps: RawSteps) -> None:
        """As `push`, of steps whose transitions a learner before us has put into the replay buffer."""
        self.push(steps)

    def tails(self) -> Transitions:
        """What the steps that still wait would become if every running episode were cut off now; {} before any step."""
        return _joined([windows.tails() for windows in self._groups.values()]) if self._groups else {}


class GroupWindows:
    """The last n steps of each env of one group, in rings that are indexed by (slot, row)."""

    def __init__(self, n: int, gamma: float, reward_scale: float, like: RawSteps) -> None:
        N = len(like.valid)
        self.n, self.reward_scale = n, np.float32(reward_scale)
        kept = _kept(like)
        self._kept = {name: np.zeros((n, *array.shape), array.dtype) for name, array in kept.items()}
        self._reward = np.zeros((n, N), np.float32)
        self._version = np.zeros(n, np.int64)
        self._waiting = np.zeros(N, np.int64)  # steps of each env that have no transition yet, < n
        self._slot = 0
        self._led_to = like.next_obs
        # _returns[k-1] @ rewards, newest first, is the return over the last k of them
        ages = np.arange(n)
        exponents = ages[:, None] - ages[None, :]
        self._returns = np.where(exponents >= 0, gamma ** np.maximum(exponents, 0), 0.0).astype(np.float32)
        self._discounts = (gamma ** np.arange(1, n + 1)).astype(np.float32)  # [k-1] is γ**k

    def push(self, steps: RawSteps) -> Transitions:
        """The transitions that are complete with these steps, each env's in no particular order."""
        slot = self._slot
        for name, array in _kept(steps).items():
            self._kept[name][slot] = array
        self._version[slot] = steps.weights_version
        np.multiply(steps.reward, self.reward_scale, out=self._reward[slot])
        ends = steps.terminated | steps.truncated
        self._waiting += steps.valid
        parts = []
        broken = np.flatnonzero(~steps.valid)
        if len(broken):  # their last good step was the one before, and led to where that one led
            parts.append(self._cut_off(broken))
            self._waiting[broken] = 0
        ended = np.flatnonzero(ends & steps.valid)
        if len(ended):
            parts.append(self._tails(ended, slot, steps.next_obs, steps.terminated[ended]))
            self._waiting[ended] = 0
        full = np.flatnonzero(self._waiting == self.n)  # those that ended wait no more
        if len(full):
            parts.append(self._full(full, slot, steps.next_obs))
        self._led_to = steps.next_obs
        self._slot = (slot + 1) % self.n
        return _joined(parts) if parts else self._none(steps)

    def tails(self) -> Transitions:
        """As `NStep.tails`, of this group; its windows stay as they are."""
        return self._cut_off(np.arange(len(self._waiting)))

    def _cut_off(self, rows: Array) -> Transitions:
        """The episodes of these rows are truncated where their last step led."""
        return self._tails(rows, self._slot - 1, self._led_to, np.zeros(len(rows), bool))

    def _full(self, rows: Array, slot: int, next_obs: Array) -> Transitions:
        oldest = (slot + 1) % self.n
        newest_first = (slot - np.arange(self.n)) % self.n
        self._waiting[rows] -= 1
        return {
            **{name: ring[oldest, rows] for name, ring in self._kept.items()},
            "reward": self._returns[-1] @ self._reward[newest_first[:, None], rows],
            "next_obs": next_obs[rows],
            "discount": np.full(len(rows), self._discounts[-1]),
            "weights_version": np.full(len(rows), self._version[oldest]),
        }

    def _tails(self, rows: Array, newest: int, next_obs: Array, terminated: Array) -> Transitions:
        """One transition for every step that waits in these rows, all leading to `next_obs`."""
        newest_first = (newest - np.arange(self.n)) % self.n
        returns = self._returns @ self._reward[newest_first[:, None], rows]  # (n, rows): over the last k = 1 … n
        ages, columns = np.nonzero(np.arange(self.n)[:, None] < self._waiting[rows])
        slots, envs = newest_first[ages], rows[columns]
        return {
            **{name: ring[slots, envs] for name, ring in self._kept.items()},
            "reward": returns[ages, columns],
            "next_obs": next_obs[envs],
            "discount": self._discounts[ages] * ~terminated[columns],
            "weights_version": self._version[slots],
        }

    def _none(self, steps: RawSteps) -> Transitions:
        return self._tails(np.zeros(0, np.int64), 0, steps.next_obs, np.zeros(0, bool))


def _kept(steps: RawSteps) -> Transitions:
    """(N, ...) what a transition has of the step that it begins with."""
    return {**steps.extras, "obs": steps.obs, "action": steps.action}


def _joined(parts: list[Transitions]) -> Transitions:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
