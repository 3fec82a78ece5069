"""What a lane refuses at the door, for the front and for an env worker alike: before anything is touched."""

from __future__ import annotations

from typing import Any

import numpy as np

from multiserverrl.errors import MisuseError
from multiserverrl.wire.messages import Reset
from multiserverrl.wire.trees import unpack_tree

__all__ = ["check_reset", "check_step"]


def check_step(was_reset: bool, ended: Any) -> None:
    """MisuseError before the first reset, or while envs have ended that nothing else resets; (N,) bool or None."""
    if not was_reset:
        raise MisuseError("reset() before the first step()")
    if ended is not None and ended.any():
        rows = np.flatnonzero(ended).tolist()
        raise MisuseError(f"env {rows} has ended; reset it with options={{'reset_mask': …}} before the next step")


def check_reset(request: Reset, num_envs: int, was_reset: bool) -> None:
    """MisuseError for seeds, a mask or options that are not this lane's."""
    if request.seeds is not None and len(request.seeds) != num_envs:
        raise MisuseError(f"{num_envs} seeds were expected, one an env, not {len(request.seeds)}")
    if request.seeds is not None and any(seed is not None and seed < 0 for seed in request.seeds):
        raise MisuseError("a seed is a whole number of at least 0")
    if request.mask is not None and len(request.mask) != num_envs:
        raise MisuseError(f"the mask must have {num_envs} bytes, one an env, not {len(request.mask)}")
    if request.mask is not None and not all(request.mask) and not was_reset:
        raise MisuseError("the first reset() must be of all envs")
    if request.options and not isinstance(unpack_tree(request.options), dict):
        raise MisuseError("reset options must be a dict")
