"""Greedy evaluation: how good a snapshot of the weights is, on envs that nothing learns from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from multiserverrl.train.channels import Control, Counters, EvaluationWriter, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["run_evaluator"]


def run_evaluator(
    config: TrainConfig,
    task: Task,
    make_envs: Callable[[], gymnasium.vector.VectorEnv[Any, Any, Any]],
    weights: WeightsReader,
    evaluations: EvaluationWriter,
    counters: Counters,
    control: Control,
    *,
    policy_path: Path | None = None,
    borrows_envs: bool = False,
) -> None:
    """Evaluate the newest weights again and again until the run stops.

    The best snapshot so far is at `policy_path` before its evaluation is reported. With
    `borrows_envs` the explorer (`lends_envs`) gives its envs up for the time of an evaluation.
    """
    raise NotImplementedError
