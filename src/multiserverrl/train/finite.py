"""What is not finite (NaN, infinities), and where: looked for before it is learned from, published or saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiserverrl.errors import DivergedError

__all__ = ["WHAT", "broken_rows", "env_number", "named_env", "require_finite"]

Array = NDArray[Any]
WHAT = ("nothing", "observation", "reward", "observation and reward")  # the counter `not_finite_what`
_ENVS = 100_000  # of a group, at most


def broken_rows(array: Array) -> Array | None:
    """(N,) True where a row of (N, ...) holds a number that is not finite; None, as a rule, when none does.

    Whole numbers cost nothing, others a sum. The fields of a structured array are looked at each by itself.
    """
    if array.dtype.names is not None:
        found = [broken for name in array.dtype.names if (broken := broken_rows(array[name])) is not None]
        return np.logical_or.reduce(found) if found else None
    if array.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(array.sum()):
            return None
    rows: Array = np.asarray((~np.isfinite(array)).reshape(len(array), -1).any(axis=1))
    return rows if rows.any() else None  # large numbers may have no finite sum


def env_number(group: int, row: int) -> int:
    """One number for the env of a row of a group: the counter `not_finite_env`; never 0."""
    return 1 + group * _ENVS + row


def named_env(number: int) -> str:
    """What `env_number` numbered, in words."""
    group, row = divmod(number - 1, _ENVS)
    return f"env {row} of group {group}"


def require_finite(arrays: Mapping[str, Array], updates: int) -> None:
    """DivergedError, naming it, when one of the weights (or of what an optimiser keeps) is not finite."""
    for name, array in arrays.items():
        if (rows := broken_rows(array.reshape(-1))) is not None:
            raise DivergedError(
                f"{int(rows.sum())} of {array.size} numbers of {name!r} are not finite after {updates} updates, and "
                "are neither published nor saved: lower --learning-rate or --reward-scale"
            )
