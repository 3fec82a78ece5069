"""Infos of vector envs, taken apart for trainers that want one dict an env."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["infos_by_env"]


def infos_by_env(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's vector infos (arrays with `_key` masks, nested) as one dict an env; numbers become NumPy's."""
    found: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None:
            continue  # a mask itself
        inner = infos_by_env(values, num_envs) if isinstance(values, dict) else values
        for env in np.flatnonzero(mask):
            found[env][key] = inner[env]
    return found
