"""Where the arrays of a shared block lie: named, aligned, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from multiserverrl.memory.block import Block

__all__ = ["ALIGNMENT_BYTES", "Layout"]

ALIGNMENT_BYTES = 64  # a cache line: arrays that different processes write never share one


class Layout:
    """Offsets of named arrays in a block; the same fields give the same layout in every process."""

    def __init__(self, fields: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
        self.fields: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        offset = 0
        for name, (dtype, shape) in fields.items():
            kind = np.dtype(dtype)
            self.fields[name] = (kind, tuple(shape), offset)
            size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
            offset += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self.size_bytes = max(offset, ALIGNMENT_BYTES)

    def views(self, block: Block) -> dict[str, NDArray[Any]]:
        """One array a field, on the block's own memory."""
        return {name: block.array(dtype, shape, offset) for name, (dtype, shape, offset) in self.fields.items()}
