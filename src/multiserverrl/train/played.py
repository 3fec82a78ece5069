"""How many episodes each env has played: `--episodes` goes on counting after a resume, in other groups of envs, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["copies_of", "has_same_groups", "restore_played"]

Array = NDArray[Any]


def copies_of(played: Sequence[Array]) -> dict[str, Array]:
    """What a checkpoint holds of them: (N,) of each group, by its number."""
    return {str(group): array.copy() for group, array in enumerate(played)}


def has_same_groups(kept: dict[str, Array], played: Sequence[Array]) -> bool:
    """Whether a checkpoint is of as many groups, each of as many envs."""
    return {name: array.shape for name, array in kept.items()} == {
        name: array.shape for name, array in copies_of(played).items()
    }


def restore_played(kept: dict[str, Array], played: Sequence[Array]) -> None:
    """Set each env to what it was; where the groups are others, the same number in all, spread evenly."""
    if has_same_groups(kept, played):
        for group, array in enumerate(played):
            array[:] = kept[str(group)]
        return
    total, num_envs = sum(int(array.sum()) for array in kept.values()), sum(len(array) for array in played)
    shares = np.full(num_envs, total // max(num_envs, 1))
    shares[: total % max(num_envs, 1)] += 1
    first = 0
    for array in played:
        array[:] = shares[first : first + len(array)]
        first += len(array)
