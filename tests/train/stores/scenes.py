"""Steps of groups of envs whose every observation is another, and stores to take them in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from multiserverrl.train.channels import RawSteps
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import new_arrays
from multiserverrl.train.stores import Store, store_for, store_layout
from multiserverrl.train.task import Task

SHAPE = (2,)


class Declared:
    """What a store asks of an algorithm."""

    weights_fields: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, task: Task, storage: str = "n_steps", extras: dict[str, Any] | None = None) -> None:
        self.storage = storage
        self.extras_fields: dict[str, Any] = extras or {}
        obs = (task.obs_dtype, task.obs_shape)
        self.transition_fields = {
            "obs": obs, "action": ("int64", ()), "reward": ("float32", ()), "next_obs": obs,
            "discount": ("float32", ()), "weights_version": ("int64", ()),
        }  # fmt: skip


def task_with(stack: int) -> Task:
    return Task(obs_shape=SHAPE, num_actions=2).stacked(stack)


def arrays_for(config: TrainConfig, algorithm: Declared) -> dict[str, np.ndarray]:
    return new_arrays(store_layout(config, algorithm))  # type: ignore[arg-type]


def store_on(config: TrainConfig, algorithm: Declared, arrays: dict[str, np.ndarray] | None = None) -> Any:
    return store_for(config, algorithm, arrays_for(config, algorithm) if arrays is None else arrays)  # type: ignore[arg-type]


class Envs:
    """One group; an observation is its own number, twice."""

    def __init__(self, group: int, N: int, seed: int = 0, *, end: float = 0.15, broken: float = 0.05) -> None:
        self.group, self.N, self.rng = group, N, np.random.default_rng([seed, group])
        self.end, self.broken = end, broken
        self.number, self._seen = 0, group * 1_000_000.0
        self.obs = self._new(N)

    def step(self) -> RawSteps:
        N = self.N
        terminated, truncated = self.rng.random(N) < self.end, self.rng.random(N) < self.end / 2
        valid = self.rng.random(N) >= self.broken
        truncated |= ~valid
        next_obs = self._new(N)
        steps = RawSteps(
            group=self.group, obs=self.obs, action=self.rng.integers(0, 2, N),
            reward=self.rng.normal(size=N).astype(np.float32), terminated=terminated, truncated=truncated,
            next_obs=next_obs, valid=valid, weights_version=self.number, number=self.number,
            extras={"memory": self.rng.normal(size=(N, 3)).astype(np.float32)},
        )  # fmt: skip
        ends = (terminated | truncated)[:, None]
        self.obs = np.where(ends, self._new(N), next_obs)
        self.number += 1
        return steps

    def _new(self, count: int) -> np.ndarray:
        numbers = self._seen + np.arange(count)
        self._seen += count
        return np.repeat(numbers[:, None], 2, axis=1).astype(np.float32)


def some_steps(count: int, sizes: tuple[int, ...] = (3, 2), **kind: Any) -> Iterator[RawSteps]:
    """The groups take turns."""
    groups = [Envs(group, N, **kind) for group, N in enumerate(sizes)]
    for number in range(count):
        yield groups[number % len(groups)].step()


def all_items(store: Any) -> dict[str, np.ndarray]:
    """Every item that is there, in the order of its rows, stacks and all; NaN where its frames are gone."""
    items = store.replay.rows(np.arange(len(store)))
    if store.frames is not None:
        for name in ("obs", "next_obs"):
            chains = store.frames.chains(items[name])
            items[name] = store.frames.stacks(chains)
            items[name][~store.frames.are_there(chains)] = np.nan
    return items


def taken(store: Store, steps: Iterator[RawSteps]) -> Any:
    for raw in steps:
        store.take(raw)
    return store
