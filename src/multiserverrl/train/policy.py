"""A trained policy as one file: weights, and what is needed to act with them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
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
from multiserverrl.train.stacks import FrameStacks
from multiserverrl.train.task import Task
from multiserverrl.train.weights import timeless, weights_fields

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
        self._prepared = self._algorithm.prepare(self.weights)
        self._rng = np.random.default_rng(0)  # greedy actions draw nothing
        self._extras: dict[str, Array] = {}
        self._stacks = FrameStacks(self.task.frame_stack)

    def __call__(self, obs: Any, begins: Array | None = None) -> Array:
        """The env's own (N, …) observations → (N, …) actions; `begins` (N,) is True where an episode begins.

        Without `begins` no episode does, but where there are other envs than before.
        """
        packed = self._stacks.pushed(self.task.packed(obs), begins)
        actions, self._extras = self._algorithm.act(
            self._prepared, packed, self._begun(len(packed), begins), 0.0, self._rng
        )
        return self.task.env_actions(actions)

    def _begun(self, num_envs: int, begins: Array | None) -> dict[str, Array]:
        """The last step's extras, zeros where an episode begins."""
        begun = {}
        for name, (dtype, shape) in self._algorithm.extras_fields.items():
            kept = self._extras.get(name)
            is_same = kept is not None and len(kept) == num_envs
            begun[name] = kept.copy() if kept is not None and is_same else np.zeros((num_envs, *shape), dtype)
            if begins is not None:
                begun[name][begins] = 0
        return begun


def save_policy(path: Path, policy: Policy, disk: Disk = DISK) -> None:
    """Write it aside and rename it: a reader finds the old file or the new one, after an OSError the old one."""
    metadata = {
        "config": config_to_json(policy.config).decode(),
        "task": msgspec.json.encode(policy.task).decode(),
        "version": json.dumps(policy.version),
        "mean": json.dumps(policy.mean),
    }
    weights = timeless(policy.weights)
    metadata["digest"] = _digest(weights, metadata)
    replace_file(path, parts_of(weights, metadata), disk)


def load_policy(path: Path) -> Policy:
    """CheckpointError when the file is missing, broken, or holds something else."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        task = msgspec.json.decode(metadata["task"], type=Task)
        config = replace(config_from_json(metadata["config"].encode()), device="auto")  # not where it was trained
        weights = read_arrays(path, weights_fields(config, task))
        policy = Policy(config, task, weights, json.loads(metadata["version"]), json.loads(metadata["mean"]))
        if metadata.pop("digest") != _digest(weights, metadata):
            raise ValueError("it is not what was saved (its digest differs)")
    except FileNotFoundError:
        raise CheckpointError(f"there is no policy at {path}: nothing has been evaluated there yet") from None
    except (OSError, KeyError, TypeError, ValueError, ConfigError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} is not a policy of ours: {error!r}") from error
    return policy


def _digest(weights: dict[str, Array], metadata: dict[str, str]) -> str:
    return digest_of(weights, json.dumps(metadata, sort_keys=True).encode())
