"""The explorer: steps its envs with the inference server's actions, and sends what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from multiserverrl.train.channels import ActionClient, Control, Counters, StepWriter
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

__all__ = ["ExplorerGroup", "run_explorer"]


@dataclass(frozen=True)
class ExplorerGroup:
    """Envs that step together. `make_envs` opens them (again, after a loss): a VectorEnv in SAME_STEP autoreset."""

    number: int  # over all explorers
    make_envs: Callable[[], gymnasium.vector.VectorEnv[Any, Any, Any]]
    actions: ActionClient


def run_explorer(
    config: TrainConfig,
    task: Task,
    groups: Sequence[ExplorerGroup],
    steps: StepWriter,
    counters: Counters,
    control: Control,
    *,
    lends_envs: bool = False,
) -> None:
    """Explore until the run stops or every env has used up its episodes.

    Give it two groups (or more): one steps while another waits for actions. With `lends_envs` it
    closes its envs while the evaluator needs their places (a run with no env to spare).
    """
    raise NotImplementedError
