"""How the envs of a VirtualVectorEnv are spread over servers and lanes, before any session is opened."""

from __future__ import annotations

from collections.abc import Sequence

from multiserverrl.client.api import describe
from multiserverrl.errors import ConfigError, ServerFull

__all__ = ["lane_sizes", "spread"]


def spread(urls: Sequence[str], num_envs: int, token: str | None) -> list[int]:
    """How many envs each server gets: the same share of what each has free, none where it has none.

    ServerFull names both numbers when there are not enough free on all servers together.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
    if len(urls) == 1:
        return [num_envs]
    free = _free_places(urls, token)
    if sum(free) < num_envs:
        told = ", ".join(f"{count} at {url}" for url, count in zip(urls, free, strict=True))
        raise ServerFull(f"{num_envs} environments were asked for; {sum(free)} are free ({told})")
    shares = [count * num_envs // sum(free) for count in free]
    while sum(shares) < num_envs:  # what rounding left goes where most is free
        most = max(range(len(urls)), key=lambda index: free[index] - shares[index])
        shares[most] += 1
    return shares


def _free_places(urls: Sequence[str], token: str | None) -> list[int]:
    """What each has free; of a server that is named k times each gets a k-th."""
    whole = {url: describe(url, token=token).free for url in dict.fromkeys(urls)}
    shares = []
    for index, url in enumerate(urls):
        count, times, before = whole[url], urls.count(url), urls[:index].count(url)
        shares.append(count // times + (before < count % times))
    return shares


def lane_sizes(num_envs: int, lanes: int | Sequence[int]) -> list[int]:
    """The lanes of one server's envs: so many of nearly the same size, or just these sizes."""
    if isinstance(lanes, int):
        count = min(lanes, num_envs)
        if lanes < 1:
            raise ConfigError(f"lanes must be at least 1, not {lanes}")
        return [num_envs // count + (index < num_envs % count) for index in range(count)]
    if sum(lanes) != num_envs or min(lanes, default=0) < 1:
        raise ConfigError(f"the lanes {list(lanes)} must be of at least 1 env and together have {num_envs}")
    return list(lanes)
