"""Infos of vector envs, taken apart for trainers that want one dict an env."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

__all__ = ["infos_by_env", "warn_of_made_up"]


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


def warn_of_made_up(env: int, info: dict[str, Any], stacklevel: int) -> None:
    """A RuntimeWarning where the step that this info is of was taken by no env: a trainer that cannot leave it out."""
    told = info.get("multiserverrl", {})
    if cause := told.get("fault") or told.get("lost"):
        text = f"env {env} failed" if "fault" in told else f"env {env} was lost with its session"
        warnings.warn(f"{text}, its episode counts as truncated: {cause}", RuntimeWarning, stacklevel=stacklevel + 1)
