"""An EnvPool as a `gymnasium.vector.VectorEnv`: its batched steps, Gymnasium's spaces, seeds, masks and autoreset.

An EnvPool (github.com/sail-sg/envpool) steps a batch of envs in C++ and calls itself a `gymnasium.Env`.
Runs in env workers alone; `envpool` is imported when an operator has named it.
"""

from __future__ import annotations

import difflib
import importlib
import os
import secrets
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from multiserverrl.errors import ConfigError, UnknownEnvError

__all__ = ["EnvPoolVectorEnv", "find_pool", "is_pool"]

Array = NDArray[Any]
_NO_LIMIT = 2**31 - 1  # EnvPool's max_episode_steps of an env that has none
_KNOWN_INFOS = {"env_id", "elapsed_step"}  # the row, and what the caller can count
_ROW_KEYS = ["env_id", "players.env_id"]
_PLAIN_STATE = {
    *("obs", "reward", "done", "trunc", "elapsed_step"),
    *("discount", "step_type", "info:env_id", "info:players.env_id"),
}


def find_pool(task_id: str) -> Callable[..., Any]:
    """A function that makes an EnvPool of `num_envs` envs; UnknownEnvError with close matches.

    Unless it is told otherwise the pool has a seed of its own (EnvPool's default is the same for all), and as many
    threads as it may use cores.
    """
    try:
        envpool = importlib.import_module("envpool")
    except ImportError as error:
        raise UnknownEnvError(
            f"envpool:{task_id}: EnvPool cannot be imported ({error}); "
            "pip install 'multiserverrl[envpool]' where the server runs"
        ) from error
    known = envpool.list_all_envs()
    if task_id not in known:
        close = difflib.get_close_matches(task_id, known, n=3, cutoff=0.6)
        raise UnknownEnvError(f"EnvPool has no {task_id}" + (f"; did you mean {', '.join(close)}?" if close else ""))

    def make(num_envs: int, **arguments: Any) -> Any:
        own = {"seed": secrets.randbits(31), "num_threads": min(num_envs, len(os.sched_getaffinity(0)))}
        return envpool.make_gymnasium(task_id, num_envs=num_envs, **{**own, **arguments})

    return make


