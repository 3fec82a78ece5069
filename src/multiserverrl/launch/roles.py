"""The cast of a training run as plain data: who there is, what each is started with, which deaths it survives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import msgspec

from multiserverrl.client.trust import SYSTEM_TRUST, Trust
from multiserverrl.launch.channels import ChannelPlan, ChannelsHandle
from multiserverrl.launch.seats import Seats
from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.stores import kept_steps, store_layout
from multiserverrl.train.task import Task
from multiserverrl.train.weights import weights_fields

__all__ = ["Brief", "Role", "RunPlan", "cast_of", "channel_plan"]

_ENTRIES = "multiserverrl.launch.entries"


class RunPlan(msgspec.Struct, frozen=True):
    """What every process of a run must know."""

    env_id: str
    config: TrainConfig
    task: Task
    seats: Seats
    run_dir: str
    owner: str  # the key of this run's sessions on the env servers
    trust: Trust = SYSTEM_TRUST  # of those servers, where TLS is spoken


class Brief(msgspec.Struct, frozen=True):
    """What one process is started with."""

    plan: RunPlan
    name: str
    index: int  # among those of its kind
    row: int  # its own row of the counters
    channels: ChannelsHandle


@dataclass(frozen=True)
class Role:
    """One process of the cast. When it dies once more than `most_restarts` times in a row, the run ends."""

    name: str
    entry: str
    index: int
    row: int
    most_restarts: int
    stop_grace_s: float  # after the stop was said; then it is killed


def cast_of(plan: RunPlan) -> list[Role]:
    """All processes of a run, the slowest to start first; row 0 of the counters is the launcher's."""
    explorers = plan.config.explorers
    roles = [
        Role("learner", f"{_ENTRIES}:learner", 0, 1, most_restarts=5, stop_grace_s=60.0),
        *(
            Role(f"explorer-{index}", f"{_ENTRIES}:explorer", index, 4 + index, most_restarts=5, stop_grace_s=5.0)
            for index in range(explorers)
        ),
        Role("evaluator", f"{_ENTRIES}:evaluator", 0, 3, most_restarts=5, stop_grace_s=5.0),
    ]
    if plan.config.inference == "central":
        roles.append(Role("inference", f"{_ENTRIES}:inference", 0, 2, most_restarts=5, stop_grace_s=5.0))
    if plan.config.deterministic:  # what another birth would do differs from run to run: --resume does not
        roles = [dataclasses.replace(role, most_restarts=0) for role in roles]
    return roles


def channel_plan(plan: RunPlan) -> ChannelPlan:
    """The channels that this cast needs; ConfigError when the algorithm cannot learn this task."""
    algorithm = algorithm_for(plan.config, plan.task)
    return ChannelPlan(
        task=plan.task,
        group_sizes=tuple(group.num_envs for group in plan.seats.groups),
        weights=weights_fields(plan.config, plan.task),
        rows=4 + plan.config.explorers,
        replay=store_layout(plan.config, algorithm),
        extras=algorithm.extras_fields,
        kept_steps=kept_steps(plan.config, algorithm),
    )
