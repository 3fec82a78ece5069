"""Environments for the measurements, registered on import: `serve bench_envs:Pixels84-v0`.

Pixels84-v0 and Pixels210-v0 give the same random bytes at every step, made once, so a step costs nearly
nothing; their episodes never end. Sleeping1ms-v0 and Sleeping5ms-v0 sleep for so long at every step. Diary-v0 tells in
each observation what it is of, so that whoever has learned from it can be asked whether the pieces fit.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]


class Pixels(gymnasium.Env[Uint8, np.int64]):
    """One frame, for ever."""

    def __init__(self, shape: tuple[int, ...], render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, tuple(shape), np.uint8)
        self.action_space = spaces.Discrete(4)
        self.render_mode = render_mode
        self._frame = np.frombuffer(os.urandom(int(np.prod(shape))), np.uint8).reshape(shape).copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Uint8, dict[str, Any]]:
        return self._frame, {}

    def step(self, action: np.int64) -> tuple[Uint8, float, bool, bool, dict[str, Any]]:
        return self._frame, 0.0, False, False, {}


class Sleeping(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Sleeps for `step_s` at every step, as a simulator that waits for something does."""

    def __init__(self, step_s: float, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._step_s = step_s
        self._obs = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        return self._obs.copy(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        time.sleep(self._step_s)
        return self._obs.copy(), 0.0, False, False, {}


DIARY_PACE = "DIARY_PACE"  # names a file: while it is there, a step of Diary-v0 takes the seconds that it says, or 4 ms
DIARY_HOLD = ".hold"  # while a directory of that name with this at its end is there, a step says so in it, and waits


class Diary(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Observes (episode's name in two halves, time, last 16 actions as bits): whole numbers that float32 can hold."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 2.0**23, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._pace = os.environ.get(DIARY_PACE, "")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._name = self.np_random.integers(0, 2**23, 2)
        self._time = self._actions = 0
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if pause_s := self._pause_s():
            time.sleep(pause_s)
            self._wait_within()
        reward = float(diary_reward(self._name[1], self._time))
        self._time += 1
        self._actions = (2 * self._actions + int(action)) % 2**16
        has_ended, terminates = self._time == diary_length(self._name[1]), bool(diary_terminates(self._name[1]))
        return self._obs(), reward, has_ended and terminates, has_ended and not terminates, {}

    def _pause_s(self) -> float:
        if not self._pace:
            return 0.0
        try:
            with open(self._pace) as file:
                return float(file.read() or 0.004)
        except FileNotFoundError:
            return 0.0

    def _wait_within(self) -> None:
        hold = self._pace + DIARY_HOLD
        if os.path.exists(hold):
            with contextlib.suppress(FileNotFoundError):  # it is over just now
                os.mkdir(os.path.join(hold, f"{os.getpid()}-{id(self)}"))
        while os.path.exists(hold):
            time.sleep(0.001)

    def _obs(self) -> NDArray[np.float32]:
        return np.array([*self._name, self._time, self._actions], np.float32)


def diary_reward(name: Any, time: Any) -> Any:
    """Of the step that leaves this time; `name` is the second half."""
    return (31 * name + time) % 7


def diary_length(name: Any) -> Any:
    """Steps in the episode."""
    return 5 + name % 30


def diary_terminates(name: Any) -> Any:
    """Whether the episode terminates; if not, it is truncated."""
    return name % 2 == 1


gymnasium.register("Diary-v0", entry_point="bench_envs:Diary")
gymnasium.register("Pixels84-v0", entry_point="bench_envs:Pixels", kwargs={"shape": (84, 84, 4)})
gymnasium.register("Pixels210-v0", entry_point="bench_envs:Pixels", kwargs={"shape": (210, 160, 3)})
gymnasium.register("Sleeping1ms-v0", entry_point="bench_envs:Sleeping", kwargs={"step_s": 0.001})
gymnasium.register("Sleeping5ms-v0", entry_point="bench_envs:Sleeping", kwargs={"step_s": 0.005})
