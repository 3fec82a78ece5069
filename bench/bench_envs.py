"""Environments for the measurements, registered on import: `serve bench_envs:Pixels84-v0`.

Pixels84-v0 and Pixels210-v0 give the same random bytes at every step, made once, so a step costs nearly
nothing; their episodes never end. Sleeping1ms-v0 and Sleeping5ms-v0 sleep for so long at every step.
"""

from __future__ import annotations

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


gymnasium.register("Pixels84-v0", entry_point="bench_envs:Pixels", kwargs={"shape": (84, 84, 4)})
gymnasium.register("Pixels210-v0", entry_point="bench_envs:Pixels", kwargs={"shape": (210, 160, 3)})
gymnasium.register("Sleeping1ms-v0", entry_point="bench_envs:Sleeping", kwargs={"step_s": 0.001})
gymnasium.register("Sleeping5ms-v0", entry_point="bench_envs:Sleeping", kwargs={"step_s": 0.005})
