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
from multiserverrl.observe.disk import DISK, Disk, replace_file
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.arraysfile import digest_of, parts_of, read_arrays
from multiserverrl.train.config import TrainConfig, config_from_json, config_to_json
from multiserverrl.train.task import Task
from multiserverrl.train.weights import weights_fields

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


def save_policy(path: Path, policy: Policy, disk: Disk = DISK) -> None:
    """Write it aside and rename it: a reader finds the old file or the new one, after an OSError the old one."""
    metadata = {
        "config": config_to_json(policy.config).decode(),
        "task": msgspec.json.encode(policy.task).decode(),
        "version": json.dumps(policy.version),
        "mean": json.dumps(policy.mean),
    }
    metadata["digest"] = _digest(policy.weights, metadata)
    replace_file(path, parts_of(policy.weights, metadata), disk)


def load_policy(path: Path) -> Policy:
    """CheckpointError when the file is missing, broken, or holds something else."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        task = msgspec.json.decode(metadata["task"], type=Task)
        config = config_from_json(metadata["config"].encode())
        weights = read_arrays(path, weights_fields(config, task))
        policy = Policy(config, task, weights, json.loads(metadata["version"]), json.loads(metadata["mean"]))
        if metadata.pop("digest") != _digest(weights, metadata):
            raise ValueError("it is not what was saved (its digest differs)")
    except FileNotFoundError:
        raise CheckpointError(f"there is no policy at {path}: nothing has been evaluated there yet") from None
    except (OSError, KeyError, ValueError, ConfigError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is not a policy of ours: {error!r}") from error
    return policy


def _digest(weights: dict[str, Array], metadata: dict[str, str]) -> str:
    return digest_of(weights, json.dumps(metadata, sort_keys=True).encode())
