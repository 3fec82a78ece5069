"""The inference server: turns batches of observations into actions."""

from __future__ import annotations

from multiserverrl.train.channels import ActionServer, Control, Counters, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["run_inference"]


def run_inference(
    config: TrainConfig,
    task: Task,
    num_envs: int,
    server: ActionServer,
    weights: WeightsReader,
    counters: Counters,
    control: Control,
) -> None:
    """Answer until the run stops. `num_envs` is that of all groups together: a batch never waits for more."""
    raise NotImplementedError
