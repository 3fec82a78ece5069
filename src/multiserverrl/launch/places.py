"""Where a run's envs are: on env servers that run already, on an embedded one, or (for tests) in the explorers.

Opening a place finds out everything that must be known before a process is started, and refuses
what cannot work. Closing it ends the embedded server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import gymnasium

from multiserverrl.client.trust import Trust
from multiserverrl.errors import ConfigError, UnknownEnvError
from multiserverrl.launch.config import DEFAULT_COUNT, DEFAULT_ENV_ID, LaunchConfig
from multiserverrl.launch.seats import MOST_EVALUATION_ENVS, Offer
from multiserverrl.processes import deferring
from multiserverrl.train.task import Task, task_of

__all__ = ["Place", "open_place", "served_env_id"]


@dataclass(frozen=True)
class Place:
    """What is known of the envs. `tend` is called often: it starts again what died of the embedded server."""

    env_id: str
    task: Task
    reward_threshold: float | None
    offers: list[Offer]
    count: int | None  # None: all that are free
    tend: Callable[[], None]


@contextmanager
def open_place(launch: LaunchConfig, evaluation_envs: int, claims: Mapping[str, int] | None = None) -> Iterator[Place]:
    """The place that `launch` names; `evaluation_envs` are served beyond the count where we serve.

    `claims`: envs on each server that an earlier part of this run may hold still; they count as free.
    """
    if launch.is_local:
        yield _local(launch)
    elif launch.is_embedded:
        with _embedded(launch, evaluation_envs) as place:
            yield place
    else:
        yield _served(launch.urls, launch.env_id, launch.count, claims or {}, launch.trust)


def served_env_id(launch: LaunchConfig) -> str:
    """The env that the first of these servers would be asked for; the errors of `open_place` where there is none."""
    from multiserverrl.client.api import describe

    url = launch.urls[0]
    served = [env.env_id for env in describe(url, trust=launch.trust).envs]
    return _choice(url, served, launch.env_id)


def _local(launch: LaunchConfig) -> Place:
    env_id = launch.env_id or DEFAULT_ENV_ID
    with gymnasium.make(env_id) as env:
        task = task_of(env.observation_space, env.action_space)
        threshold = None if env.spec is None else env.spec.reward_threshold
    count = launch.count or DEFAULT_COUNT
    return Place(env_id, task, threshold, [Offer("", count + MOST_EVALUATION_ENVS)], count, tend=lambda: None)


@contextmanager
def _embedded(launch: LaunchConfig, evaluation_envs: int) -> Iterator[Place]:
    from multiserverrl.server.config import ServerConfig
    from multiserverrl.server.run import start_server

    env_id, count = launch.env_id or DEFAULT_ENV_ID, launch.count or DEFAULT_COUNT
    capacity = count + min(evaluation_envs, MOST_EVALUATION_ENVS)
    with deferring():
        server = start_server(ServerConfig(env_ids=(env_id,), port=0, count=capacity))
    try:
        yield dataclasses.replace(_served([server.url], env_id, count, {}, launch.trust), tend=server.poll)
    finally:
        server.stop()


def _served(urls: list[str], env_id: str | None, count: int | None, claims: Mapping[str, int], trust: Trust) -> Place:
    from multiserverrl.client.api import describe
    from multiserverrl.wire.spaces import restore_space

    servers = {url: describe(url, trust=trust) for url in urls}
    chosen = {}
    for url, server in servers.items():
        served = {env.env_id: env for env in server.envs}
        chosen[url] = served[_choice(url, list(served), env_id)]
    first = chosen[urls[0]]
    for url, env in chosen.items():
        same = ("env_id", "observation_space", "action_space")
        if any(getattr(env, name) != getattr(first, name) for name in same):
            raise ConfigError(
                f"{url} serves another {env.env_id} than {urls[0]} ({first.env_id}); give them one ENV_ID"
            )
    return Place(
        env_id=first.env_id,
        task=task_of(restore_space(first.observation_space), restore_space(first.action_space)),
        reward_threshold=first.reward_threshold,
        offers=[
            Offer(url, min(max(server.free, claims.get(url, 0)), server.capacity)) for url, server in servers.items()
        ],
        count=count,
        tend=lambda: None,
    )


def _choice(url: str, served: list[str], wanted: str | None) -> str:
    if wanted is None and len(served) > 1:
        raise ConfigError(f"{url} serves {', '.join(served)}: say which one to train on (ENV_ID)")
    if wanted is not None and wanted not in served:
        raise UnknownEnvError(f"{url} serves {', '.join(served)}, not {wanted}")
    return wanted or served[0]
