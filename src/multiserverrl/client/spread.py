"""How the envs of a VirtualVectorEnv are spread over servers and lanes, before any session is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from multiserverrl.client.api import describe
from multiserverrl.client.trust import SYSTEM_TRUST, Trust
from multiserverrl.errors import ConfigError, ServerFull

__all__ = ["check_lanes", "lane_sizes", "spread", "whole_lanes"]


def spread(urls: Sequence[str], num_envs: int, token: str | None, trust: Trust = SYSTEM_TRUST) -> list[int]:
    """How many envs each server gets: the same share of what each has free, none where it has none.

    ServerFull names both numbers when there are not enough free on all servers together.
    """
    if not _is_whole(num_envs) or num_envs < 1:
        raise ConfigError(f"num_envs must be a whole number, at least 1, not {num_envs!r}")
    if len(urls) == 1:
        return [int(num_envs)]
    free = _free_places(urls, token, trust)
    if sum(free) < num_envs:
        told = ", ".join(f"{count} at {url}" for url, count in zip(urls, free, strict=True))
        asked = "1 environment was" if num_envs == 1 else f"{num_envs} environments were"
        raise ServerFull(f"{asked} asked for; {sum(free)} are free ({told})")
    shares = [count * num_envs // sum(free) for count in free]
    while sum(shares) < num_envs:  # what rounding left goes where most is free
        most = max(range(len(urls)), key=lambda index: free[index] - shares[index])
        shares[most] += 1
    return shares


def _free_places(urls: Sequence[str], token: str | None, trust: Trust) -> list[int]:
    """What each has free; of a server that is named k times each gets a k-th."""
    whole = {url: describe(url, token=token, trust=trust).free for url in dict.fromkeys(urls)}
    shares = []
    for index, url in enumerate(urls):
        count, times, before = whole[url], urls.count(url), urls[:index].count(url)
        shares.append(count // times + (before < count % times))
    return shares


def check_lanes(lanes: Any) -> None:
    """ConfigError unless it is a number of lanes, or their sizes."""
    sizes = [lanes] if _is_whole(lanes) else lanes
    if isinstance(sizes, str) or not isinstance(sizes, Sequence) or not all(map(_is_whole, sizes)):
        raise ConfigError(f"lanes must be a number, or a list of the lanes' sizes, not {lanes!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def lane_sizes(num_envs: int, lanes: int | Sequence[int]) -> list[int]:
    """The lanes of one server's envs: so many of nearly the same size, or just these sizes."""
    if isinstance(lanes, (int, np.integer)):
        count = min(int(lanes), num_envs)
        if lanes < 1:
            raise ConfigError(f"lanes must be at least 1, not {lanes}")
        return [num_envs // count + (index < num_envs % count) for index in range(count)]
    if sum(lanes) != num_envs or min(lanes, default=0) < 1:
        raise ConfigError(f"the lanes {list(lanes)} must be of at least 1 env and together have {num_envs}")
    return [int(size) for size in lanes]


def whole_lanes(lanes: list[slice], env_ids: Iterable[int] | None) -> tuple[list[int], list[int] | None]:
    """The lanes, of these rows, that these envs are, and where each of their rows stands among them; None: in order."""
    if env_ids is None:
        return list(range(len(lanes))), None
    listed = [int(env_id) for env_id in env_ids]
    where = {env_id: position for position, env_id in enumerate(listed)}
    chosen = [index for index, rows in enumerate(lanes) if rows.start in where]
    wanted = [row for index in chosen for row in range(lanes[index].start, lanes[index].stop)]
    if len(where) != len(listed) or sorted(wanted) != sorted(listed):
        told = ", ".join(f"{rows.start}-{rows.stop - 1}" for rows in lanes)
        raise ConfigError(f"send() steps whole lanes, each env once; the lanes are the envs {told}, not {listed}")
    return chosen, None if wanted == listed else [where[row] for row in wanted]
