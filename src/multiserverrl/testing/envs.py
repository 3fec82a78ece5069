"""Small real environments for tests, served as `multiserverrl.testing.envs:Scripted` and so on.

What they do wrong, and when, is told by `reset(options=…)`, which reaches the real env; an env that
was made anew after a fault has no script and behaves.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["CustomSpace", "DictObs", "NotAnEnv", "Pictures", "Scripted", "TextObs", "count_of"]


def count_of(path: str | os.PathLike[str]) -> int:
    """How many steps the `Scripted` envs with `options["path"]` were really asked for."""
    return os.path.getsize(path) if os.path.exists(path) else 0


class Scripted(gymnasium.Env[NDArray[np.float64], np.int64]):
    """Episodes of 7 steps; obs is (steps, a draw of the env's own generator), reward the draw plus the action.

    Options of `reset`, kept until the next reset with options:
      path      file that grows by a byte for each step, at once
      length    steps of an episode
      how, at   what goes wrong in step number `at` (1 the first) of an episode: "raise", "kill" (SIGKILL to its
                own process), "exit", "spin" (never returns), "sleep" (`sleep_s`), "print" (a megabyte on stdout),
                "reward" (a reward that is no number), "info" (an info that cannot be carried); "reset" raises
                in the reset after that step
      seed      only the env that is reset with this seed goes wrong
    `at_make`: "raise", "kill", or "second:PATH": raises when PATH is there, else makes it.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 30}  # noqa: RUF012 - gymnasium's own way

    def __init__(self, render_mode: str | None = None, at_make: str = "") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self.options: dict[str, Any] = {}
        self.is_armed = False
        self.steps = 0
        self.setting = 0
        _misbehave_at_make(at_make)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        if self.is_armed and self.options.get("how") == "reset" and self.steps >= self.options["at"]:
            raise ValueError("the script says: fail at reset")
        if options is not None:
            self.options = dict(options)
            self.is_armed = options.get("seed") in (None, seed)
        self.steps = 0
        return self._obs(self.np_random.random()), {"began": True, "options": sorted(self.options)}

    def step(self, action: np.int64) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        path = self.options.get("path")
        if path:
            with open(path, "ab", buffering=0) as counter:
                counter.write(b".")
        self.steps += 1
        draw = self.np_random.random()
        reward, info = draw + int(action), {"steps": self.steps}
        if self.is_armed and self.steps == self.options.get("at"):
            reward, info = self._misbehave(reward, info)
        return self._obs(draw), reward, self.steps >= self.options.get("length", 7), False, info

    def _obs(self, draw: float) -> NDArray[np.float64]:
        return np.array([self.steps, draw])

    def _misbehave(self, reward: Any, info: dict[str, Any]) -> Any:
        how = self.options.get("how")
        if how == "raise":
            raise ValueError("the script says: fail")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(3)
        if how == "spin":
            while True:
                pass
        if how == "sleep":
            time.sleep(self.options["sleep_s"])
        if how == "print":
            print("x" * (1 << 20))
        if how == "reward":
            return "much", info
        if how == "info":
            return reward, {**info, "thing": object()}
        return reward, info

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"step {self.steps}"
        return np.full((4, 6, 3), self.steps, np.uint8)


def _misbehave_at_make(at_make: str) -> None:
    if at_make == "raise":
        raise ValueError("the script says: fail at make")
    if at_make == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    kind, _, path = at_make.partition(":")
    if kind == "second":
        if os.path.exists(path):
            raise ValueError("the script says: fail at the second make")
        with open(path, "wb"):
            pass


class DictObs(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Nested observations and actions of fixed size; episodes of 5 steps."""

    def __init__(self) -> None:
        inner = spaces.Dict({"mask": spaces.MultiBinary(3), "kind": spaces.Discrete(4, start=-1)})
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (2, 3), np.uint8),
                "inner": inner,
                "pair": spaces.Tuple([spaces.Box(-1, 1), spaces.Discrete(2)]),
            }
        )
        self.action_space = spaces.Dict({"turn": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)})
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: dict[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        turned = float(np.sum(action["turn"], dtype=np.float64))
        info = {"turned": turned, "gear": int(action["gear"])}
        return self.observation_space.sample(), turned + int(action["gear"]), False, self.steps >= 5, info


class TextObs(gymnasium.Env[str, str]):
    """Says back what it was told, and how often it was told something; episodes of 4 steps. No fixed size."""

    def __init__(self) -> None:
        self.observation_space = spaces.Text(64, charset="abcdefghijklmnopqrstuvwxyz0123456789 ", min_length=0)
        self.action_space = spaces.Text(8, charset="abc", min_length=1)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return f"begin {self.np_random.integers(1000)}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return f"{self.steps} {action}", float(len(action)), self.steps >= 4, False, {"said": action}


class Pictures(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """The last four frames of a ball and a paddle, 84×84 in grey, as Atari agents see them; episodes of 50 steps."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.paddle = 0, 40
        self.ball, self.speed = self.np_random.integers(10, 70, 2), self.np_random.choice([-3, -2, 2, 3], 2)
        self.frames = [self._frame()] * 4
        return np.stack(self.frames, -1), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.paddle = int(np.clip(self.paddle + 3 * (int(action) - 1), 0, 72))
        self.speed = np.where((self.ball + self.speed < 0) | (self.ball + self.speed > 80), -self.speed, self.speed)
        self.ball = self.ball + self.speed
        self.frames = [*self.frames[1:], self._frame()]
        return np.stack(self.frames, -1), 0.0, self.steps >= 50, False, {}

    def _frame(self) -> NDArray[np.uint8]:
        frame = np.full((84, 84), 87, np.uint8)
        frame[:4] = frame[-4:] = 142
        frame[self.paddle : self.paddle + 12, 78:80] = 148
        frame[self.ball[0] : self.ball[0] + 3, self.ball[1] : self.ball[1] + 3] = 236
        return frame


class _Colours(spaces.Space[str]):
    """A space that no message can carry."""

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        return "red"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and x == "red"


class CustomSpace(gymnasium.Env[str, np.int64]):
    """Its observation space cannot be carried, so no server serves it."""

    observation_space = _Colours()
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "red", {}

    def step(self, action: np.int64) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "red", 0.0, False, False, {}


class NotAnEnv:
    """A class that is no environment at all."""
