"""The rows with several envs or lanes at work at once: lanes in flight, and envs that wait in workers of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

import multiserverrl as msr
import placement
from rates import Rate, in_turns, rate_of
from rows import Row, Settings, Start
from wire import CARTPOLE_64


@contextlib.contextmanager
def lanes_rate(url: str, num_envs: int, lanes: int) -> Iterator[Rate]:
    """The rate of `send` and `recv` with all lanes in flight; filling and draining them is in the time."""
    envs = msr.VirtualVectorEnv(url, num_envs=num_envs, lanes=lanes, autoreset_mode="same_step")
    envs.reset(seed=0)
    actions = np.random.default_rng(7).integers(0, 2, (4096, num_envs))

    def rate(seconds: float) -> float:
        count, turn, began = 0, 0, time.perf_counter()
        envs.send(actions[0])
        while time.perf_counter() - began < seconds:
            env_ids = envs.recv()[4]["env_id"]
            count, turn = count + len(env_ids), (turn + 1) % len(actions)
            envs.send(actions[turn, : len(env_ids)], env_ids)
        envs.recv(num_envs)
        return (count + num_envs) / (time.perf_counter() - began)

    yield rate
    envs.close()


def two_lanes(settings: Settings) -> Start:
    """One start of the server; the reference steps in this process, on this core."""
    workload = CARTPOLE_64
    local: Any = gymnasium.make_vec(
        workload.env_id, workload.num_envs, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    local.reset(seed=0)
    reference = rate_of(local.step, workload.actions(), workload.num_envs)
    with (
        placement.env_server(workload.env_id, workload.num_envs, settings.server_core("split")) as (url, _),
        lanes_rate(url, workload.num_envs, 2) as ours,
    ):
        start = Start(in_turns(reference, ours, settings.seconds))
    local.close()
    return start


def lockstep(envs: msr.VirtualVectorEnv) -> Callable[[NDArray[np.int64]], object]:
    """All eight are stepped when the last has answered."""
    return envs.step


def in_flight(envs: msr.VirtualVectorEnv) -> Callable[[NDArray[np.int64]], object]:
    """An env that has answered gets its next action, and waits for no other; a call is over after eight answers."""
    envs.send(np.zeros(8, int))
    surplus = 0

    def eight_steps(actions: NDArray[np.int64]) -> None:
        nonlocal surplus
        while surplus < 8:
            env_ids = envs.recv()[4]["env_id"]
            envs.send(actions[: len(env_ids)], env_ids)
            surplus += len(env_ids)
        surplus -= 8

    return eight_steps


def sleepers(driver: Callable[..., Any], settings: Settings) -> Start:
    """8 envs that sleep 5 ms a step, a session each on 8 workers, against one in this process."""
    local = gymnasium.make("bench_envs:Sleeping5ms-v0")
    local.reset()
    with placement.env_server("bench_envs:Sleeping5ms-v0", 8, settings.server_core("split"), workers=8) as (url, _):
        envs = msr.VirtualVectorEnv([url] * 8, num_envs=8, autoreset_mode="same_step")
        envs.reset(seed=0)
        reference = rate_of(local.step, [0, 1], 1, stride=1)
        start = Start(in_turns(reference, rate_of(driver(envs), [np.zeros(8, int)], 8, stride=1), settings.seconds))
        envs.close()
    return start


ROWS = [
    Row("W3f", "64 CartPole, two lanes in flight, split", "SyncVectorEnv, in process", 0.85, two_lanes),
    Row(
        "S8", "8 envs of 5 ms, 8 workers, in flight", "one env, in process", 7.5, partial(sleepers, in_flight), digits=2
    ),
    Row("S8l", "the same in lockstep, step()", "one env, in process", None, partial(sleepers, lockstep), digits=2),
]
