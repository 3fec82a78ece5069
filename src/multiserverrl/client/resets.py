"""What a vector env's reset is asked for, in Gymnasium's words."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["mask_of", "seeds_of"]


def seeds_of(num_envs: int, seed: int | list[int | None] | None) -> list[int | None] | None:
    """One seed an env, as Gymnasium spreads them; ValueError for a list of another length."""
    if seed is None:
        return None
    seeds = [seed + row for row in range(num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != num_envs:
        raise ValueError(
            f"If seeds are passed as a list the length must match num_envs={num_envs} but got length={len(seeds)}."
        )
    return [None if one is None else int(one) for one in seeds]


def mask_of(num_envs: int, options: dict[str, Any] | None) -> tuple[dict[str, Any] | None, bytes | None]:
    """The options without the mask, and the mask; Gymnasium's own error types for a wrong one."""
    if options is None or "reset_mask" not in options:
        return options, None
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`options['reset_mask']` must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not np.any(mask):
        raise ValueError(
            f"`options['reset_mask']` must contain a boolean array with at least one True value, got reset_mask={mask}"
        )
    return {key: value for key, value in options.items() if key != "reset_mask"}, mask.tobytes()
