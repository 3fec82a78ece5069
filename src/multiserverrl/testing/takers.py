"""An env for any action space: it says back what it took. Served as `multiserverrl.testing.takers:Taker`."""

from __future__ import annotations

import json
import zlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from multiserverrl.wire.jsonvalues import to_json

__all__ = ["ACTION_SPACES", "Taker"]

_POSE = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(2)])
ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "shifted": spaces.Discrete(3, start=-1),
    "multi": spaces.MultiDiscrete([2, 3], start=[0, -1]),
    "binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
    "whole": spaces.Box(0, 255, (2,), np.uint8),
    "nested": spaces.Dict({"arm": _POSE, "grip": spaces.MultiBinary(2)}),
    "text": spaces.Text(4, charset="abc"),
    "loose": spaces.Dict(
        {
            "choice": spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]),
            "many": spaces.Sequence(spaces.Discrete(3)),
            "word": spaces.Text(4, charset="abc"),
        }
    ),
    "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
}


class Taker(gymnasium.Env[NDArray[np.float64], Any]):
    """Episodes without an end; obs is (steps, a draw of the env's own generator), reward a checksum of the action."""

    def __init__(self, space: str = "discrete") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = ACTION_SPACES[space]
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._obs(), float(zlib.crc32(json.dumps(to_json(action)).encode())), False, False, {}

    def _obs(self) -> NDArray[np.float64]:
        return np.array([self.steps, self.np_random.random()])
