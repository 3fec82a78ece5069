"""Whether the transitions of a replay buffer, learned from Diary-v0, are what the env gave: each whole, each once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_envs import diary_length, diary_reward, diary_terminates

Array = NDArray[Any]


class Reading(NamedTuple):
    """What a replay buffer says of itself; a diary without faults has 0 everywhere but for `transitions`."""

    transitions: int
    wrong: int  # over two episodes, or with an action, reward, discount that the env never gave
    twice: int
    missing: int  # in the middle of an episode, or at its beginning
    cut: int  # that look less far ahead than n without being at the end of what is known of their episode

    @property
    def is_faultless(self) -> bool:
        return not (self.wrong or self.twice or self.missing or self.cut)


def read_diary(replay: dict[str, Array], n_step: int, gamma: float) -> Reading:
    """Check every transition; rewards are unscaled, and the buffer was never full."""
    obs, following = (np.rint(replay[name]).astype(np.int64) for name in ("obs", "next_obs"))
    name, time, ahead = obs[:, 1], obs[:, 2], following[:, 2] - obs[:, 2]
    is_right = (obs[:, :2] == following[:, :2]).all(axis=1) & (ahead >= 1) & (ahead <= n_step)
    steps = np.arange(n_step)
    rewards = diary_reward(name[:, None], time[:, None] + steps) * (steps < ahead[:, None])  # (K, n)
    is_right &= np.isclose(replay["reward"], rewards @ gamma**steps, atol=1e-6)
    at_end = following[:, 2] == diary_length(name)
    goes_on = ~(at_end & diary_terminates(name))
    is_right &= np.isclose(replay["discount"], goes_on * gamma ** ahead.astype(float), atol=1e-6)
    is_right &= (following[:, 3] >> np.maximum(ahead - 1, 0)) % 2 == replay["action"]
    episode = obs[:, 0] << 24 | name
    _, members = np.unique(episode, return_inverse=True)
    first_gap = np.zeros(members.max(initial=-1) + 1, np.int64)
    np.maximum.at(first_gap, members, time + 1)  # so many there should be of each
    known = np.zeros_like(first_gap)
    np.maximum.at(known, members, following[:, 2])
    distinct = len(np.unique(np.stack([episode, time]), axis=1).T)
    return Reading(
        transitions=len(obs),
        wrong=int((~is_right).sum()),
        twice=len(obs) - distinct,
        missing=int(first_gap.sum()) - distinct,
        cut=int(((ahead < n_step) & (following[:, 2] != known[members])).sum()),
    )
