"""What each process of a run begins with: open the channels, call its room's `run_…`, say why it failed.

Nothing heavy is imported here: only the learner's room imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from multiserverrl.errors import MultiServerRLError
from multiserverrl.launch.channels import Channels
from multiserverrl.launch.envs import open_envs
from multiserverrl.launch.roles import Brief
from multiserverrl.observe.log import log_to_stderr
from multiserverrl.processes import defer
from multiserverrl.train.channels import ActionClient

__all__ = ["evaluator", "explorer", "inference", "learner"]


def explorer(config: bytes, fds: list[int]) -> None:
    """The process that drives virtual envs [exploration worker]."""
    defer()
    _run(config, _explore)


def inference(config: bytes, fds: list[int]) -> None:
    """The process that turns observations into actions [model worker]."""
    defer()
    _run(config, _infer)


def learner(config: bytes, fds: list[int]) -> None:
    """The process that learns [training worker]."""
    _run(config, _learn)


def evaluator(config: bytes, fds: list[int]) -> None:
    """The process that plays greedy episodes with published weights."""
    if hasattr(os, "nice"):
        os.nice(10)  # it takes what the others leave
    defer()
    _run(config, _evaluate)


def _run(config: bytes, play: Callable[[Brief, Channels], None]) -> None:
    log_to_stderr()
    brief = msgspec.json.decode(config, type=Brief)
    channels = Channels.open(brief.channels)
    control = channels.control(brief.row)
    try:
        play(brief, channels)
    except MultiServerRLError as error:  # the launcher tells it in one line
        control.say_last_words(error.code, str(error))
        sys.exit(1)
    except Exception as error:
        control.say_last_words("", f"{type(error).__name__}: {error}")
        raise


def _explore(brief: Brief, channels: Channels) -> None:
    from multiserverrl.train.explorer import ExplorerGroup, run_explorer

    plan = brief.plan
    groups = [group for group in plan.seats.groups if group.explorer == brief.index]
    clients = _action_clients(brief, channels, [group.number for group in groups])
    run_explorer(
        plan.config,
        plan.task,
        [
            ExplorerGroup(
                number=group.number,
                make_envs=partial(
                    open_envs, group.url, plan.env_id, group.num_envs, f"{plan.owner}-group-{group.number}", plan.trust
                ),
                actions=clients[group.number],
                played=channels.played(group.number),
            )
            for group in groups
        ],
        channels.step_writer([group.number for group in groups]),
        channels.counters(brief.row),
        channels.control(brief.row),
        lends_envs=plan.seats.is_borrowed,
    )


def _action_clients(brief: Brief, channels: Channels, groups: list[int]) -> Mapping[int, ActionClient]:
    """Each group's line to the inference server, or to this explorer's own copy of the weights."""
    plan = brief.plan
    if plan.config.inference == "central":
        return {group: channels.action_client(group) for group in groups}
    from multiserverrl.train.acting import Actor, OwnActions

    weights, counters, control = channels.weights_reader(), channels.counters(brief.row), channels.control(brief.row)
    actor = Actor(plan.config, plan.task, plan.seats.sizes, weights, counters, control)
    return {group: OwnActions(actor, group) for group in groups}


def _infer(brief: Brief, channels: Channels) -> None:
    from multiserverrl.train.inference import run_inference

    plan = brief.plan
    run_inference(
        plan.config,
        plan.task,
        plan.seats.sizes,
        channels.action_server(),
        channels.weights_reader(),
        channels.counters(brief.row),
        channels.control(brief.row),
    )


def _learn(brief: Brief, channels: Channels) -> None:
    from multiserverrl.train.learner import run_learner

    plan = brief.plan
    run_learner(
        plan.config,
        plan.task,
        channels.step_reader(),
        channels.weights_writer(),
        channels.counters(brief.row),
        channels.control(brief.row),
        Path(plan.run_dir) / "checkpoints",
        replay_arrays=channels.replay_arrays(),
        played=[channels.played(group.number) for group in plan.seats.groups],
    )


def _evaluate(brief: Brief, channels: Channels) -> None:
    from multiserverrl.train.evaluate import run_evaluator

    plan = brief.plan
    seats = plan.seats
    run_evaluator(
        plan.config,
        plan.task,
        partial(
            open_envs, seats.evaluation_url, plan.env_id, seats.evaluation_envs, f"{plan.owner}-evaluator", plan.trust
        ),
        channels.weights_reader(),
        channels.evaluations(),
        channels.counters(brief.row),
        channels.control(brief.row),
        policy_path=Path(plan.run_dir) / "policy.safetensors",
        borrows_envs=seats.is_borrowed,
    )