def is_pool(env: Any) -> bool:
    """Whether it is an EnvPool with Gymnasium's API."""
    return isinstance(env, gymnasium.Env) and any(base.__module__.startswith("envpool.") for base in type(env).__mro__)


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """All envs of a pool. ConfigError for a pool that answers for some of its envs at a time, or for several players.

    Infos are EnvPool's own with Gymnasium's masks, without `env_id` (row i is env i) and `elapsed_step`, which the
    caller can count.
    """

    def __init__(self, pool: Any) -> None:
        config = pool.spec.config
        if config.max_num_players != 1 or pool.is_async:
            raise ConfigError(
                "an EnvPool is served whole: batch_size must be num_envs and max_num_players 1, "
                f"not {config.batch_size} of {config.num_envs} and {config.max_num_players}"
            )
        self._pool = pool
        self.num_envs = config.num_envs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its bounds are float64, whatever the space's dtype
            self.single_observation_space, self.single_action_space = pool.observation_space, pool.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = pool.render_mode
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}
        limit = config.max_episode_steps
        self.spec = EnvSpec(
            type(pool).__name__,
            reward_threshold=pool.spec.reward_threshold,
            max_episode_steps=None if limit == _NO_LIMIT else limit,
        )
        self._observations: Any = None
        self._plain_action = _plain_action(pool)
        self._rows = np.arange(self.num_envs, dtype=np.int32)
        self._all = np.ones(self.num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all envs, or those of `options["reset_mask"]`.

        EnvPool takes seeds only when it is made, so with a seed it is made anew. ValueError for other options, for a
        seed of some envs alone, and for one beyond 32 bits.
        """
        mask = (options or {}).get("reset_mask")
        if set(options or {}) - {"reset_mask"}:
            raise ValueError(f"EnvPool's reset() takes no options but reset_mask, not {', '.join(options or {})}")
        if seed is not None:
            if mask is not None:
                raise ValueError("EnvPool is seeded as a whole: no seed with a reset_mask")
            self._pool = _seeded(self._pool, seed)
        if mask is None or mask.all():
            self._observations, infos = self._pool.reset()
            return self._observations, _vector_infos(infos, self._all)
        rows = np.flatnonzero(mask)
        part, infos = self._pool.reset(rows)
        self._observations = _merged(self._observations, part, rows)
        return self._observations, _vector_infos(infos, mask)

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Advance every env once; one whose episode has ended is reset instead, with reward 0."""
        if self._plain_action is not None:  # without EnvPool's own Python: 11 of 74 µs for 64 envs (bench/pools.py)
            self._pool._send([self._rows, self._rows, actions.astype(self._plain_action, order="C", copy=False)])
            state = dict(zip(self._pool._state_keys, self._pool._recv(), strict=True))
            self._observations, truncated = state["obs"], state["trunc"]
            return self._observations, state["reward"], state["done"] & ~truncated, truncated, {}
        self._observations, rewards, terminated, truncated, infos = self._pool.step(actions)
        return self._observations, rewards, terminated, truncated, _vector_infos(infos, self._all)

    def render(self) -> tuple[Any, ...] | None:
        """A frame an env; None without a render_mode."""
        return None if self.render_mode is None else tuple(self._pool.render(env_ids=self._pool.all_env_ids))

    def close_extras(self, **kwargs: Any) -> None:
        """Its threads end when nothing holds it any more."""
        self._pool.close()
        self._pool = None


def _plain_action(pool: Any) -> Any:
    """The dtype of its actions where they and its observations are one array each, and nothing is told beside them."""
    keys, state = list(getattr(pool, "_action_keys", ())), set(getattr(pool, "_state_keys", ()))
    if len(keys) != 3 or keys[:2] != _ROW_KEYS or state != _PLAIN_STATE:
        return None
    return pool.spec.action_array_spec[keys[2]].dtype


def _seeded(pool: Any, seed: int | list[int | None]) -> Any:
    """The same pool made anew with other seeds: env i gets seed + i, or seed[i]."""
    listed = seed if isinstance(seed, list) else []
    seeds: list[Any] = listed or [seed]
    for one in seeds:
        if not isinstance(one, int) or not -(2**31) <= one < 2**31:
            raise ValueError(f"EnvPool's seeds are whole numbers of 32 bits, one an env, not {one}")
    config = pool.spec.config._replace(seed=0 if listed else seed, env_seed=listed)
    made = type(pool)(type(pool.spec)(config))
    for name, value in vars(pool).items():
        if name.startswith(("_render_", "_gym_")):  # what it was told, and its spaces, after it was made
            setattr(made, name, value)
    return made


def _vector_infos(told: dict[str, Any], mask: Array) -> dict[str, Any]:
    """Gymnasium's vector infos of EnvPool's, which have a row for each env of the mask."""
    infos: dict[str, Any] = {}
    for key, value in told.items():
        if isinstance(value, dict):
            if inner := _vector_infos(value, mask):
                infos[key], infos[f"_{key}"] = inner, mask
        elif key not in _KNOWN_INFOS:
            infos[key], infos[f"_{key}"] = value if len(value) == len(mask) else _spread(value, mask), mask
    return infos


def _spread(values: Array, mask: Array) -> Array:
    spread = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    spread[mask] = values
    return spread


def _merged(whole: Any, part: Any, rows: Array) -> Any:
    """A copy of all observations with those of some rows in it."""
    if isinstance(whole, dict):
        return {key: _merged(value, part[key], rows) for key, value in whole.items()}
    merged = whole.copy()
    merged[rows] = part
    return merged
