"""Virtual envs beside the same envs here: whatever is done to the wire between, both must tell the same bits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv

from multiserverrl.testing.envs import Scripted, count_of

__all__ = ["SCRIPTED", "Twins", "descriptors_of", "scripted_twins", "wait_until"]

SCRIPTED = "multiserverrl.testing.envs:Scripted"
ENDLESS = 1_000_000_000


class Twins:
    """Takes the same random steps in both, and counts those that were told otherwise than here."""

    def __init__(
        self, envs: Any, local: Any, *, seed: int = 0, options: dict[str, Any] | None = None, counter: str = ""
    ) -> None:
        self.envs, self.local, self.counter = envs, local, counter
        self._choices = np.random.default_rng(seed)
        self._number = int(local.single_action_space.n)
        counted = {**(options or {}), "path": counter} if counter else options
        self.steps = 0
        self.wrong = int(
            not _is_same(envs.reset(seed=seed, options=counted)[0], local.reset(seed=seed, options=options)[0])
        )

    def step(self) -> None:
        """One step of both."""
        actions = self._choices.integers(0, self._number, self.local.num_envs)
        self.told(self.envs.step(actions), actions)

    def told(self, told: Any, actions: Any) -> None:
        """The far envs told this of a step with these actions."""
        wanted = self.local.step(actions)
        self.wrong += not all(_is_same(one, other) for one, other in zip(told[:4], wanted[:4], strict=True))
        self.steps += 1

    def applied_beyond(self) -> int:
        """Steps that the real envs took, less those that were wanted; 0 without a counter."""
        return count_of(self.counter) - self.steps * self.local.num_envs if self.counter else 0

    def close(self) -> None:
        """Both."""
        self.envs.close()
        self.local.close()


def scripted_twins(envs: Any, counter: str = "", seed: int = 0) -> Twins:
    """Of `Scripted` envs whose one episode never ends; they count their steps in the file `counter`."""
    local = SyncVectorEnv([Scripted] * envs.num_envs)
    return Twins(envs, local, seed=seed, options={"length": ENDLESS}, counter=counter)


def _is_same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def descriptors_of(pids: Iterable[int]) -> int:
    """How many files and sockets these processes have open together."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Look again and again; whether it became so in time."""
    until = time.monotonic() + timeout_s
    while not (found := is_so()) and time.monotonic() < until:
        time.sleep(0.01)
    return found
