"""The learner: owns the replay buffer, updates the network, publishes weights, writes checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import Control, Counters, StepReader, WeightsWriter
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.replay import replay_fields
from multiserverrl.train.task import Task

__all__ = ["replay_layout", "run_learner"]


def replay_layout(config: TrainConfig, task: Task) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of each of the replay buffer's arrays."""
    return replay_fields(algorithm_for(config, task).transition_fields, config.buffer_size)


def run_learner(
    config: TrainConfig,
    task: Task,
    steps: StepReader,
    weights: WeightsWriter,
    counters: Counters,
    control: Control,
    checkpoint_dir: Path,
    *,
    replay_arrays: dict[str, NDArray[Any]] | None = None,
) -> None:
    """Learn until the run stops, then write a last checkpoint.

    A checkpoint in `checkpoint_dir` is gone on from; CheckpointError when none there loads.
    `replay_arrays` (zeros at first, laid out by `replay_layout`) outlive this process where
    they are shared memory: a learner that starts again finds its replay buffer in them.
    """
    raise NotImplementedError
