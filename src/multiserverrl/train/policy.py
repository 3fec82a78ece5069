"""A trained policy as one file: weights, and what is needed to act with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from multiserverrl.errors import CheckpointError, ConfigError
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.checkpoint import write_arrays
from multiserverrl.train.config import TrainConfig, config_from_json, config_to_json
from multiserverrl.train.task import Task

__all__ = ["Policy", "load_policy", "save_policy"]

Array = NDArray[Any]


@dataclass
class Policy:
    """Greedy actions of one snapshot of the weights, as the env itself numbers them."""

    config: TrainConfig
    task: Task
    weights: dict[str, Array]
    version: int
    mean: float | None = None  # greedy return of its evaluation, where there was one

    def __post_init__(self) -> None:
        self._algorithm = algorithm_for(self.config, self.task)
        self._rng = np.random.default_rng(0)  # greedy actions draw nothing

    def __call__(self, obs: Array) -> Array:
        """(N, *obs_shape) → (N,) actions."""
        actions, _ = self._algorithm.act(self.weights, obs.astype(self.task.obs_dtype, copy=False), {}, 0.0, self._rng)
        return actions + self.task.action_start


def save_policy(path: Path, policy: Policy) -> None:
    """Write it aside and rename it: a reader finds the old file or the new one."""
    metadata = {
        "config": config_to_json(policy.config).decode(),
        "task": msgspec.json.encode(policy.task).decode(),
        "version": json.dumps(policy.version),
        "mean": json.dumps(policy.mean),
    }
    write_arrays(path, policy.weights, metadata)


def load_policy(path: Path) -> Policy:
    """CheckpointError when the file is missing, broken, or holds something else."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        task = msgspec.json.decode(metadata["task"], type=Task)
        config = config_from_json(metadata["config"].encode())
        policy = Policy(config, task, weights, json.loads(metadata["version"]), json.loads(metadata["mean"]))
    except FileNotFoundError:
        raise CheckpointError(f"there is no policy at {path}: nothing has been evaluated there yet") from None
    except (OSError, KeyError, ValueError, ConfigError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is not a policy of ours: {error!r}") from error
    _check_shapes(path, policy)
    return policy


def _check_shapes(path: Path, policy: Policy) -> None:
    for name, (dtype, shape) in algorithm_for(policy.config, policy.task).weights_fields.items():
        array = policy.weights.get(name)
        if array is None or array.shape != shape or array.dtype != np.dtype(dtype):
            raise CheckpointError(f"{path} lacks the weights {name!r} as {dtype}{shape}")
