"""The inference server: turns batches of observations into actions, in NumPy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.channels import ActionRequest, ActionServer, Control, Counters, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.opening import Stopped, sleep_unless_stopping
from multiserverrl.train.task import Task

__all__ = ["exploration_rng", "run_inference"]

WAIT_S = 0.1  # how long a stop may go unnoticed
Snapshot = tuple[dict[str, NDArray[Any]], int]


def run_inference(
    config: TrainConfig,
    task: Task,
    num_envs: int,
    server: ActionServer,
    weights: WeightsReader,
    counters: Counters,
    control: Control,
) -> None:
    """Answer until the run stops. `num_envs` is that of all groups together.

    Half of them make a batch complete at the latest: the other half steps meanwhile.
    """
    algorithm = algorithm_for(config, task)
    rng: np.random.Generator | None = None  # a resumed run's env steps are known when the first request comes
    complete = min(config.inference_batch, -(-num_envs // 2))
    snapshot: Snapshot | None = None
    control.ready()
    try:
        while not control.is_stopping():
            requests = _next_batch(server, complete, config.inference_deadline_s)
            if not requests:
                continue
            env_steps = int(counters.get("env_steps"))
            rng = rng or exploration_rng(config.seed, env_steps)
            explore = algorithm.exploration(env_steps)
            counters.set("epsilon", explore)
            snapshot = _newest(weights, snapshot)
            while snapshot is None and env_steps >= config.warmup_steps:
                sleep_unless_stopping(0.005, control)
                snapshot = _newest(weights, snapshot)
            obs = requests[0].obs if len(requests) == 1 else np.concatenate([request.obs for request in requests])
            if snapshot is None:
                (actions, _), version = algorithm.act_at_random(len(obs), rng), 0
            else:
                (actions, _), version = algorithm.act(snapshot[0], obs, {}, explore, rng), snapshot[1]
            _answer(server, requests, actions, version)
            counters.add("batches", 1)
            counters.add("batch_rows", len(obs))
    except Stopped:
        pass


def exploration_rng(seed: int, env_steps: int) -> np.random.Generator:
    """Random numbers that are named by the seed and the env steps at which they begin: no state to be saved."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, env_steps, 0]))


def _next_batch(server: ActionServer, complete: int, deadline_s: float) -> list[ActionRequest]:
    """Requests that wait: `complete` observations, or what there are when the first has waited `deadline_s`."""
    requests = server.requests(WAIT_S)
    if not requests or _rows(requests) >= complete:
        return requests
    until_s = time.monotonic() + deadline_s
    while _rows(requests) < complete and (left_s := until_s - time.monotonic()) > 0:
        requests += server.requests(left_s)
    return requests


def _rows(requests: list[ActionRequest]) -> int:
    return sum(len(request.obs) for request in requests)


def _newest(weights: WeightsReader, held: Snapshot | None) -> Snapshot | None:
    if held is not None and held[1] == weights.version():
        return held
    return weights.read() or held


def _answer(server: ActionServer, requests: list[ActionRequest], actions: NDArray[Any], version: int) -> None:
    first = 0
    for request in requests:
        server.answer(request.group, actions[first : first + len(request.obs)], version)
        first += len(request.obs)
