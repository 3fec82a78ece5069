"""What a network must know of an environment, as plain data: the shape of what it sees and the actions it has."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import msgspec
import numpy as np

from multiserverrl.errors import ConfigError

__all__ = ["Task", "task_of"]


class Task(msgspec.Struct, frozen=True):
    """Observations travel as `obs_dtype`; actions as int64 from 0, the env's own are `action_start` higher."""

    obs_shape: tuple[int, ...]
    num_actions: int
    action_start: int = 0
    obs_dtype: str = "float32"

    @property
    def obs_size(self) -> int:
        """Numbers in one observation."""
        return math.prod(self.obs_shape)


def task_of(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> Task:
    """The task that the *single* spaces of an env describe; raises ConfigError for those we cannot train on."""
    if not isinstance(observation_space, gymnasium.spaces.Box) or observation_space.dtype.kind != "f":
        raise ConfigError(
            f"cannot train on observations {observation_space}: only Box spaces of floating-point numbers are "
            "supported; wrap the env (gymnasium.wrappers.FlattenObservation turns most spaces into one)"
        )
    if not isinstance(action_space, gymnasium.spaces.Discrete):
        raise ConfigError(f"cannot train with actions {action_space}: only Discrete spaces are supported")
    if math.prod(observation_space.shape) == 0:
        raise ConfigError(f"cannot train on observations {observation_space}: they hold no numbers")
    return Task(
        obs_shape=tuple(int(size) for size in observation_space.shape),
        num_actions=int(action_space.n),
        action_start=int(action_space.start),
        obs_dtype=np.dtype(np.float32).name,
    )
