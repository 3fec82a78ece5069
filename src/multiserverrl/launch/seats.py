"""Who gets how many envs on which server: decided before anything starts, from numbers alone.

`count` is the number of virtual envs of the run in all. What is free beyond it is used for
evaluation; when nothing is, an eighth of `count` is set apart. With one env in all, the explorer
gives its place up for the time of an evaluation.
"""

from __future__ import annotations

import msgspec

from multiserverrl.errors import ConfigError

__all__ = ["MOST_EVALUATION_ENVS", "Group", "Offer", "Seats", "take_seats"]

MOST_EVALUATION_ENVS = 20


class Offer(msgspec.Struct, frozen=True):
    """A server and its envs; an empty `url` stands for envs in the process itself."""

    url: str
    free: int


class Group(msgspec.Struct, frozen=True):
    """Envs that one explorer steps together, all on one server."""

    number: int  # over all explorers
    explorer: int
    url: str
    num_envs: int


class Seats(msgspec.Struct, frozen=True):
    """Every env of a run."""

    groups: tuple[Group, ...]
    evaluation_url: str
    evaluation_envs: int
    is_borrowed: bool  # the evaluation's only env is the explorer's

    @property
    def num_envs(self) -> int:
        """Envs that explore."""
        return sum(group.num_envs for group in self.groups)

    @property
    def sizes(self) -> dict[int, int]:
        """Envs of each group that explores, by its number."""
        return {group.number: group.num_envs for group in self.groups}


def take_seats(offers: list[Offer], count: int | None, explorers: int, evaluation_envs: int) -> Seats:
    """Seats for `count` envs (None: all that are free) in `explorers` processes.

    ConfigError, naming both numbers, when there are fewer envs or fewer than one an explorer.
    """
    count = _checked_count(offers, count)
    free = {offer.url: offer.free for offer in offers}
    most = max(free, key=lambda url: free[url])
    spare = sum(free.values()) - count
    wanted = min(MOST_EVALUATION_ENVS, evaluation_envs)
    is_borrowed = count == 1 and spare == 0
    if spare:
        evaluation, exploring = min(wanted, spare, free[most]), count
    elif is_borrowed:
        evaluation, exploring = 1, 1
    else:
        evaluation = min(wanted, max(1, count // 8), free[most])
        exploring = count - evaluation
    if not is_borrowed:
        free[most] -= evaluation
    if explorers > exploring:
        raise ConfigError(f"--explorers {explorers} is more than the {exploring} environment(s) that explore (--count)")
    groups = _groups(_shares(free, exploring), explorers)
    return Seats(groups, most, evaluation, is_borrowed)


def _checked_count(offers: list[Offer], count: int | None) -> int:
    free = sum(offer.free for offer in offers)
    where = ", ".join(offer.url for offer in offers)
    if free == 0:
        raise ConfigError(f"no environment is free at {where}; wait until others have closed theirs, or serve more")
    if count is not None and count > free:
        raise ConfigError(
            f"--count asks for {count} environments, {free} are free at {where}; serve more (serve --count)"
        )
    return free if count is None else count


def _shares(free: dict[str, int], count: int) -> dict[str, int]:
    """How many of `count` each server gives: in proportion to what is free there, never more."""
    total = sum(free.values())
    shares = {url: count * seats // total for url, seats in free.items()}
    for url in sorted(free, key=lambda url: shares[url] * total - count * free[url]):  # who lost most to rounding
        if sum(shares.values()) < count and shares[url] < free[url]:
            shares[url] += 1
    return {url: share for url, share in shares.items() if share}


def _groups(shares: dict[str, int], explorers: int) -> tuple[Group, ...]:
    """Two groups an explorer where there are envs enough, and at least one for each server and explorer."""
    wanted = min(sum(shares.values()), max(2 * explorers, len(shares)))
    parts = dict.fromkeys(shares, 1)
    while sum(parts.values()) < wanted:
        parts[max(shares, key=lambda url: shares[url] / parts[url])] += 1
    sizes = [
        (url, share // parts[url] + (part < share % parts[url]))
        for url, share in shares.items()
        for part in range(parts[url])
    ]
    return tuple(Group(number, number % explorers, url, size) for number, (url, size) in enumerate(sizes))
