"""One of the two bodies of a lane's block, as the rows of it that a shard writes."""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import Any

import numpy as np

from multiserverrl.server.commands import MakeShard
from multiserverrl.wire.arrays import StepLayout

__all__ = ["Area"]

_SMALL_BYTES = 4096
_shape_of = attrgetter("shape")


class Area:
    """Views on a body; `write_obs` writes one observation into a row of the lane, `stack` all of a shard's."""

    def __init__(self, layout: StepLayout, body: memoryview, spec: MakeShard, loose_obs: dict[int, Any]) -> None:
        rows = slice(spec.first, spec.first + spec.count)
        self.body = body
        self.rewards = layout.rewards(body)[rows]
        self.pack_rewards, self.rewards_at = struct.Struct(f"<{spec.count}d").pack_into, 8 * spec.first
        self.terminated, self.truncated = layout.terminated(body)[rows], layout.truncated(body)[rows]
        self.has_ends = True  # whether an end may stand in it
        self.write_obs = layout.row_writer(body, "obs") if layout.is_fixed else loose_obs.__setitem__
        self._stacked: np.ndarray[Any, Any] | None = None  # (count * shape[0], *shape[1:]), for one array with axes
        self._shape: tuple[int, ...] = ()
        is_small = spec.count == 1 and layout.size_bytes <= _SMALL_BYTES  # written sooner by `write_obs`
        leaf = layout.leaves[0] if layout.is_fixed and len(layout.leaves) == 1 and not is_small else None
        if leaf is not None and not leaf.path and leaf.shape and 0 not in leaf.shape:
            self._shape = leaf.shape
            self._stacked = layout.arrays(body)[0][rows].reshape(-1, *leaf.shape[1:])

    def fits(self, observations: list[Any]) -> bool:
        """Whether `stack` will do it, for certain."""
        if self._stacked is None:
            return False
        dtype, shape = self._stacked.dtype, self._shape
        return all(type(obs) is np.ndarray and obs.dtype == dtype and obs.shape == shape for obs in observations)

    def stack(self, observations: list[Any]) -> bool:
        """All observations in one go, when each is just the array that the space says; False where one is not."""
        if self._stacked is None:
            return False
        try:
            if {*map(_shape_of, observations)} != {self._shape}:
                return False
            np.concatenate(observations, out=self._stacked, casting="no")
        except (AttributeError, TypeError):  # not an array, or not of the space's dtype
            return False
        return True
