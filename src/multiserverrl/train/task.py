"""What an algorithm must know of an environment, as plain data: what it sees and the actions it has.

In the trainer an observation is one NumPy array, whatever the env gives: a Box is itself, a Dict of Boxes is a
structured array of shape (N,) with fields f0, f1, … in the order of `obs_parts`. So rings, slots and replay copy
and index all observations alike, and only networks look inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import msgspec
import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import ConfigError

__all__ = ["ObsPart", "Task", "task_of"]

Array = NDArray[Any]
_KEPT_DTYPES = ("bool", "uint8")  # others become float32: images and masks stay as small as they are


class ObsPart(msgspec.Struct, frozen=True):
    """One key of a Dict observation."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Task(msgspec.Struct, frozen=True):
    """Observations travel as `obs_dtype`; a network sees `obs_shape`, a stack of `frame_stack` where that is more than
    1, and an env gives one `frame_shape` of it. Discrete actions travel as int64 from 0, the env's own are
    `action_start` higher; where `num_actions` is 0 actions are float32 arrays of `action_shape` between low and high.
    """

    obs_shape: tuple[int, ...]
    num_actions: int
    action_start: int = 0
    obs_dtype: str = "float32"
    obs_parts: tuple[ObsPart, ...] = ()  # of a Dict; `obs_shape` is () then
    action_shape: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()  # of a continuous action, flat
    action_high: tuple[float, ...] = ()
    frame_stack: int = 1

    @property
    def obs_size(self) -> int:
        """Numbers in one observation that is a Box."""
        return math.prod(self.obs_shape)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of an observation as the env gives it."""
        return self.obs_shape[1:] if self.frame_stack > 1 else self.obs_shape

    def stacked(self, frames: int) -> Task:
        """The same, seen `frames` observations at once; ConfigError where that has no meaning."""
        if frames == 1:
            return self
        if self.obs_parts:
            raise ConfigError("--frame-stack is for observations that are one Box: this env's are a Dict")
        return msgspec.structs.replace(self, obs_shape=(frames, *self.frame_shape), frame_stack=frames)

    @property
    def is_discrete(self) -> bool:
        """Whether an action is one of `num_actions`."""
        return self.num_actions > 0

    @property
    def action_dtype(self) -> str:
        """Of actions in the trainer."""
        return "int64" if self.is_discrete else "float32"

    def packed(self, obs: Any) -> Array:
        """A vector env's observations as (N, *frame_shape)."""
        if not self.obs_parts:
            return np.asarray(obs, self.obs_dtype)
        found = np.zeros(len(obs[self.obs_parts[0].name]), self.obs_dtype)
        for index, part in enumerate(self.obs_parts):
            found[f"f{index}"] = obs[part.name]
        return found

    def packed_one(self, obs: Any) -> Array:
        """One observation, of `frame_shape`."""
        if not self.obs_parts:
            return np.asarray(obs, self.obs_dtype)
        one: Array = self.packed({name: np.asarray(value)[None] for name, value in obs.items()})[0]
        return one

    def no_actions(self, num_envs: int) -> Array:
        """(N, *action_shape) zeros."""
        return np.zeros((num_envs, *self.action_shape), self.action_dtype)

    def env_actions(self, actions: Array) -> Array:
        """(N, *action_shape) as the env itself understands them."""
        return actions + self.action_start if self.is_discrete else actions


def task_of(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> Task:
    """The task that the *single* spaces of an env describe; raises ConfigError for those we cannot train on."""
    spaces = observation_space.spaces if isinstance(observation_space, gymnasium.spaces.Dict) else None
    parts = _parts_of(observation_space, {"": observation_space} if spaces is None else spaces)
    seen: dict[str, Any] = {"obs_shape": parts[0].shape, "obs_dtype": parts[0].dtype}
    if spaces is not None:
        text = ",".join(f"{part.shape}{np.dtype(part.dtype).str}" for part in parts)
        seen = {"obs_shape": (), "obs_dtype": f"{text},", "obs_parts": parts}
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return Task(**seen, num_actions=int(action_space.n), action_start=int(action_space.start))
    if isinstance(action_space, gymnasium.spaces.Box) and action_space.dtype.kind == "f" and action_space.is_bounded():
        low, high = (tuple(map(float, bound.ravel())) for bound in (action_space.low, action_space.high))
        return Task(**seen, num_actions=0, action_shape=action_space.shape, action_low=low, action_high=high)
    raise ConfigError(
        f"cannot train with actions {action_space}: only Discrete spaces and bounded Box spaces of floating-point "
        "numbers are supported"
    )


def _parts_of(whole: gymnasium.Space[Any], spaces: Mapping[str, gymnasium.Space[Any]]) -> tuple[ObsPart, ...]:
    parts = []
    for name, space in spaces.items():
        if not isinstance(space, gymnasium.spaces.Box):
            raise ConfigError(
                f"cannot train on observations {whole}: only Box spaces and Dicts of them are supported; wrap the "
                "env (gymnasium.wrappers.FlattenObservation turns most spaces into one)"
            )
        if math.prod(space.shape) == 0:
            raise ConfigError(f"cannot train on observations {whole}: they hold no numbers")
        dtype = space.dtype.name if space.dtype.name in _KEPT_DTYPES else "float32"
        parts.append(ObsPart(name, dtype, tuple(int(size) for size in space.shape)))
    if not parts:
        raise ConfigError(f"cannot train on observations {whole}: they hold no numbers")
    return tuple(parts)
