"""The sessions of a VirtualVectorEnv: one on every server that gets envs, all or none."""

from __future__ import annotations

from collections.abc import Sequence

from multiserverrl.client.envs import RemoteConfig, RemoteEnvs
from multiserverrl.client.spread import check_lanes, lane_sizes, spread
from multiserverrl.client.transport import Address
from multiserverrl.errors import ConfigError, SpaceError

__all__ = ["open_on"]


def open_on(
    url: str | Sequence[str], num_envs: int, lanes: int | Sequence[int], config: RemoteConfig
) -> list[RemoteEnvs]:
    """A session on every server that gets envs; all or none. ConfigError, before any connection, for what cannot be."""
    urls: list[str] = list(url) if isinstance(url, Sequence) and not isinstance(url, str) else [url]
    if not urls:
        raise ConfigError("name at least one env server; url is empty")
    for one in urls:
        Address.parse(one, config.token)
    check_lanes(lanes)
    remotes: list[RemoteEnvs] = []
    try:
        for one, share in zip(urls, spread(urls, num_envs, config.token, config.trust()), strict=True):
            if share:
                remotes.append(RemoteEnvs(one, lane_sizes(share, lanes), config))
                _check_alike(remotes[0], remotes[-1])
        if len(remotes) > 1 and remotes[0].env.autoreset_modes:
            raise ConfigError(f"{remotes[0].env.env_id} is a native vector env: all of its envs are on one server")
    except BaseException:
        for remote in remotes:
            remote.link.close()
        raise
    return remotes


def _check_alike(first: RemoteEnvs, other: RemoteEnvs) -> None:
    mine, theirs = (
        (remote.env.env_id, remote.env.observation_space, remote.env.action_space) for remote in (first, other)
    )
    if mine != theirs:
        raise SpaceError(f"{first.address} and {other.address} do not serve the same env: {mine}, {theirs}")
