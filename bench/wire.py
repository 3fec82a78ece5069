"""The rows W1 to W5: one message a step for all envs, against raw TCP, and pixels by shared memory against TCP.

Each step draws its actions from the same list on both sides. Our own side is what a user holds: a
VirtualEnv, reset by a request of its own where an episode ends, or a VirtualVectorEnv with `same_step`.
"""

from __future__ import annotations

import contextlib
import inspect
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import multiserverrl as msr
import placement
import raw_tcp
from rates import Rate, in_turns, rate_of
from rows import Part, Row, Settings, Start


@dataclass(frozen=True)
class Workload:
    """So many envs of an id; `obs_bytes` of one observation."""

    env_id: str
    num_envs: int
    obs_bytes: int
    num_actions: int

    def actions(self) -> Any:
        """Actions of many steps (steps, num_envs), drawn before anything is timed."""
        return np.random.default_rng(7).integers(0, self.num_actions, (4096, self.num_envs))


CARTPOLE, CARTPOLE_8, CARTPOLE_64 = (Workload("CartPole-v1", count, 16, 2) for count in (1, 8, 64))
PIXELS_84 = Workload("bench_envs:Pixels84-v0", 8, 84 * 84 * 4, 4)
PIXELS_210 = Workload("bench_envs:Pixels210-v0", 1, 210 * 160 * 3, 4)


@contextlib.contextmanager
def raw_rate(workload: Workload, core: int) -> Iterator[Rate]:
    """The yardstick's rate, its server on `core`."""
    command = [str(placement.HERE / "raw_tcp.py"), workload.env_id, str(workload.num_envs)]
    with placement.server(command, core, "ready") as running:
        client = raw_tcp.Client(int(running.told.split()[1]), workload.num_envs, workload.obs_bytes)
        try:
            yield rate_of(client.step, workload.actions().tolist(), workload.num_envs)
        finally:
            client.close()


@contextlib.contextmanager
def own_rate(workload: Workload, url: str, *, is_tcp: bool = False) -> Iterator[Rate]:
    """Our rate, of a session of its own at `url`; `is_tcp`: no shared memory."""
    if workload.num_envs == 1:
        env = msr.VirtualEnv(url, **_without_shared_memory(msr.VirtualEnv, is_tcp))
        env.reset(seed=0)

        def step(action: Any) -> None:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

        yield rate_of(step, workload.actions()[:, 0].tolist(), 1)
        env.close()
    else:
        kind = msr.VirtualVectorEnv
        envs = kind(url, num_envs=workload.num_envs, autoreset_mode="same_step", **_without_shared_memory(kind, is_tcp))
        envs.reset(seed=0)
        yield rate_of(envs.step, workload.actions(), workload.num_envs)
        envs.close()


def _without_shared_memory(kind: Any, is_tcp: bool) -> dict[str, Any]:
    """The argument that keeps observations on TCP, where there is a choice."""
    return {"shared_memory": False} if is_tcp and "shared_memory" in inspect.signature(kind).parameters else {}


def against_raw_tcp(workload: Workload, where: str, is_tcp: bool, settings: Settings) -> Start:
    """One start of both servers, on the same core."""
    core = settings.server_core(where)
    with (
        raw_rate(workload, core) as reference,
        placement.env_server(workload.env_id, workload.num_envs, core) as (url, _),
        own_rate(workload, url, is_tcp=is_tcp) as ours,
    ):
        return Start(in_turns(reference, ours, settings.seconds))


def against_own_tcp(workload: Workload, settings: Settings) -> Start:
    """Two sessions of one server: the one by TCP, the other as it comes.

    Of two sessions alike one may be 5 % faster, by where its buffers come to lie; so new ones are opened several times.
    """
    parts = []
    with placement.env_server(workload.env_id, 2 * workload.num_envs, settings.server_core("split")) as (url, _):
        for is_tcp in (True, False) * 2:
            with own_rate(workload, url, is_tcp=is_tcp) as first, own_rate(workload, url, is_tcp=not is_tcp) as second:
                reference, ours = (first, second) if is_tcp else (second, first)
                parts.append(in_turns(reference, ours, settings.seconds / 4))
    return Start(Part(*(statistics.fmean(values) for values in zip(*parts, strict=True))))


def _row(name: str, what: str, wanted: float, workload: Workload, where: str, *, is_tcp: bool = False) -> Row:
    return Row(name, f"{what}, {where}", "raw TCP", wanted, partial(against_raw_tcp, workload, where, is_tcp))


ROWS = [
    _row("W1", "one CartPole", 0.65, CARTPOLE, "split"),
    _row("W1s", "one CartPole", 0.35, CARTPOLE, "same"),
    _row("W2", "8 CartPole, one message", 0.85, CARTPOLE_8, "split"),
    _row("W3", "64 CartPole, one worker", 0.95, CARTPOLE_64, "split"),
    _row("W4", "8 of uint8 84x84x4, TCP", 0.6, PIXELS_84, "split", is_tcp=True),
    Row("W4m", "the same by shared memory, split", "our own TCP", 1.2, partial(against_own_tcp, PIXELS_84)),
    _row("W5", "one of uint8 210x160x3, TCP", 0.5, PIXELS_210, "split", is_tcp=True),
]
