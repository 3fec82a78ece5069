"""An env that misbehaves in explorers alone, as two files in a directory say."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

DIRECTORY = "SILENT_ENVS"  # the environment variable that names it


class Silent(CartPoleEnv):
    """CartPole. While there is a file `broken` its rewards are NaN; a fifo `hang` is waited for once."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        directory = Path(os.environ[DIRECTORY])
        if "multiserverrl.launch.entries:explorer" in sys.argv:
            if (directory / "broken").exists():
                reward = float("nan")
            if (directory / "hang").exists():
                with open(directory / "hang") as fifo:  # returns when somebody has opened it to write
                    fifo.read()
        return obs, reward, terminated, truncated, info


gymnasium.register("Silent-v0", entry_point=Silent)
