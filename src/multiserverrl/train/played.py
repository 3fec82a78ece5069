"""How many episodes each env has played: `--episodes` goes on counting after a resume, in other groups of envs, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["copies_of", "restore_played"]

Array = NDArray[Any]


def copies_of(played: Sequence[Array]) -> dict[str, Array]:
    """What a checkpoint holds of them: (N,) of each group, by its number."""
    return {str(group): array.copy() for group, array in enumerate(played)}


def restore_played(kept: dict[str, Array], played: Sequence[Array]) -> None:
    """Set each env to what it was; where the groups are others, the same number in all, spread evenly."""
    groups = [kept.get(str(group), np.zeros(0, np.int64)) for group in range(len(played))]
    if len(kept) == len(played) and all(len(old) == len(new) for old, new in zip(groups, played, strict=True)):
        for old, new in zip(groups, played, strict=True):
            new[:] = old
        return
    total, num_envs = sum(int(array.sum()) for array in kept.values()), sum(len(array) for array in played)
    shares = np.full(num_envs, total // max(num_envs, 1))
    shares[: total % max(num_envs, 1)] += 1
    first = 0
    for array in played:
        array[:] = shares[first : first + len(array)]
        first += len(array)
