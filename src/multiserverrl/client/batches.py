"""Batches of several lanes: observations put together, actions taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from multiserverrl.errors import ActionError, WireError
from multiserverrl.wire.arrays import is_fixed
from multiserverrl.wire.trees import unpack_rows

__all__ = ["joined", "merged", "num_rows", "rows_of", "rows_of_batch"]


def joined(space: Any, parts: list[Any], *, is_fixed: bool) -> Any:
    """The lanes' observations as one batch, in the order given; WireError for values that are none of the space."""
    if is_fixed:
        return parts[0] if len(parts) == 1 else _stacked(parts)
    values = [value for part in parts for value in part]
    empty: Any = create_empty_array(space, len(values))
    try:
        return concatenate(space, values, empty)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"these are no observations of {str(space)[:200]}: {error}") from error


def merged(add: Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]], rows: dict[int, Any]) -> Any:
    """The envs' infos in Gymnasium's vector form, one after the other by its own function `add`.

    WireError where they do not go together, as where one env's value is a number and another's an array.
    """
    infos: dict[str, Any] = {}
    try:
        for row, info in sorted(rows.items()):
            infos = add(infos, info, row)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"the infos of the envs do not go together: {error}") from error
    return infos


def _stacked(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, dict):
        return {key: _stacked([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stacked(list(column)) for column in zip(*parts, strict=True))
    return np.concatenate(parts)


def rows_of_batch(space: Space[Any], actions: Any, which: slice | list[int]) -> Any:
    """Some rows of batched actions, nested as the space nests them; a tuple for a space without a fixed size."""
    if not is_fixed(space):
        listed = list(actions)
        return tuple(listed[which] if isinstance(which, slice) else [listed[row] for row in which])
    if isinstance(space, spaces.Dict):
        return {key: rows_of_batch(inner, actions[key], which) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(rows_of_batch(inner, part, which) for inner, part in zip(space.spaces, actions, strict=True))
    return np.asarray(actions)[which]


def num_rows(space: Space[Any], actions: Any) -> int:
    """How many envs batched actions are for; ActionError when they are not nested as the space nests them."""
    try:
        if is_fixed(space) and isinstance(space, spaces.Dict):
            return num_rows(*next((inner, actions[key]) for key, inner in space.spaces.items()))
        if is_fixed(space) and isinstance(space, spaces.Tuple):
            return num_rows(space.spaces[0], actions[0])
        return len(actions)
    except (TypeError, KeyError, IndexError, StopIteration) as error:
        raise ActionError(f"these are no batched actions of {space}: {error!r}") from error


def rows_of(parts: list[bytes]) -> dict[int, Any]:
    """{row: value} of the trees of an answer, in the rows' order."""
    found = unpack_rows(parts)
    return dict(sorted(found.items())) if len(parts) > 1 else found
