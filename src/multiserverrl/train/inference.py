"""The inference server: gathers requests into batches, by size or deadline, and answers them."""

from __future__ import annotations

import time

from multiserverrl.train.acting import Actor
from multiserverrl.train.beats import Doing, beat
from multiserverrl.train.channels import ActionRequest, ActionServer, Control, Counters, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.histograms import Histogram
from multiserverrl.train.opening import Stopped
from multiserverrl.train.task import Task

__all__ = ["run_inference"]

WAIT_S = 0.1  # how long a stop may go unnoticed


def run_inference(
    config: TrainConfig,
    task: Task,
    num_envs: dict[int, int],
    server: ActionServer,
    weights: WeightsReader,
    counters: Counters,
    control: Control,
) -> None:
    """Answer until the run stops. `num_envs` are those of each group, by its number.

    A batch is complete at the latest when it has what must be answered before more can come. A deterministic run
    answers each request alone, since what a network computes depends, in its last bits, on the size of the batch.
    """
    actor = Actor(config, task, num_envs, weights, counters, control)
    complete = min(config.inference_batch, _certain(num_envs, config.explorers))
    waits_us = Histogram("batch_wait_us_to_", counters)
    control.ready()
    try:
        while not control.is_stopping():
            beat(counters, Doing.WAITING_FOR_REQUESTS)
            requests = server.requests(WAIT_S)
            if not requests:
                continue
            beat(counters, Doing.ACTING)
            began_s = time.monotonic()
            if config.deterministic:
                batches = [[request] for request in sorted(requests, key=lambda request: request.group)]
            else:
                batches = [_filled(requests, server, complete, began_s + config.inference_deadline_s, control)]
            waits_us.add(1e6 * (time.monotonic() - began_s))
            for batch in batches:
                for request, answer in zip(batch, actor.answers(batch), strict=True):
                    server.answer(request.group, answer)
    except Stopped:
        pass


def _certain(num_envs: dict[int, int], explorers: int) -> int:
    """Observations that come whoever is answered last: of each explorer one group's, while its others step.

    Group g is explorer g % `explorers`'s (launch/seats).
    """
    least: dict[int, int] = {}
    for group, size in num_envs.items():
        explorer = group % explorers
        least[explorer] = min(size, least.get(explorer, size))
    return sum(least.values())


def _filled(
    requests: list[ActionRequest], server: ActionServer, complete: int, until_s: float, control: Control
) -> list[ActionRequest]:
    """These and those that come until there are `complete` observations, the time is over, or the run stops."""
    while _rows(requests) < complete and (left_s := until_s - time.monotonic()) > 0 and not control.is_stopping():
        requests += server.requests(left_s)
    return requests


def _rows(requests: list[ActionRequest]) -> int:
    return sum(len(request.obs) for request in requests)
