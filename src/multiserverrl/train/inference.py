"""The inference server: turns batches of observations into actions, in NumPy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.train.algorithms import algorithm_for
from multiserverrl.train.algorithms.protocol import Acted, Algorithm
from multiserverrl.train.channels import ActionRequest, ActionServer, Answer, Control, Counters, WeightsReader
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.opening import Stopped, sleep_unless_stopping
from multiserverrl.train.task import Task

__all__ = ["exploration_rng", "run_inference"]

WAIT_S = 0.1  # how long a stop may go unnoticed
Array = NDArray[Any]
Snapshot = tuple[Any, int]  # weights as the algorithm has prepared them, and their version


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
            snapshot = _newest(algorithm, weights, snapshot)
            while snapshot is None and env_steps >= config.warmup_steps:
                sleep_unless_stopping(0.005, control)
                snapshot = _newest(algorithm, weights, snapshot)
            obs = _joined([request.obs for request in requests])
            if snapshot is None:
                acted, version = algorithm.act_at_random(len(obs), rng), 0
            else:
                acted, version = algorithm.act(snapshot[0], obs, _extras(requests), explore, rng), snapshot[1]
            _answer(server, requests, acted, version)
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


def _newest(algorithm: Algorithm, weights: WeightsReader, held: Snapshot | None) -> Snapshot | None:
    if held is not None and held[1] == weights.version():
        return held
    newest = weights.read()
    return held if newest is None else (algorithm.prepare(newest[0]), newest[1])


def _extras(requests: list[ActionRequest]) -> dict[str, Array]:
    """Of these envs' last steps, zeros where an episode begins."""
    found = {}
    for name in requests[0].extras:
        found[name] = _joined([request.extras[name] for request in requests]).copy()
        found[name][_joined([request.begins for request in requests])] = 0
    return found


def _answer(server: ActionServer, requests: list[ActionRequest], acted: Acted, version: int) -> None:
    actions, extras = acted
    first = 0
    for request in requests:
        rows = slice(first, first + len(request.obs))
        server.answer(
            request.group, Answer(actions[rows], version, {name: array[rows] for name, array in extras.items()})
        )
        first += len(request.obs)


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
